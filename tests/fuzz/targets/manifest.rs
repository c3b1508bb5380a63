//! libFuzzer over [`cvs_fuzz::manifest`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cvs_fuzz::hold(cvs_fuzz::manifest, bytes));
