//! The one tokio runtime of this crate. What is asynchronous ends here: callers block, on threads of their own.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;

use tokio::runtime::Runtime;

/// Pairs of descriptors that a runtime must be able to have.
const PAIRS: usize = 8;

/// The runtime, made by the first who asks.
pub(crate) fn runtime() -> io::Result<&'static Runtime> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    if RUNTIME.get().is_none() {
        // tokio panics where it can open no more files.
        drop((0..PAIRS).map(|_| UnixStream::pair()).collect::<io::Result<Vec<_>>>()?);
        let built = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("cvs-net")
            .enable_all()
            .build()?;
        // Another thread may have been faster; its runtime is as good.
        let _ = RUNTIME.set(built);
    }
    RUNTIME.get().ok_or_else(|| io::ErrorKind::NotFound.into())
}
