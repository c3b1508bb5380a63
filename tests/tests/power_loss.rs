//! Power loss at the flushes of the disk below: the store and the overlay lie on an ext4 whose writes and flushes are
//! recorded, a scenario runs, and then the moments before a flush are brought back. The disk has what was flushed
//! before, and of the blocks that came since either none or some. (All of them is what the next moment begins with.)
//! ext4 replays its journal, as after a real power loss; then `cvs fsck`, a mount, and what was promised must be there:
//! versions that were published, whole; what was synced; of the rest, a state that once was.
//!
//! What it cannot find: ext4 commits the changes of all names in their order, so that a directory which is not synced is
//! synced by whatever is synced after it.
//!
//! Short, it looks twice at each step of the scenario: at the moment after its last sync, and at one in it. With
//! `CVS_TEST_LONG` at every flush, several times.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use cvs_tests::{DiskEvent as Event, DiskImage, Missing, Recorder, TestEnvironment, available, write_disk};

use crate::chance::{Chance, long};
use crate::mounted::{Entry, daemon, fuse, log_of, mount, read, tree, umount, wait_gone, write};

const SIZE: u64 = 32 << 20;
/// The order that is assumed: data reach the disk before the metadata that show them.
const OPTIONS: &str = "data=ordered";
/// In the long form, times that each moment is looked at with some of what came last.
const DRAWN: usize = 3;
/// A blob of this size is synced by itself, others with their batch.
const LARGE: usize = 9 << 20;

/// What a path may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Absent,
    Holds(Vec<u8>),
    /// On its way to this content: so many bytes that were there before, and of the others any part, or zeros.
    Torn(usize, Vec<u8>),
    Present,
}

impl State {
    fn allows(&self, found: Option<&[u8]>) -> bool {
        match (self, found) {
            (State::Absent, found) => found.is_none(),
            (State::Present, found) => found.is_some(),
            (State::Holds(bytes), found) => found == Some(&bytes[..]),
            // A new file may not have its name yet.
            (State::Torn(whole, _), None) => *whole == 0,
            (State::Torn(whole, bytes), Some(found)) => {
                (*whole..=bytes.len()).contains(&found.len())
                    && found[..*whole] == bytes[..*whole]
                    && found.iter().zip(bytes).all(|(one, other)| one == other || *one == 0)
            }
        }
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            State::Absent => write!(f, "absent"),
            State::Present => write!(f, "present"),
            State::Holds(bytes) => write!(f, "{}", shortened(bytes)),
            State::Torn(whole, bytes) => write!(f, "{whole} bytes and some of {}", shortened(bytes)),
        }
    }
}

fn shortened(bytes: &[u8]) -> String {
    format!("{} bytes {:?}", bytes.len(), String::from_utf8_lossy(&bytes[..bytes.len().min(40)]))
}

/// What a power loss left: what was written before an event may be on the disk, and what was promised before another
/// event, which is the later one, must.
#[derive(Clone, Copy)]
struct Loss {
    written: usize,
    promised: usize,
}

/// The states of each path, each with the event after which it could be there, and after which it had to.
#[derive(Default)]
struct History(BTreeMap<String, Vec<(State, usize, Option<usize>)>>);

impl History {
    /// What the path holds at the beginning; what is not said to be there is absent.
    fn begins(&mut self, path: &str, state: State) {
        self.0.insert(path.to_owned(), vec![(state, 0, Some(0))]);
    }

    fn may(&mut self, path: &str, state: State, now: usize) {
        let states = self.0.entry(path.to_owned()).or_insert_with(|| vec![(State::Absent, 0, Some(0))]);
        states.push((state, now, None));
    }

    /// What the path may hold at last, it holds for good from now on.
    fn must(&mut self, path: &str, now: usize) {
        let last = self.0.get_mut(path).and_then(|states| states.last_mut());
        last.unwrap_or_else(|| panic!("{path} has a state")).2 = Some(now);
    }

    fn allowed(&self, path: &str, loss: Loss) -> Vec<&State> {
        let states = &self.0[path];
        let first = states.iter().rposition(|(.., must)| must.is_some_and(|at| at <= loss.promised));
        let rest = states.iter().skip(first.expect("each has a first state"));
        rest.filter(|(_, may, _)| *may <= loss.written).map(|(state, ..)| state).collect()
    }

    /// Compares with what is found.
    fn check(&self, loss: Loss, what: &dyn Fn() -> String, found: impl Fn(&str) -> Option<Vec<u8>>) {
        for path in self.0.keys() {
            let (found, allowed) = (found(path), self.allowed(path, loss));
            assert!(
                allowed.iter().any(|state| state.allows(found.as_deref())),
                "{path} is {}\nallowed: {:#?}\n{}",
                found.map_or("absent".to_owned(), |bytes| shortened(&bytes)),
                allowed.iter().map(ToString::to_string).collect::<Vec<_>>(),
                what()
            );
        }
    }
}

/// One file moved in one step.
struct Moved {
    from: &'static str,
    to: &'static str,
    content: Vec<u8>,
    /// The event after which it had to be there.
    since: usize,
}

/// A scenario while it runs, and what came of it.
struct Scenario {
    recorder: Recorder,
    dir: PathBuf,
    files: History,
    versions: History,
    moved: Vec<Moved>,
    /// The events of each step.
    steps: Vec<(&'static str, Range<usize>)>,
}

/// Two names of one file at every moment.
const LINKS: [&str; 2] = ["l1", "d/l2"];

impl Scenario {
    fn now(&self) -> usize {
        self.recorder.now()
    }

    fn step(&mut self, name: &'static str, run: impl FnOnce(&mut Scenario)) {
        let begin = self.now();
        run(self);
        self.steps.push((name, begin..self.now()));
    }

    fn may(&mut self, path: &str, state: State) {
        let now = self.now();
        self.files.may(path, state, now);
    }

    /// Syncs directories, and what the paths hold is promised.
    fn sync(&mut self, dirs: &[&str], promised: &[&str]) {
        for dir in dirs {
            File::open(self.dir.join(dir)).and_then(|dir| dir.sync_all()).expect("syncing a directory");
        }
        let now = self.now();
        promised.iter().for_each(|path| self.files.must(path, now));
    }

    /// Makes or replaces a file's content, from `whole` bytes on that are there.
    fn write(&mut self, path: &str, whole: usize, content: &[u8]) {
        self.may(path, State::Torn(whole, content.to_vec()));
        let mut options = File::options();
        options.append(true).create(true);
        let file = options.open(self.dir.join(path)).and_then(|mut file| {
            file.write_all(&content[whole..])?;
            Ok(file)
        });
        let file = file.unwrap_or_else(|error| panic!("writing {path}: {error}"));
        self.may(path, State::Holds(content.to_vec()));
        file.sync_all().expect("syncing a file");
        let now = self.now();
        self.files.must(path, now);
    }

    /// Renames a file that has been on the disk since an event.
    fn rename(&mut self, from: &'static str, to: &'static str, since: usize) {
        let content = read(self.dir.join(from));
        self.may(from, State::Absent);
        self.may(to, State::Holds(content.clone()));
        self.moved.push(Moved { from, to, content, since });
        fs::rename(self.dir.join(from), self.dir.join(to)).expect("renaming");
    }

    fn version(&mut self, id: &str, state: State, run: impl FnOnce()) {
        self.versions.may(id, state, self.recorder.now());
        run();
        self.versions.must(id, self.recorder.now());
    }
}

#[test]
fn at_every_flush() {
    let Some(()) = available(fuse()) else { return };
    let Some(recorder) = available(Recorder::start(SIZE)) else { return };
    let mut scenario = Scenario {
        recorder,
        dir: PathBuf::new(),
        files: History::default(),
        versions: History::default(),
        moved: Vec::new(),
        steps: Vec::new(),
    };
    run(&mut scenario);
    let Scenario { recorder, files, versions, moved, steps, .. } = scenario;
    let (mut safe, events) = recorder.finish();
    let expected = Expected { files, versions, moved };

    // The events between two flushes, which can be lost. The last end without one.
    let flushes = (0..events.len()).filter(|at| matches!(events[*at], Event::Flush));
    let ends: Vec<usize> = flushes.chain([events.len()]).collect();
    let begins = [0].into_iter().chain(ends.iter().map(|end| end + 1));
    let moments: Vec<Range<usize>> = begins.zip(&ends).map(|(begin, end)| begin..*end).collect();
    assert!(moments.len() > 50, "{} moments", moments.len());

    let mut chance = Chance::new();
    let (bare, drawn) = plan(&moments, &steps, &mut chance);
    let (mut done, mut looked) = (0, BTreeMap::<&str, usize>::new());
    for (number, moment) in moments.iter().enumerate() {
        events[done..moment.start].iter().for_each(|event| event.apply(&mut safe));
        done = moment.start;
        let mut look_at = |disk: &[u8], written, how: &str| {
            // With nothing of what came last, it is the end of what came before.
            let begins = moment.start + usize::from(written > moment.start);
            let step = steps.iter().find(|(_, step)| begins <= step.end).map_or("the end", |(name, _)| name);
            let what = format!("{step}: moment {number} of {}, with {how} of what came last", moments.len());
            look(disk, &expected, Loss { written, promised: moment.end }, &what);
            *looked.entry(step).or_default() += 1;
        };
        if bare.contains(&number) {
            look_at(&safe, moment.start, "nothing");
        }
        for _ in 0..drawn.iter().filter(|drawn| **drawn == number).count() {
            let mut disk = safe.clone();
            for event in &events[moment.clone()] {
                event.apply_where(&mut disk, || chance.below(2) == 0);
            }
            look_at(&disk, moment.end, "some");
        }
    }
    let total: usize = looked.values().sum();
    eprintln!("{} events, {} flushes, {total} power losses: {looked:?}", events.len(), moments.len() - 1);
}

/// At which moments to look with nothing of what came last, and at which, be it several times, with some of it.
fn plan(
    moments: &[Range<usize>],
    steps: &[(&str, Range<usize>)],
    chance: &mut Chance,
) -> (BTreeSet<usize>, Vec<usize>) {
    // What nobody wrote to has nothing to lose.
    let all: Vec<usize> = (0..moments.len()).filter(|at| !moments[*at].is_empty()).collect();
    if long() {
        return ((0..moments.len()).collect(), all.repeat(DRAWN));
    }
    let (mut bare, mut drawn) = (BTreeSet::new(), Vec::new());
    for (name, step) in steps {
        // Just after the last sync, the promise is the largest and nothing but it needs to be on the disk.
        let after = moments.iter().position(|moment| step.end <= moment.end);
        bare.extend(after);
        let within = |at: &usize| moments[*at].start < step.end && step.start < moments[*at].end;
        let within: Vec<usize> = all.iter().copied().filter(within).collect();
        assert!(!within.is_empty(), "{name}: nothing reached the disk");
        drawn.extend(chance.pick(&within));
    }
    (bare, drawn)
}

/// The scenario: everything that promises something.
fn run(s: &mut Scenario) {
    let env = TestEnvironment::new();
    s.recorder.disk().mount(&env.home(), OPTIONS);
    let lower =
        ["f", "g", "h", "d/f", "d/g", "d/sub/x", "e/y", "l1", "d/l2", "old/z", "models/m", "models/n"];
    for name in lower {
        let content = format!("content of {name}. ").repeat(500).into_bytes();
        if name == LINKS[1] {
            fs::hard_link(env.path("lower/l1"), env.path("lower/d/l2")).expect("making a link");
        } else {
            env.write(format!("lower/{name}"), &content);
        }
        s.files.begins(name, State::Holds(read(env.path("lower").join(name))));
    }
    s.step("the first version", |s| {
        s.version("v", State::Present, || {
            env.cvs(["debug", "ingest", "lower", "--as", "v"]).ok();
        })
    });
    s.step("an overlay", |s| s.dir = mount(&env, "v", "v", &[]));
    let server = daemon(&env, "v");

    // In the root, where directories must be copied up, and where the kernel may write by itself.
    s.step("create and fsync", |s| {
        s.write("new", 0, &b"new content ".repeat(1000));
        s.write("d/sub/new", 0, b"deep");
        s.write("models/new", 0, &b"a model ".repeat(3000));
    });
    s.step("save as editors do", |s| {
        let saved = b"saved ".repeat(700);
        for (temporary, target) in [("f.tmp", "f"), ("d/f.tmp", "d/f"), ("models/m.tmp", "models/m")] {
            s.write(temporary, 0, &saved);
            let since = s.now();
            s.rename(temporary, target, since);
            s.sync(&["", "d", "models"], &[temporary, target]);
        }
    });
    s.step("copy-up of a file with two names", |s| {
        let old = read(s.dir.join("l1"));
        let longer = [&old[..], b"and more"].concat();
        // By one name; the other follows.
        s.may("l1", State::Torn(old.len(), longer.clone()));
        s.may("l1", State::Holds(longer.clone()));
        s.write("d/l2", old.len(), &longer);
        s.sync(&["", "d"], &LINKS);
    });
    s.step("copy-up for a mode, not synced", |s| {
        // The content is never less than it was.
        for name in ["g", "d/g", "models/n"] {
            fs::set_permissions(s.dir.join(name), PermissionsExt::from_mode(0o600)).expect("changing a mode");
        }
        // What else is synced takes it along, or not.
        s.write("another", 0, b"another");
    });
    s.step("rename over a file, with a whiteout", |s| {
        s.rename("h", "d/g", 0);
        s.sync(&["", "d"], &["h", "d/g"]);
    });
    s.step("rename of a directory", |s| {
        let inside = read(s.dir.join("e/y"));
        s.may("e/y", State::Absent);
        s.may("moved/y", State::Holds(inside.clone()));
        s.moved.push(Moved { from: "e/y", to: "moved/y", content: inside, since: 0 });
        fs::rename(s.dir.join("e"), s.dir.join("moved")).expect("renaming a directory");
        s.sync(&[""], &["e/y", "moved/y"]);
    });
    s.step("remove", |s| {
        s.may("d/sub/x", State::Absent);
        fs::remove_file(s.dir.join("d/sub/x")).expect("removing");
        s.sync(&["d/sub"], &["d/sub/x"]);
    });
    s.step("remove a directory and make another", |s| {
        s.may("old/z", State::Absent);
        fs::remove_file(s.dir.join("old/z")).expect("removing");
        fs::remove_dir(s.dir.join("old")).expect("removing a directory");
        fs::create_dir(s.dir.join("old")).expect("making a directory");
        s.write("old/young", 0, b"in the new one");
        s.sync(&["", "old"], &["old/z"]);
    });
    let dir = s.dir.clone();
    s.step("unmount", |_| {
        umount(&env, &dir);
        wait_gone(server);
    });
    // The first keeps all it has, whatever becomes of the other.
    s.step("store commit and publication", |s| {
        env.write("other/shared", read(env.path("lower/g")));
        (0..12)
            .for_each(|number| drop(env.write(format!("other/{number}"), format!("of the other {number}"))));
        s.version("other", State::Present, || {
            drop(env.cvs(["debug", "ingest", "other", "--as", "other"]).ok())
        });
    });
    s.step("store commit of few objects", |s| {
        env.write("few/small", b"few");
        env.write("few/large", b"large ".iter().copied().cycle().take(LARGE).collect::<Vec<_>>());
        s.version("few", State::Present, || drop(env.cvs(["debug", "ingest", "few", "--as", "few"]).ok()));
    });
    s.step("delete and collect", |s| {
        for id in ["other", "few"] {
            s.version(id, State::Absent, || drop(env.cvs(["delete", id]).ok()));
        }
        env.cvs(["gc", "--grace", "0"]).ok();
    });
    s.recorder.disk().unmount();
}

/// What must be found after a power loss.
struct Expected {
    files: History,
    versions: History,
    moved: Vec<Moved>,
}

/// Looks at a disk after a power loss.
fn look(content: &[u8], expected: &Expected, loss: Loss, what: &str) {
    let env = TestEnvironment::new();
    let image = env.path("image");
    write_disk(&image, content);
    let mut disk = DiskImage::attach(&image).unwrap_or_else(|Missing(what)| panic!("{what}"));
    disk.mount(&env.home(), OPTIONS);
    let said = env.cvs(["fsck"]).output();
    assert_eq!(said.code(), Some(0), "{what}: {said}");
    let spec_of = |id: &str| env.home().join(format!("versions/{id}.json"));
    expected.versions.check(loss, &|| what.to_owned(), |id| fs::read(spec_of(id)).ok());
    if spec_of("v").exists() {
        let dir = mount(&env, "v", "v", &[]);
        let server = daemon(&env, "v");
        look_at_mount(&dir, expected, loss, &|| format!("{what}\n{}", log_of(&env, "v")));
        // It is as good as new.
        write(dir.join("d/after"), b"after");
        assert_eq!(read(dir.join("d/after")), b"after", "{what}");
        umount(&env, &dir);
        wait_gone(server);
        let left = tree(&env.home().join("overlays/v/work"));
        assert_eq!(left.len(), 1, "{what}: beside the whiteout, work/ holds {:?}", left.keys());
    }
    disk.unmount();
    disk.check();
    disk.detach();
}

fn look_at_mount(dir: &Path, expected: &Expected, loss: Loss, what: &dyn Fn() -> String) {
    let found = |path: &str| match fs::read(dir.join(path)) {
        Ok(bytes) => Some(bytes),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => None,
        Err(error) => panic!("reading {path}: {error}\n{}", what()),
    };
    expected.files.check(loss, what, found);
    for Moved { from, to, content, since } in &expected.moved {
        if *since <= loss.promised {
            let (at_from, at_to) = (found(from).is_some(), found(to).as_ref() == Some(content));
            assert!(at_from != at_to, "{from} {at_from}, {to} {at_to}\n{}", what());
        }
    }
    let inode = |name: &&str| fs::metadata(dir.join(name)).expect("the attributes of a link").ino();
    assert_eq!(inode(&LINKS[0]), inode(&LINKS[1]), "links\n{}", what());
    // Bookkeeping shows nowhere.
    for (path, entry) in tree(dir) {
        assert!(entry == Entry::Dir || expected.files.0.contains_key(&path), "{path} is shown\n{}", what());
        let len = rustix::fs::llistxattr(dir.join(&path), &mut [0_u8; 4096][..]).expect("listing attributes");
        assert_eq!(len, 0, "attributes of {path}\n{}", what());
    }
}
