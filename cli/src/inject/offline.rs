//! The injection's own code (`control-plane/src/inject/manifest`), as the command line calls it.

use weft_control_plane::inject::manifest::{self, Changed, Options};

/// What became of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Done {
    /// The manifests.
    pub(super) yaml: String,
    /// What there is to say about them, a line each.
    pub(super) notes: Vec<String>,
}

/// Injects the manifests of `yaml`.
///
/// # Errors
/// All that is wrong with them.
pub(super) fn inject(yaml: &str, options: &Options) -> Result<Done, String> {
    manifest::inject_yaml(yaml, options, &mut rand::rng()).map(done).map_err(|bad| bad.to_string())
}

/// Removes what injection added.
///
/// # Errors
/// All that is wrong with the manifests.
pub(super) fn uninject(yaml: &str) -> Result<Done, String> {
    manifest::uninject_yaml(yaml).map(done).map_err(|bad| bad.to_string())
}

fn done(changed: Changed) -> Done {
    let mut notes = Vec::new();
    for object in changed.objects {
        notes.push(format!("{}: {}", object.object, object.what));
        notes.extend(object.warnings.iter().map(|warning| format!("{}: warning: {warning}", object.object)));
    }
    Done { yaml: changed.text, notes }
}
