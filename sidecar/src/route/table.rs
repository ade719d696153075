//! Which rule a request gets, and which of that rule's targets (Gateway API `HTTPRouteRule`, `GRPCRouteRule`,
//! `HTTPBackendRef.weight`).
//!
//! Weights: a target's share is its weight over the sum, zero gets nothing, and an invalid backendRef keeps its share
//! as a [`Target::Answer`]. A rule with no target of weight above zero answers 500: that is settled when it is
//! compiled, so that no request has to ask.
//!
//! Shares are dealt evenly and not by dice ([`Spread`]): of any run of requests each target gets its share, a few
//! requests more or less. By dice one canary of 2,000 requests in twenty would be off by two points.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::StatusCode;
use rand::Rng;

use super::filters::Filters;
use super::index::Index;
use super::matching::{Match, RequestView};
use super::session::Session;
use crate::resilience::{RateLimit, RetryOverride};

/// A service port's routes. Immutable; made anew when they change. `B` is the handle of a backend.
#[derive(Debug)]
pub struct RouteTable<B> {
    entries: Box<[(Match, usize)]>,
    index: Index,
    rules: Box<[Rule<B>]>,
}

/// A table cannot be compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTable {
    /// An entry points nowhere.
    #[error("entry {entry} points at rule {rule}, and there are {rules}")]
    NoSuchRule {
        /// Which entry.
        entry: usize,
        /// Where it points.
        rule: usize,
        /// How many rules there are.
        rules: usize,
    },
}

impl<B> RouteTable<B> {
    /// `entries` in the order of precedence, each with the index of its rule.
    ///
    /// # Errors
    /// When an entry points at a rule that is not there.
    pub fn new(entries: Vec<(Match, usize)>, rules: Vec<Rule<B>>) -> Result<Self, InvalidTable> {
        let out = entries.iter().enumerate().find(|(_, (_, rule))| *rule >= rules.len());
        if let Some((entry, (_, rule))) = out {
            return Err(InvalidTable::NoSuchRule { entry, rule: *rule, rules: rules.len() });
        }
        let index = Index::new(entries.iter().map(|(entry, _)| entry));
        Ok(Self { entries: entries.into(), index, rules: rules.into() })
    }

    /// The rule of the first entry that matches. `None` where routes are attached is a 404, of gRPC UNIMPLEMENTED.
    pub fn find(&self, request: &RequestView<'_>) -> Option<&Rule<B>> {
        self.find_entry(request).map(|found| found.rule)
    }

    /// The same, and which entry and rule that is.
    pub fn find_entry(&self, request: &RequestView<'_>) -> Option<Found<'_, B>> {
        let entry = self.index.find(request, |position| self.entries.get(position).map(|(entry, _)| entry))?;
        let (_, index) = self.entries.get(entry)?;
        Some(Found { entry, index: *index, rule: self.rules.get(*index)? })
    }

    /// How many entries there are.
    pub fn entries(&self) -> usize {
        self.entries.len()
    }

    /// Every rule, in the order given.
    pub fn rules(&self) -> &[Rule<B>] {
        &self.rules
    }
}

/// What a request matches.
#[derive(Debug)]
pub struct Found<'t, B> {
    /// The entry, in the order of precedence.
    pub entry: usize,
    /// The rule's place among [`RouteTable::rules`].
    pub index: usize,
    /// The rule.
    pub rule: &'t Rule<B>,
}

/// What happens to the requests of one rule.
#[derive(Debug)]
pub struct Rule<B> {
    /// `HTTPRoute/namespace/name`, `GRPCRoute/namespace/name`: what logs and metrics call its route.
    pub route: Arc<str>,
    /// Its own name, or its index in the route.
    pub name: Box<str>,
    /// For every target.
    pub filters: Filters<B>,
    /// Where requests go.
    pub targets: WeightedTargets<B>,
    /// All tries and the back-off between them. `None` is off.
    pub request_timeout: Option<Duration>,
    /// One try. `None` is off.
    pub backend_request_timeout: Option<Duration>,
    /// What it says about retries.
    pub retry: Option<RetryOverride>,
    /// How sessions are kept with one endpoint; `None`: there are none.
    pub session: Option<Box<Session>>,
    /// What its requests have to pass, in the order in which they are asked.
    pub rate_limits: Box<[RateLimit]>,
}

impl<B> Rule<B> {
    /// One request's target, by weight, and that target's own filters. Chosen once per request: retries stay. `rng` says where the
    /// shares begin to be dealt.
    pub fn choose<R: Rng + ?Sized>(&self, rng: &mut R) -> (&Target<B>, &Filters<B>) {
        self.targets.choose(rng)
    }

    /// The target of a session: the one whose backend `is` it, even if its weight is zero.
    pub fn choose_for(&self, is: impl Fn(&B) -> bool) -> Option<(&Target<B>, &Filters<B>)> {
        let WeightedTargets { first, rest, resting, .. } = &self.targets;
        let mut shares = std::iter::once(first).chain(rest).chain(resting);
        let found = shares.find(|share| matches!(&share.target, Target::Backend(backend) if is(backend)))?;
        Some((&found.target, &found.filters))
    }

    /// Every backend that may be chosen, by weight or for a session.
    pub fn backends(&self) -> impl Iterator<Item = &B> {
        let WeightedTargets { first, rest, resting, .. } = &self.targets;
        std::iter::once(first).chain(rest).chain(resting).filter_map(|share| match &share.target {
            Target::Backend(backend) => Some(backend),
            Target::Answer(_) => None,
        })
    }
}

/// What a rule chooses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target<B> {
    /// A backend.
    Backend(B),
    /// This answer: the backendRef is not valid.
    Answer(FixedAnswer),
}

/// An answer that is known beforehand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FixedAnswer {
    /// For HTTP; a gRPC request gets the status that its reason stands for.
    pub status: StatusCode,
    /// Why, for the log.
    pub detail: Box<str>,
}

/// One share of a rule's requests, as configured.
#[derive(Debug, Clone)]
pub struct WeightedTarget<B> {
    /// Share = weight / sum of weights. Zero gets nothing.
    pub weight: u32,
    /// Where this share goes.
    pub target: Target<B>,
    /// For this share only, after the rule's.
    pub filters: Filters<B>,
}

/// A rule's shares: at least one, and all above zero.
#[derive(Debug)]
pub struct WeightedTargets<B> {
    first: Share<B>,
    rest: Box<[Share<B>]>,
    /// Those with a weight of zero: they keep the sessions they have.
    resting: Box<[Share<B>]>,
    sum: u64,
    spread: Spread,
}

/// Points of [0, 2^64) that fill it evenly however many are taken: each is the one before plus 2^64 over the golden ratio (a Weyl
/// sequence; the golden ratio because no fraction comes near it, so that few or many, every second or every third of them are
/// spread as well). Shared by all workers.
#[derive(Debug, Default)]
struct Spread {
    /// The last point taken; 0 before the first.
    last: AtomicU64,
}

impl Spread {
    /// 2^64 over the golden ratio.
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

    /// The next point. The first is a random one, or all proxies would begin with the same target after each change of the route.
    fn next<R: Rng + ?Sized>(&self, rng: &mut R) -> u64 {
        if self.last.load(Ordering::Relaxed) == 0 {
            // Whoever is second finds it set, and goes on from there.
            let _ = self.last.compare_exchange(0, rng.next_u64(), Ordering::Relaxed, Ordering::Relaxed);
        }
        self.last.fetch_add(Self::STEP, Ordering::Relaxed).wrapping_add(Self::STEP)
    }
}

#[derive(Debug)]
struct Share<B> {
    /// The sum of the weights up to and including this one.
    up_to: u64,
    target: Target<B>,
    filters: Filters<B>,
}

impl<B> WeightedTargets<B> {
    /// Compiles. With no weight above zero, every request is answered 500.
    pub fn new(targets: Vec<WeightedTarget<B>>) -> Self {
        let detail = if targets.is_empty() { "the rule has no backendRefs" } else { "all weights are zero" };
        let mut sum = 0;
        let (targets, resting): (Vec<_>, Vec<_>) = targets.into_iter().partition(|target| target.weight > 0);
        let resting = resting.into_iter().map(|share| Share { up_to: 0, target: share.target, filters: share.filters });
        let resting = resting.collect();
        let mut shares = targets.into_iter().map(|share| {
            sum += u64::from(share.weight);
            Share { up_to: sum, target: share.target, filters: share.filters }
        });
        let first = shares.next();
        let rest = shares.collect();
        let first = first.unwrap_or_else(|| {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            let target = Target::Answer(FixedAnswer { status, detail: detail.into() });
            Share { up_to: 0, target, filters: Filters::default() }
        });
        Self { first, rest, resting, sum, spread: Spread::default() }
    }

    /// Every target that gets requests, with its weight, in the order listed.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Target<B>)> {
        self.shares().map(|(weight, target, _)| (weight, target))
    }

    /// The same, with the target's own filters.
    pub fn shares(&self) -> impl Iterator<Item = (u64, &Target<B>, &Filters<B>)> {
        let mut before = 0;
        std::iter::once(&self.first).chain(&self.rest).map(move |share| {
            (share.up_to - std::mem::replace(&mut before, share.up_to), &share.target, &share.filters)
        })
    }

    pub(super) fn choose<R: Rng + ?Sized>(&self, rng: &mut R) -> (&Target<B>, &Filters<B>) {
        let share = if self.rest.is_empty() {
            &self.first
        } else {
            // As much of the sum as the point is of 2^64.
            let point = ((u128::from(self.spread.next(rng)) * u128::from(self.sum)) >> 64) as u64;
            let index = self.rest.partition_point(|share| share.up_to <= point);
            if point < self.first.up_to { &self.first } else { self.rest.get(index).unwrap_or(&self.first) }
        };
        (&share.target, &share.filters)
    }
}
