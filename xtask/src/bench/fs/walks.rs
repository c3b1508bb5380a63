//! Looking at 30,000 files: `find -ls`, `git status`, `os.walk`; warm, and in the first pass after mounting.

use super::places::{Place, compare, places, scripted, timed, umount_all};
use super::report::{Aim, Report};
use crate::bench::data;
use crate::failure::Outcome;
use crate::lab::Lab;
use crate::shell;

const FIND: &str = r#"find "$1" -ls > /dev/null"#;
const OS_WALK: &str = "\
import os, sys, time
start = time.perf_counter()
files = sum(len(files) for _, _, files in os.walk(sys.argv[1]))
print(time.perf_counter() - start)
";

pub(super) fn run(lab: &Lab, report: &mut Report) -> Outcome {
    let files = lab.size(30_000, 1_000);
    let source = data::keep_made(lab, &format!("checkout-{files}"), |dir| {
        let tree = data::tree(lab, files)?;
        shell::quiet(&mut lab.sh(r#"cp -a "$1/." "$2""#, &[&tree, dir]))?;
        crate::bench::run::commit(lab, dir)
    })?;
    let places = places(lab, "walks", &source, false)?;
    let git = |place: &Place<'_>| {
        let mut git = lab.command("git");
        // Other owners than the mount's are nobody's here.
        git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        git.arg("-C").arg(place.path()).args(["status", "--porcelain"]);
        git
    };
    type Walk<'w> = (&'static str, Box<dyn Fn(&Place<'_>) -> Outcome<std::time::Duration> + 'w>);
    let walks: [Walk<'_>; 3] = [
        ("find -ls", Box::new(|place| timed(&mut lab.sh(FIND, &[place.path()])))),
        ("git status", Box::new(|place| timed(&mut git(place)))),
        ("os.walk", Box::new(|place| scripted(lab, OS_WALK, &[place.path()]))),
    ];
    // Once, git looks into every file and writes down what it saw in this place.
    for place in &places {
        shell::quiet(&mut git(place))?;
        shell::quiet(&mut git(place))?;
    }
    for (what, walk) in &walks {
        let warm = compare(lab, &places, |place| walk(place).map(drop), walk)?;
        report.times(format!("{what}, {files} files, warm"), &warm, &[Aim::Native(1.3)]);
        let first = compare(lab, &places, |place| place.remount(), walk)?;
        report.times(format!("{what}, first pass after mounting"), &first, &[Aim::FuseOverlayfs(0.5)]);
    }
    umount_all(&places)
}
