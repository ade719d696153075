//! What is due, while this replica leads: routes that changed, here or in translation, and questions about what proxies
//! took. One loop owns it all; requests are futures beside it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::StreamExt as _;
use futures_util::future::OptionFuture;
use futures_util::stream::{FuturesUnordered, select_all};
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::Instant;
use weft_proto::v1::ProgressRequest;

use super::kinds::{self, KINDS, Route};
use super::pace::Pace;
use super::plan::{Live, Plan, Wanted, generation_of, plan};
use super::{MAX_WRITES, SETTLED, TIME_LIMIT, TOGETHER, Writer};
use crate::identity::FIELD_MANAGER;
use crate::model::{Kind, ObjectKey};
use crate::replicas::{Gathered, MAX_ASKED, MAX_QUESTIONS};
use crate::status::programmed::{At, Programmed};
use crate::status::questions::{question, within};
use crate::translate::Translated;

/// Leads until it is dropped.
pub(super) async fn lead(writer: &Writer) {
    let mut lead = Lead::default();
    let mut changes = select_all(KINDS.into_iter().filter_map(|kind| kinds::watch(&writer.client, kind)));
    let mut writes = FuturesUnordered::new();
    let mut asking = None;
    loop {
        lead.take_news(writer);
        lead.wake(Instant::now());
        while writes.len() < MAX_WRITES
            && let Some(write) = lead.next_write(Instant::now())
        {
            writes.push(write.make(writer.client.clone()));
        }
        if asking.is_none() {
            asking = lead.question(Instant::now()).map(|(about, request)| {
                let replicas = Arc::clone(&writer.replicas);
                Box::pin(async move { (about, replicas.ask(request, false).await) })
            });
        }
        writer.metrics.waiting.set(i64::try_from(lead.waiting()).unwrap_or(i64::MAX));
        let next = lead.next_time(asking.is_some());
        let next = next.map(tokio::time::sleep_until);
        tokio::select! {
            () = writer.shared.changed.notified() => {}
            Some((kind, event)) = changes.next() => lead.on_event(kind, event, Instant::now()),
            Some((key, outcome)) = writes.next() => lead.on_written(writer, key, outcome, Instant::now()),
            Some((about, gathered)) = OptionFuture::from(asking.as_mut()) => {
                asking = None;
                lead.on_gathered(&about, &gathered, Instant::now());
            }
            Some(()) = OptionFuture::from(next) => {}
        }
    }
}

#[derive(Default)]
struct Lead {
    state: Option<Arc<Translated>>,
    refused: Arc<BTreeMap<ObjectKey, String>>,
    live: BTreeMap<ObjectKey, Seen>,
    /// Kinds whose list is complete, and lists that are coming.
    listed: HashSet<Kind>,
    coming: HashMap<Kind, BTreeMap<ObjectKey, Live>>,
    due: BTreeSet<ObjectKey>,
    later: BTreeSet<(Instant, ObjectKey)>,
    writing: HashSet<ObjectKey>,
    pace: Pace,
    programmed: Programmed,
}

/// A route, and since when it is as it is.
struct Seen {
    live: Live,
    since: Instant,
    /// The version a write was refused for, and when to try even so: the watch will bring the next.
    stale: Option<(String, Instant)>,
}

/// A write to be made.
struct Write {
    key: ObjectKey,
    version: String,
    entries: Vec<Value>,
}

enum Outcome {
    Written(Live),
    /// Somebody else wrote since; it is of this version.
    Conflict(String),
    Gone,
    Failed(String),
}

impl Lead {
    fn take_news(&mut self, writer: &Writer) {
        let mut news = writer.shared.news.lock();
        self.refused = Arc::clone(&news.refused);
        let changed = std::mem::take(&mut news.changed);
        if self.state.is_none() {
            self.due.extend(self.live.keys().cloned());
        }
        self.state = news.state.clone();
        drop(news);
        self.due.extend(changed);
    }

    fn wake(&mut self, now: Instant) {
        while self.later.first().is_some_and(|(at, _)| *at <= now) {
            self.due.extend(self.later.pop_first().map(|(_, key)| key));
        }
    }

    /// The next write that may be made now.
    fn next_write(&mut self, now: Instant) -> Option<Write> {
        // While one is being written, it stays due.
        let mut busy = Vec::new();
        let mut found = None;
        while let Some(key) = self.due.pop_first() {
            if self.writing.contains(&key) {
                busy.push(key);
                continue;
            }
            if let Some(write) = self.decide(key, now) {
                self.writing.insert(write.key.clone());
                found = Some(write);
                break;
            }
        }
        self.due.extend(busy);
        found
    }

    fn decide(&mut self, key: ObjectKey, now: Instant) -> Option<Write> {
        // Not listed yet, or gone: there is nothing to write to.
        let seen = self.live.get(&key).filter(|_| self.listed.contains(&key.kind))?;
        let live = &seen.live;
        if let Some((_, until)) =
            seen.stale.as_ref().filter(|(version, until)| *version == live.version && now < *until)
        {
            self.later.insert((*until, key));
            return None;
        }
        let state = self.state.as_ref()?;
        let status = state.route_status(&key).map(|status| &**status);
        let current = status.filter(|status| generation_of(status) == Some(live.generation));
        self.programmed.on_route(&key, current, |parent| live.programmed(parent), now);
        let refused = self.refused.get(&key).map(String::as_str);
        let wanted = Wanted { status, refused, reason: kinds::refusal(key.kind), most: kinds::most_entries(key.kind) };
        let programmed = |parent: &_| self.programmed.verdict(&key, parent, live.generation).cloned();
        let Plan::Write { entries, digest, refused } = plan(live, &wanted, programmed, SystemTime::now()) else {
            return None;
        };
        let undecided = self.programmed.undecided_since(&key).map(|since| since + TOGETHER);
        let settles = refused.then(|| seen.since + SETTLED);
        let wait = undecided.into_iter().chain(settles).max().filter(|until| now < *until);
        match wait.map_or_else(|| self.pace.go(&key, digest, now), Err) {
            Ok(()) => Some(Write { version: live.version.clone(), entries, key }),
            Err(until) => {
                self.later.insert((until, key));
                None
            }
        }
    }

    fn on_event(&mut self, kind: Kind, event: watcher::Result<watcher::Event<Route>>, now: Instant) {
        match event {
            Ok(watcher::Event::Init) => drop(self.coming.insert(kind, BTreeMap::new())),
            Ok(watcher::Event::InitApply(route)) => {
                self.coming.entry(kind).or_default().extend(kinds::read(kind, route))
            }
            Ok(watcher::Event::InitDone) => {
                let coming = self.coming.remove(&kind).unwrap_or_default();
                let gone: Vec<_> =
                    self.live.keys().filter(|key| key.kind == kind && !coming.contains_key(*key)).cloned().collect();
                gone.iter().for_each(|key| self.forget(key));
                self.listed.insert(kind);
                coming.into_iter().for_each(|(key, live)| self.on_live(key, live, now));
            }
            Ok(watcher::Event::Apply(route)) => {
                if let Some((key, live)) = kinds::read(kind, route) {
                    self.on_live(key, live, now);
                }
            }
            Ok(watcher::Event::Delete(route)) => {
                if let Some((key, _)) = kinds::read(kind, route) {
                    self.forget(&key);
                }
            }
            // A kind that is not installed is no fault.
            Err(error) => tracing::debug!(?kind, %error, "the watch on the status of routes; trying again"),
        }
    }

    fn on_live(&mut self, key: ObjectKey, live: Live, now: Instant) {
        let before = self.live.get(&key);
        if before.is_some_and(|before| before.live.uid != live.uid) {
            // Deleted and made again: nothing that was said of it is of this one.
            self.forget(&key);
        }
        let same = self.live.get(&key).filter(|before| before.live.generation == live.generation);
        let since = same.map_or(now, |before| before.since);
        self.live.insert(key.clone(), Seen { live, since, stale: None });
        self.due.insert(key);
    }

    fn forget(&mut self, key: &ObjectKey) {
        self.live.remove(key);
        self.pace.forget(key);
        self.programmed.forget(key);
    }

    fn on_written(&mut self, writer: &Writer, key: ObjectKey, outcome: Outcome, now: Instant) {
        self.writing.remove(&key);
        match outcome {
            Outcome::Written(live) => {
                writer.metrics.on_write("written");
                tracing::debug!(route = %key.name, "status written");
                // What the watch brings next is this, or later.
                if self.live.get(&key).is_some_and(|seen| seen.live.uid == live.uid) {
                    self.on_live(key, live, now);
                }
            }
            Outcome::Conflict(version) => {
                writer.metrics.on_write("conflict");
                if let Some(seen) = self.live.get_mut(&key) {
                    seen.stale = Some((version, now + 2 * TOGETHER));
                    self.due.insert(key);
                }
            }
            Outcome::Gone => {}
            Outcome::Failed(error) => {
                writer.metrics.on_write("failed");
                tracing::warn!(route = %key.name, error, "cannot write the status; trying again");
                self.due.insert(key);
            }
        }
    }

    fn question(&self, now: Instant) -> Option<(Vec<At>, ProgressRequest)> {
        let state = self.state.as_ref()?;
        let due = self.programmed.due(MAX_QUESTIONS, now);
        let questions = due.into_iter().map(|(at, about)| (at, question(&about, state)));
        let (about, services) = within(questions, MAX_ASKED);
        (!about.is_empty()).then(|| (about, ProgressRequest { services, ..ProgressRequest::default() }))
    }

    fn on_gathered(&mut self, about: &[At], gathered: &Gathered, now: Instant) {
        for (index, at) in about.iter().enumerate() {
            if self.programmed.on_progress(at, &gathered.service(index), &gathered.silent, now) {
                self.due.insert(at.route.clone());
            }
        }
    }

    fn next_time(&self, asking: bool) -> Option<Instant> {
        let ask = self.programmed.next_due().filter(|_| !asking);
        let later = self.later.first().map(|(at, _)| *at);
        ask.into_iter().chain(later).min()
    }

    fn waiting(&self) -> usize {
        self.due.len() + self.later.len() + self.writing.len()
    }
}

impl Write {
    async fn make(self, client: Client) -> (ObjectKey, Outcome) {
        let Self { key, version, entries } = self;
        let Some(resource) = kinds::resource(key.kind) else { return (key, Outcome::Gone) };
        let routes = Api::<Route>::namespaced_with(client, &key.name.namespace, &resource);
        // Named versions make it a replace of exactly what was read.
        let patch = json!({"metadata": {"resourceVersion": version}, "status": kinds::status_of(key.kind, entries)});
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let patch = Patch::Merge(&patch);
        let written = tokio::time::timeout(TIME_LIMIT, routes.patch_status(&key.name.name, &params, &patch)).await;
        let outcome = match written {
            Ok(Ok(route)) => match kinds::read(key.kind, route) {
                Some((_, live)) => Outcome::Written(live),
                None => Outcome::Failed("the API server's answer has no name or version".to_owned()),
            },
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => Outcome::Conflict(version),
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Outcome::Gone,
            Ok(Err(error)) => Outcome::Failed(error.to_string()),
            Err(_) => Outcome::Failed(format!("no answer within {TIME_LIMIT:?}")),
        };
        (key, outcome)
    }
}
