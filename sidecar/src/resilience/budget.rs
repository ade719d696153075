//! The retry budget: how many retries a backend has to bear at a time (SEMANTICS.md §3 "retry budget").
//!
//! 20 % of the requests active and pending, and at least 10, counted per backend and proxy. A backend in trouble is so
//! asked at most a fifth more than it would be without retries, however many requests fail. When it is spent, the last
//! answer is returned as it is.
//!
//! Not here: whether a request may be retried at all (`retry.rs`), and the budget that an object asks for instead, which
//! looks back in time (`recent.rs`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::recent::{Recent, RecentPolicy};

/// A budget's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetPolicy {
    /// Retries at a time, in percent of the requests active and pending. Default 20.
    pub percent: u32,
    /// Retries at a time that are always allowed. Default 10: a handful of requests is lost
    /// together when an endpoint goes silent, and all of them may have to be repeated.
    pub min_concurrent: u32,
}

impl Default for BudgetPolicy {
    fn default() -> Self {
        Self { percent: 20, min_concurrent: 10 }
    }
}

/// One backend's budget. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Budget {
    counts: Arc<Counts>,
    policy: BudgetPolicy,
    /// Instead of that.
    recent: Option<(RecentPolicy, Arc<Recent>)>,
}

#[derive(Debug, Default)]
struct Counts {
    active: AtomicU32,
    retries: AtomicU32,
    spent: AtomicU64,
    /// What the last policy that looked back has counted.
    recent: Mutex<Option<Arc<Recent>>>,
}

impl Budget {
    /// With nothing active.
    pub fn new(policy: BudgetPolicy) -> Self {
        Self { counts: Arc::default(), policy, recent: None }
    }

    /// The same counts under other numbers: requests under way keep counting when the policy changes.
    #[must_use]
    pub fn with_policy(&self, policy: BudgetPolicy) -> Self {
        Self { counts: Arc::clone(&self.counts), policy, recent: None }
    }

    /// The same counts, by what was asked lately. Another interval begins anew, since its parts are others.
    #[must_use]
    pub fn with_recent(&self, policy: RecentPolicy) -> Self {
        let mut held = self.counts.recent.lock();
        let same = held.clone().filter(|recent| recent.interval() == policy.interval());
        let recent = same.unwrap_or_else(|| Arc::new(Recent::new(policy.interval())));
        *held = Some(Arc::clone(&recent));
        Self { counts: Arc::clone(&self.counts), policy: self.policy, recent: Some((policy, recent)) }
    }

    /// The policy by which it looks back in time; `None`: it is the default kind.
    pub fn recent(&self) -> Option<&RecentPolicy> {
        self.recent.as_ref().map(|(policy, _)| policy)
    }

    /// A request begins (waiting for a connection counts); it is active until the guard is dropped.
    pub fn begin(&self, now: Instant) -> ActiveGuard<'_> {
        self.counts.active.fetch_add(1, Ordering::Relaxed);
        if let Some((_, recent)) = &self.recent {
            recent.on_request(now);
        }
        ActiveGuard(&self.counts)
    }

    /// The end of a request whose guard was [left](ActiveGuard::leave).
    pub fn end(&self) {
        self.counts.active.fetch_sub(1, Ordering::Relaxed);
    }

    /// Room for one retry, or `None` when the budget is spent (which is counted).
    pub fn try_retry(&self, now: Instant) -> Option<RetryPermit> {
        if let Some((policy, recent)) = &self.recent {
            if recent.try_retry(policy, now) {
                self.counts.retries.fetch_add(1, Ordering::Relaxed);
                return Some(RetryPermit(Arc::clone(&self.counts)));
            }
            self.counts.spent.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        // Relaxed throughout: the count itself is the only thing that is shared, and the compare-and-swap keeps it
        // from being exceeded.
        let active = self.counts.active.load(Ordering::Relaxed);
        let share = u64::from(active) * u64::from(self.policy.percent) / 100;
        let allowed = share.max(u64::from(self.policy.min_concurrent));
        let taken = self.counts.retries.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |retries| {
            (u64::from(retries) < allowed).then_some(retries + 1)
        });
        if taken.is_err() {
            self.counts.spent.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(RetryPermit(Arc::clone(&self.counts)))
    }

    /// Requests active and pending.
    pub fn active(&self) -> u32 {
        self.counts.active.load(Ordering::Relaxed)
    }

    /// Retries under way.
    pub fn retries(&self) -> u32 {
        self.counts.retries.load(Ordering::Relaxed)
    }

    /// Retries not made because the budget was spent, since the start.
    pub fn spent_total(&self) -> u64 {
        self.counts.spent.load(Ordering::Relaxed)
    }
}

/// A request counts as active until this is dropped.
#[derive(Debug)]
#[must_use = "dropping it ends the request"]
pub struct ActiveGuard<'a>(&'a Counts);

impl ActiveGuard<'_> {
    /// The request stays active: whoever keeps the budget owes it one [`Budget::end`].
    pub fn leave(self) {
        std::mem::forget(self);
    }
}

impl Drop for ActiveGuard<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A retry counts against the budget until this is dropped.
#[derive(Debug)]
#[must_use = "dropping it ends the retry"]
pub struct RetryPermit(Arc<Counts>);

impl Drop for RetryPermit {
    fn drop(&mut self) {
        self.0.retries.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_fifth_of_what_is_active_and_never_less_than_ten() {
        let rows = [(0, 10), (1, 10), (50, 10), (54, 10), (55, 11), (100, 20), (104, 20), (105, 21)];
        for (active, want) in rows {
            let budget = Budget::default();
            let _active: Vec<_> = (0..active).map(|_| budget.begin(Instant::now())).collect();
            let permits: Vec<_> = std::iter::from_fn(|| budget.try_retry(Instant::now())).take(1_000).collect();
            assert_eq!(permits.len(), want, "{active} active");
            assert_eq!(budget.spent_total(), 1, "{active} active");
        }
    }

    #[test]
    fn a_new_policy_keeps_the_counts() {
        let budget = Budget::default();
        let _held: Vec<_> = std::iter::from_fn(|| budget.try_retry(Instant::now())).collect();
        let wider = budget.with_policy(BudgetPolicy { percent: 20, min_concurrent: 11 });
        let _one_more = wider.try_retry(Instant::now());
        assert_eq!((_one_more.is_some(), wider.retries(), budget.retries()), (true, 11, 11));
        assert!(wider.try_retry(Instant::now()).is_none());
    }

    #[test]
    fn no_policy_overflows() {
        let budget = Budget::new(BudgetPolicy { percent: u32::MAX, min_concurrent: 0 });
        assert!(budget.try_retry(Instant::now()).is_none());
        let _active = budget.begin(Instant::now());
        assert!(budget.try_retry(Instant::now()).is_some());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_budget_is_never_exceeded_and_returns_to_zero(steps in prop::collection::vec(0u8..4, 0..300)) {
            let budget = Budget::default();
            let (mut active, mut permits) = (Vec::new(), Vec::new());
            for step in steps {
                match step {
                    0 => active.push(budget.begin(Instant::now())),
                    1 => drop(active.pop()),
                    2 => {
                        let allowed = 10.max(active.len() / 5);
                        let got = budget.try_retry(Instant::now());
                        prop_assert_eq!(got.is_some(), permits.len() < allowed);
                        permits.extend(got);
                    }
                    _ => drop(permits.pop()),
                }
            }
            drop((active, permits));
            prop_assert_eq!((budget.active(), budget.retries()), (0, 0));
        }
    }

    #[test]
    fn workers_together_do_not_exceed_it() {
        let budget = Budget::default();
        let most = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        if let Some(_permit) = budget.try_retry(Instant::now()) {
                            most.fetch_max(budget.retries(), Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert!(most.into_inner() <= 10);
        assert_eq!(budget.retries(), 0);
    }
}
