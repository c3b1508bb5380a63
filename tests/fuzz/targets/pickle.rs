//! libFuzzer over [`cvs_fuzz::pickle`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cvs_fuzz::hold(cvs_fuzz::pickle, bytes));
