//! The files source: a directory of ordinary Kubernetes YAML stands in for the API server. What a cluster would refuse
//! is refused here with file, line and field; what a cluster would fill in is filled in here.
//!
//! | file | what it does |
//! |---|---|
//! | `documents` | cuts a file into documents, so that a bad one costs only itself |
//! | `tree`, `field`, `schema`, `values` | a document as values that know their line; reading and checking them |
//! | `decode/` | one document to objects, kind by kind |
//! | `served` | objects of an API server, through the same decoders, for `source/kubernetes` |
//! | `derive` | EndpointSlices from selectors and Pods |
//! | `state` | what is in force: last good versions, generations, ages, duplicates; an edit to its difference |
//! | `scan`, `watch` | the directory itself; the only two that touch the file system |
//!
//! All but the last two are pure. What the API server's *status* would say is in `status/`.

mod decode;
mod derive;
pub(crate) mod documents;
mod field;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod scan;
mod schema;
pub(super) mod served;
mod state;
pub(crate) mod tree;
mod values;
mod watch;

use std::io;
use std::path::PathBuf;

pub use decode::TERMINATING_ANNOTATION;
pub use scan::{MAX_DEPTH, MAX_FILE_BYTES, MAX_FILES};
pub use watch::watch;

/// Why watching a directory could not begin.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// There is no such directory, or it cannot be read.
    #[error("cannot read the manifests directory {}: {source} (--manifests names a directory of YAML files)", .directory.display())]
    Directory {
        /// As given.
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No thread for it.
    #[error("cannot start the thread that watches manifests: {0}")]
    Thread(io::Error),
}
