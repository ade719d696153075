//! Watching: a thread that waits for the file system to stir, lets an edit come to rest, and hands over what changed.
//! It decides only *when* to look; `scan.rs` looks, `state.rs` knows what follows.
//!
//! - Events come from inotify on every directory (and on those where links lead). They are coalesced until
//!   [`QUIET`] has passed without another, at most [`PATIENCE`], so that what belongs together stays together.
//! - A file somebody has written to and not closed yet is half written: it is left as it was until it is closed, at most
//!   [`HOLD`]. Other files do not wait for it.
//! - Every [`POLL`] all stamps are compared anyway: for what inotify cannot see (other machines on a network file
//!   system, a link far away). Without inotify, every [`POLL_ONLY`].
//!
//! Bound: [`EVENTS`] queued events; more of them mean "look at everything".

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc as std_mpsc;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use super::FilesError;
use super::scan::{self, Inode, MAX_FILES, Scan, Stamp};
use super::state::{Content, State};
use crate::source::{Edit, Problem, Severity};

/// An edit is at rest after this long without an event.
const QUIET: Duration = Duration::from_millis(25);
/// And taken as it is after this long, whatever goes on.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long a file that stays open for writing keeps its last content.
const HOLD: Duration = Duration::from_secs(1);
/// Between looks at everything.
const POLL: Duration = Duration::from_secs(1);
/// The same where inotify does not work.
const POLL_ONLY: Duration = Duration::from_millis(100);
/// Events that may wait to be taken in.
const EVENTS: usize = 4_096;
/// Edits that may wait for whoever takes them. While they do, further ones gather into the next.
const EDITS: usize = 4;

/// Watches a directory for as long as the receiver lives (its thread ends within a second of that). The first edit is
/// all there is.
///
/// # Errors
/// Where `root` is not a directory that can be read now; what becomes of it later is a [`Problem`].
pub fn watch(root: impl Into<PathBuf>) -> Result<mpsc::Receiver<Edit>, FilesError> {
    let root = root.into();
    if let Err(source) = std::fs::read_dir(&root) {
        return Err(FilesError::Directory { directory: root, source });
    }
    let (edits, receiver) = mpsc::channel(EDITS);
    let run = move || Watching::new(root).run(&edits);
    std::thread::Builder::new().name("manifests".into()).spawn(run).map_err(FilesError::Thread)?;
    Ok(receiver)
}

struct Watching {
    root: PathBuf,
    state: State,
    /// The stamps of what `state` was told last.
    stamps: BTreeMap<String, Stamp>,
    pending: Pending,
    events: std_mpsc::Receiver<Event>,
    overflow: Arc<AtomicBool>,
    watcher: Option<RecommendedWatcher>,
    watched: BTreeMap<PathBuf, Inode>,
}

/// What has stirred and was not looked at yet.
#[derive(Default)]
struct Pending {
    first: Option<Instant>,
    last: Option<Instant>,
    /// To be read whatever their stamp says: two writes may share a clock tick.
    dirty: BTreeSet<PathBuf>,
    /// Written to and not closed, since when.
    writing: HashMap<PathBuf, Instant>,
}

impl Pending {
    fn take_in(&mut self, event: Event, now: Instant) {
        match event.kind {
            // Reading is no change, and our own looks open files too.
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                for path in &event.paths {
                    self.writing.remove(path);
                }
            }
            EventKind::Access(_) => return,
            EventKind::Modify(ModifyKind::Data(_)) => {
                for path in &event.paths {
                    self.writing.entry(path.clone()).or_insert(now);
                }
            }
            EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => {
                for path in &event.paths {
                    self.writing.remove(path);
                }
            }
            _ => {}
        }
        self.first.get_or_insert(now);
        self.last = Some(now);
        self.dirty.extend(event.paths);
    }

    /// When to look next, if anything has stirred.
    fn due(&self) -> Option<Instant> {
        let rest = self.first.zip(self.last).map(|(first, last)| (last + QUIET).min(first + PATIENCE));
        let held = self.writing.values().map(|since| *since + HOLD).min();
        rest.into_iter().chain(held).min()
    }

    /// Whether a file is half written as far as anybody knows.
    fn is_held(&self, found: &scan::Found) -> bool {
        self.writing.contains_key(&found.path) || found.target.as_ref().is_some_and(|t| self.writing.contains_key(t))
    }

    fn is_dirty(&self, found: &scan::Found) -> bool {
        self.dirty.contains(&found.path) || found.target.as_ref().is_some_and(|t| self.dirty.contains(t))
    }

    /// Forgets what is about to be looked at; files still being written stay for later.
    fn looked(&mut self) {
        (self.first, self.last) = (None, None);
        let writing = &self.writing;
        self.dirty.retain(|path| writing.contains_key(path));
    }
}

impl Watching {
    fn new(root: PathBuf) -> Self {
        let (sender, events) = std_mpsc::sync_channel(EVENTS);
        let overflow = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&overflow);
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| match event {
            Ok(event) if !event.need_rescan() => {
                if sender.try_send(event).is_err() {
                    flag.store(true, Ordering::Release);
                }
            }
            _ => flag.store(true, Ordering::Release),
        });
        let watcher = watcher
            .inspect_err(|error| tracing::warn!(%error, "inotify does not work: manifests are polled instead"))
            .ok();
        Self {
            root,
            state: State::default(),
            stamps: BTreeMap::new(),
            pending: Pending::default(),
            events,
            overflow,
            watcher,
            watched: BTreeMap::new(),
        }
    }

    fn run(mut self, edits: &mpsc::Sender<Edit>) {
        loop {
            if let Some(edit) = self.look() {
                for problem in &edit.problems {
                    tracing::debug!(%problem, severity = %problem.severity, "manifests");
                }
                if edits.blocking_send(edit).is_err() {
                    return;
                }
            }
            self.wait(edits);
            if edits.is_closed() {
                return;
            }
        }
    }

    /// Until an edit has come to rest, or it is time to look anyway.
    fn wait(&mut self, edits: &mpsc::Sender<Edit>) {
        let poll = if self.watcher.is_some() { POLL } else { POLL_ONLY };
        let look_anyway = Instant::now() + poll;
        loop {
            let now = Instant::now();
            let until = self.pending.due().map_or(look_anyway, |due| due.min(look_anyway));
            if now >= until || edits.is_closed() {
                // Whoever has kept a file open for so long may keep it open for good.
                self.pending.writing.retain(|_, since| now < *since + HOLD);
                return;
            }
            match self.events.recv_timeout(until - now) {
                Ok(event) => self.pending.take_in(event, Instant::now()),
                // Not even the overflow flag is lost by this: it is read at every look.
                Err(std_mpsc::RecvTimeoutError::Timeout) => {}
                Err(std_mpsc::RecvTimeoutError::Disconnected) => std::thread::sleep(until - now),
            }
        }
    }

    /// Looks at the directory and tells the state what changed.
    fn look(&mut self) -> Option<Edit> {
        let everything = self.overflow.swap(false, Ordering::AcqRel);
        let scan = self.scan_watched();
        let mut changes = BTreeMap::new();
        for (name, found) in &scan.files {
            let known = self.stamps.get(name);
            let stamp = match &found.stamp {
                Ok(stamp) => *stamp,
                Err(reason) => {
                    self.stamps.remove(name);
                    changes.insert(name.clone(), Content::Unreadable(reason.clone()));
                    continue;
                }
            };
            let changed = everything || known != Some(&stamp) || self.pending.is_dirty(found);
            if changed && !self.pending.is_held(found) {
                self.stamps.insert(name.clone(), stamp);
                changes.insert(name.clone(), scan::read(&found.path));
            }
        }
        self.state.forget_missing(&mut changes, |name| scan.files.contains_key(name) || scan.is_hidden(name));
        self.stamps.retain(|name, _| scan.files.contains_key(name));
        self.pending.looked();
        self.state.apply(changes, directory_problems(&self.root, &scan))
    }

    /// Scans until every directory found was watched before it was walked: what is written into a new directory before
    /// it is watched would else be seen only by the next poll.
    fn scan_watched(&mut self) -> Scan {
        let mut scan = scan::scan(&self.root);
        for _ in 0..=scan::MAX_DEPTH {
            if !self.watch_directories(&scan) {
                break;
            }
            scan = scan::scan(&self.root);
        }
        scan
    }

    /// Makes the watched directories those of the scan; whether any is new.
    fn watch_directories(&mut self, scan: &Scan) -> bool {
        let Some(watcher) = &mut self.watcher else { return false };
        self.watched.retain(|path, inode| {
            let stays = scan.directories.get(inode) == Some(path);
            if !stays {
                // It fails where the directory is gone, and its watch with it.
                let _ = watcher.unwatch(path);
            }
            stays
        });
        let mut added = false;
        for (inode, path) in &scan.directories {
            if self.watched.contains_key(path) {
                continue;
            }
            match watcher.watch(path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(path.clone(), *inode);
                    added = true;
                }
                Err(error) if path.exists() => {
                    tracing::warn!(%error, directory = %path.display(),
                        "cannot watch: manifests are polled instead (see fs.inotify.max_user_watches)");
                    self.watcher = None;
                    return false;
                }
                Err(_) => {}
            }
        }
        added
    }
}

fn directory_problems(root: &Path, scan: &Scan) -> Vec<Problem> {
    let problem = |file: String, message: String| Problem {
        file,
        line: 0,
        column: 0,
        field: String::new(),
        severity: Severity::Error,
        message,
        object: None,
    };
    let mut problems: Vec<_> = scan
        .unreadable
        .iter()
        .map(|(directory, reason)| {
            let name = if directory.is_empty() { root.display().to_string() } else { directory.clone() };
            problem(name, format!("directory cannot be read, what it gave before stays: {reason}"))
        })
        .collect();
    if scan.left_out > 0 {
        let message = format!("more than {MAX_FILES} files: the last {} are not read", scan.left_out);
        problems.push(problem(root.display().to_string(), message));
    }
    problems
}
