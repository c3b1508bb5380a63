//! A version on plain files, against copying the same tree, and against making it by hand with git and uv; then the
//! next version in the same place.

use std::time::Duration;

use super::world::World;
use crate::bench::measure::{Peer, disk_usage};
use crate::failure::Outcome;
use crate::lab::Lab;
use crate::shell;
use crate::table::{Table, bytes, ratio, time};

const COPY: &str = r#"cp -a "$1" "$2""#;
const COPY_SYNCED: &str = r#"cp -a "$1" "$2"; sync -f "$2""#;

pub(in crate::bench) fn run(lab: &Lab) -> Outcome {
    let world = World::make(lab)?;
    shell::quiet(&mut world.create(lab, "one", true, false))?;
    shell::quiet(&mut world.create(lab, "next", true, true))?;
    let dir = lab.work("realized")?;
    let [source, target, copy, hand] = ["source", "target", "copy", "hand"].map(|name| dir.join(name));
    let lock = dir.join("lock.txt");
    world.resolve_by_hand(lab, &lock, false)?;
    world.install_by_hand(lab, &lock, &dir.join("warm-up"), true)?;

    let realize = |id: &str, at: &std::path::Path| {
        shell::quiet(lab.cvs_with_python().args(["realize", id, "--target"]).arg(at))
    };
    realize("one", &source)?;
    println!("The tree: {} on disk.\n", bytes(disk_usage(&source)?));

    let states: &[bool] = if lab.can_drop_caches() { &[true, false] } else { &[false] };
    let mut table = Table::new(&["from nothing", "time", "cvs / this"]);
    for cold in states.iter().copied() {
        let forget = |at: &std::path::Path| {
            if at.exists() {
                shell::quiet(lab.command("rm").arg("-rf").arg(at))?;
            }
            if cold { lab.drop_caches() } else { lab.settle() }
        };
        let remove = || {
            if target.exists() {
                shell::quiet(
                    lab.cvs_with_python().args(["realize", "one", "--remove", "--target"]).arg(&target),
                )?;
            }
            forget(&target)
        };
        let mut peers = [
            Peer::timed("cvs realize", || realize("one", &target)).after(remove),
            Peer::timed("cp -a", || shell::quiet(&mut lab.sh(COPY, &[&source, &copy])))
                .after(|| forget(&copy)),
            Peer::timed("cp -a, sync", || shell::quiet(&mut lab.sh(COPY_SYNCED, &[&source, &copy])))
                .after(|| forget(&copy)),
            Peer::timed("git clone, uv venv, uv pip sync", || {
                world.clone_by_hand(lab, &hand)?;
                world.install_by_hand(lab, &lock, &hand.join(".venv"), true)
            })
            .after(|| forget(&hand)),
        ];
        let names: Vec<&str> = peers.iter().map(|peer| peer.name).collect();
        let medians = lab.compare(&mut peers)?;
        for (name, took) in names.into_iter().zip(&medians) {
            let state = if cold { "cold" } else { "warm" };
            table.row(vec![format!("{name}, {state}"), time(*took), ratio(medians[0], *took)]);
        }
    }
    table.print();
    again(lab, &mut |id| realize(id, &target))
}

/// What is there already is not written again.
fn again(lab: &Lab, realize: &mut dyn FnMut(&str) -> Outcome) -> Outcome {
    let mut samples: [Vec<Duration>; 2] = Default::default();
    for _ in 0..lab.runs() {
        for (samples, id) in samples.iter_mut().zip(["one", "next"]) {
            realize("one")?;
            lab.settle()?;
            samples.push(crate::bench::measure::clock(|| realize(id))?);
        }
    }
    let mut table = Table::new(&["over what is there", "time"]);
    for (what, samples) in ["the same version", "one with a node and a package more"].iter().zip(samples) {
        table.row(vec![(*what).to_owned(), time(crate::table::median(samples))]);
    }
    table.print();
    Ok(())
}
