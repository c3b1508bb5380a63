//! `cvs node`.

use clap::{Args, Subcommand};
use cvs_versions::spec::{List, NodeSpec, SpecDocument, VersionId, inputs};

use super::list;
use super::shared::{EditArgs, edit};
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::table::{Align, Table};

/// Add custom nodes to a version, remove them, list them.
#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Add nodes, and lock again. When that fails, the spec is left as it was.
    Add {
        /// The version.
        id: VersionId,

        /// A repository (an address, or OWNER/REPO of GitHub) or `registry:ID`, with a branch, tag, commit or version behind
        /// `@`.
        #[arg(required = true, value_name = "SRC[@REF]")]
        sources: Vec<String>,

        #[command(flatten)]
        edit: EditArgs,
    },
    /// Remove nodes, and lock again. When that fails, the spec is left as it was.
    Rm {
        /// The version.
        id: VersionId,

        /// The name, the directory or the repository of a node.
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<String>,

        #[command(flatten)]
        edit: EditArgs,
    },
    /// List the nodes of a version.
    Ls {
        /// The version.
        id: VersionId,
    },
}

pub(crate) fn run(context: &Context, args: &NodeArgs) -> Result<Exit, CliError> {
    match &args.what {
        What::Add { id, sources, edit: options } => {
            let cwd = std::env::current_dir().map_err(CliError::WorkingDirectory)?;
            let entries: Vec<_> =
                sources.iter().map(|text| inputs::node_from_arg(text, &cwd)).collect::<Result<_, _>>()?;
            edit(context, id, options, &|document| document.append(List::Nodes, entries.clone()))
        }
        What::Rm { id, nodes, edit: options } => {
            places(&context.workspace()?.read(id)?, id, nodes)?;
            // Looked for again in the document that is edited, which may be a newer one.
            edit(context, id, options, &|document| {
                let (found, _) = find(document, nodes);
                document.remove_at(List::Nodes, &found)
            })
        }
        What::Ls { id } => ls(context, id),
    }
}

/// The places of the nodes that are meant; a name that means none is an error.
fn places(document: &SpecDocument, id: &VersionId, names: &[String]) -> Result<Vec<usize>, CliError> {
    match find(document, names) {
        (found, None) => Ok(found),
        (_, Some(missing)) => {
            let known = document.spec().custom_nodes.iter().map(|node| node.name.clone()).collect();
            Err(CliError::NotInSpec { id: id.to_string(), what: "node", found: missing, known })
        }
    }
}

fn find(document: &SpecDocument, names: &[String]) -> (Vec<usize>, Option<String>) {
    let means = |node: &NodeSpec, name: &str| {
        node.name == name || node.path.to_string() == name || node.repo.as_str() == name
    };
    let nodes = &document.spec().custom_nodes;
    let missing = names.iter().find(|name| !nodes.iter().any(|node| means(node, name))).cloned();
    let found = nodes.iter().enumerate().filter(|(_, node)| names.iter().any(|name| means(node, name)));
    (found.map(|(place, _)| place).collect(), missing)
}

fn ls(context: &Context, id: &VersionId) -> Result<Exit, CliError> {
    let workspace = context.workspace()?;
    let document = workspace.read(id)?;
    let summary = workspace.summary(document.spec())?;
    let output = context.output();
    if output.is_json() {
        output.json(&summary.nodes)?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new([("NODE", Align::Left), ("DIRECTORY", Align::Left), ("SOURCE", Align::Left)]);
    for node in &summary.nodes {
        table.row([node.name.clone(), node.path.clone(), list::source(&node.source)]);
    }
    output.table(&table, "the version has no nodes")?;
    Ok(Exit::Ok)
}
