//! The error of the bench: a small kind, which decides the exit code, and one sentence for a person.
//!
//! Nothing here is matched by text. A failed check of a scenario is not an error of the bench: it is a
//! result (`machine::Outcome`) and is counted; an error means that no verdict could be reached.

use std::fmt;

/// What went wrong, as far as a caller acts on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The work was tried and failed: exit 1.
    Failed,
    /// The words on the command line mean nothing: exit 2.
    Invalid,
    /// A program or package is not there: exit 3.
    Missing,
    /// The caller may not: exit 8.
    Permission,
    /// This machine cannot do it: exit 10.
    NotSupported,
}

impl Kind {
    /// The exit code a command ends with.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Failed => 1,
            Kind::Invalid => 2,
            Kind::Missing => 3,
            Kind::Permission => 8,
            Kind::NotSupported => 10,
        }
    }
}

/// An error: what failed, on what, why, and what to do.
#[derive(Debug)]
pub struct Error {
    /// What a caller acts on.
    pub kind: Kind,
    /// The sentence for a person.
    pub message: String,
}

/// A result whose error is [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The work was tried and failed.
    pub fn failed(message: impl Into<String>) -> Error {
        Error { kind: Kind::Failed, message: message.into() }
    }

    /// The request makes no sense.
    pub fn invalid(message: impl Into<String>) -> Error {
        Error { kind: Kind::Invalid, message: message.into() }
    }

    /// A program or package is not there; the message says how to get it.
    pub fn missing(message: impl Into<String>) -> Error {
        Error { kind: Kind::Missing, message: message.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// Adds what was being done, and on what, to an error of the system.
pub trait Context<T> {
    /// `doing` reads as the start of a sentence: "read /proc/mounts".
    ///
    /// # Errors
    /// The source error, as [`Kind::Failed`], with `doing` in front.
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::failed(format!("cannot {}: {source}", doing())))
    }
}
