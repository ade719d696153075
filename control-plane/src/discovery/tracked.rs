//! One type of resource on one stream: what the proxy asked for, what it has, and what it has to be told next. Pure.
//!
//! Two tables. **Asked** holds the names as the proxy wrote them, canonical or alias, each with what it was last told it
//! means. **Copies** holds, by canonical name, the version of each resource the proxy has. A name becomes *due* when it
//! is subscribed to or when a change touches it; what is due is compared with the truth only when a response is made,
//! so ten changes while an ACK is out cost one answer, and memory follows subscriptions, never changes.
//!
//! Rules (xDS delta; ARCHITECTURE.md "The wire contract"):
//! - found, and not the version the proxy has: sent with its canonical name and all aliases;
//! - found, and the version it has: not sent, unless it just subscribed to that name by itself (the protocol wants every
//!   subscription answered, because the proxy may have dropped its copy). The first subscription by a name that means a
//!   copy announced in `initial_resource_versions` is a reconnect, not such a question;
//! - absent: the name as asked goes into `removed_resources`, and so does the canonical name of a copy that vanished;
//! - held: neither;
//! - a name that moves between services: one response has both services' new forms, however large that makes it. The copy
//!   that lost its last asked name so (a *stray*) stays known to the proxy under its other names, so it is kept current.
//!
//! Not here: nonces, ACK and NACK (`session.rs`). Bound: names asked and copies announced are limited by the session;
//! strays by [`MAX_STRAYS`]; doubtful ones by what was asked for.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use crate::translate::{Lookup, Resource};

/// What the truth is for one proxy: its view and its own pod are part of the question.
pub(super) trait Catalog {
    /// What `name` means now.
    fn lookup(&self, name: &str) -> Lookup;
}

/// A response is closed when it holds this many bytes, so that no proxy has to take a message of many megabytes; what
/// is left goes after the ACK. A move of names is never split.
const SOFT_LIMIT: usize = 1 << 20;

/// Copies nobody asks for by any name any more, kept current all the same; beyond this the oldest are removed.
const MAX_STRAYS: usize = 1_000;

type Name = Arc<str>;

/// What a proxy was last told about a name it asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    /// Nothing yet.
    Nothing,
    /// There is no such thing.
    Absent,
    /// It means this copy.
    Means(Name),
}

/// A resource the proxy has, or is being sent.
#[derive(Debug)]
struct Copy {
    version: String,
    /// As last sent, for its aliases; none while all we know is a version the proxy announced.
    sent: Option<Arc<Resource>>,
    /// The asked names that mean it.
    asked_as: BTreeSet<Name>,
    /// Announced on reconnect and not sent since: subscriptions to new names that mean it are part of the reconnect.
    announced: bool,
    verdict: Verdict,
}

/// What the proxy said about the version it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Pending,
    Acked,
    Nacked,
}

/// One type's tables.
#[derive(Debug, Default)]
pub(super) struct Tracked {
    asked: HashMap<Name, Told>,
    copies: HashMap<Name, Copy>,
    /// Names to look at, oldest first, and whether to answer even if nothing changed.
    due: VecDeque<Name>,
    insist: HashMap<Name, bool>,
    strays: VecDeque<Name>,
    /// Copies whose last name was unsubscribed from while something was still to be said: whether the proxy takes them to
    /// be meant by another of its names depends on that, so they are removed by name in the next response.
    doubtful: Vec<Name>,
    /// A name was given up before it was answered: the proxy may have dropped an announced copy with it, nobody knows
    /// which. From then on every subscription is answered.
    blurred: bool,
    acked: usize,
    nacked: usize,
    sent_total: u64,
    skipped_total: u64,
    /// Whether somebody wants to know what moves.
    watched: bool,
    /// Names of copies that are not as they were, perhaps more than once.
    moved: Vec<Name>,
}

/// The content of one response.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) resources: Vec<Arc<Resource>>,
    pub(super) removed: BTreeSet<Name>,
    names: HashSet<Name>,
    /// Looked at and found unchanged.
    same: HashSet<Name>,
    bytes: usize,
}

impl Answer {
    pub(super) fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.removed.is_empty()
    }

    fn is_full(&self) -> bool {
        self.bytes >= SOFT_LIMIT
    }

    fn remove(&mut self, name: Name) {
        self.bytes += name.len();
        self.removed.insert(name);
    }
}

impl Tracked {
    /// From now on it is noted which copies move ([`Tracked::take_moved`]).
    pub(super) fn watch(&mut self) {
        self.watched = true;
    }

    /// Copies that came, went, were sent or judged since the last call: name, and version and verdict of those there are.
    pub(super) fn take_moved(&mut self) -> impl Iterator<Item = (Name, Option<(&str, Verdict)>)> {
        let mut moved = std::mem::take(&mut self.moved);
        moved.sort_unstable();
        moved.dedup();
        moved.into_iter().map(|name| {
            let copy = self.copies.get(&name).map(|copy| (&*copy.version, copy.verdict));
            (name, copy)
        })
    }

    /// Takes in a copy the proxy brought along from an earlier stream.
    pub(super) fn announce(&mut self, name: &str, version: String) {
        let name = Name::from(name);
        let copy = Copy { version, sent: None, asked_as: BTreeSet::new(), announced: true, verdict: Verdict::Acked };
        if self.copies.insert(Arc::clone(&name), copy).is_none() {
            self.acked += 1;
        }
        self.note(&name);
        self.due(name, false);
    }

    /// Takes in a subscription; returns whether it is a new one.
    pub(super) fn subscribe(&mut self, name: &str) -> bool {
        let (name, new) = match self.asked.get_key_value(name) {
            Some((name, _)) => (Arc::clone(name), false),
            None => {
                let name = Name::from(name);
                self.asked.insert(Arc::clone(&name), Told::Nothing);
                (name, true)
            }
        };
        self.due(name, true);
        new
    }

    /// Takes in the end of a subscription; returns whether there was one. A copy that nothing else means is dropped on
    /// both sides: without a word when both sides agree on what every name means, because no response is `outstanding`,
    /// nothing is due and nothing was refused; else with one, in the next response.
    pub(super) fn unsubscribe(&mut self, name: &str, outstanding: bool) -> bool {
        let agreed = !outstanding && self.due.is_empty() && self.nacked == 0;
        match self.asked.remove_entry(name) {
            Some((name, told)) => {
                self.blurred |= told == Told::Nothing;
                if let Told::Means(canonical) = told
                    && let Some(copy) = self.copies.get_mut(&canonical)
                {
                    copy.asked_as.remove(&name);
                    match (copy.asked_as.is_empty(), agreed) {
                        (true, false) => {
                            copy.announced = false;
                            self.doubtful.push(canonical);
                        }
                        (true, true) => drop(self.forget(&canonical)),
                        (false, _) => {}
                    }
                }
                true
            }
            // A stray by its canonical name.
            None => {
                if self.copies.get(name).is_some_and(|copy| copy.asked_as.is_empty()) {
                    self.forget(name);
                }
                false
            }
        }
    }

    /// Something may have changed under `name`. Returns whether the proxy asked for it or has it.
    pub(super) fn touch(&mut self, name: &str) -> bool {
        let known = self.asked.get_key_value(name).map(|(name, _)| name);
        let known = known.or_else(|| self.copies.get_key_value(name).map(|(name, _)| name)).cloned();
        let concerned = known.is_some();
        if let Some(name) = known {
            self.due(name, false);
        }
        concerned
    }

    /// The same for many: costs a look at each of them or at each name the proxy knows, whichever are fewer.
    pub(super) fn touch_each(&mut self, names: &BTreeSet<String>) -> bool {
        if names.len() <= self.asked.len() + self.copies.len() {
            return names.iter().fold(false, |concerned, name| self.touch(name) | concerned);
        }
        let known = self.asked.keys().chain(self.copies.keys());
        let known: BTreeSet<Name> = known.filter(|name| names.contains(&***name)).cloned().collect();
        let concerned = !known.is_empty();
        for name in known {
            self.due(name, false);
        }
        concerned
    }

    /// Anything may have changed.
    pub(super) fn touch_all(&mut self) {
        let names: Vec<Name> = self.asked.keys().chain(self.copies.keys()).cloned().collect();
        for name in names {
            self.due(name, false);
        }
    }

    pub(super) fn has_due(&self) -> bool {
        !(self.due.is_empty() && self.doubtful.is_empty())
    }

    /// Compares what is due with the truth.
    pub(super) fn answer(&mut self, truth: &impl Catalog) -> Answer {
        let mut answer = Answer::default();
        let mut later = VecDeque::new();
        while let Some(name) = self.due.pop_front() {
            if answer.is_full() && !self.moves(&name, truth) {
                later.push_back(name);
                continue;
            }
            let insist = self.insist.remove(&name).unwrap_or_default();
            self.settle(name, insist, truth, &mut answer);
        }
        self.due = later;
        for name in std::mem::take(&mut self.doubtful) {
            self.remove_stray(name, &mut answer);
        }
        while self.strays.len() > MAX_STRAYS {
            let Some(name) = self.strays.pop_front() else { break };
            self.remove_stray(name, &mut answer);
        }
        answer
    }

    /// What the proxy said about the copy it was sent in `version`. Ignored when it has been sent another since.
    pub(super) fn judge(&mut self, name: &str, version: &str, verdict: Verdict) {
        let Some((name, copy)) = self.copies.get_key_value(name).filter(|(_, copy)| copy.version == version) else {
            return;
        };
        let (name, before) = (Arc::clone(name), copy.verdict);
        if let Some(copy) = self.copies.get_mut(&name) {
            copy.verdict = verdict;
        }
        self.count(before, -1);
        self.count(verdict, 1);
        self.note(&name);
    }

    pub(super) fn asked(&self) -> usize {
        self.asked.len()
    }

    pub(super) fn copies(&self) -> usize {
        self.copies.len()
    }

    pub(super) fn acked(&self) -> usize {
        self.acked
    }

    pub(super) fn nacked(&self) -> usize {
        self.nacked
    }

    /// Resources sent, and resources not sent because the proxy had that version, since the last call.
    pub(super) fn take_totals(&mut self) -> (u64, u64) {
        (std::mem::take(&mut self.sent_total), std::mem::take(&mut self.skipped_total))
    }

    fn due(&mut self, name: Name, insist: bool) {
        match self.insist.get_mut(&name) {
            Some(already) => *already |= insist,
            None => {
                self.insist.insert(Arc::clone(&name), insist);
                self.due.push_back(name);
            }
        }
    }

    /// Whether answering for `name` takes a name from one copy or gives it to another: such answers belong together.
    fn moves(&self, name: &str, truth: &impl Catalog) -> bool {
        let before = match self.asked.get(name) {
            Some(Told::Means(canonical)) => Some(&**canonical),
            Some(Told::Nothing | Told::Absent) => None,
            None => Some(name),
        };
        let Some(copy) = before.and_then(|before| self.copies.get(before)) else { return false };
        match truth.lookup(name) {
            Lookup::Found(now) => {
                before != Some(&*now.name) || copy.sent.as_ref().is_some_and(|sent| sent.aliases != now.aliases)
            }
            Lookup::Absent => true,
            Lookup::Held => false,
        }
    }

    fn settle(&mut self, name: Name, insist: bool, truth: &impl Catalog, answer: &mut Answer) {
        match self.asked.get(&name).cloned() {
            Some(told) => self.settle_asked(name, told, insist, truth, answer),
            None if self.copies.contains_key(&name) => self.settle_copy(name, truth, answer),
            None => {} // Unsubscribed meanwhile.
        }
    }

    fn settle_asked(&mut self, name: Name, told: Told, insist: bool, truth: &impl Catalog, answer: &mut Answer) {
        let now = match truth.lookup(&name) {
            Lookup::Held => {
                // It may have dropped its copy: what it has is not known until it can be answered.
                if insist
                    && let Told::Means(canonical) = &told
                    && let Some(copy) = self.copies.get_mut(canonical)
                    && !copy.announced
                {
                    copy.version.clear();
                    let canonical = Arc::clone(canonical);
                    self.note(&canonical);
                }
                return;
            }
            Lookup::Found(resource) => Some(resource),
            Lookup::Absent => None,
        };
        let means = now.as_ref().map(|resource| Name::from(&*resource.name));
        // The copy it meant until now loses the name: its new form belongs into this response.
        if let Told::Means(before) = &told
            && means.as_ref() != Some(before)
        {
            if let Some(copy) = self.copies.get_mut(before) {
                copy.asked_as.remove(&name);
                if copy.asked_as.is_empty() {
                    self.strays.push_back(Arc::clone(before));
                }
            }
            self.settle_copy(Arc::clone(before), truth, answer);
        }
        match now.zip(means) {
            None => {
                if told != Told::Absent || insist {
                    answer.remove(Arc::clone(&name));
                }
                self.asked.insert(name, Told::Absent);
            }
            Some((resource, canonical)) => {
                self.asked.insert(Arc::clone(&name), Told::Means(Arc::clone(&canonical)));
                let claims = match self.copies.get_mut(&canonical) {
                    Some(copy) => {
                        copy.asked_as.insert(name);
                        copy.announced && told == Told::Nothing && !self.blurred
                    }
                    None => {
                        let copy = Copy {
                            version: String::new(), // No version of ours is empty, so it will be sent.
                            sent: None,
                            asked_as: BTreeSet::from([name]),
                            announced: false,
                            verdict: Verdict::Pending,
                        };
                        self.copies.insert(Arc::clone(&canonical), copy);
                        false
                    }
                };
                self.send(resource, insist && !claims, truth, answer);
            }
        }
    }

    fn settle_copy(&mut self, canonical: Name, truth: &impl Catalog, answer: &mut Answer) {
        match truth.lookup(&canonical) {
            Lookup::Held => {}
            Lookup::Found(resource) => self.send(resource, false, truth, answer),
            Lookup::Absent => {
                let Some(copy) = self.forget(&canonical) else { return };
                answer.remove(canonical);
                // Whatever else the proxy calls it has to be answered anew.
                for name in copy.asked_as {
                    self.asked.insert(Arc::clone(&name), Told::Nothing);
                    self.due(name, false);
                }
            }
        }
    }

    /// Sends `resource` unless the proxy has it, and with it every copy that takes over a name it lost.
    fn send(&mut self, resource: Arc<Resource>, insist: bool, truth: &impl Catalog, answer: &mut Answer) {
        let mut todo = vec![(resource, insist)];
        while let Some((resource, insist)) = todo.pop() {
            let Some((canonical, copy)) = self.copies.get_key_value(&*resource.name) else { continue };
            let canonical = Arc::clone(canonical);
            if answer.names.contains(&canonical) {
                continue;
            }
            if copy.version == resource.version && !insist {
                self.skipped_total += u64::from(answer.same.insert(canonical.clone()));
                // From now on its aliases are known, should it lose one.
                if let Some(copy) = self.copies.get_mut(&canonical) {
                    copy.sent = Some(resource);
                }
                continue;
            }
            let lost =
                copy.sent.iter().flat_map(|sent| &sent.aliases).filter(|alias| !resource.aliases.contains(alias));
            for alias in lost {
                if let Lookup::Found(taker) = truth.lookup(alias)
                    && self.copies.contains_key(&*taker.name)
                {
                    todo.push((taker, false));
                }
            }
            answer.bytes += resource.body.len() + resource.aliases.iter().map(String::len).sum::<usize>();
            answer.names.insert(Arc::clone(&canonical));
            answer.resources.push(Arc::clone(&resource));
            self.sent_total += 1;
            if let Some(copy) = self.copies.get_mut(&canonical) {
                let before = std::mem::replace(&mut copy.verdict, Verdict::Pending);
                copy.version.clone_from(&resource.version);
                copy.sent = Some(resource);
                copy.announced = false;
                self.count(before, -1);
            }
            self.note(&canonical);
        }
    }

    /// Removes a copy that nothing means, unless it is just being sent.
    fn remove_stray(&mut self, name: Name, answer: &mut Answer) {
        let stray = self.copies.get(&name).is_some_and(|copy| copy.asked_as.is_empty());
        if stray && !answer.names.contains(&name) {
            self.forget(&name);
            answer.remove(name);
        }
    }

    fn forget(&mut self, canonical: &str) -> Option<Copy> {
        let (name, copy) = self.copies.remove_entry(canonical)?;
        self.count(copy.verdict, -1);
        self.note(&name);
        Some(copy)
    }

    fn note(&mut self, name: &Name) {
        if self.watched {
            self.moved.push(Arc::clone(name));
        }
    }

    fn count(&mut self, verdict: Verdict, by: isize) {
        match verdict {
            Verdict::Pending => {}
            Verdict::Acked => self.acked = self.acked.saturating_add_signed(by),
            Verdict::Nacked => self.nacked = self.nacked.saturating_add_signed(by),
        }
    }
}
