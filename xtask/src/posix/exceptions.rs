//! What ours fails or skips and native does not, and why it stays so. docs/overlay.md says the same to those who use
//! a mount.

/// One test that is excepted.
pub(super) struct Exception {
    pub(super) suite: &'static str,
    pub(super) name: &'static str,
    pub(super) reason: &'static str,
}

pub(super) const EXCEPTIONS: &[Exception] = &[
    Exception {
        suite: "pjdfstest",
        name: "link::link_count_max",
        reason: "the C library knows the limit of links by the type of filesystem, and knows none for FUSE",
    },
    Exception { suite: "stress-ng", name: "fiemap", reason: "FUSE has no FS_IOC_FIEMAP" },
];

/// The exception that a test of a suite is, if it is one.
pub(super) fn find(suite: &str, name: &str) -> Option<&'static Exception> {
    EXCEPTIONS.iter().find(|exception| exception.suite == suite && exception.name == name)
}
