//! The status thread: writes conditions and problems where users look, apart from translation, because a slow disk must
//! not delay a push. What is to be written gathers meanwhile and is written as it is then; what could not be written is
//! tried again after [`AGAIN`].
//!
//! Bound: the names of the routes that changed and the latest list of problems.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::{Condvar, Mutex};

use crate::model::ObjectKey;
use crate::source::Problem;
use crate::status::{StatusDir, StatusError, StatusSink};
use crate::translate::Translated;

const AGAIN: Duration = Duration::from_secs(1);

/// Hands over what changed. The thread writes the rest and ends when this is dropped.
pub(super) struct Reports(Arc<Shared>);

#[derive(Default)]
struct Shared {
    pending: Mutex<Pending>,
    changed: Condvar,
}

#[derive(Default)]
struct Pending {
    /// The state conditions are taken from.
    state: Option<Arc<Translated>>,
    routes: BTreeSet<ObjectKey>,
    /// Files of routes that are not there any more are to be removed: what went while nobody was watching.
    sweep: bool,
    problems: Option<Vec<Problem>>,
    over: bool,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.routes.is_empty() && !self.sweep && self.problems.is_none()
    }

    /// Puts back what could not be written, behind what came since.
    fn put_back(&mut self, unwritten: Self) {
        self.state = self.state.take().or(unwritten.state);
        self.routes.extend(unwritten.routes);
        self.sweep |= unwritten.sweep;
        self.problems = self.problems.take().or(unwritten.problems);
    }
}

impl Reports {
    /// Begins to write into `directory`.
    ///
    /// # Errors
    /// When there can be no thread.
    pub(super) fn begin(directory: StatusDir) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new().name("status".into()).spawn(move || theirs.run(directory))?;
        Ok(Self(shared))
    }
}

impl StatusSink for Reports {
    fn on_state(&self, state: Arc<Translated>, routes: BTreeSet<ObjectKey>, first: bool) {
        let mut pending = self.0.pending.lock();
        pending.state = Some(state);
        pending.routes.extend(routes);
        pending.sweep |= first;
        self.0.changed.notify_one();
    }

    fn on_problems(&self, problems: Vec<Problem>) {
        self.0.pending.lock().problems = Some(problems);
        self.0.changed.notify_one();
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        self.0.pending.lock().over = true;
        self.0.changed.notify_one();
    }
}

impl Shared {
    fn run(&self, mut directory: StatusDir) {
        loop {
            let mut pending = self.pending.lock();
            while pending.is_empty() && !pending.over {
                self.changed.wait(&mut pending);
            }
            let over = pending.over;
            let mut work = std::mem::take(&mut *pending);
            pending.over = over;
            drop(pending);
            if let Err(error) = write(&mut directory, &mut work) {
                tracing::error!(%error, "status is not written; trying again");
                if !over {
                    std::thread::sleep(AGAIN);
                    self.pending.lock().put_back(work);
                    continue;
                }
            }
            if over {
                return;
            }
        }
    }
}

/// Writes all of `work`, taking out what is written.
fn write(directory: &mut StatusDir, work: &mut Pending) -> Result<(), StatusError> {
    if let Some(problems) = &work.problems {
        directory.set_problems(problems)?;
        work.problems = None;
    }
    let Some(state) = &work.state else { return Ok(()) };
    while let Some(route) = work.routes.first() {
        match state.route_status(route) {
            Some(status) => directory.set_route(route, status, SystemTime::now())?,
            None => directory.remove_route(route)?,
        };
        work.routes.pop_first();
    }
    if work.sweep {
        directory.retain_routes(state.route_statuses().map(|(route, _)| route))?;
        work.sweep = false;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_gathers_is_written_before_the_thread_ends_and_old_files_are_swept() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().to_owned();
        std::fs::write(path.join("HTTPRoute.shop.gone.yaml"), "").unwrap();
        let translator = crate::translate::Translator::new(crate::translate::MeshConfig::default());
        let reports = Reports::begin(StatusDir::open(&path).unwrap()).unwrap();
        let ended = Arc::downgrade(&reports.0);
        reports.on_problems(Vec::new());
        reports.on_state(translator.translated(), BTreeSet::new(), true);
        drop(reports);
        while ended.strong_count() > 0 {
            std::thread::yield_now();
        }
        let names: BTreeSet<_> = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["problems.json", "problems.txt"].map(Into::into).into());
    }
}
