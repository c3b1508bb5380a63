//! The start of ComfyUI from a mount, against the same tree and environment on the native filesystem; and what `cvs
//! run-ui` adds to starting main.py by hand.
//!
//! A start is `main.py --quick-test-for-ci`, which ends when everything is loaded. By default it is the tests' own
//! ComfyUI with a node that imports 2,500 modules; `--version ID` takes a version of the person's instead, and a plain
//! copy of what its mount shows. The plain side has the bytecode that its first start left.

mod environment;
mod realize;
mod world;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::measure::{Peer, clock};
use crate::failure::{Doing, Outcome, fail};
use crate::lab::Lab;
use crate::shell;
use crate::table::{Table, aim, ratio, time};

pub(super) use self::environment::run as environment;
pub(super) use self::realize::run as realize;
pub(super) use self::world::{IMPORTS, World, commit};

const ID: &str = "run";
const QUICK_TEST: &[&str] = &["main.py", "--cpu", "--quick-test-for-ci"];
const ANSWERS_WITHIN: Duration = Duration::from_secs(300);

/// One version in two places.
struct Sides {
    id: String,
    plain: PathBuf,
    /// Whether the mount shows the person's own version.
    is_own: bool,
}

pub(super) fn run(lab: &Lab) -> Outcome {
    let world;
    let sides = match lab.version() {
        Some(id) => own(lab, id)?,
        None => {
            world = World::make(lab)?;
            ours(lab, &world)?
        }
    };
    start(lab, &sides)?;
    overhead(lab, &sides)
}

/// The tests' ComfyUI, by cvs and by hand.
fn ours(lab: &Lab, world: &World) -> Outcome<Sides> {
    shell::quiet(&mut world.create(lab, ID, true, false))?;
    let plain = lab.work("plain")?.join("ComfyUI");
    let lock = lab.work("plain")?.join("lock.txt");
    world.clone_by_hand(lab, &plain)?;
    world.resolve_by_hand(lab, &lock, false)?;
    world.install_by_hand(lab, &lock, &plain.join(".venv"), false)?;
    Ok(Sides { id: ID.to_owned(), plain, is_own: false })
}

/// A version of the person's, and a copy of it. What its programs wrote is not part of either.
fn own(lab: &Lab, id: &str) -> Outcome<Sides> {
    let sides = Sides { id: id.to_owned(), plain: lab.work("plain")?.join("ComfyUI"), is_own: true };
    let at = mount(lab, &sides)?;
    shell::quiet(lab.command("cp").arg("-a").arg(&at).arg(&sides.plain))?;
    umount(lab, &sides, &at)?;
    Ok(sides)
}

fn cvs(lab: &Lab, sides: &Sides) -> Command {
    if sides.is_own { lab.own_cvs() } else { lab.cvs_with_python() }
}

fn mount(lab: &Lab, sides: &Sides) -> Outcome<PathBuf> {
    let at = lab.work("mnt")?.join("run");
    std::fs::create_dir_all(&at).doing(|| format!("making {}", at.display()))?;
    let mut mount = cvs(lab, sides);
    mount.args(["mount", &sides.id]).arg(&at);
    if sides.is_own {
        mount.arg("--ephemeral");
    }
    shell::quiet(&mut mount)?;
    Ok(at)
}

fn umount(lab: &Lab, sides: &Sides, at: &Path) -> Outcome {
    shell::quiet(cvs(lab, sides).arg("umount").arg(at))
}

/// A Python of a tree, run in it.
fn python(lab: &Lab, tree: &Path, args: &[&str]) -> Command {
    let mut python = lab.command(tree.join(".venv/bin/python"));
    python.current_dir(tree).args(args);
    python
}

fn start(lab: &Lab, sides: &Sides) -> Outcome {
    let at = mount(lab, sides)?;
    let imports = if sides.is_own { "import torch" } else { IMPORTS };
    let none = lab.work("no-bytecode")?;
    let none = none.to_string_lossy();
    let mut table = Table::new(&["what", "mount", "plain", "mount / plain"]);
    let rows: [(&str, &[&str], bool); 4] = [
        ("the interpreter alone", &["-c", "pass"], true),
        ("imports alone", &["-c", imports], true),
        ("start", QUICK_TEST, true),
        ("start, no bytecode", QUICK_TEST, false),
    ];
    let (mut warm_aim, mut cold_aim) = (false, !lab.can_drop_caches());
    for (what, args, bytecode) in rows {
        let one = |tree: &Path| {
            let mut python = python(lab, tree, args);
            if !bytecode {
                // Looked for where there is none, and none is left.
                python.env("PYTHONPYCACHEPREFIX", none.as_ref()).env("PYTHONDONTWRITEBYTECODE", "1");
            }
            shell::quiet(&mut python)
        };
        one(&at)?;
        one(&sides.plain)?;
        let mut peers = [Peer::timed("mount", || one(&at)), Peer::timed("plain", || one(&sides.plain))];
        let medians = lab.compare(&mut peers)?;
        table.row(vec![
            format!("{what}, warm"),
            time(medians[0]),
            time(medians[1]),
            ratio(medians[0], medians[1]),
        ]);
        if what == "start" {
            warm_aim = medians[0] <= medians[1];
        }
        if !lab.can_drop_caches() || !bytecode {
            continue;
        }
        // Cold from the mount is from nothing: the version is mounted on the clock.
        let mut peers = [
            Peer::timed("mount", || {
                mount(lab, sides)?;
                one(&at)
            })
            .after(|| {
                umount(lab, sides, &at)?;
                lab.drop_caches()
            }),
            Peer::timed("plain", || one(&sides.plain)).after(|| lab.drop_caches()),
        ];
        let medians = lab.compare(&mut peers)?;
        table.row(vec![
            format!("{what}, cold, mounting included"),
            time(medians[0]),
            time(medians[1]),
            ratio(medians[0], medians[1]),
        ]);
        if what == "start" {
            cold_aim = medians[0].as_secs_f64() <= 1.2 * medians[1].as_secs_f64();
        }
    }
    umount(lab, sides, &at)?;
    table.print();
    aim("a warm start from the mount takes at most 1.0 of one on plain files", warm_aim);
    aim("a cold one takes at most 1.2", cold_aim);
    Ok(())
}

/// A free port of 127.0.0.1, most likely free yet when it is used.
fn free_port() -> Outcome<u16> {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .doing(|| "looking for a free port".to_owned())
}

/// Polls until the server answers; its end before that is a failure.
fn wait_until_it_answers(child: &mut Child, port: u16) -> Outcome {
    let end = Instant::now() + ANSWERS_WITHIN;
    while Instant::now() < end {
        if answers(port) {
            return Ok(());
        }
        if let Some(status) = child.try_wait().doing(|| "asking for ComfyUI".to_owned())? {
            fail!("ComfyUI ended before it answered ({status})");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    fail!("ComfyUI did not answer within {} s", ANSWERS_WITHIN.as_secs())
}

fn answers(port: u16) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.write_all(b"GET /system_stats HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut line = [0; 12];
        stream.read_exact(&mut line)?;
        Ok(line.ends_with(b" 200"))
    };
    ask().unwrap_or(false)
}

fn overhead(lab: &Lab, sides: &Sides) -> Outcome {
    // No custom nodes: what run-ui adds does not depend on them, and would drown in what they take.
    let flags = ["--cpu", "--disable-all-custom-nodes"];
    let at = mount(lab, sides)?;
    let by_hand = || {
        let port = free_port()?;
        let mut command = python(lab, &at, &["main.py", "--disable-auto-launch", "--port"]);
        command.arg(port.to_string()).args(flags);
        let log = lab.work("logs")?.join("by-hand");
        let log = std::fs::File::create(&log).doing(|| format!("making {}", log.display()))?;
        command.stdout(log.try_clone().doing(|| "duplicating a descriptor".to_owned())?).stderr(log);
        let start = Instant::now();
        let mut child = command.spawn().doing(|| "starting ComfyUI".to_owned())?;
        let answered = wait_until_it_answers(&mut child, port);
        let took = start.elapsed();
        let _ = child.kill();
        let _ = child.wait();
        answered.map(|()| took)
    };
    let mut standing = [Peer { name: "by hand", prepare: Box::new(|| Ok(())), body: Box::new(&by_hand) }];
    let standing = lab.compare(&mut standing)?[0];
    // What run-ui mounts is fresh: nothing of it is in the kernel's caches yet.
    let remount = || {
        umount(lab, sides, &at)?;
        mount(lab, sides).map(drop)
    };
    let mut fresh = [Peer { name: "by hand, fresh", prepare: Box::new(remount), body: Box::new(&by_hand) }];
    let fresh = lab.compare(&mut fresh)?[0];
    umount(lab, sides, &at)?;

    let run_ui = || {
        let port = free_port()?.to_string();
        let mut command = cvs(lab, sides);
        command.args(["run-ui", &sides.id, "--detach", "--port", &port, "--"]).args(flags);
        // Its daemons live on: a pipe that they inherit would not end.
        let took = clock(|| shell::run(command.stdout(std::process::Stdio::null())));
        shell::quiet(cvs(lab, sides).args(["stop", &sides.id]))?;
        took
    };
    // The first call asks this core for its flags, once and for all.
    run_ui()?;
    let mut ours = [Peer { name: "run-ui", prepare: Box::new(|| Ok(())), body: Box::new(run_ui) }];
    let ours = lab.compare(&mut ours)?[0];
    let added = ours.saturating_sub(fresh);
    let mut table = Table::new(&["until it answers", "time"]);
    table.row(vec!["main.py by hand, in a standing mount".to_owned(), time(standing)]);
    table.row(vec!["main.py by hand, in a mount just made".to_owned(), time(fresh)]);
    table.row(vec!["cvs run-ui --detach, mounting included".to_owned(), time(ours)]);
    table.row(vec!["added to the mount just made".to_owned(), time(added)]);
    table.print();
    aim("run-ui adds less than 100 ms", added < Duration::from_millis(100));
    Ok(())
}
