//! The status thread: writes conditions and problems where users look, apart from translation, because a slow disk must
//! not delay a push. What is to be written gathers meanwhile and is written as it is then; what could not be written is
//! tried again after [`AGAIN`].
//!
//! An object of a kind of Weft's own that the source refuses is in no state, or as it was before: it is `Invalid` by the problems.
//!
//! Bound: the names of the objects that changed, the latest state and the latest list of problems.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::{Condvar, Mutex};

use crate::model::ObjectKey;
use crate::source::Problem;
use crate::status::{Condition, StatusDir, StatusError, StatusSink, refused};
use crate::translate::{self, OWN_KINDS, Translated};

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
    fn run(&self, directory: StatusDir) {
        let mut desk = Desk::new(directory);
        let mut unwritten = false;
        loop {
            let mut pending = self.pending.lock();
            while pending.is_empty() && !pending.over && !unwritten {
                self.changed.wait(&mut pending);
            }
            let over = pending.over;
            let news = std::mem::take(&mut *pending);
            pending.over = over;
            drop(pending);
            desk.take(news);
            unwritten = match desk.write() {
                Ok(()) => false,
                Err(error) => {
                    tracing::error!(%error, "status is not written; trying again");
                    true
                }
            };
            if over {
                return;
            }
            if unwritten {
                std::thread::sleep(AGAIN);
            }
        }
    }
}

/// What is known, and what of it is not written yet.
struct Desk {
    directory: StatusDir,
    state: Option<Arc<Translated>>,
    /// Of Weft's own kinds, what the source does not take and why; `None` before it has said anything.
    refused: Option<BTreeMap<ObjectKey, String>>,
    due: BTreeSet<ObjectKey>,
    sweep: bool,
    problems: Option<Vec<Problem>>,
}

impl Desk {
    fn new(directory: StatusDir) -> Self {
        Self { directory, state: None, refused: None, due: BTreeSet::new(), sweep: false, problems: None }
    }

    fn take(&mut self, news: Pending) {
        self.state = news.state.or(self.state.take());
        self.due.extend(news.routes);
        self.sweep |= news.sweep;
        let Some(problems) = news.problems else { return };
        let after = refused(&problems, |kind| OWN_KINDS.contains(&kind));
        let before = self.refused.take().unwrap_or_default();
        let differs = |key: &&ObjectKey| before.get(*key) != after.get(*key);
        self.due.extend(before.keys().chain(after.keys()).filter(differs).cloned());
        self.refused = Some(after);
        self.problems = Some(problems);
    }

    /// Writes all that is due, and forgets what is written.
    fn write(&mut self) -> Result<(), StatusError> {
        if let Some(problems) = &self.problems {
            self.directory.set_problems(problems)?;
            self.problems = None;
        }
        let Some(state) = self.state.clone() else { return Ok(()) };
        while let Some(key) = self.due.first() {
            let now = SystemTime::now();
            if let Some(accepted) = self.own(key, &state) {
                self.directory.set_own(key, &accepted, now)?;
            } else if let Some(status) = state.route_status(key) {
                self.directory.set_route(key, status, now)?;
            } else {
                self.directory.remove_object(key)?;
            }
            self.due.pop_first();
        }
        // What is refused is in no state.
        if let (true, Some(refused)) = (self.sweep, &self.refused) {
            let routes = state.route_statuses().map(|(key, _)| key);
            let own = state.own_conditions().map(|(key, _)| key);
            self.directory.retain_objects(routes.chain(own).chain(refused.keys()))?;
            self.sweep = false;
        }
        Ok(())
    }

    /// Accepted of an object of a kind of Weft's own, if it is one.
    fn own(&self, key: &ObjectKey, state: &Translated) -> Option<Condition> {
        let said = state.own_condition(key);
        match self.refused.as_ref().and_then(|refused| refused.get(key)) {
            // The generation that it is to have once it is right.
            Some(why) => {
                Some(translate::refused(why, said.map_or(0, |said| said.observed_generation).saturating_add(1)))
            }
            None => said.map(|said| (**said).clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::read_to_string;

    use super::*;
    use crate::model::{Age, Batch, FaultInjection, Kind, Meta, Object, ObjectName};
    use crate::source::{Severity, TWICE};
    use crate::translate::{MeshConfig, Translator};

    #[test]
    fn what_gathers_is_written_before_the_thread_ends_and_old_files_are_swept() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().to_owned();
        std::fs::write(path.join("HTTPRoute.shop.gone.yaml"), "").unwrap();
        let translator = Translator::new(MeshConfig::default());
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

    fn key() -> ObjectKey {
        ObjectKey { kind: Kind::FaultInjection, name: ObjectName::new("shop", "faults") }
    }

    fn fault(generation: i64) -> Batch {
        let meta = Meta {
            name: key().name,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            generation,
            age: Age(0, String::new(), 0),
        };
        let upserts = vec![Object::FaultInjection(FaultInjection { meta, delay: None, abort: None })];
        Batch { upserts, ..Batch::default() }
    }

    fn problem(field: &str) -> Problem {
        Problem {
            file: "faults.yaml".to_owned(),
            line: 5,
            column: 3,
            field: field.to_owned(),
            severity: Severity::Error,
            message: "must be right".to_owned(),
            object: Some(key()),
        }
    }

    /// An edit, as the translation thread tells of it; what the object's file says then.
    fn told(desk: &mut Desk, translator: &mut Translator, objects: Batch, problems: &[Problem]) -> Option<String> {
        let sweep = desk.state.is_none();
        let (state, touched) = translator.apply(objects);
        desk.take(Pending { state: Some(state), routes: touched.statuses, sweep, ..Pending::default() });
        desk.write().unwrap();
        // It comes a moment later.
        desk.take(Pending { problems: Some(problems.to_vec()), ..Pending::default() });
        desk.write().unwrap();
        read_to_string(desk.directory.directory().join("FaultInjection.shop.faults.yaml")).ok()
    }

    #[test]
    fn an_object_of_our_own_that_is_refused_says_why_until_it_is_right_or_gone() {
        let temporary = tempfile::tempdir().unwrap();
        let open = || Desk::new(StatusDir::open(temporary.path()).unwrap());
        let removal = || Batch { removes: vec![key()], ..Batch::default() };
        let (mut translator, mut desk) = (Translator::new(MeshConfig::default()), open());
        let rows = [
            ("never right", Batch::default(), vec![problem("spec.delay")], Some(("Invalid", 1))),
            ("right", fault(1), vec![], Some(("Accepted", 1))),
            ("edited", fault(2), vec![], Some(("Accepted", 2))),
            ("not right any more", Batch::default(), vec![problem("spec.delay")], Some(("Invalid", 3))),
            ("right again", fault(3), vec![], Some(("Accepted", 3))),
            ("there twice", Batch::default(), vec![problem(TWICE)], Some(("Accepted", 3))),
            ("gone", removal(), vec![], None),
        ];
        for (row, objects, problems, expected) in rows {
            let text = told(&mut desk, &mut translator, objects, &problems);
            let Some((reason, generation)) = expected else {
                assert_eq!(text, None, "{row}");
                continue;
            };
            let text = text.unwrap();
            for part in [format!("reason: {reason}"), format!("observedGeneration: {generation}")] {
                assert!(text.contains(&part), "{row}: {part} is not in {text}");
            }
            assert_eq!(text.contains("spec.delay: must be right"), reason == "Invalid", "{row}: {text}");
        }
        // One that was never right is nobody's to sweep when another control plane begins.
        told(&mut desk, &mut translator, Batch::default(), &[problem("spec.abort")]).unwrap();
        std::fs::write(temporary.path().join("RateLimit.shop.gone.yaml"), "").unwrap();
        let (mut translator, mut desk) = (Translator::new(MeshConfig::default()), open());
        let text = told(&mut desk, &mut translator, Batch::default(), &[problem("spec.abort")]).unwrap();
        assert!(text.contains("reason: Invalid"), "{text}");
        assert!(!temporary.path().join("RateLimit.shop.gone.yaml").exists());
    }
}
