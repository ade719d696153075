//! From what the files say to what there is: holds the last good version of every object and answers an edit with the
//! difference it makes. Pure: contents in, [`Edit`] out.
//!
//! - A document that is refused keeps the last good version of its object (kind, namespace, name) in place until it is
//!   fixed or removed. Where not even that can be read, all that the file gave before stays: the unreadable text may be
//!   any of it, and an object kept too long harms less than one that vanishes while somebody types.
//! - A file that cannot be read keeps everything it gave.
//! - The same object in two documents: the first wins (files by name, then order), the second is a problem.
//! - The generation counts changes of content other than `metadata` and `status`, from 1. The age is the place.
//! - EndpointSlices are derived for Services without one (`derive.rs`), namespace by namespace as they are touched.
//!
//! Bound: the decoded objects of the directory, twice; its size is bounded by `scan.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::decode::{self, Decoded, Outcome};
use super::derive;
use super::documents::{self, Document};
use super::field::Flaw;
use super::tree::Mark;
use crate::model::{Age, Batch, Kind, Object, ObjectKey, ObjectName};
use crate::source::{Edit, MAX_PROBLEMS, Problem, Severity, TWICE, describe, meta_mut, refused};

/// What is known of a file's text after an edit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// All of it.
    Text(String),
    /// It is there, and cannot be read for this reason.
    Unreadable(String),
    /// It is not there.
    Gone,
}

/// All that is known. See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct State {
    files: BTreeMap<String, File>,
    written: Objects,
    derived: Objects,
    /// What was wrong with the directory itself when last looked at.
    directory: Vec<Problem>,
    problems: Vec<Problem>,
    refused: BTreeMap<ObjectKey, String>,
    started: bool,
}

#[derive(Debug, Default)]
struct File {
    documents: Vec<Decoded>,
    /// Why the present text is not what `documents` say.
    unreadable: Option<String>,
    /// Documents behind the limit.
    left_out: usize,
}

type Objects = BTreeMap<ObjectKey, Held>;

/// An object in force.
#[derive(Debug, Clone, PartialEq)]
struct Held {
    object: Object,
    digest: u128,
    /// The file it came from, empty for one that was derived.
    file: String,
}

impl State {
    /// Takes in what changed and says what follows. `None` where nothing does; the first call always answers.
    ///
    /// `directory` is what is wrong with the directory itself at this moment.
    pub(super) fn apply(&mut self, changes: BTreeMap<String, Content>, directory: Vec<Problem>) -> Option<Edit> {
        let mut stirred = !self.started || directory != self.directory;
        self.directory = directory;
        for (path, content) in changes {
            stirred |= match content {
                Content::Gone => self.files.remove(&path).is_some(),
                Content::Unreadable(reason) => {
                    let file = self.files.entry(path).or_default();
                    let known = file.unreadable.as_ref() == Some(&reason);
                    file.unreadable = Some(reason);
                    !known
                }
                Content::Text(text) => {
                    self.files.insert(path, File::read(&text));
                    true
                }
            }
        }
        if !stirred {
            return None;
        }
        let (written, duplicates) = self.settle();
        let touched = touched_namespaces(&self.written, &written);
        let derived = self.derive(&written, &touched);

        let mut batch = Batch::default();
        difference(&self.written, &written, &mut batch);
        difference(&self.derived, &derived, &mut batch);
        // A derived slice may take the name of one written by hand in the same stroke, and the other way round.
        let upserted: BTreeSet<ObjectKey> = batch.upserts.iter().map(Object::key).collect();
        batch.removes.retain(|key| !upserted.contains(key));
        (self.written, self.derived) = (written, derived);

        let (problems, refused) = self.list_problems(duplicates);
        let known = problems == self.problems && refused == self.refused;
        let quiet = batch.upserts.is_empty() && batch.removes.is_empty() && known;
        self.problems.clone_from(&problems);
        self.refused.clone_from(&refused);
        if quiet && self.started {
            return None;
        }
        self.started = true;
        Some(Edit { objects: batch, problems, refused })
    }

    /// Adds to `changes` that every file known and not `present` any more is gone.
    pub(super) fn forget_missing(&self, changes: &mut BTreeMap<String, Content>, present: impl Fn(&str) -> bool) {
        let missing = self.files.keys().filter(|name| !present(name));
        changes.extend(missing.map(|name| (name.clone(), Content::Gone)));
    }

    /// Whether nothing is in force and nothing is wrong.
    #[cfg(any(test, fuzzing))]
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty() && self.written.is_empty() && self.derived.is_empty() && self.problems.is_empty()
    }

    /// The objects in force by what the files say now, and the documents that lost to an earlier one.
    fn settle(&self) -> (Objects, Vec<Problem>) {
        let mut claims: BTreeMap<&ObjectKey, Vec<(&str, u32, &Decoded)>> = BTreeMap::new();
        for (path, file) in &self.files {
            for (index, document) in file.documents.iter().enumerate() {
                if let (Some(key), Outcome::Good(..) | Outcome::Bad) = (&document.key, &document.outcome) {
                    let index = u32::try_from(index).unwrap_or(u32::MAX);
                    claims.entry(key).or_default().push((path, index, document));
                }
            }
        }
        let mut objects = Objects::new();
        let mut duplicates = Vec::new();
        for (key, claimants) in &claims {
            let before = self.written.get(*key);
            let keep_last_good = matches!(claimants.first(), Some((.., first)) if first.outcome == Outcome::Bad);
            let held = match (keep_last_good, before) {
                (true, Some(before)) => Some(Held { file: claimants[0].0.to_owned(), ..before.clone() }),
                _ => claimants.iter().find_map(|(path, index, document)| match &document.outcome {
                    Outcome::Good(object, digest) => Some(hold(before, object, *digest, path, *index)),
                    _ => None,
                }),
            };
            if let Some(held) = held {
                objects.insert((*key).clone(), held);
            }
            let Some(((first_path, _, first), rest)) = claimants.split_first() else { continue };
            for (path, _, document) in rest {
                duplicates.push(Problem {
                    file: (*path).to_owned(),
                    line: document.line,
                    column: 0,
                    field: TWICE.to_owned(),
                    severity: Severity::Error,
                    message: format!("{} is already defined at {first_path}:{}, which wins", describe(key), first.line),
                    object: Some((*key).clone()),
                });
            }
        }
        for (key, held) in &self.written {
            if !objects.contains_key(key) && self.files.get(&held.file).is_some_and(File::hides_something) {
                objects.insert(key.clone(), held.clone());
            }
        }
        (objects, duplicates)
    }

    /// Derived slices: those of touched namespaces anew, others as they are.
    fn derive(&self, written: &Objects, touched: &BTreeSet<String>) -> Objects {
        let mut derived: Objects =
            self.derived.iter().filter(|(key, _)| !touched.contains(&key.name.namespace)).map(clone_pair).collect();
        if touched.is_empty() {
            return derived;
        }
        let zones: BTreeMap<&str, &str> = in_namespace(written, Kind::Node, "")
            .filter_map(|object| {
                let meta = object.meta();
                Some((meta.name.name.as_str(), meta.labels.get("topology.kubernetes.io/zone")?.as_str()))
            })
            .collect();
        for namespace in touched {
            let mut input = derive::Input { zones: zones.clone(), ..derive::Input::default() };
            for kind in [Kind::Service, Kind::EndpointSlice, Kind::Pod] {
                for object in in_namespace(written, kind, namespace) {
                    match object {
                        Object::Service(service) => input.services.push(service),
                        Object::EndpointSlice(slice) => input.slices.push(slice),
                        Object::Pod(pod) => input.pods.push(pod),
                        _ => {}
                    }
                }
            }
            for slice in derive::slices(&input) {
                let mut object = Object::EndpointSlice(slice);
                let key = object.key();
                meta_mut(&mut object).generation = self.derived.get(&key).map_or(1, |before| {
                    let generation = before.object.meta().generation;
                    meta_mut(&mut object).generation = generation;
                    if before.object == object { generation } else { generation.saturating_add(1) }
                });
                derived.insert(key, Held { object, digest: 0, file: String::new() });
            }
        }
        derived
    }

    /// All that is wrong, as far as it is listed, and what is refused.
    fn list_problems(&self, duplicates: Vec<Problem>) -> (Vec<Problem>, BTreeMap<ObjectKey, String>) {
        let mut problems = self.directory.clone();
        for (path, file) in &self.files {
            if let Some(reason) = &file.unreadable {
                let flaw = Flaw {
                    severity: Severity::Error,
                    at: Mark::default(),
                    field: String::new(),
                    message: reason.clone(),
                };
                problems.push(problem(path, &None, flaw));
            }
            if file.left_out > 0 {
                let message = format!(
                    "more than {} documents: the last {} are not read",
                    documents::MAX_DOCUMENTS,
                    file.left_out
                );
                let flaw = Flaw { severity: Severity::Error, at: Mark::default(), field: String::new(), message };
                problems.push(problem(path, &None, flaw));
            }
            for document in &file.documents {
                problems.extend(document.flaws.iter().map(|flaw| problem(path, &document.key, flaw.clone())));
            }
        }
        problems.extend(duplicates);
        problems.sort();
        let refused = refused(&problems);
        if problems.len() > MAX_PROBLEMS {
            let more = problems.len() - (MAX_PROBLEMS - 1);
            problems.truncate(MAX_PROBLEMS - 1);
            problems.push(Problem {
                file: String::new(),
                line: 0,
                column: 0,
                field: String::new(),
                severity: Severity::Warning,
                message: format!("{more} more problems are not listed"),
                object: None,
            });
        }
        (problems, refused)
    }
}

impl File {
    fn read(text: &str) -> Self {
        let found = documents::split(text);
        let left_out = found.len().saturating_sub(documents::MAX_DOCUMENTS);
        let documents = found.iter().take(documents::MAX_DOCUMENTS).flat_map(decode_safely).collect();
        Self { documents, unreadable: None, left_out }
    }

    /// Whether some of its text cannot be told apart from an object it gave before.
    fn hides_something(&self) -> bool {
        self.unreadable.is_some()
            || self.left_out > 0
            || self.documents.iter().any(|document| document.key.is_none() && document.outcome == Outcome::Bad)
    }
}

/// A document on which our own code panics is refused like any other: one object, never the source.
fn decode_safely(document: &Document<'_>) -> Vec<Decoded> {
    catch_unwind(AssertUnwindSafe(|| decode::decode(document))).unwrap_or_else(|_| {
        let at = Mark { line: document.first_line, column: 1 };
        let message = "reading this document failed inside Weft: please report it with the document".to_owned();
        let flaw = Flaw { severity: Severity::Error, at, field: String::new(), message };
        vec![Decoded { line: document.first_line, key: None, outcome: Outcome::Bad, flaws: vec![flaw] }]
    })
}

/// A good document's object with its generation and age.
fn hold(before: Option<&Held>, object: &Object, digest: u128, path: &str, index: u32) -> Held {
    let mut object = object.clone();
    let meta = meta_mut(&mut object);
    meta.age = Age(0, path.to_owned(), index);
    meta.generation = match before {
        None => 1,
        Some(before) if before.digest == digest => before.object.meta().generation,
        Some(before) => before.object.meta().generation.saturating_add(1),
    };
    Held { object, digest, file: path.to_owned() }
}

fn problem(path: &str, key: &Option<ObjectKey>, flaw: Flaw) -> Problem {
    Problem {
        file: path.to_owned(),
        line: flaw.at.line,
        column: flaw.at.column,
        field: flaw.field,
        severity: flaw.severity,
        message: flaw.message,
        object: key.clone(),
    }
}

fn difference(before: &Objects, after: &Objects, batch: &mut Batch) {
    let changed = after.iter().filter(|(key, held)| before.get(*key).is_none_or(|old| old.object != held.object));
    batch.upserts.extend(changed.map(|(_, held)| held.object.clone()));
    batch.removes.extend(before.keys().filter(|key| !after.contains_key(*key)).cloned());
}

/// The namespaces whose derived slices may differ now.
fn touched_namespaces(before: &Objects, after: &Objects) -> BTreeSet<String> {
    let mut touched = BTreeSet::new();
    let mut nodes = false;
    let differing = after
        .iter()
        .filter(|(key, held)| before.get(*key).is_none_or(|old| old.object != held.object))
        .map(|(key, _)| key)
        .chain(before.keys().filter(|key| !after.contains_key(*key)));
    for ObjectKey { kind, name } in differing {
        match kind {
            Kind::Service | Kind::Pod | Kind::EndpointSlice => {
                touched.insert(name.namespace.clone());
            }
            Kind::Node => nodes = true,
            Kind::BackendPolicy
            | Kind::Namespace
            | Kind::FaultInjection
            | Kind::RateLimit
            | Kind::GrpcRoute
            | Kind::HttpRoute
            | Kind::TlsRoute
            | Kind::TcpRoute
            | Kind::BackendTlsPolicy
            | Kind::TrafficPolicy
            | Kind::ConfigMap
            | Kind::PeerAuthentication => {}
        }
    }
    if nodes {
        // A node's zone may have changed, and pods of any namespace may run on it.
        let services = after.keys().filter(|key| key.kind == Kind::Service);
        touched.extend(services.map(|key| key.name.namespace.clone()));
    }
    touched
}

fn in_namespace<'a>(objects: &'a Objects, kind: Kind, namespace: &'a str) -> impl Iterator<Item = &'a Object> {
    let from = ObjectKey { kind, name: ObjectName::new(namespace, "") };
    objects
        .range(from..)
        .take_while(move |(key, _)| key.kind == kind && key.name.namespace == namespace)
        .map(|(_, held)| &held.object)
}

fn clone_pair((key, held): (&ObjectKey, &Held)) -> (ObjectKey, Held) {
    (key.clone(), held.clone())
}

#[cfg(test)]
mod tests;
