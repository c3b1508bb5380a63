//! What is measured and how: peers in turns, cold caches, memory, space on disk.

use std::fs::{self, File};
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::failure::{Doing, Outcome, fail};
use crate::lab::Lab;
use crate::project::is_root;
use crate::shell;
use crate::table::median;

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

/// How long a command takes, and the most memory that it had, in bytes.
pub(super) fn watched(command: &mut Command) -> Outcome<(Duration, u64)> {
    let log = std::env::temp_dir().join(format!("cvs-bench-{}", std::process::id()));
    let stderr = File::create(&log).doing(|| format!("making {}", log.display()))?;
    let start = Instant::now();
    let mut child = command
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()
        .doing(|| format!("starting `{}`", shell::shown(command)))?;
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    let ended = loop {
        // The kernel keeps the peak: the last answer before the end is nearly it.
        peak = peak.max(kib(&status, "VmHWM").unwrap_or(0) << 10);
        if let Some(ended) = child.try_wait().doing(|| "waiting for cvs".to_owned())? {
            break ended;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let took = start.elapsed();
    let said = fs::read_to_string(&log).unwrap_or_default();
    let _ = fs::remove_file(&log);
    if !ended.success() {
        fail!("`{}` failed ({ended})\n{}", shell::shown(command), said.trim_end());
    }
    Ok((took, peak))
}

/// What only benchmarks ask of the laboratory.
impl Lab {
    /// Where generated data is kept between runs.
    pub(super) fn data(&self) -> PathBuf {
        self.dir().join("data")
    }

    /// Runs every peer once in each round, in turns; the medians, in the order of the peers.
    pub(super) fn compare(&self, peers: &mut [Peer<'_>]) -> Outcome<Vec<Duration>> {
        let mut samples = vec![Vec::new(); peers.len()];
        let watched = std::io::stderr().is_terminal();
        for round in 1..=self.runs() {
            for (peer, samples) in peers.iter_mut().zip(&mut samples) {
                if watched {
                    eprint!("\r\x1b[K  round {round} of {}: {}", self.runs(), peer.name);
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

    /// Bytes that are free where the laboratory is.
    pub(super) fn free_space(&self) -> Outcome<u64> {
        let out = shell::output(Command::new("df").args(["--output=avail", "-B1"]).arg(self.dir()))?;
        match out.lines().last().and_then(|line| line.trim().parse().ok()) {
            Some(bytes) => Ok(bytes),
            None => fail!("`df` said '{}'", out.trim()),
        }
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
