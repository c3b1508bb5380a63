//! libFuzzer over [`cvs_fuzz::install`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cvs_fuzz::hold(cvs_fuzz::install, bytes));
