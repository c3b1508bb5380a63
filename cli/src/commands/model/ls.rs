//! `cvs model ls`.

use clap::Args;
use cvs_versions::KnownModel;
use cvs_versions::spec::VersionId;

use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::format;
use crate::table::{Align, Table};

/// List the models of a version, or of all versions.
#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// The version.
    #[arg(required_unless_present = "all")]
    id: Option<VersionId>,

    /// The models of all versions, each content once, with the versions that use it.
    #[arg(long, conflicts_with = "id")]
    all: bool,
}

pub(crate) fn run(context: &Context, args: &LsArgs) -> Result<Exit, CliError> {
    let (workspace, output) = (context.workspace()?, context.output());
    let Some(id) = &args.id else {
        let all = workspace.all_models()?;
        if output.is_json() {
            output.json(&all)?;
        } else {
            output.table(&table(&all.models, true), "no version has a model")?;
        }
        for (version, error) in &all.unread {
            output.warning(&format!("{version} cannot be read: {error}"));
        }
        return Ok(Exit::Ok);
    };
    let models = workspace.models_of(id)?;
    if output.is_json() {
        output.json(&models)?;
    } else {
        output.table(&table(&models, false), &format!("{id} has no models; `cvs model add` adds one"))?;
    }
    Ok(Exit::Ok)
}

fn table(models: &[KnownModel], all: bool) -> Table {
    let last = if all { "VERSIONS" } else { "SOURCE" };
    let mut table = Table::new([
        ("MODEL", Align::Left),
        ("SIZE", Align::Right),
        ("SHA256", Align::Left),
        ("STATE", Align::Left),
        (last, Align::Left),
    ]);
    for model in models {
        let Some(first) = model.uses.first() else { continue };
        let versions: Vec<&str> = model.uses.iter().map(|used| used.version.as_str()).collect();
        table.row([
            first.path.clone(),
            model.size.map(format::bytes).unwrap_or_default(),
            model.sha256.as_deref().map(format::short).unwrap_or_default().to_owned(),
            state(model).to_owned(),
            if all { versions.join(", ") } else { first.source.clone() },
        ]);
    }
    table
}

fn state(model: &KnownModel) -> &'static str {
    match (model.present, model.blake3) {
        (true, _) => "present",
        (false, Some(_)) => "not in the store",
        (false, None) => "not locked",
    }
}
