//! Many threads on one overlay: nothing hangs, and what is in memory stays what is on disk.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use cvs_fusefs::{Attr, FsError, Ino, Make, Overlay, RenameMode, SetAttr};

use crate::support::{World, difference, list, me, show};

const THREADS: u64 = 6;
const ROUNDS: usize = 1500;
const PATIENCE: Duration = Duration::from_secs(120);
const NAMES: [&[u8]; 4] = [b"a", b"b", b"c", b"d"];

/// A thread that acts as the kernel does: it holds the nodes that it works on, and gives them back.
struct Actor {
    overlay: Arc<Overlay>,
    random: u64,
    held: Vec<Ino>,
}

impl Actor {
    fn below(&mut self, limit: u64) -> usize {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.random >> 33) % limit) as usize
    }

    fn name(&mut self) -> &'static [u8] {
        NAMES[self.below(NAMES.len() as u64)]
    }

    fn lookup(&mut self, dir: Ino, name: &[u8]) -> Result<Attr, FsError> {
        let attr = self.overlay.lookup(dir, name)?;
        self.overlay.count_lookup(attr.ino);
        self.held.push(attr.ino);
        Ok(attr)
    }

    fn dir(&mut self) -> Result<Ino, FsError> {
        let mut at = Ino::ROOT;
        for _ in 0..self.below(3) {
            let name = self.name();
            at = self.lookup(at, name)?.ino;
        }
        Ok(at)
    }

    fn act(&mut self) -> Result<(), FsError> {
        let (dir, name) = (self.dir()?, self.name());
        let overlay = self.overlay.clone();
        match self.below(10) {
            0 => {
                overlay.make(dir, name, Make::File, 0o644, me())?;
            }
            1 => {
                overlay.make(dir, name, Make::Dir, 0o755, me())?;
            }
            2 => overlay.unlink(dir, name)?,
            3 => overlay.rmdir(dir, name)?,
            4 | 5 => {
                let (to, to_name) = (self.dir()?, self.name());
                let mode = [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange][self.below(3)];
                overlay.rename(dir, name, to, to_name, mode)?;
            }
            6 => {
                let (node, to, to_name) = (self.lookup(dir, name)?.ino, self.dir()?, self.name());
                overlay.link(node, to, to_name)?;
            }
            7 => {
                let node = self.lookup(dir, name)?.ino;
                overlay.write_at(node, 0, &[b'w'; 3000], false)?;
                overlay.read_at(node, 0, &mut [0; 100])?;
            }
            8 => {
                let node = self.lookup(dir, name)?.ino;
                let change = SetAttr { perm: Some(0o700), size: Some(5), ..SetAttr::default() };
                overlay.setattr(node, change, me())?;
            }
            _ => drop(list(&overlay, dir)?),
        }
        Ok(())
    }
}

#[test]
fn threads_neither_hang_nor_tear_the_table() {
    let world = World::new();
    let lower = world.beside("lower");
    for dir in ["a/a/a", "a/b", "b/c", "c"] {
        std::fs::create_dir_all(lower.join(dir)).unwrap();
    }
    for file in ["a/c", "a/a/b", "b/a", "b/b", "c/a", "d"] {
        std::fs::write(lower.join(file), file.repeat(2000)).unwrap();
    }
    for link in ["b/d", "c/d", "a/d"] {
        std::fs::hard_link(lower.join("d"), lower.join(link)).unwrap();
    }
    let manifest = world.store_tree(&lower);
    let open = || world.overlay(world.view(&[("", manifest)]), "overlay");
    let overlay = Arc::new(open());
    let (done, finished) = mpsc::channel();
    for number in 0..THREADS {
        let mut actor = Actor { overlay: overlay.clone(), random: number, held: Vec::new() };
        let done = done.clone();
        std::thread::spawn(move || {
            for _ in 0..ROUNDS {
                let result = actor.act();
                for ino in std::mem::take(&mut actor.held) {
                    actor.overlay.forget(ino, 1);
                }
                // Refusals are part of the game; a filesystem that does not know its own files is not.
                if let Err(FsError::BadView | FsError::Panicked | FsError::Damaged { .. }) = result {
                    done.send(result).unwrap();
                    return;
                }
            }
            drop(actor);
            done.send(Ok(())).unwrap();
        });
    }
    for _ in 0..THREADS {
        finished.recv_timeout(PATIENCE).expect("a thread hangs or has panicked").unwrap();
    }
    let shown = show(&overlay, i64::MIN);
    drop(Arc::into_inner(overlay).expect("all threads are through"));
    assert_eq!(difference(&shown, &show(&open(), i64::MIN)), Vec::<String>::new());
}
