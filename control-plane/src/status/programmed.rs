//! `weft.dev/Programmed`: whether the proxies that a route is for have taken it (SEMANTICS.md §2 "Status"). Pure.
//!
//! A route acts through the resource of the Service it is attached to. So for each parent that accepted it, the question is
//! how many of the proxies subscribed to that Service have ACKed the version we serve now.
//!
//! ```text
//!             all ACKed, or nobody subscribed
//! pending ───────────────────────────────────► True, and that is the last word for this generation
//!    │                                            ▲
//!    └── 10 s, or somebody refused it ──► False ──┘ all ACKed after all
//! ```
//!
//! What happens to the Service afterwards (endpoints, another route) does not take a True back, so a condition is written
//! once or twice per generation, whatever the cluster does. Asking: at once, then after 50 ms doubling to 1 s, and every 5 s
//! while it is False. Bound: two words per parent of a route.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use weft_proto::ServiceName;
use weft_proto::v1::{Laggard, Progress};

use super::{Condition, PROGRAMMED, RouteStatus};
use crate::model::{ObjectKey, ParentRef};

/// Without all ACKs for so long, it is False.
const PATIENCE: Duration = Duration::from_secs(10);
const FIRST_ASK: Duration = Duration::from_millis(50);
const LAST_ASK: Duration = Duration::from_secs(1);
/// Between questions about what is False.
const STILL: Duration = Duration::from_secs(5);
/// Characters kept of a proxy's reason in a message.
const MAX_REASON: usize = 200;

/// A route at one of its parents.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct At {
    /// The route.
    pub route: ObjectKey,
    /// The parent, as its spec has it.
    pub parent: ParentRef,
}

/// What proxies are asked about it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct About {
    /// The Service it acts on.
    pub service: ServiceName,
    /// Of a consumer route, whose proxies it is for; `None` is everybody's.
    pub client_namespace: Option<String>,
}

/// All routes at all their parents.
#[derive(Debug, Default)]
pub struct Programmed(BTreeMap<ObjectKey, Vec<Entry>>);

#[derive(Debug)]
struct Entry {
    parent: ParentRef,
    about: About,
    generation: i64,
    since: Instant,
    /// When to ask next; `None` once it is True.
    ask: Option<Instant>,
    pause: Duration,
    verdict: Option<Condition>,
}

impl Programmed {
    /// `route` has this status now. `known` is what its object says of a parent from before we looked.
    pub fn on_route(
        &mut self,
        route: &ObjectKey,
        status: Option<&RouteStatus>,
        known: impl Fn(&ParentRef) -> Option<Known>,
        now: Instant,
    ) {
        let mut before = self.0.remove(route).unwrap_or_default();
        let mut entries = Vec::new();
        for parent in status.iter().flat_map(|status| &status.parents) {
            let Some(generation) = parent.accepted() else { continue };
            let about = about(route, &parent.parent_ref);
            let same = |entry: &Entry| entry.parent == parent.parent_ref && entry.generation == generation;
            entries.push(match before.iter().position(same) {
                Some(index) => before.swap_remove(index),
                None => {
                    let known = known(&parent.parent_ref).filter(|known| known.generation == generation);
                    let mut entry = Entry::new(parent.parent_ref.clone(), about, generation, now);
                    match known {
                        Some(Known { status: true, .. }) => entry.ask = None,
                        // Not said again, but it may become true.
                        Some(Known { status: false, .. }) => (entry.since, entry.pause) = (now, STILL),
                        None => {}
                    }
                    entry
                }
            });
        }
        if !entries.is_empty() {
            self.0.insert(route.clone(), entries);
        }
    }

    /// What is known of `route` is of another object of that name.
    pub fn forget(&mut self, route: &ObjectKey) {
        self.0.remove(route);
    }

    /// At most `most` questions that are due.
    pub fn due(&self, most: usize, now: Instant) -> Vec<(At, About)> {
        let entries = self.0.iter().flat_map(|(route, entries)| entries.iter().map(move |entry| (route, entry)));
        let due = entries.filter(|(_, entry)| entry.ask.is_some_and(|ask| ask <= now));
        let question = |(route, entry): (&ObjectKey, &Entry)| {
            (At { route: route.clone(), parent: entry.parent.clone() }, entry.about.clone())
        };
        due.take(most).map(question).collect()
    }

    /// When the next question is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.0.values().flatten().filter_map(|entry| entry.ask).min()
    }

    /// This is how far the proxies are that were asked about `at`, unless some replica was `silent`. Whether that is news.
    pub fn on_progress(&mut self, at: &At, progress: &Progress, silent: &[String], now: Instant) -> bool {
        let entry = self.0.get_mut(&at.route).and_then(|entries| entries.iter_mut().find(|e| e.parent == at.parent));
        entry.is_some_and(|entry| entry.on_progress(progress, silent, now))
    }

    /// What is decided for `route` at `parent` in this generation.
    pub fn verdict(&self, route: &ObjectKey, parent: &ParentRef, generation: i64) -> Option<&Condition> {
        let entry = self.entry(route, parent).filter(|entry| entry.generation == generation);
        entry.and_then(|entry| entry.verdict.as_ref())
    }

    /// Since when `route` waits for the first verdict on some parent.
    pub fn undecided_since(&self, route: &ObjectKey) -> Option<Instant> {
        let undecided = |entry: &&Entry| entry.verdict.is_none() && entry.ask.is_some() && entry.pause < STILL;
        self.0.get(route)?.iter().filter(undecided).map(|entry| entry.since).max()
    }

    fn entry(&self, route: &ObjectKey, parent: &ParentRef) -> Option<&Entry> {
        self.0.get(route)?.iter().find(|entry| entry.parent == *parent)
    }
}

/// What an object says already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// `observedGeneration` of its condition.
    pub generation: i64,
    /// Whether that is True.
    pub status: bool,
}

impl Entry {
    fn new(parent: ParentRef, about: About, generation: i64, now: Instant) -> Self {
        Self { parent, about, generation, since: now, ask: Some(now), pause: FIRST_ASK, verdict: None }
    }

    fn on_progress(&mut self, progress: &Progress, silent: &[String], now: Instant) -> bool {
        if self.ask.is_none() {
            return false;
        }
        let all = silent.is_empty() && progress.acked == progress.proxies;
        let refused = progress.laggards.iter().any(|laggard| !laggard.refused.is_empty());
        if all {
            self.ask = None;
            let of = &self.about.service;
            self.verdict = Some(match progress.proxies {
                0 => self.condition(true, "NoProxies", format!("no proxy uses Service {of} at the moment")),
                1 => self.condition(true, PROGRAMMED_REASON, format!("the one proxy that uses Service {of} has it")),
                all => {
                    self.condition(true, PROGRAMMED_REASON, format!("all {all} proxies that use Service {of} have it"))
                }
            });
            return true;
        }
        let late = refused || now >= self.since + PATIENCE;
        let news = late && self.verdict.is_none() && self.pause < STILL;
        if news {
            let reason = if refused { "Refused" } else { "Pending" };
            self.verdict = Some(self.condition(false, reason, waiting(progress, silent)));
        }
        if late || self.pause >= STILL {
            self.pause = STILL;
            self.ask = Some(now + STILL);
        } else {
            self.ask = Some((now + self.pause).min(self.since + PATIENCE));
            self.pause = (self.pause * 2).min(LAST_ASK);
        }
        news
    }

    fn condition(&self, status: bool, reason: &'static str, message: String) -> Condition {
        Condition { kind: PROGRAMMED, status, reason: reason.into(), message, observed_generation: self.generation }
    }
}

const PROGRAMMED_REASON: &str = "Programmed";

fn waiting(progress: &Progress, silent: &[String]) -> String {
    let mut message = format!("{} of {} proxies have it", progress.acked, progress.proxies);
    let name = |laggard: &Laggard| match &*laggard.refused {
        "" => laggard.pod.clone(),
        refused => format!("{} (refused it: {})", laggard.pod, refused.chars().take(MAX_REASON).collect::<String>()),
    };
    let named: Vec<_> = progress.laggards.iter().map(name).collect();
    let missing = progress.proxies.saturating_sub(progress.acked);
    let more = u32::try_from(named.len()).ok().and_then(|named| missing.checked_sub(named)).unwrap_or_default();
    if !named.is_empty() {
        message.push_str(&format!("; waiting for {}", named.join(", ")));
    }
    if more > 0 {
        message.push_str(&format!(" and {more} more"));
    }
    if !silent.is_empty() {
        message.push_str(&format!("; not heard from {}", silent.join(", ")));
    }
    message
}

/// A route of another namespace than its Service's is for that namespace's clients only.
pub(super) fn about(route: &ObjectKey, parent: &ParentRef) -> About {
    let own = &route.name.namespace;
    let namespace = parent.namespace.as_ref().unwrap_or(own);
    About {
        service: ServiceName::new(&**namespace, &*parent.name),
        client_namespace: (namespace != own).then(|| own.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Kind, ObjectName};
    use crate::status::ParentStatus;

    fn parent(namespace: Option<&str>) -> ParentRef {
        ParentRef {
            group: Some(String::new()),
            kind: Some("Service".into()),
            namespace: namespace.map(str::to_owned),
            name: "reviews".into(),
            section_name: None,
            port: None,
        }
    }

    fn status(accepted: bool, generation: i64) -> RouteStatus {
        let accepted = Condition {
            kind: "Accepted",
            status: accepted,
            reason: "Accepted".into(),
            message: String::new(),
            observed_generation: generation,
        };
        RouteStatus { parents: vec![ParentStatus { parent_ref: parent(None), conditions: vec![accepted] }] }
    }

    fn key() -> ObjectKey {
        ObjectKey { kind: Kind::HttpRoute, name: ObjectName::new("shop", "canary") }
    }

    fn progress(acked: u32, proxies: u32, refused: &str) -> Progress {
        let laggard = |index| Laggard { pod: format!("shop/p{index}"), refused: refused.to_owned() };
        Progress { proxies, acked, laggards: (acked..proxies).take(5).map(laggard).collect() }
    }

    /// Asks as is due, 50 ms a step, with the answer as it is from each moment on; and says what was written when.
    fn story(
        programmed: &mut Programmed,
        start: Instant,
        long: u64,
        answers: &[(u64, Progress, &[String])],
    ) -> Vec<String> {
        let mut story = Vec::new();
        for at in (0..=long).step_by(50) {
            let now = start + Duration::from_millis(at);
            let (_, progress, silent) = answers.iter().rfind(|(from, ..)| *from <= at).unwrap();
            for (question, _) in programmed.due(256, now) {
                if programmed.on_progress(&question, progress, silent, now) {
                    let verdict = programmed.verdict(&key(), &parent(None), 1).unwrap();
                    story.push(format!("{at}: {} {}: {}", verdict.status, verdict.reason, verdict.message));
                }
            }
        }
        story
    }

    #[test]
    fn it_is_said_once_when_all_have_it_and_false_after_ten_seconds() {
        let silent = ["weft-control-plane-b".to_owned()];
        let none: &[String] = &[];
        type Row<'a> = (&'a str, Vec<(u64, Progress, &'a [String])>, Vec<&'a str>);
        let rows: [Row<'_>; 9] = [
            (
                "nobody uses it",
                vec![(0, progress(0, 0, ""), none)],
                vec!["0: true NoProxies: no proxy uses Service shop/reviews at the moment"],
            ),
            (
                "all have it",
                vec![(0, progress(0, 3, ""), none), (100, progress(3, 3, ""), none)],
                vec!["150: true Programmed: all 3 proxies that use Service shop/reviews have it"],
            ),
            (
                "later changes take nothing back",
                vec![(0, progress(1, 1, ""), none), (50, progress(0, 9, ""), none)],
                vec!["0: true Programmed: the one proxy that uses Service shop/reviews has it"],
            ),
            (
                "one is late",
                vec![(0, progress(2, 3, ""), none)],
                vec!["10000: false Pending: 2 of 3 proxies have it; waiting for shop/p2"],
            ),
            (
                "and comes after all",
                vec![(0, progress(2, 3, ""), none), (12_000, progress(3, 3, ""), none)],
                vec![
                    "10000: false Pending: 2 of 3 proxies have it; waiting for shop/p2",
                    "15000: true Programmed: all 3 proxies that use Service shop/reviews have it",
                ],
            ),
            (
                "five are named",
                vec![(0, progress(0, 9, ""), none)],
                vec![
                    "10000: false Pending: 0 of 9 proxies have it; waiting for shop/p0, shop/p1, shop/p2, shop/p3, \
                     shop/p4 and 4 more",
                ],
            ),
            (
                "one refuses it",
                vec![(0, progress(0, 1, "bad regex"), none)],
                vec!["0: false Refused: 0 of 1 proxies have it; waiting for shop/p0 (refused it: bad regex)"],
            ),
            (
                "a replica says nothing",
                vec![(0, progress(2, 2, ""), &silent)],
                vec!["10000: false Pending: 2 of 2 proxies have it; not heard from weft-control-plane-b"],
            ),
            (
                "until it does",
                vec![(0, progress(2, 2, ""), &silent), (900, progress(2, 2, ""), none)],
                vec!["1550: true Programmed: all 2 proxies that use Service shop/reviews have it"],
            ),
        ];
        for (row, answers, expected) in rows {
            let start = Instant::now();
            let mut programmed = Programmed::default();
            programmed.on_route(&key(), Some(&status(true, 1)), |_| None, start);
            assert_eq!(story(&mut programmed, start, 30_000, &answers), expected, "{row}");
        }
    }

    #[test]
    fn each_generation_is_a_question_of_its_own_and_an_unaccepted_route_is_none() {
        let now = Instant::now();
        let mut programmed = Programmed::default();
        let answers = [(0, progress(1, 1, ""), &[][..])];
        programmed.on_route(&key(), Some(&status(true, 1)), |_| None, now);
        assert_eq!(story(&mut programmed, now, 100, &answers).len(), 1);
        programmed.on_route(&key(), Some(&status(true, 1)), |_| None, now);
        assert_eq!(programmed.next_due(), None, "the same generation");
        programmed.on_route(&key(), Some(&status(true, 2)), |_| None, now);
        assert_eq!((programmed.next_due(), programmed.undecided_since(&key())), (Some(now), Some(now)));
        assert_eq!(programmed.verdict(&key(), &parent(None), 2), None);
        programmed.on_route(&key(), Some(&status(false, 3)), |_| None, now);
        assert_eq!(programmed.next_due(), None, "not accepted");
        programmed.on_route(&key(), None, |_| None, now);
        assert!(programmed.0.is_empty());
    }

    #[test]
    fn a_new_leader_goes_by_what_the_object_says() {
        let now = Instant::now();
        let known = |generation, status| move |_: &ParentRef| Some(Known { generation, status });
        let answers = [(0, progress(0, 1, ""), &[][..]), (11_000, progress(1, 1, ""), &[][..])];
        let mut programmed = Programmed::default();
        programmed.on_route(&key(), Some(&status(true, 1)), known(1, true), now);
        assert_eq!(programmed.next_due(), None, "said already");
        let mut programmed = Programmed::default();
        programmed.on_route(&key(), Some(&status(true, 1)), known(1, false), now);
        let told = story(&mut programmed, now, 30_000, &answers);
        assert_eq!(told.len(), 1, "False is not said again, only True: {told:?}");
        let mut programmed = Programmed::default();
        programmed.on_route(&key(), Some(&status(true, 2)), known(1, true), now);
        assert_eq!(programmed.next_due(), Some(now), "that was another generation");
    }

    #[test]
    fn a_consumer_route_is_for_its_own_namespace() {
        let rows = [
            (None, "shop/reviews", None),
            (Some("shop"), "shop/reviews", None),
            (Some("web"), "web/reviews", Some("shop")),
        ];
        for (namespace, service, client) in rows {
            let about = about(&key(), &parent(namespace));
            assert_eq!((&*about.service.to_string(), about.client_namespace.as_deref()), (service, client));
        }
    }
}
