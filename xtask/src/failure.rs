//! How a command fails: one message that says what to do, and the exit code (1 failed, 2 usage).

/// What every command returns.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// A failed command. Its message is empty when everything has been said on the way.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    pub(crate) fn new(message: String) -> Failure {
        Failure { message, code: 1 }
    }

    pub(crate) fn usage(message: String) -> Failure {
        Failure { message, code: 2 }
    }

    /// The failure of a command that has already printed what is wrong.
    pub(crate) fn reported() -> Failure {
        Failure::new(String::new())
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn code(&self) -> u8 {
        self.code
    }
}

/// Returns from the function with a formatted failure; `usage` in front makes it one of usage.
macro_rules! fail {
    (usage, $($arg:tt)*) => {
        return Err($crate::failure::Failure::usage(format!($($arg)*)))
    };
    ($($arg:tt)*) => {
        return Err($crate::failure::Failure::new(format!($($arg)*)))
    };
}
pub(crate) use fail;

/// Adds to an error of the standard library what was being done, and to what.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Outcome<T>;
}

impl<T, E: std::fmt::Display> Doing<T> for Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Outcome<T> {
        self.map_err(|e| Failure::new(format!("{}: {e}", what())))
    }
}
