//! `cvs ps`.

use std::time::Duration;

use clap::Args;

use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::format;
use crate::runs::{self, RunState, RunStatus};
use crate::table::{Align, Table};

/// List what runs.
///
/// One that crashed stays in the list until it is started again, or `cvs stop` forgets it. Memory is what the
/// processes of ComfyUI hold resident; pages that they share are counted for each.
#[derive(Debug, Args)]
pub(crate) struct PsArgs {}

pub(crate) fn run(context: &Context, _args: &PsArgs) -> Result<Exit, CliError> {
    let runs = runs::all(context.store()?)?;
    if context.output().is_json() {
        context.output().json(&runs)?;
        return Ok(Exit::Ok);
    }
    context.output().table(&table(&runs), "nothing runs")?;
    Ok(Exit::Ok)
}

fn table(runs: &[RunStatus]) -> Table {
    let mut table = Table::new([
        ("VERSION", Align::Left),
        ("ROLE", Align::Left),
        ("STATE", Align::Left),
        ("PID", Align::Right),
        ("UPTIME", Align::Right),
        ("MEMORY", Align::Right),
        ("URL", Align::Left),
    ]);
    for run in runs {
        let or_empty = |text: Option<String>| text.unwrap_or_default();
        table.row([
            run.version.clone(),
            run.role.word().to_owned(),
            state(run),
            or_empty(run.pid.map(|pid| pid.to_string())),
            or_empty(run.uptime.map(|seconds| format::duration(Duration::from_secs(seconds)))),
            or_empty(run.memory.map(format::bytes)),
            or_empty(run.url.clone()),
        ]);
    }
    table
}

fn state(run: &RunStatus) -> String {
    match run.state {
        RunState::Starting => "starting".to_owned(),
        RunState::Running => "running".to_owned(),
        RunState::NotAnswering => "not answering".to_owned(),
        RunState::Stopping => "stopping".to_owned(),
        RunState::Exited => "exited".to_owned(),
        RunState::Crashed => match run.code {
            Some(code) => format!("crashed (code {code})"),
            None => "crashed (killed)".to_owned(),
        },
        RunState::SupervisorDied => "supervisor died".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Paint;
    use crate::runs::Role;

    #[test]
    fn runs_stand_below_each_other() {
        let running = RunStatus {
            version: "wan".to_owned(),
            role: Role::Ui,
            state: RunState::Running,
            pid: Some(12),
            supervisor: Some(11),
            detached: true,
            url: Some("http://127.0.0.1:8188".to_owned()),
            uptime: Some(200),
            memory: Some(3 << 30),
            code: None,
            reason: None,
            view: String::new(),
            root: None,
            log: "/log".into(),
        };
        let crashed = RunStatus {
            version: "flux".to_owned(),
            state: RunState::Crashed,
            pid: None,
            uptime: None,
            memory: None,
            url: None,
            code: Some(1),
            ..running.clone()
        };
        assert_eq!(
            table(&[crashed, running]).render(Paint::plain()),
            "VERSION  ROLE  STATE             PID      UPTIME    MEMORY  URL\n\
             flux     ui    crashed (code 1)\n\
             wan      ui    running            12  3 min 20 s  3.00 GiB  http://127.0.0.1:8188\n"
        );
    }
}
