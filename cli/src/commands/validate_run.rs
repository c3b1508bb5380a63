//! `cvs validate --run`: what a start of the version tells of its nodes.

use cvs_versions::comfy::{LoadState, NodeLoad};
use cvs_versions::spec::{Spec, VersionId};
use serde::Serialize;

use super::shared::EnsureArgs;
use crate::context::Context;
use crate::error::{self, CliError, Exit};
use crate::runs::{Checked, Interrupts, Role, Run, RunOptions, SeenTo};
use crate::table::{Align, Table};

/// What is printed.
#[derive(Serialize)]
struct Report<'a> {
    id: &'a VersionId,
    view: String,
    /// Whether it loads, with all its nodes.
    ok: bool,
    /// Why ComfyUI itself did not come to the end of loading.
    failure: Option<String>,
    nodes: Vec<Row>,
}

/// One node.
#[derive(Debug, Serialize, PartialEq)]
struct Row {
    /// Its name in the spec, if it is there.
    name: Option<String>,
    #[serde(flatten)]
    load: NodeLoad,
}

/// Starts the version on an overlay of its own that is thrown away, lets it load everything, and reports.
pub(super) fn run(context: &Context, id: &VersionId, ensure: &EnsureArgs) -> Result<Exit, CliError> {
    let ready = ensure.ensure(context, id)?;
    let options = RunOptions { ephemeral: true, lenient: ensure.lenient, ..RunOptions::new(Role::Check) };
    let interrupts = Interrupts::watch(context.cancel())?;
    let run = Run::begin(context, &ready, &options, SeenTo::Here)?;
    let Checked { nodes, failure } = run.check(&interrupts)?;
    let rows = rows(&ready.spec, nodes);
    let ok = failure.is_none() && rows.iter().all(|row| row.load.state == LoadState::Loaded);
    let output = context.output();
    if output.is_json() {
        let failure = failure.as_ref().map(ToString::to_string);
        output.json(&Report { id, view: ready.view_id.to_hex(), ok, failure, nodes: rows })?;
    } else {
        output.table(&table(&rows), "it loads no nodes")?;
        if let Some(failure) = &failure {
            output.error(&error::chain(failure));
        }
    }
    Ok(if ok { Exit::Ok } else { Exit::Failed })
}

/// The nodes that the log mentions, by the names of the spec, and those of the spec that it does not mention.
fn rows(spec: &Spec, nodes: Vec<NodeLoad>) -> Vec<Row> {
    let mut rows: Vec<Row> = nodes
        .into_iter()
        .map(|load| {
            let node = spec.custom_nodes.iter().find(|node| node.path.to_string() == load.path);
            Row { name: node.map(|node| node.name.clone()), load }
        })
        .collect();
    for node in &spec.custom_nodes {
        let path = node.path.to_string();
        // What lies elsewhere is no node to ComfyUI.
        let is_node = path.strip_prefix("custom_nodes/").is_some_and(|name| !name.contains('/'));
        if is_node && !rows.iter().any(|row| row.load.path == path) {
            let (state, reason) = (LoadState::NotLoaded, Some("the log does not mention it".to_owned()));
            let load = NodeLoad { path, state, seconds: None, reason };
            rows.push(Row { name: Some(node.name.clone()), load });
        }
    }
    rows
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new([
        ("NODE", Align::Left),
        ("STATE", Align::Left),
        ("SECONDS", Align::Right),
        ("", Align::Left),
    ]);
    for Row { name, load } in rows {
        let state = match load.state {
            LoadState::Loaded => "loaded",
            LoadState::ImportFailed => "import failed",
            LoadState::PrestartupFailed => "prestartup failed",
            LoadState::NotLoaded => "not loaded",
        };
        table.row([
            name.clone().unwrap_or_else(|| load.path.clone()),
            state.to_owned(),
            load.seconds.map_or_else(String::new, |seconds| format!("{seconds:.1}")),
            load.reason.clone().unwrap_or_default(),
        ]);
    }
    table
}
