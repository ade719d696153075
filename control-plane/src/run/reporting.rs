//! The status thread: writes conditions and problems where users look, apart from translation, because a slow disk must
//! not delay a push. What is to be written gathers meanwhile and is written as it is then; what could not be written is
//! tried again after [`AGAIN`], doubling to [`AGAIN_AT_MOST`]; what is written beside it does not wait for that.
//!
//! An object of a kind of Weft's own that the source refuses is in no state, or as it was before: it is `Invalid` by the problems.
//!
//! Bound: the names of the objects that changed, the latest state, the latest list of problems and of what is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Condvar, Mutex};

use crate::model::ObjectKey;
use crate::source::Problem;
use crate::status::{Condition, StatusDir, StatusError, StatusSink};
use crate::translate::{self, OWN_KINDS, Translated};

const AGAIN: Duration = Duration::from_secs(1);
/// Some failures stay: a name that is too long for a file's.
const AGAIN_AT_MOST: Duration = Duration::from_secs(60);

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
    /// What is wrong, and what is refused.
    problems: Option<(Vec<Problem>, BTreeMap<ObjectKey, String>)>,
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

    fn on_problems(&self, problems: Vec<Problem>, refused: BTreeMap<ObjectKey, String>) {
        self.0.pending.lock().problems = Some((problems, refused));
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
        let (mut again, mut pause) = (None, AGAIN);
        loop {
            let mut pending = self.pending.lock();
            while pending.is_empty() && !pending.over {
                match again {
                    None => self.changed.wait(&mut pending),
                    Some(at) => {
                        if self.changed.wait_until(&mut pending, at).timed_out() {
                            break;
                        }
                    }
                }
            }
            let over = pending.over;
            let news = std::mem::take(&mut *pending);
            pending.over = over;
            drop(pending);
            desk.take(news);
            if over || again.is_some_and(|at| at <= Instant::now()) {
                desk.retry();
                again = None;
            }
            let failed = desk.write();
            if let Err(error) = &failed {
                tracing::error!(%error, "status is not written; trying again");
            }
            if over {
                return;
            }
            if !desk.has_failed() {
                (again, pause) = (None, AGAIN);
            } else if again.is_none() {
                again = Some(Instant::now() + pause);
                pause = (pause * 2).min(AGAIN_AT_MOST);
            }
            if failed.is_err() {
                // What is news meanwhile gathers: a full disk is no reason for a line each.
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
    failed: Failed,
}

/// What could not be written, and is due again when its time comes.
#[derive(Default)]
struct Failed {
    due: BTreeSet<ObjectKey>,
    sweep: bool,
    problems: Option<Vec<Problem>>,
}

impl Desk {
    fn new(directory: StatusDir) -> Self {
        Self {
            directory,
            state: None,
            refused: None,
            due: BTreeSet::new(),
            sweep: false,
            problems: None,
            failed: Failed::default(),
        }
    }

    fn take(&mut self, news: Pending) {
        self.state = news.state.or(self.state.take());
        self.due.extend(news.routes);
        self.sweep |= news.sweep;
        let Some((problems, mut after)) = news.problems else { return };
        after.retain(|key, _| OWN_KINDS.contains(&key.kind));
        let before = self.refused.take().unwrap_or_default();
        let differs = |key: &&ObjectKey| before.get(*key) != after.get(*key);
        self.due.extend(before.keys().chain(after.keys()).filter(differs).cloned());
        self.refused = Some(after);
        self.problems = Some(problems);
    }

    fn has_failed(&self) -> bool {
        let Failed { due, sweep, problems } = &self.failed;
        *sweep || problems.is_some() || !due.is_empty()
    }

    /// What has failed is due again.
    fn retry(&mut self) {
        let Failed { due, sweep, problems } = std::mem::take(&mut self.failed);
        self.due.extend(due);
        self.sweep |= sweep;
        self.problems = self.problems.take().or(problems);
    }

    /// Writes all that is due. What fails costs nothing but itself.
    ///
    /// # Errors
    /// The first failure.
    fn write(&mut self) -> Result<(), StatusError> {
        let mut first = Ok(());
        if let Some(problems) = self.problems.take() {
            self.failed.problems = None;
            if let Err(error) = self.directory.set_problems(&problems) {
                self.failed.problems = Some(problems);
                first = first.and(Err(error));
            }
        }
        let Some(state) = self.state.clone() else { return first };
        for key in std::mem::take(&mut self.due) {
            self.failed.due.remove(&key);
            if let Err(error) = self.write_one(&key, &state) {
                self.failed.due.insert(key);
                first = first.and(Err(error));
            }
        }
        // What is refused is in no state.
        if let (true, Some(refused)) = (self.sweep, &self.refused) {
            let routes = state.route_statuses().map(|(key, _)| key);
            let own = state.own_conditions().map(|(key, _)| key);
            self.sweep = false;
            if let Err(error) = self.directory.retain_objects(routes.chain(own).chain(refused.keys())) {
                self.failed.sweep = true;
                first = first.and(Err(error));
            }
        }
        first
    }

    fn write_one(&mut self, key: &ObjectKey, state: &Translated) -> Result<bool, StatusError> {
        let now = SystemTime::now();
        if let Some(accepted) = self.own(key, state) {
            self.directory.set_own(key, &accepted, now)
        } else if let Some(status) = state.route_status(key) {
            self.directory.set_route(key, status, now)
        } else {
            self.directory.remove_object(key)
        }
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
    use crate::source::{Severity, TWICE, refused};
    use crate::translate::{MeshConfig, Translator};

    #[test]
    fn what_gathers_is_written_before_the_thread_ends_and_old_files_are_swept() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().to_owned();
        std::fs::write(path.join("HTTPRoute.shop.gone.yaml"), "").unwrap();
        let translator = Translator::new(MeshConfig::default());
        let reports = Reports::begin(StatusDir::open(&path).unwrap()).unwrap();
        let ended = Arc::downgrade(&reports.0);
        reports.on_problems(Vec::new(), BTreeMap::new());
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
        desk.take(Pending { problems: Some((problems.to_vec(), refused(problems))), ..Pending::default() });
        desk.write().unwrap();
        read_to_string(desk.directory.directory().join("FaultInjection.shop.faults.yaml")).ok()
    }

    #[test]
    fn a_name_that_no_file_can_have_keeps_nobody_elses_status_from_its_file() {
        let temporary = tempfile::tempdir().unwrap();
        let mut desk = Desk::new(StatusDir::open(temporary.path()).unwrap());
        let key = |name: String| ObjectKey { name: ObjectName::new("shop", name), ..key() };
        let (long, other) = (key("a".repeat(253)), key("b".to_owned()));
        let why = |keys: &[&ObjectKey]| keys.iter().map(|key| ((*key).clone(), "must be right".to_owned())).collect();
        let state = Translator::new(MeshConfig::default()).translated();
        let problems = Some((Vec::new(), why(&[&long, &other])));
        desk.take(Pending { state: Some(state), sweep: true, problems, ..Pending::default() });
        let error = desk.write().unwrap_err().to_string();
        assert!(error.contains(&long.name.name), "{error}");
        assert!(temporary.path().join("FaultInjection.shop.b.yaml").exists());
        assert!(desk.has_failed() && !desk.sweep);
        desk.write().unwrap();
        assert!(desk.has_failed(), "it is not tried before its time");
        desk.retry();
        desk.write().unwrap_err();
        desk.take(Pending { problems: Some((Vec::new(), why(&[]))), ..Pending::default() });
        desk.write().unwrap();
        assert!(!desk.has_failed(), "what has no file needs none removed");
        assert!(!temporary.path().join("FaultInjection.shop.b.yaml").exists());
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
