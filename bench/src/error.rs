//! Why there is no figure. A case in which a single request failed, or whose mesh was not one, is an error: never a row.

use std::io;

/// A result of this crate.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The pods could not be made.
    #[error(transparent)]
    World(#[from] weft_e2e::Error),
    /// This machine cannot run the benchmark.
    #[error("{0}")]
    Machine(String),
    /// A file or socket failed.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        error: io::Error,
    },
    /// A load generator said something that is not understood.
    #[error("{tool} said no figure that is understood; it said: {output}")]
    Unreadable {
        /// Which.
        tool: String,
        /// What it said.
        output: String,
    },
    /// Requests failed, so there is no figure.
    #[error("{case}, {subject}: {failed} of {all} {unit} failed: {detail}")]
    Failed {
        /// Which case.
        case: &'static str,
        /// Which subject.
        subject: String,
        /// How many.
        failed: u64,
        /// Of how many.
        all: u64,
        /// Of what.
        unit: &'static str,
        /// What the load generator said of them.
        detail: String,
    },
    /// A subject is not what it was set up to be.
    #[error("{case}, {subject}: {what}")]
    NotAsMeant {
        /// Which case.
        case: &'static str,
        /// Which subject.
        subject: String,
        /// What was seen instead.
        what: String,
    },
    /// A certificate could not be made.
    #[error("making a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
}

/// Names what was tried when a system call fails.
pub(crate) trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::Io { what: what(), error })
    }
}

impl<T> Context<T> for nix::Result<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::Io { what: what(), error: error.into() })
    }
}
