//! A mount with many copies of each start tree side by side: every case has one to itself, so that mounting is paid
//! for once in a hundred cases.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cvs_fusefs::Connections;
use cvs_store::View;

use super::Tally;
use super::agent::Agent;
use crate::mounts::Mounted;
use crate::support::World;
use crate::trees::{Lower, TREES};

const MODELS: &str = "models";
/// Copies of each tree in one mount.
const COPIES: usize = 16;
/// How long a case may take before it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Stage {
    /// They go first, with what they hold.
    pub(crate) agents: [Agent; 2],
    pub(crate) world: World,
    pub(crate) lowers: Vec<Lower>,
    /// The trees are below the models connection.
    pub(crate) models: bool,
    mounted: Option<Mounted>,
    upper: u32,
    used: [usize; TREES as usize],
    /// The last case went through: nothing of it is left.
    pub(crate) clean: bool,
    pub(crate) tally: Tally,
}

impl Stage {
    /// None, with a word, where this machine cannot mount.
    pub(crate) fn new(models: bool) -> Option<Self> {
        let world = World::new();
        let lowers = (0..TREES).map(|seed| Lower::make(&world, seed)).collect();
        let mut stage = Self {
            agents: [Agent::start(0), Agent::start(0o027)],
            world,
            lowers,
            models,
            mounted: None,
            upper: 0,
            used: [0; TREES as usize],
            clean: true,
            tally: Tally::default(),
        };
        stage.renew().then_some(stage)
    }

    fn view(&self) -> View {
        let mut grafts = Vec::new();
        for (seed, lower) in self.lowers.iter().enumerate() {
            for copy in 0..COPIES {
                grafts.extend(lower.grafts(&self.name(seed, copy)));
            }
        }
        let grafts: Vec<_> = grafts.iter().map(|(path, manifest)| (path.as_str(), *manifest)).collect();
        self.world.view(&grafts)
    }

    fn name(&self, seed: usize, copy: usize) -> String {
        let dir = if self.models { "models/" } else { "" };
        format!("{dir}t{seed}-{copy}")
    }

    /// A mount that nobody has used.
    fn renew(&mut self) -> bool {
        self.unmount();
        let _ = std::fs::remove_dir_all(self.world.beside(&self.upper()));
        self.upper += 1;
        self.used = [0; TREES as usize];
        self.mount()
    }

    fn upper(&self) -> String {
        format!("upper-{}", self.upper)
    }

    fn at(&self) -> PathBuf {
        self.world.beside("mnt")
    }

    fn unmount(&mut self) {
        let away = self.world.beside("");
        for agent in &mut self.agents {
            agent.begin(std::slice::from_ref(&away), 0);
        }
        self.mounted = None;
    }

    fn mount(&mut self) -> bool {
        let overlay = self.world.overlay(self.view(), &self.upper());
        let models = self.models.then_some(MODELS);
        self.mounted = Mounted::with(overlay, self.at(), models);
        match &self.mounted {
            Some(mounted) if self.models && mounted.connections != Connections::Two => {
                eprintln!("skipped: {:?}", mounted.connections);
                false
            }
            mounted => mounted.is_some(),
        }
    }

    /// Another mount of the same overlay. What agents hold is closed.
    pub(crate) fn remount(&mut self) {
        self.unmount();
        assert!(self.mount(), "it could be mounted before");
    }

    /// Where a copy of tree `seed` is that nobody has used.
    pub(crate) fn take(&mut self, seed: u8) -> PathBuf {
        let seed = usize::from(seed);
        if self.used[seed] == COPIES {
            assert!(self.renew(), "it could be mounted before");
        }
        let name = self.name(seed, self.used[seed]);
        self.used[seed] += 1;
        self.at().join(name)
    }

    /// Starts over after a case that may have left anything behind.
    pub(crate) fn give_up(&mut self) {
        self.agents = [Agent::start(0), Agent::start(0o027)];
        assert!(self.renew(), "it could be mounted before");
    }

    /// Fails what hangs in this mount.
    pub(crate) fn watch(&self) -> Watch {
        Watch::over([self.at(), self.at().join(MODELS)])
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.unmount();
        }
    }
}

/// The watch over one case.
pub(crate) struct Watch {
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watch {
    /// When a case takes too long, the kernel is told to answer every request of these mounts with an error.
    pub(crate) fn over<const N: usize>(mounts: [PathBuf; N]) -> Self {
        let connections = mounts.map(|at| {
            let device = rustix::fs::stat(at).map(|stat| rustix::fs::minor(stat.st_dev));
            device.map(|number| format!("/sys/fs/fuse/connections/{number}/abort"))
        });
        let over = Arc::new(AtomicBool::new(false));
        let watched = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            let begun = Instant::now();
            while !watched.load(Ordering::Acquire) {
                if begun.elapsed() > PATIENCE {
                    eprintln!("a request hangs: the connection is aborted");
                    for abort in connections.iter().flatten() {
                        let _ = std::fs::write(abort, "1");
                    }
                    return;
                }
                std::thread::park_timeout(PATIENCE);
            }
        });
        Self { over, thread: Some(thread) }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}
