//! Other processes: this test binary again, as a child that is killed at any moment.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use cvs_store::{RootSource, Store};

use crate::support::{Home, Random, Versions, fsck, gc, path, put_manifest, read_all};

/// What a child does, and where: `writer:<seed>:<home>`, `collector:<seed>:<home>` or `holder:<seed>:<home>`.
const ROLE: &str = "CVS_STORE_CHILD";

/// Not a test of its own: what the children run.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let mut parts = role.splitn(3, ':');
    let (role, seed) = (parts.next().unwrap(), parts.next().unwrap().parse().unwrap());
    let store = Store::open(Path::new(parts.next().unwrap())).unwrap();
    match role {
        "writer" => write_versions(&store, Random(seed)),
        "collector" => loop {
            gc(&store, Duration::ZERO);
            say("collected");
        },
        _ => {
            let txn = store.begin("holder").unwrap();
            txn.put_bytes(b"held").unwrap();
            txn.commit().unwrap();
            say("holding");
            let _ = std::io::stdin().read_line(&mut String::new());
        }
    }
}

fn say(word: &str) {
    // Whoever started it is gone: so is the child.
    if writeln!(std::io::stdout(), "\n{word}").is_err() {
        std::process::exit(0);
    }
}

/// Publishes, replaces and deletes versions that share what they hold, for ever.
fn write_versions(store: &Store, mut random: Random) {
    let versions = Versions::below(store.home());
    loop {
        let name = format!("version-{}", random.below(5));
        if random.below(4) == 0 {
            versions.delete(&name);
            continue;
        }
        let contents: Vec<Vec<u8>> = (0..random.below(30) + 1)
            .map(|_| vec![random.below(60) as u8; 10 + random.below(3) as usize * 5000])
            .collect();
        let names: Vec<String> = (0..contents.len()).map(|n| format!("dir-{}/file-{n}", n % 3)).collect();
        let files: Vec<(&str, &[u8])> =
            names.iter().map(String::as_str).zip(contents.iter().map(Vec::as_slice)).collect();
        let txn = store.begin(&name).unwrap();
        for content in &contents {
            txn.put_bytes(content).unwrap();
        }
        let id = put_manifest(&txn, &files);
        txn.commit().unwrap();
        versions.publish(&name, &[id]);
        drop(txn);
        say("published");
    }
}

struct Process {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Process {
    fn start(role: &str, seed: u64, home: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "children::child", "--nocapture", "--test-threads=1"])
            .env(ROLE, format!("{role}:{seed}:{}", home.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// Waits until the child has said `word` so many times.
    fn hear(&mut self, word: &str, times: u64) {
        for _ in 0..times {
            let mut line = String::new();
            while line.trim() != word {
                line.clear();
                assert!(
                    self.lines.read_line(&mut line).unwrap() > 0,
                    "the child ended before it said {word}"
                );
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGKILL.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_transaction_of_another_process_holds_until_it_dies() {
    let home = Home::new();
    let mut holder = Process::start("holder", 0, home.store.home());
    holder.hear("holding", 1);
    assert_eq!(home.gc(Duration::ZERO).deleted_objects, 0);
    assert_eq!(home.staged().len(), 1);
    drop(holder);
    assert_eq!(home.gc(Duration::ZERO).deleted_objects, 1);
    assert_eq!(home.staged(), [""; 0]);
}

/// Writers and a collector are killed at any moment; what was published is whole every time.
#[test]
fn no_kill_loses_what_was_published() {
    let rounds = if std::env::var_os("CVS_TEST_LONG").is_some() { 200 } else { 20 };
    let home = Home::new();
    let mut random = Random(7);
    for round in 0..rounds {
        let mut writers = [0, 1].map(|n| Process::start("writer", round * 2 + n, home.store.home()));
        let mut collector = Process::start("collector", 0, home.store.home());
        collector.hear("collected", 1);
        writers[0].hear("published", random.below(8));
        // Anywhere within the next step.
        let until = Instant::now() + Duration::from_micros(random.below(8000));
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        if round % 2 == 0 {
            drop(collector);
            drop(writers);
        } else {
            drop(writers);
            drop(collector);
        }
        // Opened anew, as by the next command.
        let store = Store::open(home.store.home()).unwrap();
        let report = fsck(&store, false);
        assert_eq!(report.damage, [], "round {round}");
        for root in home.versions().roots().unwrap() {
            for id in root.manifests {
                let manifest = store.manifest(&id).unwrap();
                manifest.check().unwrap();
                read_all(&store, &manifest)
                    .unwrap_or_else(|what| panic!("round {round}: {}: {what}", root.name));
                assert!(manifest.path(0).is_some_and(|root| root == path("")));
            }
        }
    }
    for root in home.versions().roots().unwrap() {
        home.versions().delete(&root.name);
    }
    gc(&home.store, Duration::ZERO);
    assert!(home.objects().is_empty());
    // A lease that was never finished holds nothing, and goes after an hour.
    assert!(home.staged().iter().all(|name| name.starts_with(".new-")));
    assert_eq!(fs::read_dir(home.store.home().join("trash")).unwrap().count(), 0);
}
