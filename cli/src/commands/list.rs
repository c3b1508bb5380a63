//! `cvs list`.

use clap::Args;
use cvs_versions::{CommitRef, LockState, VersionSummary};

use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::format;
use crate::table::{Align, Table};

/// List all versions.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {}

pub(crate) fn run(context: &Context, _: &ListArgs) -> Result<Exit, CliError> {
    let versions = context.workspace()?.list()?;
    let output = context.output();
    if output.is_json() {
        output.json(&versions)?;
        return Ok(Exit::Ok);
    }
    output.table(&table(&versions), "there are no versions; `cvs create` makes one")?;
    for (id, error) in versions.iter().filter_map(|version| Some((&version.id, version.error.as_ref()?))) {
        output.warning(&format!("{id} cannot be read: {error}"));
    }
    Ok(Exit::Ok)
}

fn table(versions: &[VersionSummary]) -> Table {
    let mut table = Table::new([
        ("VERSION", Align::Left),
        ("CORE", Align::Left),
        ("COMMIT", Align::Left),
        ("NODES", Align::Right),
        ("MODELS", Align::Right),
        ("MODEL SIZE", Align::Right),
        ("STATE", Align::Left),
    ]);
    for version in versions {
        let core = version.core.as_ref();
        let figure = |text: String| if version.error.is_some() { String::new() } else { text };
        table.row([
            version.id.clone(),
            core.map(|core| core.revision.clone()).unwrap_or_default(),
            core.and_then(|core| core.commit.as_deref()).map(format::short).unwrap_or_default().to_owned(),
            figure(format::count(version.nodes.len() as u64)),
            figure(format::count(version.models as u64)),
            figure(format::bytes(version.model_bytes)),
            state(version).to_owned(),
        ]);
    }
    table
}

/// What can be done with a version, in a word or two.
pub(super) fn state(version: &VersionSummary) -> &'static str {
    match version.lock {
        _ if version.error.is_some() => "unreadable",
        LockState::Missing => "not locked",
        LockState::Stale => "edited",
        LockState::Pinned => "not fetched",
        LockState::NotInStore => "not in the store",
        LockState::Current => "ready",
    }
}

/// A repository with what is asked of it: `https://… at v1.0, commit 0123…`.
pub(super) fn source(source: &CommitRef) -> String {
    let asked = match &source.commit {
        Some(commit) if *commit == source.revision => String::new(),
        _ => format!(" at {}", source.revision),
    };
    let pinned = source.commit.as_ref().map(|commit| format!(", commit {commit}")).unwrap_or_default();
    let found = if source.as_found { ", with files as they were found" } else { "" };
    format!("{}{asked}{pinned}{found}", source.repo)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Paint;

    #[test]
    fn every_state_has_a_row() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let core = |revision: &str, commit: Option<&str>| CommitRef {
            repo: "https://h/o/r".to_owned(),
            revision: revision.to_owned(),
            commit: commit.map(str::to_owned),
            as_found: false,
        };
        let version = |id: &str, core, lock| VersionSummary {
            id: id.to_owned(),
            core,
            nodes: Vec::new(),
            models: 2,
            model_bytes: 3 << 30,
            lock,
            view: None,
            error: None,
        };
        let mut broken = version("broken", None, LockState::Missing);
        broken.error = Some("no".to_owned());
        let versions = [
            version("a", Some(core("master", Some(commit))), LockState::Current),
            broken,
            version("new", Some(core("HEAD", None)), LockState::Missing),
        ];
        assert_eq!(
            table(&versions).render(Paint::plain()),
            "VERSION  CORE    COMMIT        NODES  MODELS  MODEL SIZE  STATE\n\
             a        master  0123456789ab      0       2    3.00 GiB  ready\n\
             broken                                                    unreadable\n\
             new      HEAD                      0       2    3.00 GiB  not locked\n"
        );
        assert_eq!(source(&core(commit, Some(commit))), format!("https://h/o/r, commit {commit}"));
        assert_eq!(source(&core("v1", None)), "https://h/o/r at v1");
    }
}
