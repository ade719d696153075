//! The parts of a control plane without a cluster: a directory of manifests, a root in a file, join tokens, status in files.

use std::sync::Arc;
use std::time::SystemTime;

use super::reporting::Reports;
use super::{Opened, RunError};
use crate::identity::{Authenticator, Authority, FileAuthority, JoinTokens};
use crate::settings::{FilesSettings, Settings};
use crate::source::files;
use crate::status::{StatusDir, StatusSink};

/// The authority and whom it believes.
///
/// # Errors
/// When the state directory cannot be used.
pub(super) fn identity(
    settings: &Settings,
    files: &FilesSettings,
    now: SystemTime,
) -> Result<(Arc<dyn Authority>, Authenticator), RunError> {
    let authority = FileAuthority::open(&files.state_dir, &settings.mesh.trust_domain, now)?;
    tracing::info!(roots = %authority.roots_file().display(), "the mesh's root certificates are ready for pods");
    let tokens = JoinTokens::open(&files.state_dir)?;
    Ok((Arc::new(authority), Authenticator::JoinTokens(tokens)))
}

/// Begins to read manifests, and to write status if that is wanted.
///
/// # Errors
/// When a directory cannot be used.
pub(super) fn begin(files: &FilesSettings) -> Result<Opened, RunError> {
    let status = match &files.status_dir {
        Some(directory) => {
            let reports = Reports::begin(StatusDir::open(directory)?).map_err(RunError::Thread)?;
            Some(Box::new(reports) as Box<dyn StatusSink>)
        }
        None => None,
    };
    Ok((files::watch(&files.manifests)?, status))
}
