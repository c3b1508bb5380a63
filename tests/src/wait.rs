//! Waiting without guessing: a condition is polled until it holds or a deadline passes.

use std::collections::HashSet;
use std::net::TcpListener;
use std::sync::Mutex;
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(5);

/// Polls until `condition` holds; panics with `what` when `deadline` passes first.
#[track_caller]
pub fn wait_until(deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(deadline, what, || condition().then_some(()));
}

/// Polls until `probe` gives a value; panics with `what` when `deadline` passes first.
#[track_caller]
pub fn wait_for<T>(deadline: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < end, "waited {deadline:?} in vain: {what}");
        std::thread::sleep(PAUSE);
    }
}

/// A port of 127.0.0.1 that nothing listens on, and that this process has not given out before. Another process can
/// still take it first: what binds it must be ready to try again.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    loop {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("binding a free port of 127.0.0.1");
        let port = listener.local_addr().expect("the address of a bound port").port();
        let mut given = GIVEN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if given.get_or_insert_default().insert(port) {
            return port;
        }
    }
}
