//! What this proxy has asked the control plane for, what it holds, and what to say next (incremental xDS;
//! SEMANTICS.md §1 "on-demand lookup"). Pure: `now` is an argument, requests come out of [`Subscriptions::next_request`]
//! and answers go into [`Subscriptions::on_response`]; `client.rs` moves the bytes.
//!
//! A *name* is what was asked for: a canonical name or an alias (VIP, host, pod address, `self`). A *resource* has one
//! canonical name and lists all of its aliases, so each name is in one of four states:
//!
//! ```text
//!            subscribe            listed by a good resource
//!  (nothing) ─────────► Asked ─────────────────────────────► Present(resource) ◄─┐
//!      ▲                  │ └─ listed by a bad one only ─► Refused ──────────────┤ listed by a good one
//!      │                  │ removed_resources                 │                  │
//!      │                  ▼                                   │ removed          │
//!      └── 30 s ────── Absent(since) ◄────────────────────────┴── no longer listed
//! ```
//!
//! Within one response removals and dropped aliases are applied before new ones, so an address that moves from one
//! service to another is never absent in between. A resource nobody's name leads to any more is given up.
//!
//! Bound: `Bounds::max` names of all kinds, which is also what the control plane allows a stream. Names asked on demand
//! make room: those nobody answers for go first, then the least recently used.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::kind::Kind;

/// Limits of the table (SEMANTICS.md §1).
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Names subscribed to. Default 10,000.
    pub max: usize,
    /// A name not used for this long is given up. Default 24 h.
    pub idle: Duration,
    /// "Does not exist" is remembered this long. Default 30 s.
    pub absent: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { max: 10_000, idle: Duration::from_secs(24 * 3600), absent: Duration::from_secs(30) }
    }
}

/// When something was last used, in milliseconds since the table's epoch; the data path marks it without a lock.
#[derive(Debug, Default)]
pub struct LastUse(AtomicU64);

impl LastUse {
    /// Marks a use. Relaxed: an order of uses a millisecond apart decides nothing.
    pub fn mark(&self, ms: u64) {
        // Busy workers would pass the line to and fro for what is mostly there.
        if self.get() < ms {
            self.0.fetch_max(ms, Ordering::Relaxed);
        }
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Who wants a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The proxy itself, as long as it runs.
    Always,
    /// A resource that refers to it, until [`Subscriptions::unsubscribe`].
    ByResource,
    /// Traffic: bounded and aged out.
    OnDemand,
}

/// What is known of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// Asked for, no answer yet.
    Asked,
    /// This resource answers to it.
    Present(Arc<str>),
    /// It does not exist, as of then.
    Absent(Instant),
    /// A resource answers to it that did not compile, and there is no older one.
    Refused,
}

/// One resource of a response, already compiled or found bad.
#[derive(Debug, Clone)]
pub(super) struct Received {
    /// Canonical name.
    pub(super) name: String,
    /// Its version.
    pub(super) version: String,
    /// The complete list of its aliases.
    pub(super) aliases: Vec<String>,
    /// Why it cannot be used.
    pub(super) bad: Option<String>,
}

/// A request to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Its type.
    pub kind: Kind,
    /// Names to subscribe to.
    pub subscribe: Vec<String>,
    /// Names to unsubscribe from.
    pub unsubscribe: Vec<String>,
    /// On the first request of a type on a stream: what we hold.
    pub initial_versions: BTreeMap<String, String>,
    /// The response this answers, if any.
    pub nonce: Option<String>,
    /// With a nonce: what was wrong with it (NACK).
    pub error: Option<String>,
}

struct Subscription {
    state: State,
    wanted: Wanted,
    used: Arc<LastUse>,
}

struct Held {
    version: String,
    /// Canonical name and aliases.
    names: BTreeSet<Arc<str>>,
    used: Arc<LastUse>,
}

#[derive(Default)]
struct OfKind {
    names: HashMap<Arc<str>, Subscription>,
    held: HashMap<Arc<str>, Held>,
    /// Every name in `held` → the resource that listed it last.
    listed: HashMap<Arc<str>, Arc<str>>,
    /// Whether this stream has carried the first request of this type.
    begun: bool,
    subscribe: BTreeSet<Arc<str>>,
    unsubscribe: BTreeSet<Arc<str>>,
}

impl OfKind {
    fn unlist(&mut self, resource: &Arc<str>, held: &Held) {
        for name in &held.names {
            if self.listed.get(name) == Some(resource) {
                self.listed.remove(name);
            }
        }
    }
}

/// The table.
pub(super) struct Subscriptions {
    bounds: Bounds,
    epoch: Instant,
    kinds: [OfKind; Kind::ALL.len()],
    answers: VecDeque<Request>,
    gone: Vec<(Kind, Arc<str>)>,
}

impl Subscriptions {
    /// An empty table; `epoch` is the zero of every [`LastUse`].
    pub(super) fn new(bounds: Bounds, epoch: Instant) -> Self {
        Self { bounds, epoch, kinds: Default::default(), answers: VecDeque::new(), gone: Vec::new() }
    }

    /// What is known of a name; `None` when nobody asked, or "does not exist" is too old.
    pub(super) fn state(&self, kind: Kind, name: &str, now: Instant) -> Option<&State> {
        let subscription = self.of(kind).names.get(name)?;
        (!self.expired(subscription, now)).then_some(&subscription.state)
    }

    /// When a resource was last used: shared with whoever holds the compiled form.
    pub(super) fn last_use(&self, kind: Kind, resource: &str) -> Option<Arc<LastUse>> {
        self.of(kind).held.get(resource).map(|held| Arc::clone(&held.used))
    }

    /// Names subscribed to, of all kinds.
    pub(super) fn len(&self) -> usize {
        self.kinds.iter().map(|of| of.names.len()).sum()
    }

    /// The resources held, with their versions.
    pub(super) fn held(&self, kind: Kind) -> impl Iterator<Item = (&str, &str)> {
        self.of(kind).held.iter().map(|(name, held)| (&**name, held.version.as_str()))
    }

    /// Asks for a name. Asking again only marks a use, unless "does not exist" has become too old.
    pub(super) fn subscribe(&mut self, kind: Kind, name: &str, wanted: Wanted, now: Instant) {
        let ms = self.ms(now);
        if let Some(subscription) = self.of(kind).names.get(name) {
            subscription.used.mark(ms);
            if !self.expired(subscription, now) {
                return;
            }
            self.unsubscribe(kind, name);
        }
        self.make_room();
        let name: Arc<str> = name.into();
        let used = Arc::new(LastUse::default());
        used.mark(ms);
        let of = self.of_mut(kind);
        of.subscribe.insert(Arc::clone(&name));
        // A resource held for another of its names answers to this one as well; the server need not send it again.
        let holder = of.listed.get(&name).and_then(|resource| of.held.get_key_value(resource));
        let (state, used) = match holder {
            Some((resource, held)) => (State::Present(Arc::clone(resource)), Arc::clone(&held.used)),
            None => (State::Asked, used),
        };
        of.names.insert(name, Subscription { state, wanted, used });
    }

    /// Gives a name up.
    pub(super) fn unsubscribe(&mut self, kind: Kind, name: &str) {
        let of = self.of_mut(kind);
        let Some((name, subscription)) = of.names.remove_entry(name) else { return };
        // If the request to subscribe has not gone out yet, that is all, unless an older one has.
        if !of.subscribe.remove(&name) && of.begun {
            of.unsubscribe.insert(name);
        }
        if let State::Present(resource) = subscription.state {
            self.give_up_if_unwanted(kind, &resource);
        }
    }

    /// A stream has opened: everything is asked for anew, naming the versions held.
    pub(super) fn on_connected(&mut self) {
        self.answers.clear();
        for of in &mut self.kinds {
            of.begun = false;
            of.subscribe.clear();
            of.unsubscribe.clear();
        }
    }

    /// Takes a response. Returns which of `resources` somebody wants, in their order: those alone may be kept, if they
    /// are good. Resources to drop come out of [`Self::take_gone`].
    pub(super) fn on_response(
        &mut self,
        kind: Kind,
        nonce: String,
        resources: &[Received],
        removed: &[String],
        now: Instant,
    ) -> Vec<bool> {
        let mut touched: BTreeSet<Arc<str>> = BTreeSet::new();
        for name in removed {
            self.remove(kind, name, now, &mut touched);
        }
        let good = |received: &&Received| received.bad.is_none();
        for received in resources.iter().filter(good) {
            self.drop_aliases(kind, received, now, &mut touched);
        }
        for received in resources.iter().filter(good) {
            self.take_in(kind, received, &mut touched);
        }
        for received in resources.iter().filter(|received| received.bad.is_some()) {
            let of = self.of_mut(kind);
            for name in received.aliases.iter().chain([&received.name]) {
                if let Some(subscription) = of.names.get_mut(name.as_str())
                    && !matches!(subscription.state, State::Present(_))
                {
                    subscription.state = State::Refused;
                }
            }
        }
        for resource in &touched {
            self.give_up_if_unwanted(kind, resource);
        }
        let of = self.of(kind);
        let wanted = resources.iter().map(|received| {
            let names = received.aliases.iter().chain([&received.name]);
            names.into_iter().any(|name| of.names.contains_key(name.as_str()))
        });
        let wanted: Vec<bool> = wanted.collect();
        let bad = resources.iter().filter_map(|received| Some((received, received.bad.as_ref()?)));
        let error: Vec<String> = bad.map(|(received, why)| format!("{}: {why}", received.name)).collect();
        self.answers.push_back(Request {
            nonce: Some(nonce),
            error: (!error.is_empty()).then(|| error.join("; ")),
            ..Request::empty(kind)
        });
        wanted
    }

    /// What to send next, in order.
    pub(super) fn next_request(&mut self) -> Option<Request> {
        for kind in Kind::ALL {
            let of = self.of_mut(kind);
            if !of.begun && !of.names.is_empty() {
                of.begun = true;
                of.subscribe.clear();
                of.unsubscribe.clear();
                let mut subscribe: Vec<String> = of.names.keys().map(|name| name.to_string()).collect();
                subscribe.sort_unstable();
                let versions = of.held.iter().map(|(name, held)| (name.to_string(), held.version.clone()));
                let initial_versions = versions.collect();
                return Some(Request { subscribe, initial_versions, ..Request::empty(kind) });
            }
        }
        if let Some(answer) = self.answers.pop_front() {
            return Some(answer);
        }
        // Out before in: the control plane counts names, and a name in both is to be answered anew.
        for kind in Kind::ALL {
            let names = std::mem::take(&mut self.of_mut(kind).unsubscribe);
            if !names.is_empty() {
                return Some(Request { unsubscribe: texts(names), ..Request::empty(kind) });
            }
        }
        for kind in Kind::ALL {
            let names = std::mem::take(&mut self.of_mut(kind).subscribe);
            if !names.is_empty() {
                return Some(Request { subscribe: texts(names), ..Request::empty(kind) });
            }
        }
        None
    }

    /// Whether [`Self::next_request`] has something.
    pub(super) fn has_request(&self) -> bool {
        !self.answers.is_empty()
            || self
                .kinds
                .iter()
                .any(|of| (!of.begun && !of.names.is_empty()) || !of.subscribe.is_empty() || !of.unsubscribe.is_empty())
    }

    /// Gives up names that do not exist or are not used any more.
    pub(super) fn sweep(&mut self, now: Instant) {
        let idle_since = self.ms(now).saturating_sub(ms(self.bounds.idle));
        for kind in Kind::ALL {
            let stale: Vec<Arc<str>> = self
                .of(kind)
                .names
                .iter()
                .filter(|(_, subscription)| {
                    subscription.wanted == Wanted::OnDemand
                        && (subscription.used.get() < idle_since || self.expired(subscription, now))
                })
                .map(|(name, _)| Arc::clone(name))
                .collect();
            for name in stale {
                self.unsubscribe(kind, &name);
            }
        }
    }

    /// Resources to drop, since the last call.
    pub(super) fn take_gone(&mut self) -> Vec<(Kind, Arc<str>)> {
        std::mem::take(&mut self.gone)
    }

    fn of(&self, kind: Kind) -> &OfKind {
        &self.kinds[kind as usize]
    }

    fn of_mut(&mut self, kind: Kind) -> &mut OfKind {
        &mut self.kinds[kind as usize]
    }

    fn ms(&self, now: Instant) -> u64 {
        ms(now.saturating_duration_since(self.epoch))
    }

    fn expired(&self, subscription: &Subscription, now: Instant) -> bool {
        match subscription.state {
            State::Absent(since) => {
                subscription.wanted == Wanted::OnDemand && now.saturating_duration_since(since) >= self.bounds.absent
            }
            State::Asked | State::Present(_) | State::Refused => false,
        }
    }

    /// `name` may be a resource, a name somebody asked for, or both.
    fn remove(&mut self, kind: Kind, name: &str, now: Instant, touched: &mut BTreeSet<Arc<str>>) {
        let of = self.of_mut(kind);
        if let Some(subscription) = of.names.get_mut(name) {
            if let State::Present(resource) = &subscription.state {
                touched.insert(Arc::clone(resource));
            }
            subscription.state = State::Absent(now);
        }
        if let Some((resource, held)) = of.held.remove_entry(name) {
            of.unlist(&resource, &held);
            for alias in &held.names {
                if let Some(subscription) = of.names.get_mut(alias)
                    && subscription.state == State::Present(Arc::clone(&resource))
                {
                    subscription.state = State::Absent(now);
                }
            }
            self.gone.push((kind, resource));
        }
    }

    fn drop_aliases(&mut self, kind: Kind, received: &Received, now: Instant, touched: &mut BTreeSet<Arc<str>>) {
        let of = self.of_mut(kind);
        let Some((resource, held)) = of.held.get_key_value(received.name.as_str()) else { return };
        for alias in &held.names {
            if of.listed.get(alias) == Some(resource) {
                of.listed.remove(alias);
            }
        }
        touched.insert(Arc::clone(resource));
        for alias in &held.names {
            let still = **alias == *received.name || received.aliases.iter().any(|listed| **listed == **alias);
            if let Some(subscription) = of.names.get_mut(alias)
                && !still
                && subscription.state == State::Present(Arc::clone(resource))
            {
                subscription.state = State::Absent(now);
            }
        }
    }

    fn take_in(&mut self, kind: Kind, received: &Received, touched: &mut BTreeSet<Arc<str>>) {
        let of = self.of_mut(kind);
        let resource: Arc<str> = match of.held.get_key_value(received.name.as_str()) {
            Some((resource, _)) => Arc::clone(resource),
            None => received.name.as_str().into(),
        };
        let used = of.held.get(&resource).map(|held| Arc::clone(&held.used)).unwrap_or_default();
        let mut names: BTreeSet<Arc<str>> = received.aliases.iter().map(|alias| alias.as_str().into()).collect();
        names.insert(Arc::clone(&resource));
        let mut wanted = false;
        for name in &names {
            let Some(subscription) = of.names.get_mut(name) else { continue };
            wanted = true;
            if let State::Present(before) = &subscription.state {
                touched.insert(Arc::clone(before));
            }
            used.mark(subscription.used.get());
            subscription.used = Arc::clone(&used);
            subscription.state = State::Present(Arc::clone(&resource));
        }
        touched.insert(Arc::clone(&resource));
        if wanted || of.held.contains_key(&resource) {
            for name in &names {
                of.listed.insert(Arc::clone(name), Arc::clone(&resource));
            }
            of.held.insert(resource, Held { version: received.version.clone(), names, used });
        }
    }

    fn give_up_if_unwanted(&mut self, kind: Kind, resource: &Arc<str>) {
        let of = self.of_mut(kind);
        let Some(held) = of.held.get(resource) else { return };
        let leads_here = State::Present(Arc::clone(resource));
        if held.names.iter().any(|name| of.names.get(name).is_some_and(|subscription| subscription.state == leads_here))
        {
            return;
        }
        if let Some(held) = of.held.remove(resource) {
            of.unlist(resource, &held);
        }
        self.gone.push((kind, Arc::clone(resource)));
    }

    /// Keeps one place free, as far as on-demand names can make it. A sixty-fourth goes at a time, so that a full table is not searched for
    /// every new name.
    fn make_room(&mut self) {
        if self.len() < self.bounds.max {
            return;
        }
        let mut victims: Vec<(bool, u64, Kind, Arc<str>)> = Vec::new();
        for kind in Kind::ALL {
            for (name, subscription) in &self.of(kind).names {
                if subscription.wanted == Wanted::OnDemand {
                    let present = matches!(subscription.state, State::Present(_));
                    victims.push((present, subscription.used.get(), kind, Arc::clone(name)));
                }
            }
        }
        let batch = self.bounds.max / 64 + 1;
        if victims.len() > batch {
            victims.select_nth_unstable(batch);
            victims.truncate(batch);
        }
        for (_, _, kind, name) in victims {
            self.unsubscribe(kind, &name);
        }
    }
}

impl Request {
    fn empty(kind: Kind) -> Self {
        Self {
            kind,
            subscribe: Vec::new(),
            unsubscribe: Vec::new(),
            initial_versions: BTreeMap::new(),
            nonce: None,
            error: None,
        }
    }
}

fn texts(names: BTreeSet<Arc<str>>) -> Vec<String> {
    names.into_iter().map(|name| name.to_string()).collect()
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "subscriptions_tests.rs"]
mod tests;
