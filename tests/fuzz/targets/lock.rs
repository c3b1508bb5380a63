//! libFuzzer over [`cvs_fuzz::lock`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cvs_fuzz::hold(cvs_fuzz::lock, bytes));
