//! Two processes at work in one directory at once. Nobody can say what they must see; but the tree that they leave is
//! one, whoever looks at it and whenever, and no request hangs.

use std::path::PathBuf;

use rustix::io::Errno;

use super::agent::Agent;
use super::ops::{Op, Scope, Step, Who};
use super::stage::Watch;
use super::{Bench, compare, draw};
use crate::mounts::Mounted;
use crate::support::{me, show};
use crate::trees::show_plain;

/// What no operation may give, whatever the other process does.
const NEVER: [Errno; 4] = [Errno::IO, Errno::NOTCONN, Errno::CONNABORTED, Errno::STALE];

/// Every time is shown.
const EVER: i64 = i64::MAX;

fn check(bench: &mut Bench, seed: u8, steps: &[Step]) -> Result<(), String> {
    let lower = &bench.lowers[usize::from(seed)];
    let upper = bench.world.beside("upper");
    let _ = std::fs::remove_dir_all(&upper);
    let open = || bench.world.overlay(lower.view(&bench.world), "upper");
    let at = bench.world.beside("mnt");
    let away = bench.world.beside("");
    let mounted = Mounted::with(open(), at.clone(), None).ok_or("it could be mounted before")?;
    {
        let _watch = Watch::over([at.clone()]);
        let [here, other] = &mut bench.agents;
        let work = |agent: &mut Agent, who: Who, root: &PathBuf| {
            agent.begin(std::slice::from_ref(root), EVER);
            let mut never = None;
            for step in steps.iter().filter(|step| (step.who == who) && !matches!(step.op, Op::Remount)) {
                let outcome = agent.run(0, false, &step.op);
                if NEVER.iter().any(|errno| outcome == Err(errno.raw_os_error())) {
                    never = never.or(Some(format!("{step:?}: {outcome:?}")));
                }
            }
            agent.begin(std::slice::from_ref(&away), 0);
            never
        };
        let never = std::thread::scope(|scope| {
            let first = scope.spawn(|| work(here, Who::Here, &at));
            let second = work(other, Who::Other, &at);
            first.join().expect("a process that works").or(second)
        });
        if let Some(never) = never {
            return Err(never);
        }
    }
    let expected = show_plain(&at, EVER);
    drop(mounted);
    let overlay = open();
    compare(&expected, &show(&overlay, EVER), "without a mount")?;
    drop(overlay);
    let mounted = Mounted::with(open(), at.clone(), None).ok_or("it could be mounted before")?;
    let found = show_plain(&at, EVER);
    drop(mounted);
    compare(&expected, &found, "at the next mount")
}

#[test]
fn two_processes_at_once_leave_one_tree() {
    if me().uid != 0 {
        return eprintln!("skipped: operations of root alone are among them");
    }
    let mut bench = Bench::new();
    let at = bench.world.beside("mnt");
    let overlay = bench.world.overlay(bench.lowers[0].view(&bench.world), "upper");
    if Mounted::with(overlay, at, None).is_none() {
        return;
    }
    // A mapping is not drawn: who writes to one while another cuts the file off is killed, as on any filesystem.
    draw(Scope { kernel: false, root: true }, 60, |seed, steps| {
        if !std::mem::replace(&mut bench.clean, false) {
            bench.agents = [Agent::start(0), Agent::start(0o027)];
        }
        check(&mut bench, seed, steps)?;
        bench.clean = true;
        Ok(())
    });
}
