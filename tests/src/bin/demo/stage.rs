//! How the demonstration shows things: headings, commands with their output, checks, and the figures for its end.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use cvs_tests::{Output, TestEnvironment};

/// A repository of the network, and a model over it, may take their time.
const DEADLINE: Duration = Duration::from_secs(3600);

/// The flag that lets the next command fail instead of running.
pub(crate) fn interrupted() -> Arc<AtomicBool> {
    static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);
    Arc::clone(&INTERRUPTED)
}

/// The environment that everything is shown in.
pub(crate) struct Stage {
    pub(crate) environment: TestEnvironment,
    summary: Vec<String>,
}

/// What a person's network needs, and a hermetic environment would not pass on.
const NETWORK: [&str; 14] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
    "UV_DEFAULT_INDEX",
    "UV_INDEX_URL",
    "UV_SYSTEM_CERTS",
];

impl Stage {
    pub(crate) fn new() -> Stage {
        let mut environment = TestEnvironment::new();
        environment.use_python().unwrap_or_else(|missing| panic!("this needs {}", missing.0));
        for name in NETWORK {
            if let Some(value) = std::env::var_os(name) {
                environment.set_var(name, value);
            }
        }
        println!("Everything happens in {}.", environment.root().display());
        Stage { environment, summary: Vec::new() }
    }

    pub(crate) fn heading(&self, text: &str) {
        println!("\n## {text}\n");
    }

    /// Runs cvs as a person would, printed with what it says; how long it took. Anything but success ends the show.
    pub(crate) fn cvs(&self, args: &[&str]) -> Duration {
        self.cvs_code(0, args).1
    }

    /// The same, for what it prints on stdout.
    pub(crate) fn cvs_says(&self, args: &[&str]) -> (String, Duration) {
        let (output, took) = self.cvs_code(0, args);
        (output.stdout.trim_end().to_owned(), took)
    }

    /// The same, for a command that must end with `code`.
    pub(crate) fn cvs_code(&self, code: i32, args: &[&str]) -> (Output, Duration) {
        assert!(!interrupted().load(Ordering::SeqCst), "interrupted");
        println!("$ cvs {}", self.shown(&args.iter().map(|arg| quoted(arg)).collect::<Vec<_>>().join(" ")));
        let start = Instant::now();
        let output = self.environment.cvs(args).deadline(DEADLINE).output();
        let took = start.elapsed();
        for text in [&output.stdout, &output.stderr] {
            print!("{}", self.shown(text));
        }
        assert!(output.code() == Some(code), "cvs {} ended with {:?}, not {code}", args[0], output.code());
        (output, took)
    }

    /// Something done that is not a command of cvs.
    pub(crate) fn note(&self, text: &str) {
        println!("{}", self.shown(text));
    }

    /// Says what holds, or ends the show because it does not.
    pub(crate) fn check(&self, claim: &str, holds: bool) {
        assert!(holds, "this does not hold: {claim}");
        println!("ok: {claim}");
    }

    /// A line for the end.
    pub(crate) fn remember(&mut self, line: String) {
        self.summary.push(line);
    }

    pub(crate) fn finish(self) {
        println!("\n## What was shown\n");
        for line in &self.summary {
            println!("- {line}");
        }
    }

    /// Paths below the root as a person there would write them.
    fn shown(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.environment.root().display()), "")
    }
}

fn quoted(arg: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,+%".contains(c);
    if arg.chars().all(plain) { arg.to_owned() } else { format!("'{arg}'") }
}

/// Every regular file below a directory with its size, by path.
pub(crate) fn files(dir: &Path) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    walk(dir, &mut |path, metadata| {
        let below = path.strip_prefix(dir).expect("a walk stays below its start");
        found.insert(below.to_string_lossy().into_owned(), metadata.len());
    });
    found
}

/// The space that a directory's files take on disk, each counted once however many names it has.
pub(crate) fn space(dir: &Path) -> u64 {
    let mut seen = HashSet::new();
    let mut bytes = 0;
    walk(dir, &mut |_, metadata| {
        if seen.insert((metadata.dev(), metadata.ino())) {
            bytes += metadata.blocks() * 512;
        }
    });
    bytes
}

fn walk(dir: &Path, see: &mut dyn FnMut(&Path, &fs::Metadata)) {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("listing {}: {error}", dir.display()));
    for entry in entries {
        let path = entry.unwrap_or_else(|error| panic!("listing {}: {error}", dir.display())).path();
        let metadata = fs::symlink_metadata(&path)
            .unwrap_or_else(|error| panic!("looking at {}: {error}", path.display()));
        if metadata.is_dir() {
            walk(&path, see);
        } else if metadata.is_file() {
            see(&path, &metadata);
        }
    }
}

pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..0x10_0000 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
    }
}

pub(crate) fn time(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 1.0 { format!("{:.0} ms", seconds * 1e3) } else { format!("{seconds:.1} s") }
}
