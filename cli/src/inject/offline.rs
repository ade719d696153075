//! The injection's code, as the command line calls it.

/// What became of a file.
pub(super) struct Done {
    /// The manifests.
    pub(super) yaml: String,
    /// What there is to say about them.
    pub(super) notes: Vec<String>,
}

/// Injects the manifests of `yaml` by `settings` (`injection.yaml`; empty for the defaults).
///
/// # Errors
/// What is wrong with either.
pub(super) fn inject(_yaml: &str, _settings: &str) -> Result<Done, String> {
    Err("not in this build yet".to_owned())
}

/// Removes what injection added.
///
/// # Errors
/// What is wrong with the manifests.
pub(super) fn uninject(_yaml: &str) -> Result<String, String> {
    Err("not in this build yet".to_owned())
}
