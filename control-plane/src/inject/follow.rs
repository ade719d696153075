//! `injection.yaml` as it is now: read at the start, and again every [`REREAD`], because a mounted ConfigMap changes by a
//! link that no watch on the file sees. One that is wrong is said once, and what was read last stays in force.
//!
//! Bound: one file of `settings::MAX_FILE`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::watch;

use super::settings::{BadInjectSettings, InjectSettings, MAX_FILE};

/// kubelet itself takes up to two minutes to refresh a mounted ConfigMap; this adds nothing to that.
const REREAD: Duration = Duration::from_secs(2);

/// Why `injection.yaml` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// It cannot be read.
    #[error("cannot read {} (--injection): {source}", .path.display())]
    Read {
        /// As given.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It does not say what it could say.
    #[error("{}: {bad}", .path.display())]
    Bad {
        /// As given.
        path: PathBuf,
        /// All that is wrong.
        bad: BadInjectSettings,
    },
}

/// `injection.yaml`, followed.
#[derive(Debug)]
pub struct Following {
    path: PathBuf,
    ours: (String, String),
    text: String,
    settings: watch::Sender<Arc<InjectSettings>>,
    rejected: Gauge,
}

impl Following {
    /// Reads it for the control plane of that namespace and revision.
    ///
    /// # Errors
    /// When it cannot be read, or does not hold together.
    pub fn open(path: &Path, namespace: &str, revision: &str) -> Result<Self, FollowError> {
        let ours = (namespace.to_owned(), revision.to_owned());
        let text =
            std::fs::read_to_string(path).map_err(|source| FollowError::Read { path: path.to_owned(), source })?;
        let settings = read(&text, &ours).map_err(|bad| FollowError::Bad { path: path.to_owned(), bad })?;
        let settings = watch::Sender::new(Arc::new(settings));
        Ok(Self { path: path.to_owned(), ours, text, settings, rejected: Gauge::default() })
    }

    /// What it says.
    pub fn settings(&self) -> watch::Receiver<Arc<InjectSettings>> {
        self.settings.subscribe()
    }

    /// 1 while the file is wrong and what was read before is in force.
    pub fn rejected(&self) -> Gauge {
        self.rejected.clone()
    }

    /// Reads it again and again. Never ends; drop it to stop.
    pub async fn run(mut self) {
        loop {
            tokio::time::sleep(REREAD).await;
            self.look().await;
        }
    }

    async fn look(&mut self) {
        // A file that is gone for a moment (the link is being replaced) is as before.
        let Ok(bytes) = tokio::fs::read(&self.path).await else { return };
        // One byte more than fits is enough to be refused.
        let bytes = bytes.get(..bytes.len().min(MAX_FILE + 1)).unwrap_or_default();
        let text = String::from_utf8_lossy(bytes);
        if text == self.text {
            return;
        }
        match read(&text, &self.ours) {
            Ok(settings) => {
                self.rejected.set(0);
                tracing::info!(path = %self.path.display(), "pods are injected by new settings from now on");
                self.settings.send_replace(Arc::new(settings));
            }
            Err(bad) => {
                self.rejected.set(1);
                tracing::error!(path = %self.path.display(), %bad, "pods are injected as before");
            }
        }
        self.text = text.into_owned();
    }
}

fn read(text: &str, (namespace, revision): &(String, String)) -> Result<InjectSettings, BadInjectSettings> {
    let settings = InjectSettings::parse(text)?;
    let pairs = [("namespace", &settings.namespace, namespace), ("revision", &settings.revision, revision)];
    let others = pairs.into_iter().filter(|(_, says, ours)| says != ours);
    let others: Vec<_> =
        others.map(|(key, says, ours)| format!("{key}: `{says}` is not ours, which is `{ours}`")).collect();
    if others.is_empty() { Ok(settings) } else { Err(BadInjectSettings(others)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_goes_wrong_changes_nothing_and_one_that_is_mended_does() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("injection.yaml");
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        assert!(matches!(Following::open(&path, "weft-system", ""), Err(FollowError::Read { .. })));
        write("logLevel: loud");
        assert!(matches!(Following::open(&path, "weft-system", ""), Err(FollowError::Bad { .. })));
        write("logLevel: warn");
        let error = Following::open(&path, "mesh", "canary").unwrap_err().to_string();
        assert!(error.contains("namespace: `weft-system` is not ours") && error.contains("revision: ``"), "{error}");
        let mut following = Following::open(&path, "weft-system", "").unwrap();
        let settings = following.settings();
        for (text, level, rejected) in [("logLevel: loud", "warn", 1), ("", "info", 0), ("logLevel: debug", "debug", 0)]
        {
            write(text);
            following.look().await;
            assert_eq!((settings.borrow().log_level.as_str(), following.rejected().get()), (level, rejected), "{text}");
        }
        std::fs::remove_file(&path).unwrap();
        following.look().await;
        assert_eq!(settings.borrow().log_level, "debug");
    }
}
