//! Reading a large file through the mount, as a program reads a model: in order with read(2), and by mmap as
//! safetensors does, cold and warm, against the same bytes in a plain file.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::data;
use super::measure::{Peer, clock};
use crate::failure::{Doing, Outcome, fail};
use crate::lab::Lab;
use crate::shell;
use crate::table::{Table, ratio, time};

/// Touches every page through a map and prints the seconds that took, the interpreter's own start left out.
pub(super) const MMAP: &str = "\
import mmap, sys, time
with open(sys.argv[1], 'rb') as f:
    start = time.perf_counter()
    with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as m:
        m[::mmap.PAGESIZE]
    print(time.perf_counter() - start)
";

pub(super) fn run(lab: &Lab) -> Outcome {
    let source = data::model(lab, lab.size(4 << 30, 64 << 20))?;
    shell::quiet(lab.cvs().args(["debug", "ingest"]).arg(&source).args(["--as", "read"]))?;
    let mount = lab.mount("read", &[])?;
    let native = source.join(data::MODEL);
    let ours = mount.join(data::MODEL);

    let mut table = Table::new(&["how", "cvs mount", "native", "cvs / native"]);
    let states: &[bool] = if lab.can_drop_caches() { &[true, false] } else { &[false] };
    for (how, read) in [("read, 1 MiB calls", sequential as Reader), ("mmap, every page", mapped)] {
        for cold in states.iter().copied() {
            let peers = [("cvs mount", &ours), ("native", &native)];
            let mut peers = peers.map(|(name, file)| peer(lab, name, file.clone(), cold, read));
            let medians = lab.compare(&mut peers)?;
            let state = if cold { "cold" } else { "warm" };
            let (ours, native) = (medians[0], medians[1]);
            table.row(vec![format!("{how}, {state}"), time(ours), time(native), ratio(ours, native)]);
        }
    }
    table.print();
    lab.umount(&mount)
}

type Reader = fn(&Lab, &Path) -> Outcome<Duration>;

fn peer<'a>(lab: &'a Lab, name: &'static str, file: PathBuf, cold: bool, read: Reader) -> Peer<'a> {
    let before = file.clone();
    Peer {
        name,
        prepare: Box::new(move || if cold { lab.drop_caches() } else { sequential(lab, &before).map(drop) }),
        body: Box::new(move || read(lab, &file)),
    }
}

fn sequential(_lab: &Lab, file: &Path) -> Outcome<Duration> {
    clock(|| {
        let mut buffer = vec![0; 1 << 20];
        let mut open = File::open(file).doing(|| format!("opening {}", file.display()))?;
        while open.read(&mut buffer).doing(|| format!("reading {}", file.display()))? > 0 {}
        Ok(())
    })
}

fn mapped(lab: &Lab, file: &Path) -> Outcome<Duration> {
    let out = shell::output(lab.command("python3").args(["-I", "-S", "-c", MMAP]).arg(file))?;
    match out.trim().parse() {
        Ok(seconds) => Ok(Duration::from_secs_f64(seconds)),
        Err(_) => fail!("the mmap reader said '{}'", out.trim()),
    }
}
