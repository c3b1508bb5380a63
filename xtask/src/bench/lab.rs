//! The bench's laboratory: a directory for data, a `cvs` with a home of its own, cold caches, rounds in turns, and
//! the mounts that must be gone afterwards whatever happened.

use std::fs;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::table::median;
use crate::failure::{Doing, Outcome, fail};
use crate::project::{Project, is_root};
use crate::shell;

pub(super) struct Lab {
    cvs: PathBuf,
    tools: PathBuf,
    dir: PathBuf,
    quick: bool,
    runs: usize,
}

/// One of the things compared: what to prepare before each round, outside the clock, and what to measure.
pub(super) struct Peer<'a> {
    pub(super) name: &'static str,
    pub(super) prepare: Box<dyn FnMut() -> Outcome + 'a>,
    pub(super) body: Box<dyn FnMut() -> Outcome<Duration> + 'a>,
}

impl<'a> Peer<'a> {
    /// A peer that needs no preparation and is timed from outside.
    pub(super) fn timed(name: &'static str, mut body: impl FnMut() -> Outcome + 'a) -> Peer<'a> {
        Peer { name, prepare: Box::new(|| Ok(())), body: Box::new(move || clock(&mut body)) }
    }

    pub(super) fn after(mut self, prepare: impl FnMut() -> Outcome + 'a) -> Peer<'a> {
        self.prepare = Box::new(prepare);
        self
    }
}

/// How long `body` takes.
pub(super) fn clock(body: impl FnOnce() -> Outcome) -> Outcome<Duration> {
    let start = Instant::now();
    body()?;
    Ok(start.elapsed())
}

impl Lab {
    /// Opens `target/bench`, and takes away what a killed run left there.
    pub(super) fn open(project: &Project, quick: bool, runs: usize) -> Outcome<Lab> {
        let dir = project.target().join("bench");
        fs::create_dir_all(dir.join("data")).doing(|| format!("making {}", dir.display()))?;
        let dir = dir.canonicalize().doing(|| format!("resolving {}", dir.display()))?;
        let cvs = project.release("cvs");
        let lab = Lab { cvs, tools: project.tools().join("bin"), dir, quick, runs };
        lab.clear();
        Ok(lab)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where generated data is kept between runs.
    pub(super) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// A directory for one benchmark, gone after it.
    pub(super) fn work(&self, name: &str) -> Outcome<PathBuf> {
        let dir = self.dir.join("work").join(name);
        fs::create_dir_all(&dir).doing(|| format!("making {}", dir.display()))?;
        Ok(dir)
    }

    /// The CVS_HOME that [`Lab::cvs`] works with.
    pub(super) fn home(&self) -> PathBuf {
        self.dir.join("work").join("home")
    }

    pub(super) fn is_quick(&self) -> bool {
        self.quick
    }

    /// `full`, or a small stand-in for it in a quick run.
    pub(super) fn size(&self, full: u64, quick: u64) -> u64 {
        if self.quick { quick } else { full }
    }

    pub(super) fn runs(&self) -> usize {
        self.runs
    }

    /// The release `cvs`, on the laboratory's home, without the caller's configuration.
    pub(super) fn cvs(&self) -> Command {
        let mut cmd = self.command(&self.cvs);
        cmd.env("CVS_HOME", self.home());
        for name in ["CVS_VERSIONS_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "RUST_LOG"] {
            cmd.env_remove(name);
        }
        cmd.env("HOME", self.dir.join("work"));
        cmd
    }

    /// A peer's program, in the laboratory.
    pub(super) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut cmd = Command::new(program);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let dirs =
            std::env::split_paths(&path).chain([self.tools.clone(), "/usr/sbin".into(), "/sbin".into()]);
        if let Ok(joined) = std::env::join_paths(dirs) {
            cmd.env("PATH", joined);
        }
        cmd.current_dir(&self.dir).stdin(std::process::Stdio::null());
        cmd
    }

    /// A line of shell, for what is a pipeline in real life too. `"$1"` and so on are `args`.
    pub(super) fn sh(&self, line: &str, args: &[&Path]) -> Command {
        let mut cmd = self.command("bash");
        cmd.args(["-euo", "pipefail", "-c", line, "bash"]).args(args);
        cmd
    }

    /// Runs every peer once in each round, in turns; the medians, in the order of the peers.
    pub(super) fn compare(&self, peers: &mut [Peer<'_>]) -> Outcome<Vec<Duration>> {
        let mut samples = vec![Vec::new(); peers.len()];
        let watched = std::io::stderr().is_terminal();
        for round in 1..=self.runs {
            for (peer, samples) in peers.iter_mut().zip(&mut samples) {
                if watched {
                    eprint!("\r\x1b[K  round {round} of {}: {}", self.runs, peer.name);
                    let _ = std::io::stderr().flush();
                }
                (peer.prepare)()?;
                samples.push((peer.body)()?);
            }
        }
        if watched {
            eprint!("\r\x1b[K");
        }
        Ok(samples.into_iter().map(median).collect())
    }

    pub(super) fn can_drop_caches(&self) -> bool {
        is_root() && Path::new("/proc/sys/vm/drop_caches").exists()
    }

    /// Writes out what is dirty and drops every clean page, dentry and inode.
    pub(super) fn drop_caches(&self) -> Outcome {
        shell::quiet(&mut Command::new("sync"))?;
        fs::write("/proc/sys/vm/drop_caches", "3").doing(|| "writing /proc/sys/vm/drop_caches".to_owned())
    }

    /// Writes out what is dirty, so that one peer does not pay for another's writes.
    pub(super) fn settle(&self) -> Outcome {
        shell::quiet(&mut Command::new("sync"))
    }

    /// Empties a directory that a peer wrote into, and makes it if need be.
    pub(super) fn empty(&self, dir: &Path) -> Outcome {
        if dir.exists() {
            fs::remove_dir_all(dir).doing(|| format!("emptying {}", dir.display()))?;
        }
        fs::create_dir_all(dir).doing(|| format!("making {}", dir.display()))
    }

    /// Mounts a version and says where.
    pub(super) fn mount(&self, id: &str) -> Outcome<PathBuf> {
        let at = self.work("mnt")?.join(id);
        fs::create_dir_all(&at).doing(|| format!("making {}", at.display()))?;
        shell::quiet(self.cvs().args(["mount", id]).arg(&at))?;
        Ok(at)
    }

    pub(super) fn umount(&self, at: &Path) -> Outcome {
        shell::quiet(self.cvs().arg("umount").arg(at))
    }

    /// Takes away every mount below the laboratory and the files of the benchmarks, never the data. What cannot be
    /// taken away is told: it would falsify what runs next.
    pub(super) fn clear(&self) {
        let mounts = mounts_below(&self.dir);
        for at in mounts.iter().rev() {
            if !shell::succeeds(self.command("umount").arg(at))
                && !shell::succeeds(self.command("umount").arg("-l").arg(at))
            {
                eprintln!("warning: {} stays mounted", at.display());
            }
        }
        let work = self.dir.join("work");
        if work.exists()
            && mounts_below(&self.dir).is_empty()
            && let Err(e) = fs::remove_dir_all(&work)
        {
            eprintln!("warning: {} stays: {e}", work.display());
        }
    }
}

/// A value of `/proc/meminfo` or `/proc/PID/status`, in KiB as it stands there.
pub(super) fn kib(file: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Bytes on disk of a directory, every file counted once however many links it has.
pub(super) fn disk_usage(dir: &Path) -> Outcome<u64> {
    let out = shell::output(Command::new("du").args(["-s", "--block-size=1"]).arg(dir))?;
    match out.split_whitespace().next().and_then(|n| n.parse().ok()) {
        Some(bytes) => Ok(bytes),
        None => fail!("`du` said '{}'", out.trim()),
    }
}

/// Mount points below `dir`, outer ones first.
fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    let mut found: Vec<PathBuf> =
        points.map(|p| PathBuf::from(unescape(p))).filter(|p| p.starts_with(dir) && p != dir).collect();
    found.sort();
    found
}

/// mountinfo writes space, tab, newline and backslash in octal.
fn unescape(point: &str) -> String {
    [(r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")]
        .iter()
        .fold(point.to_owned(), |text, (from, to)| text.replace(from, to))
}
