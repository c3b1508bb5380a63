//! A large file in models/: in order, by mmap, at random; cold and warm; and how often it is in memory.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::large;
use super::places::{Form, Place, compare, has_forms, ingest, places, scripted, umount_all};
use super::report::{Aim, Report};
use crate::bench::data::{self, MODEL, Random};
use crate::bench::measure::{clock, kib};
use crate::bench::read::MMAP;
use crate::failure::{Doing, Outcome, fail};
use crate::lab::Lab;
use crate::shell;
use crate::table::bytes;

const THREADS: u64 = 4;
const BLOCK: u64 = 4096;

pub(super) fn run(lab: &Lab, report: &mut Report) -> Outcome {
    let size = large(lab)?;
    let source = data::models(lab, size)?;
    let forms = has_forms(lab)?;
    if !forms {
        report.note("This cvs has no models connection: there is one form.".to_owned());
    }
    ingest(lab, "blocks", &source)?;
    let source = same_blocks(lab, size)?;
    let places = places(lab, "model", &source, forms)?;
    let of = bytes(size);
    let file = |place: &Place<'_>| model_in(place.path());
    let cold = |_: &Place<'_>| lab.drop_caches();
    let warm = |place: &Place<'_>| sequential(&file(place)).map(drop);
    let random_reads = |count: u64| move |place: &Place<'_>| random(&file(place), size, count);
    let mut line = |what: String, times: super::report::Times, share: f64, cold: bool| {
        report.times(what.clone(), &times, &[Aim::NativeSpeed(share)]);
        if forms {
            let aims: &[Aim] = if cold { &[Aim::NativeSpeed(0.95)] } else { &[] };
            report.times(format!("{what}, one connection"), &times.with_cvs_as(Form::OneConnection), aims);
        }
    };
    if lab.can_drop_caches() {
        let times = compare(lab, &places, cold, |place| sequential(&file(place)))?;
        line(format!("{of} in models/, sequential, cold"), times, 0.97, true);
        let times = compare(lab, &places, cold, |place| scripted(lab, MMAP, &[&file(place)]))?;
        line(format!("{of} in models/, mmap, cold"), times, 0.97, true);
        let times = compare(lab, &places, cold, random_reads(lab.size(4_000, 200)))?;
        line("random 4 KiB, 4 threads, cold".to_owned(), times, 0.95, true);
    }
    let times = compare(lab, &places, warm, |place| sequential(&file(place)))?;
    line(format!("{of} in models/, sequential, warm"), times.clone(), 0.97, false);
    let native_warm = times;
    let times = compare(lab, &places, warm, |place| scripted(lab, MMAP, &[&file(place)]))?;
    line(format!("{of} in models/, mmap, warm"), times, 0.97, false);
    let times = compare(lab, &places, warm, random_reads(lab.size(100_000, 2_000)))?;
    line("random 4 KiB, 4 threads, warm".to_owned(), times, 0.95, false);
    umount_all(&places)?;
    drop(places);
    if lab.can_drop_caches() {
        ingest(lab, "other", &source)?;
        ingest(lab, "other-one", &source)?;
        share(lab, report, Form::Cvs, size, &source, native_warm.of(Form::Native))?;
        if forms {
            share(lab, report, Form::OneConnection, size, &source, native_warm.of(Form::Native))?;
        }
    }
    Ok(())
}

/// A tree with one file, which is the object that `cvs` shows: where on a disk a file lies can be worth half its speed.
fn same_blocks(lab: &Lab, size: u64) -> Outcome<PathBuf> {
    let source = lab.work("same-blocks")?;
    let found = shell::output(lab.command("find").arg(lab.home()).args([
        "-type",
        "f",
        "-size",
        &format!("{size}c"),
    ]))?;
    let Some(object) = found.lines().next() else { fail!("the store has no object of {size} bytes") };
    lab.empty(&source.join("models"))?;
    fs::hard_link(object, model_in(&source)).doing(|| format!("linking {object}"))?;
    Ok(source)
}

/// What two versions that have the same file keep in memory.
fn share(
    lab: &Lab,
    report: &mut Report,
    form: Form,
    size: u64,
    source: &Path,
    native: Option<Duration>,
) -> Outcome {
    let ids = if form == Form::Cvs { ["model", "other"] } else { ["model-one", "other-one"] };
    let suffix = if form == Form::Cvs { "" } else { ", one connection" };
    let [first, second] = ids.map(|id| Place::new(lab, form, id, source));
    let (first, second) = (first?, second?);
    first.mount()?;
    second.mount()?;
    lab.drop_caches()?;
    let before = cached()?;
    sequential(&model_in(first.path()))?;
    let one = cached()?;
    sequential(&model_in(second.path()))?;
    let both = cached()?;
    let copies = |now: u64| now.saturating_sub(before) as f64 / size as f64;
    // Other programs' files are in the figure, so it is not exact.
    report.figure(
        format!("copies in memory after reading through one mount{suffix}"),
        format!("{:.2}", copies(one)),
        "≤ 1.05",
        copies(one) <= 1.05,
    );
    // Without passthrough each mount has pages of its own.
    let most = if form == Form::Cvs { 1.05 } else { 2.1 };
    report.figure(
        format!("copies in memory after reading through two mounts{suffix}"),
        format!("{:.2}", copies(both)),
        &format!("≤ {most}"),
        copies(both) <= most,
    );
    // From one version to the other.
    let mut samples = Vec::new();
    for _ in 0..lab.runs() {
        second.umount()?;
        first.remount()?;
        sequential(&model_in(first.path()))?;
        first.umount()?;
        second.mount()?;
        samples.push(sequential(&model_in(second.path()))?);
    }
    second.umount()?;
    let mut times = super::report::Times(vec![(Form::Cvs, crate::table::median(samples))]);
    times.0.extend(native.map(|native| (Form::Native, native)));
    let aims: &[Aim] = if form == Form::Cvs { &[Aim::NativeSpeed(0.97)] } else { &[] };
    report.times(
        format!("first reading after unmounting one version and mounting another{suffix}"),
        &times,
        aims,
    );
    Ok(())
}

fn model_in(dir: &Path) -> PathBuf {
    dir.join("models").join(MODEL)
}

/// Bytes of files in memory.
fn cached() -> Outcome<u64> {
    match kib("/proc/meminfo", "Cached:") {
        Some(kib) => Ok(kib * 1024),
        None => fail!("/proc/meminfo has no line 'Cached'"),
    }
}

fn sequential(file: &Path) -> Outcome<Duration> {
    let mut buffer = vec![0; 1 << 20];
    clock(|| {
        let mut open = File::open(file).doing(|| format!("opening {}", file.display()))?;
        while open.read(&mut buffer).doing(|| format!("reading {}", file.display()))? > 0 {}
        Ok(())
    })
}

/// `count` reads of each of the threads, at places that are the same in every round.
fn random(file: &Path, size: u64, count: u64) -> Outcome<Duration> {
    let doing = || format!("reading {}", file.display());
    clock(|| {
        let file = File::open(file).doing(doing)?;
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|seed| {
                    let file = &file;
                    scope.spawn(move || {
                        let (mut random, mut block) = (Random::new(seed + 1), [0; BLOCK as usize]);
                        (0..count).try_for_each(|_| {
                            file.read_exact_at(&mut block, random.below(size / BLOCK) * BLOCK)
                        })
                    })
                })
                .collect();
            for thread in threads {
                match thread.join() {
                    Ok(done) => done.doing(doing)?,
                    Err(_) => fail!("a reading thread panicked"),
                }
            }
            Ok(())
        })
    })
}
