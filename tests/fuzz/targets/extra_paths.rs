//! libFuzzer over [`cvs_fuzz::extra_paths`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cvs_fuzz::hold(cvs_fuzz::extra_paths, bytes));
