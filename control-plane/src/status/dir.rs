//! `--status-dir`: status as files, where there is no API server to write it to.
//!
//! `HTTPRoute.NAMESPACE.NAME.yaml` (`GRPCRoute.…`, `BackendPolicy.…`) holds what `kubectl get httproute NAME -o yaml` would show of
//! an object's status; `problems.txt` (a line each) and `problems.json` hold what is wrong with the manifests now. A file is written beside
//! its place and renamed into it, so that a reader sees the old or the new, and only when its content changes.
//!
//! `lastTransitionTime` moves when a condition's `status` does; across restarts it is read back from the files.
//! Bound: what is on disk, held in memory once.

mod form;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use time::OffsetDateTime;

use self::form::{Dates, StatusFile, Transitions, problem_form, transitions_of};
use super::{Condition, RouteStatus};
use crate::model::{Kind, ObjectKey};
use crate::source::{Problem, kind_name};

/// The kinds that have a status.
const KINDS: [Kind; 9] = [
    Kind::BackendPolicy,
    Kind::BackendTlsPolicy,
    Kind::FaultInjection,
    Kind::GrpcRoute,
    Kind::HttpRoute,
    Kind::RateLimit,
    Kind::TcpRoute,
    Kind::TlsRoute,
    Kind::TrafficPolicy,
];

const PROBLEMS_TEXT: &str = "problems.txt";
const PROBLEMS_JSON: &str = "problems.json";

/// Why status could not be written. What the file held before is still there.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The directory cannot be made or listed.
    #[error("cannot use the status directory {}: {source} (--status-dir names a directory that Weft may write to)", .path.display())]
    Directory {
        /// As given.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// One file cannot be written or removed.
    #[error("cannot write status file {}: {source}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A status has no form as YAML or JSON.
    #[error("cannot encode status file {}: {reason}", .path.display())]
    Encode {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// The writer. Its calls block on the file system: small files, written seldom.
#[derive(Debug)]
pub struct StatusDir {
    directory: PathBuf,
    /// What was last written (or found) by file name.
    files: BTreeMap<String, Written>,
}

#[derive(Debug, Default)]
struct Written {
    text: String,
    transitions: Transitions,
}

impl StatusDir {
    /// Opens the directory, makes it where it is missing, and reads what is there.
    ///
    /// # Errors
    /// Where it cannot be made or listed.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, StatusError> {
        let directory = directory.into();
        let listed = fs::create_dir_all(&directory)
            .and_then(|()| fs::read_dir(&directory))
            .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>());
        let names = listed.map_err(|source| StatusError::Directory { path: directory.clone(), source })?;
        let mut files = BTreeMap::new();
        for name in names.iter().filter_map(|name| name.to_str()) {
            let path = directory.join(name);
            // Left behind by a writer that was killed.
            if is_temporary(name) {
                let _ = fs::remove_file(&path);
            }
            // A file that cannot be read, or not as ours, has nothing to keep: it will be written anew.
            if is_ours(name)
                && let Ok(text) = fs::read_to_string(&path)
            {
                let transitions = transitions_of(&text);
                files.insert(name.to_owned(), Written { text, transitions });
            }
        }
        Ok(Self { directory, files })
    }

    /// Writes the status of a route; whether anything changed. `now` is what a changed condition is dated.
    ///
    /// # Errors
    /// Where the file cannot be written; it is tried again by the next call.
    pub fn set_route(&mut self, key: &ObjectKey, status: &RouteStatus, now: SystemTime) -> Result<bool, StatusError> {
        self.set(key, now, |dates| form::route(key, status, dates))
    }

    /// Writes Accepted of an object of a kind of Weft's own; as [`Self::set_route`].
    ///
    /// # Errors
    /// Where the file cannot be written; it is tried again by the next call.
    pub fn set_own(&mut self, key: &ObjectKey, accepted: &Condition, now: SystemTime) -> Result<bool, StatusError> {
        self.set(key, now, |dates| form::own(key, accepted, dates))
    }

    fn set(
        &mut self,
        key: &ObjectKey,
        now: SystemTime,
        form: impl FnOnce(&mut Dates<'_>) -> StatusFile,
    ) -> Result<bool, StatusError> {
        let file = file_of(key);
        let before = self.files.get(&file).map(|written| written.transitions.as_slice()).unwrap_or_default();
        let mut dates = Dates { before, now: rfc3339(now), after: Transitions::new() };
        let form = form(&mut dates);
        let transitions = dates.after;
        let text = serde_saphyr::to_string(&form)
            .map_err(|error| StatusError::Encode { path: self.directory.join(&file), reason: error.to_string() })?;
        self.write(file, Written { text, transitions })
    }

    /// Removes the status of an object that is gone, or is not ours any more; whether there was one.
    ///
    /// # Errors
    /// Where the file cannot be removed.
    pub fn remove_object(&mut self, key: &ObjectKey) -> Result<bool, StatusError> {
        self.remove(&file_of(key))
    }

    /// Removes the status of all objects but these: what went while nobody was watching. How many.
    ///
    /// # Errors
    /// Where a file cannot be removed; the others are.
    pub fn retain_objects<'a>(
        &mut self,
        objects: impl IntoIterator<Item = &'a ObjectKey>,
    ) -> Result<usize, StatusError> {
        let keep: BTreeSet<String> = objects.into_iter().map(file_of).collect();
        let gone: Vec<String> =
            self.files.keys().filter(|file| is_object(file) && !keep.contains(*file)).cloned().collect();
        let mut done = Ok(gone.len());
        for file in &gone {
            if let Err(error) = self.remove(file) {
                done = done.and(Err(error));
            }
        }
        done
    }

    /// Writes down what is wrong now; whether anything changed.
    ///
    /// # Errors
    /// Where a file cannot be written.
    pub fn set_problems(&mut self, problems: &[Problem]) -> Result<bool, StatusError> {
        let lines: String = problems.iter().map(|problem| format!("{}: {problem}\n", problem.severity)).collect();
        let forms: Vec<_> = problems.iter().map(problem_form).collect();
        let mut json = serde_json::to_string_pretty(&forms).map_err(|error| StatusError::Encode {
            path: self.directory.join(PROBLEMS_JSON),
            reason: error.to_string(),
        })?;
        json.push('\n');
        let text = self.write(PROBLEMS_TEXT.to_owned(), Written { text: lines, ..Written::default() })?;
        let json = self.write(PROBLEMS_JSON.to_owned(), Written { text: json, ..Written::default() })?;
        Ok(text || json)
    }

    fn write(&mut self, file: String, written: Written) -> Result<bool, StatusError> {
        if self.files.get(&file).is_some_and(|before| before.text == written.text) {
            return Ok(false);
        }
        let path = self.directory.join(&file);
        let temporary = self.directory.join(format!(".{file}.tmp"));
        fs::write(&temporary, &written.text)
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(|source| StatusError::File { path, source })?;
        self.files.insert(file, written);
        Ok(true)
    }

    fn remove(&mut self, file: &str) -> Result<bool, StatusError> {
        let path: PathBuf = self.directory.join(file);
        match fs::remove_file(&path) {
            // A name that no file can have is none that has to go.
            Err(source) if !matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidFilename) => {
                Err(StatusError::File { path, source })
            }
            result => {
                self.files.remove(file);
                Ok(result.is_ok())
            }
        }
    }

    /// Where the files are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

/// `KIND.NAMESPACE.NAME.yaml`. A namespace has no dot, so that no two objects share a file, and neither has a slash.
fn file_of(key: &ObjectKey) -> String {
    format!("{}.{}.{}.yaml", kind_name(key.kind), key.name.namespace, key.name.name)
}

fn is_object(file: &str) -> bool {
    let of =
        |kind| file.strip_prefix(kind_name(kind)).is_some_and(|rest| rest.starts_with('.') && rest.ends_with(".yaml"));
    KINDS.into_iter().any(of)
}

fn is_ours(file: &str) -> bool {
    is_object(file) || matches!(file, PROBLEMS_TEXT | PROBLEMS_JSON)
}

fn is_temporary(file: &str) -> bool {
    file.strip_prefix('.').and_then(|file| file.strip_suffix(".tmp")).is_some_and(is_ours)
}

/// `2026-01-31T23:59:59Z`, as `metav1.Time` is written.
pub(super) fn rfc3339(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    let (year, month, day) = time.to_calendar_date();
    let (hour, minute, second) = time.to_hms();
    format!("{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z", u8::from(month))
}
