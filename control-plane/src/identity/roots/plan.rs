//! Which namespace is due for an apply, and when. Pure: the watch and the applies tell it what happened.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LAST_BACKOFF: Duration = Duration::from_secs(60);
/// Between two applies that worked: somebody who keeps editing is answered once a second.
const PAUSE: Duration = Duration::from_secs(1);

/// What is wanted, what is there, and what is tried.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Nothing is due before the first list: most namespaces will have theirs.
    listed: bool,
    /// What each should hold.
    content: u64,
    wanted: BTreeSet<String>,
    /// What each was last seen to hold; none when it was edited beyond its roots.
    seen: BTreeMap<String, Option<u64>>,
    /// What a list that is not finished has told.
    relisted: Option<BTreeMap<String, Option<u64>>>,
    tries: BTreeMap<String, Try>,
}

#[derive(Debug)]
struct Try {
    under_way: bool,
    not_before: Instant,
    backoff: Duration,
}

impl Plan {
    /// Every namespace in `wanted` should hold `content`.
    pub(super) fn want(&mut self, wanted: BTreeSet<String>, content: u64) {
        if self.content != content {
            // A back-off belongs to what was tried; one under way will be seen to hold the old.
            self.tries.retain(|_, tried| tried.under_way);
        }
        self.tries.retain(|namespace, tried| tried.under_way || wanted.contains(namespace));
        (self.wanted, self.content) = (wanted, content);
    }

    /// A list begins.
    pub(super) fn on_relist(&mut self) {
        self.relisted = Some(BTreeMap::new());
    }

    /// The list is complete (or there will be none).
    pub(super) fn on_listed(&mut self) {
        self.listed = true;
        if let Some(relisted) = self.relisted.take() {
            self.seen = relisted;
        }
    }

    /// `namespace` has one that holds this.
    pub(super) fn on_seen(&mut self, namespace: String, holds: Option<u64>) {
        self.relisted.as_mut().unwrap_or(&mut self.seen).insert(namespace, holds);
    }

    /// It has none.
    pub(super) fn on_gone(&mut self, namespace: &str) {
        self.relisted.as_mut().unwrap_or(&mut self.seen).remove(namespace);
    }

    /// The next namespace to apply to; [`Plan::on_applied`] must follow.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<String> {
        let namespace = self.behind().find(|(_, tried)| tried.is_none_or(|tried| tried.not_before <= now))?.0.clone();
        let tried = self.tries.entry(namespace.clone()).or_insert(Try {
            under_way: true,
            not_before: now,
            backoff: FIRST_BACKOFF,
        });
        tried.under_way = true;
        Some(namespace)
    }

    /// When the next one is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.behind().filter_map(|(_, tried)| tried.map(|tried| tried.not_before)).min()
    }

    /// An apply ended: it wrote `content`, or failed. `spread` is any random number.
    pub(super) fn on_applied(&mut self, namespace: &str, content: Option<u64>, now: Instant, spread: u32) {
        let Some(tried) = self.tries.get_mut(namespace) else { return };
        tried.under_way = false;
        match content {
            Some(content) => {
                // The watch will say the same, later; until then it would be due again.
                self.seen.insert(namespace.to_owned(), Some(content));
                *tried = Try { under_way: false, not_before: now + PAUSE, backoff: FIRST_BACKOFF };
            }
            None => {
                tried.not_before = now + tried.backoff * (500 + spread % 501) / 1000;
                tried.backoff = (tried.backoff * 2).min(LAST_BACKOFF);
            }
        }
    }

    /// Wanted, not as it should be, and nobody is at it.
    fn behind(&self) -> impl Iterator<Item = (&String, Option<&Try>)> {
        let right = |namespace: &String| self.seen.get(namespace) == Some(&Some(self.content));
        let wanted = self.wanted.iter().filter(move |namespace| self.listed && !right(namespace));
        wanted.map(|namespace| (namespace, self.tries.get(namespace))).filter(|(_, t)| t.is_none_or(|t| !t.under_way))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(wanted: &[&str]) -> Plan {
        let mut plan = Plan::default();
        plan.want(wanted.iter().map(|name| (*name).to_owned()).collect(), 7);
        plan
    }

    fn due(plan: &mut Plan, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| plan.take_due(now)).collect()
    }

    #[test]
    fn only_what_is_not_as_it_should_be_is_due_and_only_once_it_was_looked() {
        let now = Instant::now();
        let mut plan = plan(&["absent", "edited", "old", "right"]);
        plan.on_relist();
        plan.on_seen("edited".to_owned(), None);
        plan.on_seen("old".to_owned(), Some(6));
        plan.on_seen("right".to_owned(), Some(7));
        plan.on_seen("unwanted".to_owned(), Some(6));
        assert!(due(&mut plan, now).is_empty(), "before the list is complete");
        plan.on_listed();
        assert_eq!(due(&mut plan, now), ["absent", "edited", "old"]);
        assert!(due(&mut plan, now).is_empty(), "under way");
        assert_eq!(plan.next_due(), None);
        for namespace in ["absent", "edited", "old"] {
            plan.on_applied(namespace, Some(7), now, 0);
        }
        assert!(due(&mut plan, now + LAST_BACKOFF).is_empty(), "all done");
    }

    #[test]
    fn edits_and_deletions_are_answered_once_a_second() {
        let now = Instant::now();
        let mut plan = plan(&["shop"]);
        plan.on_listed();
        assert_eq!(due(&mut plan, now), ["shop"]);
        plan.on_applied("shop", Some(7), now, 0);
        plan.on_seen("shop".to_owned(), Some(1));
        assert!(due(&mut plan, now).is_empty());
        assert_eq!(plan.next_due(), Some(now + PAUSE));
        assert_eq!(due(&mut plan, now + PAUSE), ["shop"]);
        plan.on_applied("shop", Some(7), now + PAUSE, 0);
        plan.on_gone("shop");
        assert_eq!(due(&mut plan, now + 2 * PAUSE), ["shop"]);
    }

    #[test]
    fn a_namespace_that_cannot_be_written_costs_only_itself() {
        let now = Instant::now();
        let mut plan = plan(&["gone", "shop"]);
        plan.on_listed();
        assert_eq!(due(&mut plan, now), ["gone", "shop"]);
        plan.on_applied("shop", Some(7), now, 0);
        let mut at = now;
        for expected in [1, 2, 4, 8, 16, 32, 60, 60] {
            plan.on_applied("gone", None, at, 500);
            let next = plan.next_due().unwrap();
            assert_eq!(next - at, Duration::from_secs(expected));
            assert!(due(&mut plan, next - Duration::from_millis(1)).is_empty());
            assert_eq!(due(&mut plan, next), ["gone"]);
            at = next;
        }
        plan.on_applied("gone", None, at, 0);
        assert_eq!(plan.next_due(), Some(at + LAST_BACKOFF / 2), "less up to half");
        plan.want(BTreeSet::from(["shop".to_owned()]), 7);
        assert_eq!(plan.next_due(), None, "no longer wanted");
    }

    #[test]
    fn a_new_bundle_goes_everywhere_at_once_even_while_the_old_one_is_being_written() {
        let now = Instant::now();
        let mut plan = plan(&["failing", "shop"]);
        plan.on_listed();
        assert_eq!(due(&mut plan, now), ["failing", "shop"]);
        plan.on_applied("failing", None, now, 0);
        plan.want(["failing", "shop"].map(str::to_owned).into(), 8);
        assert_eq!(due(&mut plan, now), ["failing"], "its back-off was the old one's");
        plan.on_applied("shop", Some(7), now, 0);
        assert_eq!(due(&mut plan, now + PAUSE), ["shop"]);
    }

    #[test]
    fn a_new_list_replaces_what_was_seen_in_one_stroke() {
        let now = Instant::now();
        let mut plan = plan(&["a", "b"]);
        plan.on_listed();
        plan.on_seen("a".to_owned(), Some(7));
        plan.on_seen("b".to_owned(), Some(7));
        plan.on_relist();
        plan.on_seen("b".to_owned(), Some(7));
        assert!(due(&mut plan, now).is_empty());
        plan.on_listed();
        assert_eq!(due(&mut plan, now), ["a"], "deleted while nobody watched");
    }
}
