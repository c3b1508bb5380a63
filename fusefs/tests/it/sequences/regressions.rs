//! Sequences that showed a difference once, each named after what it showed. They are run on every tree.

use super::ops::Op::{
    CopyRange, Fallocate, Fchmod, Fstat, Listxattr, Mkdir, Open, Pwrite, Rename, Rmdir, Setxattr, Unlink,
};
use super::ops::{Bits, Step, Who, at, here, how, nobody, other};
use super::stage::Stage;
use super::{Bench, NOBODY, check_mounted};
use crate::support::me;
use crate::trees::TREES;

struct Known {
    shows: &'static str,
    steps: Vec<Step>,
}

fn known() -> Vec<Known> {
    let dir = || Bits(0o755);
    vec![
        Known {
            shows: "a file with several names is copied up, and its directories keep their times",
            steps: vec![here(Rename(at("d"), at("a"), 0))],
        },
        Known {
            shows: "an attribute is read with no room for it",
            steps: vec![here(Setxattr(at("c"), 0, 1, 0))],
        },
        Known {
            shows: "who is not root does not hear of root's attributes",
            steps: vec![here(Setxattr(at("a"), 3, 17, 1)), nobody(Listxattr(at("a")))],
        },
        Known {
            shows: "mkdir takes no bits that only chmod may set",
            steps: vec![here(Unlink(at("c"))), here(Rmdir(at("c"))), here(Mkdir(at("c"), Bits(0o4755)))],
        },
        Known {
            shows: "a directory that replaces another one is counted once",
            steps: vec![
                here(Mkdir(at("c"), dir())),
                here(Mkdir(at("d"), dir())),
                here(Rename(at("c"), at("d"), 0)),
                here(Mkdir(at("a/c"), dir())),
                here(Mkdir(at("a/d"), dir())),
                here(Rename(at("a/c"), at("a/d"), 0)),
            ],
        },
        Known {
            shows: "fallocate and copy_file_range of an ordinary user take setuid away",
            steps: vec![
                other(Open(at("c/a"), how("rw create"), Bits(0o600), 0)),
                other(Open(at("b"), how("rw create"), Bits(0o600), 1)),
                other(Pwrite(0, 0, 5000)),
                other(Fchmod(0, Bits(0o4755))),
                other(Fchmod(1, Bits(0o6777))),
                nobody(Fallocate(0, 0, 0, 1)),
                nobody(CopyRange(0, 0, 1, 100, 1000)),
                other(Fstat(0)),
                other(Fstat(1)),
            ],
        },
    ]
}

#[test]
fn what_was_found_stays_right_on_an_overlay() {
    if me().uid != 0 {
        return eprintln!("skipped: the modes of files hold nobody but root back");
    }
    let mut bench = Bench::new();
    for Known { shows, steps } in known() {
        for seed in 0..TREES {
            // Who asks is for a kernel to say, and an ordinary user's mount is nobody else's.
            if steps.iter().any(|step| step.who == Who::Nobody) {
                continue;
            }
            for user in [None, Some(NOBODY)] {
                bench
                    .check(user, seed, &steps)
                    .unwrap_or_else(|error| panic!("{shows}: tree {seed}: {error}"));
            }
        }
    }
}

#[test]
fn what_was_found_stays_right_through_a_mount() {
    stays_right(false);
}

#[test]
fn what_was_found_stays_right_below_models() {
    stays_right(true);
}

fn stays_right(models: bool) {
    if me().uid != 0 {
        return eprintln!("skipped: needs another user's process, which root alone can be");
    }
    let Some(mut stage) = Stage::new(models) else { return };
    for Known { shows, steps } in known() {
        for seed in 0..TREES {
            check_mounted(&mut stage, seed, &steps)
                .unwrap_or_else(|error| panic!("{shows}: tree {seed}: {error}"));
        }
    }
}
