//! What is in the manifests directory at one moment: walks it, reads what changed. All of `files/` that touches the
//! file system, less the waiting (`watch.rs`).
//!
//! Files are `*.yaml`, `*.yml` and `*.json`; names that begin with a dot are not looked at, and symbolic links are
//! followed, which together make a mounted ConfigMap work (`reviews.yaml -> ..data/reviews.yaml`).
//! Bound: [`MAX_FILES`] files of [`MAX_FILE_BYTES`] each, [`MAX_DEPTH`] levels; what is beyond is named as a problem.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::state::Content;

/// Most files read.
pub const MAX_FILES: usize = 10_000;
/// Largest file read: 16 MiB.
pub const MAX_FILE_BYTES: u64 = 16 << 20;
/// Most levels of directories.
pub const MAX_DEPTH: usize = 16;

/// The identity of a file or directory whatever its path: device and inode.
pub(super) type Inode = (u64, u64);

/// Tells one state of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: Inode,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            inode: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// A file that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    /// Where a symbolic link leads.
    pub(super) target: Option<PathBuf>,
    /// Or why nothing can be said of it.
    pub(super) stamp: Result<Stamp, String>,
}

/// The directory at one moment.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// By path relative to the root.
    pub(super) files: BTreeMap<String, Found>,
    /// Directories in which a change matters; each once, whatever the paths that lead there.
    pub(super) directories: BTreeMap<Inode, PathBuf>,
    /// Directories that could not be read, relative to the root, and why: of files below nothing is known.
    pub(super) unreadable: BTreeMap<String, String>,
    /// Files beyond the limit.
    pub(super) left_out: usize,
}

/// Walks the directory. Never fails: what cannot be read is part of the answer.
pub(super) fn scan(root: &Path) -> Scan {
    let mut scan = Scan::default();
    scan.directory(root, String::new(), 0);
    scan
}

impl Scan {
    /// Whether a file that was not found lies in a directory that could not be read.
    pub(super) fn is_hidden(&self, file: &str) -> bool {
        self.unreadable.keys().any(|directory| {
            directory.is_empty() || file.strip_prefix(directory.as_str()).is_some_and(|rest| rest.starts_with('/'))
        })
    }

    fn directory(&mut self, path: &Path, relative: String, depth: usize) {
        let entries = fs::metadata(path).and_then(|metadata| {
            let inode = (metadata.dev(), metadata.ino());
            // Reached before, by another link or by a loop of links.
            if self.directories.contains_key(&inode) {
                return Ok(Vec::new());
            }
            let mut entries = fs::read_dir(path)?.collect::<io::Result<Vec<_>>>()?;
            entries.sort_by_key(fs::DirEntry::file_name);
            self.directories.insert(inode, path.to_owned());
            Ok(entries)
        });
        let entries = match entries {
            Ok(entries) => entries,
            // A subdirectory that went away meanwhile is simply not there. The root is always expected.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !relative.is_empty() => return,
            Err(error) => {
                self.unreadable.insert(relative, error.to_string());
                return;
            }
        };
        for entry in entries {
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else { continue };
            let below = if relative.is_empty() { name.to_owned() } else { format!("{relative}/{name}") };
            self.entry(entry.path(), name, below, depth);
        }
    }

    fn entry(&mut self, path: PathBuf, name: &str, relative: String, depth: usize) {
        let is_manifest = name.rsplit_once('.').is_some_and(|(_, ext)| matches!(ext, "yaml" | "yml" | "json"));
        let metadata = fs::metadata(&path);
        if let Ok(metadata) = &metadata
            && metadata.is_dir()
        {
            if depth + 1 > MAX_DEPTH {
                self.unreadable.insert(relative, format!("more than {MAX_DEPTH} levels of directories"));
            } else {
                self.directory(&path, relative, depth + 1);
            }
            return;
        }
        // A socket or a pipe would block whoever opens it.
        if !is_manifest || metadata.as_ref().is_ok_and(|metadata| !metadata.is_file()) {
            return;
        }
        let is_link = fs::symlink_metadata(&path).map(|metadata| metadata.is_symlink());
        if metadata.is_err() && is_link.is_err() {
            return;
        }
        if self.files.len() >= MAX_FILES {
            self.left_out += 1;
            return;
        }
        let target = if is_link.unwrap_or(false) { fs::canonicalize(&path).ok() } else { None };
        if let Some(parent) = target.as_deref().and_then(Path::parent)
            && let Ok(metadata) = fs::metadata(parent)
        {
            self.directories.entry((metadata.dev(), metadata.ino())).or_insert_with(|| parent.to_owned());
        }
        let stamp = metadata.map(|metadata| Stamp::of(&metadata)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => "a symbolic link that leads nowhere".to_owned(),
            _ => error.to_string(),
        });
        self.files.insert(relative, Found { path, target, stamp });
    }
}

/// Reads a file whole.
pub(super) fn read(path: &Path) -> Content {
    let mut bytes = Vec::new();
    let result = fs::File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes));
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Content::Gone,
        Err(error) => Content::Unreadable(format!("cannot be read: {error}")),
        Ok(size) if u64::try_from(size).is_ok_and(|size| size > MAX_FILE_BYTES) => {
            Content::Unreadable(format!("is larger than {} MiB", MAX_FILE_BYTES >> 20))
        }
        Ok(_) => match String::from_utf8(bytes) {
            Ok(text) => Content::Text(text),
            Err(error) => {
                let good = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
                let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
                Content::Unreadable(format!("is not UTF-8 text (line {line})"))
            }
        },
    }
}
