//! Python importing 2,000 modules and more of a real environment.
//!
//! Its bytecode is of the kind that is not checked against its source, because times are the store's in a view and the
//! copy's in a copy.

use super::places::{Place, compare, places, timed, umount_all};
use super::report::{Aim, Report};
use crate::bench::data;
use crate::bench::run::{IMPORTS, World};
use crate::failure::Outcome;
use crate::lab::Lab;
use crate::shell;

const LEAST: usize = 2_000;

pub(super) fn run(lab: &Lab, report: &mut Report) -> Outcome {
    let source = data::keep_made(lab, "environment", |dir| {
        let world = World::make(lab)?;
        let lock = lab.work("environment")?.join("lock.txt");
        world.resolve_by_hand(lab, &lock, false)?;
        world.install_by_hand(lab, &lock, dir, false)?;
        let mut compile = lab.command(dir.join("bin/python"));
        compile.args(["-I", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "-j", "0"]);
        // A package may ship a file that is of another Python on purpose; imports would find out.
        let _ = shell::succeeds(compile.arg(dir.join("lib")));
        Ok(())
    })?;
    let places = places(lab, "environment", &source, false)?;
    let import = |place: &Place<'_>| {
        let mut python = lab.command(place.path().join("bin/python"));
        python.args(["-I", "-c", IMPORTS]);
        python
    };
    let count = format!("{IMPORTS}, sys; print(len(sys.modules))");
    for place in &places {
        let mut python = lab.command(place.path().join("bin/python"));
        let modules = shell::output(python.args(["-I", "-c", &count]))?;
        match modules.trim().parse::<usize>() {
            Ok(modules) if modules >= LEAST => {}
            _ => crate::failure::fail!("{} modules are imported, not {LEAST}", modules.trim()),
        }
    }
    let warm =
        compare(lab, &places, |place| shell::quiet(&mut import(place)), |place| timed(&mut import(place)))?;
    report.times("importing 2,000 modules, warm", &warm, &[Aim::Native(1.08)]);
    if lab.can_drop_caches() {
        // From nothing: who has to be mounted is mounted on the clock. What the last start read is known by then.
        let forget = |place: &Place<'_>| {
            place.umount()?;
            lab.drop_caches()
        };
        let start = |place: &Place<'_>| {
            crate::bench::measure::clock(|| {
                place.mount()?;
                shell::quiet(&mut import(place))
            })
        };
        let cold = compare(lab, &places, forget, start)?;
        report.times("importing 2,000 modules, cold, mounting included", &cold, &[Aim::Native(1.0)]);
    }
    umount_all(&places)
}
