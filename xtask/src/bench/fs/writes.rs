//! Writing: many small files, a database, a large file, and copy-up of a large file.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::places::{Form, Place, compare, places, scripted, timed, umount_all};
use super::report::{Aim, Report, Times};
use crate::bench::data::{self, MODEL};
use crate::bench::measure::clock;
use crate::failure::{Doing, Outcome};
use crate::lab::Lab;
use crate::project::is_root;
use crate::table::{bytes, median};

/// Files in one directory.
const FAN_OUT: u64 = 1_000;
const SMALL: [u8; 4096] = [b'x'; 4096];
const COMMITS: &str = "\
import os, sqlite3, sys, time
path, mode, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
db = sqlite3.connect(path, isolation_level=None)
db.execute('pragma journal_mode=' + mode)
db.execute('pragma synchronous=full')
db.execute('create table t (n integer primary key, s text)')
start = time.perf_counter()
for n in range(count):
    db.execute('insert into t values (?, ?)', (n, 'x' * 100))
print(time.perf_counter() - start)
db.close()
";

/// A directory of a place that is written to: below the mount, and for the native place beside the others.
fn room(lab: &Lab, place: &Place<'_>) -> Outcome<PathBuf> {
    let dir = match place.form {
        Form::Native => lab.work("fs")?.join("native"),
        _ => place.path().to_path_buf(),
    };
    Ok(dir.join("written"))
}

pub(super) fn files(lab: &Lab, report: &mut Report) -> Outcome {
    let count = lab.size(10_000, 1_000);
    let source = data::tree(lab, 1_000)?;
    // ext4 does not use the inodes of removed files again for a minute or more, and looks at each of them when it makes
    // files nearby. So nothing was removed on this filesystem before, and nothing is removed until all is made.
    if is_root() {
        lab.filesystem("fs")?;
    }
    let places = places(lab, "files", &source, false)?;
    type Step = (&'static str, fn(&Path) -> std::io::Result<()>);
    let steps: [Step; 3] = [
        ("created", |file| OpenOptions::new().write(true).create_new(true).open(file).map(drop)),
        ("written, 4 KiB", |file| OpenOptions::new().write(true).open(file)?.write_all(&SMALL)),
        ("removed", |file| fs::remove_file(file)),
    ];
    let dir = |place: &Place<'_>, round: usize, number: u64| -> Outcome<PathBuf> {
        Ok(room(lab, place)?.join(format!("round{round}/d{number:02}")))
    };
    for place in &places {
        for (round, number) in (0..lab.runs()).flat_map(|r| (0..count.div_ceil(FAN_OUT)).map(move |n| (r, n)))
        {
            lab.empty(&dir(place, round, number)?)?;
        }
    }
    for (what, step) in steps {
        let mut samples = vec![Vec::new(); places.len()];
        for round in 0..lab.runs() {
            for (place, samples) in places.iter().zip(&mut samples) {
                let file = |n: u64| Ok(dir(place, round, n / FAN_OUT)?.join(format!("file{n:05}.bin")));
                let files = (0..count).map(file).collect::<Outcome<Vec<PathBuf>>>()?;
                lab.settle()?;
                samples.push(clock(|| {
                    let done = files.iter().try_for_each(|file| step(file));
                    done.doing(|| format!("{what} in {}", place.path().display()))
                })?);
            }
        }
        let medians = samples.into_iter().map(median);
        let times = Times(places.iter().map(|place| place.form).zip(medians).collect());
        let aims = [Aim::Native(3.0), Aim::FuseOverlayfs(1.0 / 3.0)];
        report.times(format!("{count} small files {what}"), &times, &aims);
    }
    umount_all(&places)
}

pub(super) fn sqlite(lab: &Lab, report: &mut Report) -> Outcome {
    let count = lab.size(300, 30);
    let source = data::tree(lab, 1_000)?;
    let places = places(lab, "sqlite", &source, false)?;
    for (what, mode) in [("a rollback journal", "delete"), ("WAL", "wal")] {
        let prepare = |place: &Place<'_>| {
            lab.empty(&room(lab, place)?)?;
            lab.settle()
        };
        let commits = |place: &Place<'_>| {
            let count = count.to_string();
            scripted(lab, COMMITS, &[&room(lab, place)?.join("db"), Path::new(mode), Path::new(&count)])
        };
        let times = compare(lab, &places, prepare, commits)?;
        report.times(format!("{count} SQLite commits with fsync, {what}"), &times, &[Aim::Native(2.0)]);
    }
    umount_all(&places)
}

pub(super) fn large(lab: &Lab, report: &mut Report) -> Outcome {
    let size = super::large(lab)?;
    let source = data::models(lab, size)?;
    let places = places(lab, "large", &source, false)?;
    // The second has a connection of its own on ours.
    for (at, below) in [("outside of models/", ""), ("in models/", "models")] {
        let room = |place: &Place<'_>| match place.form {
            Form::Native => room(lab, place),
            _ => Ok(place.path().join(below).join("written")),
        };
        let prepare = |place: &Place<'_>| {
            lab.empty(&room(place)?)?;
            lab.settle()
        };
        let written = |place: &Place<'_>| {
            let file = room(place)?.join("large");
            let took = write(&file, size)?;
            fs::remove_file(&file).doing(|| format!("removing {}", file.display()))?;
            Ok(took)
        };
        let times = compare(lab, &places, prepare, written)?;
        let what = format!("a file of {} written {at}", bytes(size));
        report.times(what, &times, &[Aim::FuseOverlayfs(1.0 / 3.0)]);
    }

    let model = |dir: &Path| dir.join("models").join(MODEL);
    // The first write after mounting: the upper layer is as it was when the version was new.
    let fresh = |place: &Place<'_>| {
        place.umount()?;
        place.forget()?;
        if place.form == Form::Native {
            lab.empty(&room(lab, place)?)?;
            // What is copied is in memory for all of them.
            timed(&mut lab.sh(r#"cat "$1" > /dev/null"#, &[&model(&source)]))?;
        }
        lab.settle()?;
        place.mount()
    };
    let copy_up = |synced: bool| {
        let (model, source) = (&model, &source);
        move |place: &Place<'_>| match place.form {
            Form::Native => {
                let copy = room(lab, place)?.join("copy");
                let line = if synced { r#"cp "$1" "$2"; sync -d "$2""# } else { r#"cp "$1" "$2""# };
                timed(&mut lab.sh(line, &[&model(source), &copy]))
            }
            _ => touch(&model(place.path())),
        }
    };
    for (what, synced) in [("cp", false), ("cp and fdatasync", true)] {
        let times = compare(lab, &places, fresh, copy_up(synced))?;
        report.times(format!("copy-up of {}; native: {what}", bytes(size)), &times, &[Aim::Native(1.1)]);
    }
    umount_all(&places)
}

fn write(file: &Path, size: u64) -> Outcome<Duration> {
    let block = vec![0x5a; 1 << 20];
    clock(|| {
        let mut open = File::create(file).doing(|| format!("making {}", file.display()))?;
        (0..size / block.len() as u64)
            .try_for_each(|_| open.write_all(&block))
            .doing(|| format!("writing {}", file.display()))
    })
}

/// Writes one byte over the first.
fn touch(file: &Path) -> Outcome<Duration> {
    clock(|| {
        let mut open =
            OpenOptions::new().write(true).open(file).doing(|| format!("opening {}", file.display()))?;
        open.write_all(b"x").doing(|| format!("writing {}", file.display()))
    })
}
