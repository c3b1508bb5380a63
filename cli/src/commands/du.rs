//! `cvs du`.

use clap::Args;
use cvs_store::{RootSource, StoreError, Usage, usage};
use cvs_versions::spec::VersionId;
use serde_json::json;

use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::format;
use crate::progress::Unit;
use crate::table::{Align, Table};

/// Show what versions take, and what they share.
///
/// SIZE is what a full copy of the version would take; UNIQUE is what it shares with no other version, so what deleting
/// it would free.
#[derive(Debug, Args)]
pub(crate) struct DuArgs {
    /// Only these versions. What is shared is still measured against all.
    #[arg(value_name = "ID")]
    ids: Vec<VersionId>,
}

pub(crate) fn run(context: &Context, args: &DuArgs) -> Result<Exit, CliError> {
    let versions = context.versions_dir();
    let roots = versions.roots().map_err(|error| StoreError::Roots(Box::new(error)));
    let _task = context.progress().task("measuring", Unit::Items);
    let roots = match roots {
        Ok(_) => RootSource::roots(&versions).map_err(StoreError::Roots)?,
        Err(error) => return Err(error.into()),
    };
    let mut usage = usage(context.store()?, &roots)?;
    for id in &args.ids {
        if !usage.versions.iter().any(|version| version.name == id.as_str()) {
            // Says where it looked.
            versions.read(id, Default::default())?;
        }
    }
    if !args.ids.is_empty() {
        usage.versions.retain(|version| args.ids.iter().any(|id| id.as_str() == version.name));
    }
    show(context, &usage)?;
    Ok(Exit::Ok)
}

fn show(context: &Context, usage: &Usage) -> Result<(), CliError> {
    let output = context.output();
    if output.is_json() {
        return output.json(&json!({
            "versions": usage.versions,
            "logical_bytes": usage.logical_bytes,
            "used_bytes": usage.used_bytes,
            "stored_objects": usage.stored_objects,
            "stored_bytes": usage.stored_bytes,
            "dedup_ratio": usage.dedup_ratio(),
        }));
    }
    output.table(&table(usage), "there are no versions")?;
    output.data(&summary(usage))
}

fn table(usage: &Usage) -> Table {
    let mut table = Table::new([
        ("VERSION", Align::Left),
        ("FILES", Align::Right),
        ("SIZE", Align::Right),
        ("UNIQUE", Align::Right),
        ("", Align::Left),
    ]);
    for version in &usage.versions {
        let missing = match version.missing_manifests {
            0 => String::new(),
            _ => "not all of it is in the store".to_owned(),
        };
        table.row([
            version.name.clone(),
            format::count(version.files),
            format::bytes(version.logical_bytes),
            format::bytes(version.unique_bytes),
            missing,
        ]);
    }
    table
}

fn summary(usage: &Usage) -> String {
    let unused = usage.stored_bytes.saturating_sub(usage.used_bytes);
    let unused = match unused {
        0 => String::new(),
        _ => format!(", {} of it used by no version", format::bytes(unused)),
    };
    format!(
        "all versions: {} in {} on disk, a ratio of {:.2}\nstore: {}, {}{unused}\n",
        format::bytes(usage.logical_bytes),
        format::bytes(usage.used_bytes),
        usage.dedup_ratio(),
        format::counted(usage.stored_objects, "object"),
        format::bytes(usage.stored_bytes),
    )
}

#[cfg(test)]
mod tests {
    use cvs_store::VersionUsage;

    use super::*;
    use crate::output::Paint;

    #[test]
    fn sharing_is_shown() {
        let version = |name: &str, logical_bytes, unique_bytes, missing_manifests| VersionUsage {
            name: name.to_owned(),
            files: 1200,
            logical_bytes,
            unique_bytes,
            missing_manifests,
        };
        let usage = Usage {
            versions: vec![version("a", 3 << 20, 1 << 10, 0), version("b-next", 3 << 20, 0, 1)],
            logical_bytes: 6 << 20,
            used_bytes: 3 << 20,
            stored_objects: 1300,
            stored_bytes: 4 << 20,
        };
        assert_eq!(
            table(&usage).render(Paint::plain()),
            "VERSION  FILES      SIZE    UNIQUE\n\
             a        1,200  3.00 MiB  1.00 KiB\n\
             b-next   1,200  3.00 MiB       0 B  not all of it is in the store\n"
        );
        assert_eq!(
            summary(&usage),
            "all versions: 6.00 MiB in 3.00 MiB on disk, a ratio of 2.00\n\
             store: 1,300 objects, 4.00 MiB, 1.00 MiB of it used by no version\n"
        );
    }
}
