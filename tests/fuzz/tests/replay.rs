//! Every input of the corpus through its target: samples of each format, and what once failed.

use std::fs;
use std::path::Path;

use cvs_fuzz::{TARGETS, hold};

#[test]
fn the_corpus_has_no_finding() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut directories: Vec<_> = fs::read_dir(&corpus)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    directories.sort();
    assert_eq!(directories, TARGETS.map(|(name, _)| name), "one directory for each target");
    for (name, target) in TARGETS {
        let mut inputs: Vec<_> =
            fs::read_dir(corpus.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        inputs.sort();
        assert!(inputs.len() > 1, "{name} has no samples");
        for input in inputs {
            let bytes = fs::read(&input).unwrap();
            // An input that fails is named before its panic.
            println!("{}", input.display());
            hold(target, &bytes);
        }
    }
}
