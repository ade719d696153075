//! From what the API server says to what there is: takes in the events of every kind and answers with the difference they
//! make. Pure: events in, [`Edit`]s out.
//!
//! - A list replaces what was known in one stroke, when it is complete: what it does not name is gone, what it names as it
//!   was is no change. A list that breaks off changes nothing.
//! - An object that cannot be used keeps its last good form until it is usable again or gone. One that was made anew
//!   under the same name (another uid) has none.
//! - The first edit comes when every kind was listed or is known not to be served, so nobody sees half a cluster.
//! - A policy waits for the ConfigMaps that it names to be asked for (`named`): without them it would mean something else.
//!
//! Objects are handed out and not kept: of each a digest stays, to tell a change from a heartbeat. Bound: a name and some
//! words for each object watched, and the changed objects of lists under way.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash as _;

use kube::runtime::watcher::Event;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::kinds::KINDS;
use crate::model::{BackendTlsPolicy, Batch, Kind, Object, ObjectKey, ObjectName};
use crate::source::files::served::{Form, Served};
use crate::source::{Edit, MAX_PROBLEMS, Problem, Severity, refused};

mod named;
mod notes;
mod unenforced;

use named::Named;
pub(super) use notes::Notes;
pub(super) use unenforced::Unenforced;

/// What a watch tells, `T` being what it tells of an object.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Happening<T> {
    /// A list begins; one under way is void.
    Init,
    /// An object of the list.
    InitApply(T),
    /// The list is complete.
    InitDone,
    /// An object is new or changed.
    Apply(T),
    /// An object is gone.
    Delete(T),
    /// The kind is not served: its CRD is not installed.
    Absent,
}

/// A watcher's event, with what is of interest of its object.
pub(super) fn map_event<K, T>(event: Event<K>, of_interest: impl FnOnce(K) -> T) -> Happening<T> {
    match event {
        Event::Init => Happening::Init,
        Event::InitApply(object) => Happening::InitApply(of_interest(object)),
        Event::InitDone => Happening::InitDone,
        Event::Apply(object) => Happening::Apply(of_interest(object)),
        Event::Delete(object) => Happening::Delete(of_interest(object)),
    }
}

/// All that is known. See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct State {
    kinds: BTreeMap<Kind, Known>,
    /// What the next edit will say: the object as it is now, or that it is gone.
    pending: BTreeMap<ObjectKey, Option<Object>>,
    /// What is wrong now.
    flawed: BTreeMap<ObjectKey, Vec<Problem>>,
    problems_changed: bool,
    notes: Notes,
    named: Named,
    started: bool,
}

/// One kind.
#[derive(Debug, Default)]
struct Known {
    held: BTreeMap<ObjectName, Held>,
    /// The list under way; `None` for an object that is as it was.
    listing: Option<BTreeMap<ObjectName, Option<Served>>>,
    /// Whether it was listed once, or is known not to be served.
    listed: bool,
}

/// One object.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    uid: u64,
    /// Of its last good form; `None` where it never had one.
    good: Option<u128>,
    /// Whether that is its present form, and nothing is wrong with it.
    sound: bool,
}

impl State {
    /// Takes in what happened.
    pub(super) fn on(&mut self, kind: Kind, happening: Happening<Served>) {
        let known = self.kinds.entry(kind).or_default();
        match happening {
            Happening::Init => known.listing = Some(BTreeMap::new()),
            Happening::InitApply(served) | Happening::Apply(served) => match &mut known.listing {
                Some(listing) => {
                    let same = known.held.get(&served.name).is_some_and(|held| held.is(&served));
                    listing.insert(served.name.clone(), (!same).then_some(served));
                }
                None => self.set(kind, served),
            },
            Happening::Delete(served) => match &mut known.listing {
                Some(listing) => drop(listing.remove(&served.name)),
                None => self.remove(kind, served.name),
            },
            Happening::InitDone => {
                let Some(listing) = known.listing.take() else { return };
                known.listed = true;
                self.replace(kind, listing);
            }
            Happening::Absent => {
                known.listing = None;
                known.listed = true;
                self.replace(kind, BTreeMap::new());
            }
        }
    }

    /// What changed since the last edit; `None` where nothing did. The first comes when everything was listed.
    pub(super) fn take(&mut self, unenforced: &Unenforced) -> Option<Edit> {
        if !self.is_due() {
            return None;
        }
        self.started = true;
        self.problems_changed = false;
        let mut objects = Batch::default();
        for (key, object) in std::mem::take(&mut self.pending) {
            if is_held(&self.named, &key) {
                self.pending.insert(key, object);
                continue;
            }
            match object {
                Some(object) => objects.upserts.push(object),
                None => objects.removes.push(key),
            }
        }
        let refused = refused(self.flawed.values().flatten());
        Some(Edit { objects, problems: self.list_problems(unenforced), refused })
    }

    /// Whether there is an edit to be taken.
    pub(super) fn is_due(&self) -> bool {
        if !self.started {
            return self.is_complete();
        }
        self.problems_changed || self.pending.keys().any(|key| !is_held(&self.named, key))
    }

    /// Something outside of this has changed what [`State::take`] lists as problems.
    pub(super) fn stir(&mut self) {
        self.problems_changed = true;
    }

    /// Whether every kind was listed or is not served, and every ConfigMap asked for that policies name.
    pub(super) fn is_complete(&self) -> bool {
        let listed = KINDS.iter().all(|(kind, _)| self.kinds.get(kind).is_some_and(|known| known.listed));
        listed && !self.named.any_awaits()
    }

    /// How many objects of a kind there are, usable or not.
    pub(super) fn count(&self, kind: Kind) -> usize {
        self.kinds.get(&kind).map_or(0, |known| known.held.len())
    }

    /// What the objects say beside the model.
    pub(super) fn notes(&self) -> &Notes {
        &self.notes
    }

    /// The ConfigMaps that policies name.
    pub(super) fn config_maps(&self) -> BTreeSet<ObjectName> {
        self.named.all()
    }

    /// Takes in what there is of a ConfigMap that was asked for.
    pub(super) fn on_config_map(&mut self, name: ObjectName, served: Option<Served>) {
        if !self.named.has(&name) {
            return;
        }
        self.named.answer(name.clone());
        match served {
            Some(served) => self.set(Kind::ConfigMap, served),
            None => self.remove(Kind::ConfigMap, name),
        }
    }

    /// Takes in which ConfigMaps a policy names now.
    fn names(&mut self, policy: &ObjectName, now: Option<&BackendTlsPolicy>) {
        for config_map in self.named.set(policy, now) {
            self.remove(Kind::ConfigMap, config_map);
        }
    }

    /// Makes a kind what a complete list says.
    fn replace(&mut self, kind: Kind, listing: BTreeMap<ObjectName, Option<Served>>) {
        let held = self.kinds.get(&kind).map(|known| &known.held).into_iter().flatten();
        let gone: Vec<_> = held.map(|(name, _)| name).filter(|name| !listing.contains_key(*name)).cloned().collect();
        for name in gone {
            self.remove(kind, name);
        }
        for served in listing.into_values().flatten() {
            self.set(kind, served);
        }
    }

    fn set(&mut self, kind: Kind, served: Served) {
        let known = self.kinds.entry(kind).or_default();
        let key = ObjectKey { kind, name: served.name.clone() };
        let uid = xxh3_64(served.uid.as_bytes());
        let held = match known.held.entry(served.name.clone()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Held { uid, good: None, sound: false }),
        };
        self.notes.set(&key, Some(&served));
        // A Bad object of another uid is not what the last good form was of.
        let forgets = match &served.form {
            Form::Good(_) => false,
            Form::Bad => held.uid != uid,
            Form::Ignored => true,
        };
        let forgotten = forgets && held.good.take().is_some();
        if forgotten {
            self.pending.insert(key.clone(), None);
        }
        held.uid = uid;
        held.sound = served.is_sound();
        let mut named = None;
        if let Form::Good(object) = served.form {
            let digest = Some(digest(&object));
            if held.good != digest {
                held.good = digest;
                if let Object::BackendTlsPolicy(policy) = &*object {
                    named = Some(policy.clone());
                }
                self.pending.insert(key.clone(), Some(*object));
            }
        }
        if kind == Kind::BackendTlsPolicy && (forgotten || named.is_some()) {
            self.names(&key.name, named.as_ref());
        }
        self.blame(key, served.problems);
    }

    fn remove(&mut self, kind: Kind, name: ObjectName) {
        let Some(held) = self.kinds.entry(kind).or_default().held.remove(&name) else { return };
        let key = ObjectKey { kind, name };
        self.notes.set(&key, None);
        if kind == Kind::BackendTlsPolicy {
            self.names(&key.name, None);
        }
        self.blame(key.clone(), Vec::new());
        if held.good.is_some() {
            self.pending.insert(key, None);
        }
    }

    fn blame(&mut self, key: ObjectKey, problems: Vec<Problem>) {
        let before = if problems.is_empty() {
            self.flawed.remove(&key)
        } else if self.flawed.get(&key) == Some(&problems) {
            return;
        } else {
            self.flawed.insert(key, problems);
            self.problems_changed = true;
            return;
        };
        self.problems_changed |= before.is_some();
    }

    fn list_problems(&self, unenforced: &Unenforced) -> Vec<Problem> {
        let mut all = unenforced.problems().chain(self.flawed.values().flatten().cloned());
        let mut problems: Vec<_> = all.by_ref().take(MAX_PROBLEMS - 1).collect();
        let more = all.count();
        problems.sort();
        if more > 0 {
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
        problems
    }
}

/// Whether the edit for an object waits for others.
fn is_held(named: &Named, key: &ObjectKey) -> bool {
    key.kind == Kind::BackendTlsPolicy && named.awaits(&key.name)
}

impl Held {
    /// Whether the object is as it was when it was last taken in.
    fn is(&self, served: &Served) -> bool {
        match &served.form {
            Form::Good(object) if self.sound && served.is_sound() => {
                self.uid == xxh3_64(served.uid.as_bytes()) && self.good == Some(digest(object))
            }
            // What is wrong with it has to be looked at again.
            _ => false,
        }
    }
}

impl Served {
    fn is_sound(&self) -> bool {
        matches!(self.form, Form::Good(_)) && self.problems.is_empty() && self.kubelet.is_none()
    }
}

/// Only to tell equal from different: whoever could forge it could as well write the object.
fn digest(object: &Object) -> u128 {
    let mut hasher = Xxh3::new();
    object.hash(&mut hasher);
    hasher.digest128()
}

#[cfg(test)]
mod tests;
