//! Making a version's environment when every wheel is in uv's cache, against what makes one by hand: `uv venv`, `uv pip
//! sync`, and the hashing that whoever keeps verified files does. Then the second version, with one package more.

use std::path::Path;
use std::time::Duration;

use super::world::World;
use crate::bench::measure::{Peer, clock, disk_usage};
use crate::failure::{Doing, Outcome};
use crate::lab::Lab;
use crate::shell;
use crate::table::{Table, aim, bytes, ratio, time};

const HASH: &str = r#"find "$1" -type f -print0 | xargs -0 b3sum > "$1.sums""#;

pub(in crate::bench) fn run(lab: &Lab) -> Outcome {
    let world = World::make(lab)?;
    // Both caches are filled: cvs's own, and that of the uv beside it.
    shell::quiet(&mut world.create(lab, "one", true, false))?;
    let hand = lab.work("hand")?;
    let [lock, lock_more, venv] = ["lock.txt", "more.txt", "venv"].map(|name| hand.join(name));
    world.resolve_by_hand(lab, &lock, false)?;
    world.resolve_by_hand(lab, &lock_more, true)?;
    world.install_by_hand(lab, &lock_more, &venv, false)?;

    let (bare, compiled) = first(lab, &world, &lock, &venv)?;
    second(lab, &world, &lock_more, &venv)?;
    aim("an environment takes at most 1.3 of uv pip sync and b3sum", bare <= 1.3);
    aim("and of the same with bytecode, which cvs always has", compiled <= 1.3);
    Ok(())
}

/// An empty store that has uv's cache still.
fn forget_all_but_the_cache(lab: &Lab) -> Outcome {
    let (cache, aside) = (lab.home().join("uv"), lab.work("aside")?.join("uv"));
    let doing = || format!("setting {} aside", cache.display());
    std::fs::rename(&cache, &aside).doing(doing)?;
    lab.empty(&lab.home())?;
    std::fs::rename(&aside, &cache).doing(doing)?;
    lab.settle()
}

/// How often the environment takes the time of uv and b3sum, without and with bytecode.
fn first(lab: &Lab, world: &World, lock: &Path, venv: &Path) -> Outcome<(f64, f64)> {
    let mut peers = [
        Peer::timed("cvs create", || shell::quiet(&mut world.create(lab, "one", true, false)))
            .after(|| forget_all_but_the_cache(lab)),
        Peer::timed("cvs create --skip-python", || shell::quiet(&mut world.create(lab, "one", false, false)))
            .after(|| forget_all_but_the_cache(lab)),
        Peer::timed("uv venv, uv pip sync", || world.install_by_hand(lab, lock, venv, false))
            .after(|| lab.settle()),
        Peer::timed("b3sum", || shell::quiet(&mut lab.sh(HASH, &[venv]))).after(|| lab.settle()),
        Peer::timed("uv venv, uv pip sync --compile-bytecode", || {
            world.install_by_hand(lab, lock, venv, true)
        })
        .after(|| lab.settle()),
        Peer::timed("b3sum with bytecode", || shell::quiet(&mut lab.sh(HASH, &[venv])))
            .after(|| lab.settle()),
        Peer::timed("uv pip compile", || world.resolve_by_hand(lab, lock, false)).after(|| lab.settle()),
    ];
    let medians = lab.compare(&mut peers)?;
    let [create, without, sync, hash, compiled, compiled_hash, resolve] = medians[..] else {
        return Ok((f64::INFINITY, f64::INFINITY));
    };
    let ours = create.saturating_sub(without);
    let mut table = Table::new(&["making the environment", "time", "cvs / this"]);
    let mut row = |what: &str, took: Duration| {
        table.row(vec![what.to_owned(), time(took), ratio(ours, took)]);
    };
    row("cvs create, less what it takes without Python", ours);
    row("uv venv, uv pip sync, b3sum", sync + hash);
    row("the same with --compile-bytecode, as cvs has it", compiled + compiled_hash);
    row("the same with uv pip compile before it", resolve + compiled + compiled_hash);
    row("cvs create, all of it", create);
    table.print();
    println!("The environment: {} on disk.\n", bytes(disk_usage(venv)?));
    let of = |peer: Duration| ours.as_secs_f64() / peer.as_secs_f64();
    Ok((of(sync + hash), of(compiled + compiled_hash)))
}

/// A node more, which needs a package more.
fn second(lab: &Lab, world: &World, lock: &Path, venv: &Path) -> Outcome {
    let mut number = 0;
    let ours = Peer {
        name: "cvs create",
        prepare: Box::new(|| lab.settle()),
        body: Box::new(|| {
            number += 1;
            let id = format!("more{number}");
            let took = clock(|| shell::quiet(&mut world.create(lab, &id, true, true)))?;
            // The next round makes it again, and finds nothing of it.
            shell::quiet(lab.cvs().args(["delete", &id]))?;
            shell::quiet(lab.cvs().args(["gc", "--grace", "0"]))?;
            Ok(took)
        }),
    };
    shell::quiet(&mut world.create(lab, "base", true, false))?;
    let hand = Peer::timed("uv", || world.install_by_hand(lab, lock, venv, false)).after(|| lab.settle());
    let medians = lab.compare(&mut [ours, hand])?;
    let mut table = Table::new(&["a second version with a package more", "time"]);
    table.row(vec!["cvs create, all of it".to_owned(), time(medians[0])]);
    table.row(vec!["uv venv, uv pip sync alone".to_owned(), time(medians[1])]);
    table.print();
    Ok(())
}
