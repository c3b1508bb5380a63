//! Taking files into the store, against copying them and hashing the copies: the least that anyone who keeps
//! verified copies does. cvs answers when the bytes are durable; the peers are shown with and without a sync.

use std::path::Path;

use super::data;
use super::measure::Peer;
use crate::failure::Outcome;
use crate::lab::Lab;
use crate::shell;
use crate::table::{Table, bytes, ratio, time};

const COPY: &str = r#"cp -a "$1" "$2"; find "$2" -type f -print0 | xargs -0 b3sum > "$2.sums""#;

pub(super) fn run(lab: &Lab) -> Outcome {
    let tree = data::tree(lab, lab.size(30_000, 1_000))?;
    let model = data::model(lab, lab.size(4 << 30, 64 << 20))?;
    let mut table = Table::new(&["what", "cvs", "cp -a, b3sum", "and sync", "cvs / cp", "cvs / cp and sync"]);
    for (what, source) in [("tree of small files", &tree), ("one large file", &model)] {
        let size = super::measure::disk_usage(source)?;
        let [ours, copied, synced] = measure(lab, source)?[..] else { continue };
        table.row(vec![
            format!("{what}, {}", bytes(size)),
            time(ours),
            time(copied),
            time(synced),
            ratio(ours, copied),
            ratio(ours, synced),
        ]);
    }
    table.print();
    Ok(())
}

fn measure(lab: &Lab, source: &Path) -> Outcome<Vec<std::time::Duration>> {
    let copies = lab.work("copies")?;
    let copy = copies.join("copy");
    let fresh = || {
        lab.empty(&copies)?;
        lab.empty(&lab.home())?;
        // The source is read by all from memory: disks differ, and cold reading is the read benchmark's.
        shell::quiet(&mut lab.sh(r#"find "$1" -type f -exec cat {} + > /dev/null"#, &[source]))?;
        lab.settle()
    };
    let synced = format!("{COPY}; sync -f \"$2\"");
    let mut peers = [
        Peer::timed("cvs", || {
            shell::quiet(lab.cvs().args(["debug", "ingest"]).arg(source).args(["--as", "ingest"]))
        })
        .after(fresh),
        Peer::timed("cp -a, b3sum", || shell::quiet(&mut lab.sh(COPY, &[source, &copy]))).after(fresh),
        Peer::timed("cp -a, b3sum, sync", || shell::quiet(&mut lab.sh(&synced, &[source, &copy])))
            .after(fresh),
    ];
    lab.compare(&mut peers)
}
