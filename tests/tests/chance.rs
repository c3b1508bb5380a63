//! Chance that can be repeated: a generator whose seed is shown when the test fails.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
pub(crate) struct Chance {
    seed: u64,
    state: u64,
}

impl Chance {
    /// With the seed `CVS_TEST_SEED`, else another each time.
    pub(crate) fn new() -> Chance {
        let seed = match std::env::var("CVS_TEST_SEED") {
            Ok(text) => text.parse().expect("CVS_TEST_SEED is a number"),
            Err(_) => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(1, |since| u64::from(since.subsec_nanos()) ^ since.as_secs()),
        };
        Chance { seed, state: seed }
    }

    /// Chance for another thread, which the same seed gives again.
    pub(crate) fn fork(&mut self) -> Chance {
        Chance { seed: self.seed, state: self.next() }
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub(crate) fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() { None } else { Some(from[self.below(from.len())].clone()) }
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }

    /// A time up to `longest`.
    pub(crate) fn time(&mut self, longest: Duration) -> Duration {
        longest.mul_f64(self.below(1 << 20) as f64 / (1 << 20) as f64)
    }
}

impl Drop for Chance {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("again with CVS_TEST_SEED={}", self.seed);
        }
    }
}

/// Whether `CVS_TEST_LONG` asks for all that takes minutes.
pub(crate) fn long() -> bool {
    std::env::var_os("CVS_TEST_LONG").is_some_and(|value| !value.is_empty())
}

/// How many rounds a test of chance runs: 20, or 200 with `CVS_TEST_LONG` set.
pub(crate) fn rounds() -> usize {
    if long() { 200 } else { 20 }
}
