//! What the apps of one namespace wrote down. Pods take their logs with them when they go, and long ones are rotated away,
//! so our apps append to files in a folder of the node that each pod mounts, one file per pod; the node's `/var` is a folder
//! of this machine, which is where they are read.
//!
//! Bound: what the apps write; it goes when the cluster does.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde::de::DeserializeOwned;

use super::Cluster;
use crate::Result;
use crate::error::Context;
use crate::stats::{self, Sent, Served};

/// Where the folders are on the node.
pub(super) const ON_NODE: &str = "/var/log/weft-test";

/// The records of one namespace.
#[derive(Debug, Clone)]
pub struct Records {
    folder: PathBuf,
}

impl Cluster {
    /// The records of a namespace; the folder is made, so before its pods.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn records(&self, namespace: &str) -> Result<Records> {
        let folder = self.folder().join("var/log/weft-test").join(namespace);
        let made = || format!("making {}", folder.display());
        fs::create_dir_all(&folder).context(made)?;
        // Any user's pod writes there.
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).context(made)?;
        Ok(Records { folder })
    }
}

impl Records {
    /// Every request that servers saw.
    pub fn served(&self) -> Vec<Served> {
        self.lines("")
    }

    /// The requests that one pod, or several of one name, saw.
    pub fn served_by(&self, pod: &str) -> Vec<Served> {
        self.lines(pod)
    }

    /// Every request that clients sent.
    pub fn sent(&self) -> Vec<Sent> {
        self.lines("")
    }

    /// The requests that one pod, or several of one name, sent.
    pub fn sent_by(&self, pod: &str) -> Vec<Sent> {
        self.lines(pod)
    }

    fn lines<T: DeserializeOwned>(&self, prefix: &str) -> Vec<T> {
        let files = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let named = files.filter(|file| file.file_name().to_string_lossy().starts_with(prefix));
        named.flat_map(|file| stats::lines(&file.path())).collect()
    }
}
