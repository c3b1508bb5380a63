//! Looking over a store of 100,000 objects: what gc would remove, and whether every byte is right; the second against
//! b3sum of the same files.

use super::data;
use super::measure::Peer;
use crate::failure::Outcome;
use crate::lab::Lab;
use crate::shell;
use crate::table::{Table, aim, ratio, time};

pub(super) fn run(lab: &Lab) -> Outcome {
    let tree = data::tree(lab, lab.size(100_000, 2_000))?;
    shell::quiet(lab.cvs().args(["debug", "ingest"]).arg(&tree).args(["--as", "check"]))?;
    let objects = lab.home().join("objects");

    let mut table = Table::new(&[
        "state",
        "gc --dry-run",
        "fsck",
        "b3sum",
        "b3sum, all cores",
        "fsck speed / b3sum speed",
    ]);
    let states: &[bool] = if lab.can_drop_caches() { &[true, false] } else { &[false] };
    let mut reached = true;
    for cold in states.iter().copied() {
        let before = || if cold { lab.drop_caches() } else { Ok(()) };
        let b3sum = |jobs: &'static str| {
            let line = format!(r#"find "$1" -type f -print0 | xargs -0 {jobs} b3sum > /dev/null"#);
            let objects = &objects;
            move || shell::quiet(&mut lab.sh(&line, &[objects]))
        };
        let mut peers = [
            Peer::timed("gc --dry-run", || shell::quiet(lab.cvs().args(["gc", "--dry-run"]))).after(before),
            Peer::timed("fsck", || shell::quiet(lab.cvs().arg("fsck"))).after(before),
            Peer::timed("b3sum", b3sum("")).after(before),
            Peer::timed("b3sum, all cores", b3sum("-n 2000 -P \"$(nproc)\"")).after(before),
        ];
        if !cold {
            // Warm is the second of two equal readings, for all of them.
            for peer in &mut peers {
                (peer.body)()?;
            }
        }
        let medians = lab.compare(&mut peers)?;
        let [gc, fsck, one, all] = medians[..] else { continue };
        reached &= fsck.as_secs_f64() * 0.9 <= one.as_secs_f64();
        table.row(vec![
            if cold { "cold" } else { "warm" }.to_owned(),
            time(gc),
            time(fsck),
            time(one),
            time(all),
            // A ratio of speeds is the inverse one of times.
            ratio(one, fsck),
        ]);
    }
    table.print();
    aim("fsck at 0.9 of the speed of b3sum or better", reached);
    Ok(())
}
