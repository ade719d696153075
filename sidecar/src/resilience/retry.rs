//! Whether and when a request is tried again (SEMANTICS.md §3 "retries", "back-off", "per-try timeout").
//!
//! On by default, at most 2 retries:
//!
//! | the try ended with | retried |
//! |---|---|
//! | (a) nothing processed: connect or TLS failure, `REFUSED_STREAM`, above GOAWAY's last stream, not one byte written | any method |
//! | (b) the connection lost before the response head | GET, HEAD, OPTIONS, TRACE, PUT, DELETE (RFC 9110 §9.2.2), never gRPC |
//! | the timeout of the try | as (b): the request may have run |
//! | a status that the route lists | any method: the user said so |
//! | as in (b), or the timeout of the try, where a route has a `retry` (GEP-1731) | any method: the user said so |
//! | anything else, our own `overflow` included | no |
//!
//! In every case only while the body can be sent again. (b) and what follows it also need the budget: it bounds repeated
//! work, of which (a) makes none. When it is spent, the last answer is returned as it is, or 503 where an object asks for the budget.
//!
//! gRPC is POST and so (a) only; it is named apart because nothing stops a client from sending it with another method.
//!
//! Not here: where the next try goes (`balance/`, by `PickRequest::avoid`), and the request's deadline, which the
//! caller compares with [`NextTry::At`].

use std::borrow::Borrow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use rand::Rng;

use super::budget::{Budget, RetryPermit};

/// When requests are tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries after the first. Zero switches retries off. Default 2.
    pub max_retries: u32,
    /// Further response statuses to retry, whatever the method. Default none.
    pub status_codes: Arc<[StatusCode]>,
    /// The n-th retry waits a random time up to this·2^(n−1). Default 25 ms.
    pub backoff_base: Duration,
    /// The longest such time. Default 250 ms.
    pub backoff_max: Duration,
    /// A wait before each retry that the random time is added to (HTTPRoute `retry.backoff` is a minimum). Default zero.
    pub backoff_floor: Duration,
    /// A lost connection and the timeout of a try are retried whatever the method. Default off.
    pub any_method: bool,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_retries: 2,
            status_codes: Arc::new([]),
            backoff_base: Duration::from_millis(25),
            backoff_max: Duration::from_millis(250),
            backoff_floor: Duration::ZERO,
            any_method: false,
        }
    }
}

/// What a route says about retries; what it leaves open comes from the backend's policy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RetryOverride {
    /// Tries after the first; zero switches retries off.
    pub max_retries: Option<u32>,
    /// Further response statuses to retry. They replace the backend's where there are any.
    pub status_codes: Arc<[StatusCode]>,
    /// The least back-off.
    pub backoff: Option<Duration>,
    /// See [`RetryPolicy::any_method`]; it can only be switched on.
    pub any_method: bool,
}

impl RetryPolicy {
    /// This policy with what a route says about it.
    #[must_use]
    pub fn with(&self, route: &RetryOverride) -> Self {
        let codes = if route.status_codes.is_empty() { &self.status_codes } else { &route.status_codes };
        Self {
            max_retries: route.max_retries.unwrap_or(self.max_retries),
            status_codes: Arc::clone(codes),
            backoff_floor: route.backoff.unwrap_or(self.backoff_floor),
            any_method: self.any_method || route.any_method,
            ..self.clone()
        }
    }

    fn backoff(&self, retry: u32, rng: &mut (impl Rng + ?Sized)) -> Duration {
        let doublings = retry.saturating_sub(1).min(31);
        let most = self.backoff_base.saturating_mul(1 << doublings).min(self.backoff_max);
        self.backoff_floor.saturating_add(rng.random_range(Duration::ZERO..=most))
    }
}

/// How one try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Provably nothing ran: connect or TLS failure, `REFUSED_STREAM`, a stream above GOAWAY's last, not one byte of the
    /// request written, or an answer with `x-weft-not-processed`.
    NotProcessed,
    /// The connection was lost, or the stream reset, after a byte of the request and before the response head.
    LostBeforeHead,
    /// The timeout of the try passed before the response head.
    PerTryTimeout,
    /// A response head.
    Response(StatusCode),
    /// A limit, ours or the peer's: trying again would add to the load.
    Overflow,
    /// The response broke the protocol, or anything else that trying again does not cure.
    Other,
}

/// What to do now.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextTry {
    /// Return what there is.
    Return,
    /// It would be tried again if the budget were not spent.
    Spent,
    /// Try again.
    At {
        /// Not before.
        when: Instant,
    },
}

/// One request's retries, by its own policy or by one that is lent.
#[derive(Debug)]
pub struct Retry<P> {
    policy: P,
    /// Whether running it twice is as good as once.
    idempotent: bool,
    retries: u32,
    /// The retry under way. Held here so that it ends with the request, or when the next one takes its place.
    permit: Option<RetryPermit>,
}

impl<P: Borrow<RetryPolicy>> Retry<P> {
    /// For a request of `method`, before its first try.
    pub fn new(policy: P, method: &Method, is_grpc: bool) -> Self {
        Self { policy, idempotent: !is_grpc && is_idempotent(method), retries: 0, permit: None }
    }

    /// A try has ended. `body_replayable`: everything sent of the body is still held, or nothing was sent.
    pub fn next_try(
        &mut self,
        outcome: &Outcome,
        body_replayable: bool,
        budget: &Budget,
        now: Instant,
        rng: &mut (impl Rng + ?Sized),
    ) -> NextTry {
        // The try that has just ended no longer weighs on the backend.
        self.permit = None;
        if !self.may_retry() || !body_replayable || !self.may_repeat(outcome) {
            return NextTry::Return;
        }
        // The budget bounds repeated work. A try that provably did none has none to repeat: when an endpoint dies with
        // many requests on their way to it, each of them may go to another.
        if *outcome != Outcome::NotProcessed {
            let Some(permit) = budget.try_retry(now) else { return NextTry::Spent };
            self.permit = Some(permit);
        }
        self.retries += 1;
        let wait = self.policy.borrow().backoff(self.retries, rng);
        match now.checked_add(wait) {
            Some(when) => NextTry::At { when },
            None => NextTry::Return,
        }
    }

    /// Whether a further try is possible at all: if not, the body need not be kept.
    pub fn may_retry(&self) -> bool {
        self.retries < self.policy.borrow().max_retries
    }

    /// Retries so far.
    pub fn retries(&self) -> u32 {
        self.retries
    }

    fn may_repeat(&self, outcome: &Outcome) -> bool {
        match outcome {
            Outcome::NotProcessed => true,
            Outcome::LostBeforeHead | Outcome::PerTryTimeout => self.idempotent || self.policy.borrow().any_method,
            Outcome::Response(status) => self.policy.borrow().status_codes.contains(status),
            Outcome::Overflow | Outcome::Other => false,
        }
    }
}

fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE)
}

#[cfg(test)]
mod tests {
    use super::super::BudgetPolicy;
    use super::*;
    use Outcome::{LostBeforeHead, NotProcessed, Other, PerTryTimeout, Response};
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    const SAFE_TO_REPEAT: [Method; 6] =
        [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::PUT, Method::DELETE];

    fn rng() -> SmallRng {
        SmallRng::seed_from_u64(7)
    }

    fn retried(policy: &RetryPolicy, method: &Method, is_grpc: bool, outcome: Outcome, replayable: bool) -> bool {
        let mut retry = Retry::new(policy.clone(), method, is_grpc);
        let next = retry.next_try(&outcome, replayable, &Budget::default(), Instant::now(), &mut rng());
        matches!(next, NextTry::At { .. })
    }

    #[test]
    fn the_default_rules_row_by_row() {
        let unavailable = Response(StatusCode::SERVICE_UNAVAILABLE);
        let rows: [(&str, Method, bool, Outcome, bool); 15] = [
            ("(a) GET not processed", Method::GET, false, NotProcessed, true),
            ("(a) POST not processed", Method::POST, false, NotProcessed, true),
            ("(a) PATCH not processed", Method::PATCH, false, NotProcessed, true),
            ("(a) gRPC not processed", Method::POST, true, NotProcessed, true),
            ("(b) GET lost", Method::GET, false, LostBeforeHead, true),
            ("(b) POST lost", Method::POST, false, LostBeforeHead, false),
            ("(b) PATCH lost", Method::PATCH, false, LostBeforeHead, false),
            ("(b) CONNECT lost", Method::CONNECT, false, LostBeforeHead, false),
            ("(b) gRPC lost", Method::POST, true, LostBeforeHead, false),
            ("(b) gRPC by another method, lost", Method::GET, true, LostBeforeHead, false),
            ("GET, the try timed out", Method::GET, false, PerTryTimeout, true),
            ("POST, the try timed out", Method::POST, false, PerTryTimeout, false),
            ("a 503 nobody listed", Method::GET, false, unavailable, false),
            ("overflow", Method::GET, false, Outcome::Overflow, false),
            ("a broken response", Method::GET, false, Other, false),
        ];
        for (row, method, is_grpc, outcome, want) in rows {
            assert_eq!(retried(&RetryPolicy::default(), &method, is_grpc, outcome, true), want, "{row}");
            assert!(!retried(&RetryPolicy::default(), &method, is_grpc, outcome, false), "{row}: the body is gone");
        }
    }

    #[test]
    fn an_extension_method_is_not_known_to_be_idempotent() {
        let purge = Method::from_bytes(b"PURGE").expect("a method");
        assert!(!retried(&RetryPolicy::default(), &purge, false, LostBeforeHead, true));
    }

    #[test]
    fn a_listed_status_is_retried_whatever_the_method() {
        let policy =
            RetryPolicy { status_codes: Arc::new([StatusCode::SERVICE_UNAVAILABLE]), ..RetryPolicy::default() };
        for method in [Method::GET, Method::POST] {
            assert!(retried(&policy, &method, false, Response(StatusCode::SERVICE_UNAVAILABLE), true), "{method}");
            assert!(!retried(&policy, &method, false, Response(StatusCode::BAD_GATEWAY), true), "{method}");
        }
    }

    #[test]
    fn a_route_with_a_retry_repeats_what_may_have_run() {
        let policy = RetryPolicy::default().with(&RetryOverride { any_method: true, ..RetryOverride::default() });
        for (method, is_grpc) in [(Method::POST, false), (Method::PATCH, false), (Method::POST, true)] {
            for outcome in [LostBeforeHead, PerTryTimeout, NotProcessed] {
                assert!(retried(&policy, &method, is_grpc, outcome, true), "{method} {outcome:?}");
                assert!(!retried(&policy, &method, is_grpc, outcome, false), "{method} {outcome:?}: the body is gone");
            }
            assert!(!retried(&policy, &method, is_grpc, Outcome::Overflow, true), "{method}: overflow");
        }
    }

    #[test]
    fn zero_switches_retries_off() {
        let policy = RetryPolicy { max_retries: 0, ..RetryPolicy::default() };
        assert!(!retried(&policy, &Method::GET, false, NotProcessed, true));
        assert!(!Retry::new(policy.clone(), &Method::GET, false).may_retry());
    }

    #[test]
    fn what_a_route_leaves_open_comes_from_the_backend() {
        let backend =
            RetryPolicy { max_retries: 4, status_codes: Arc::new([StatusCode::BAD_GATEWAY]), ..Default::default() };
        assert_eq!(backend.with(&RetryOverride::default()), backend);
        let route = RetryOverride {
            max_retries: Some(1),
            status_codes: Arc::new([StatusCode::GATEWAY_TIMEOUT]),
            backoff: Some(Duration::from_millis(100)),
            any_method: true,
        };
        let both = backend.with(&route);
        assert_eq!((both.max_retries, &both.status_codes, both.any_method), (1, &route.status_codes, true));
        assert_eq!((both.backoff_floor, both.backoff_base), (Duration::from_millis(100), backend.backoff_base));
    }

    #[test]
    fn the_wait_is_random_below_a_bound_that_doubles() {
        let now = Instant::now();
        let policy = RetryPolicy { max_retries: 10, ..RetryPolicy::default() };
        let mut longest = [Duration::ZERO; 6];
        let mut rng = rng();
        for _ in 0..500 {
            let mut retry = Retry::new(policy.clone(), &Method::GET, false);
            for longest in &mut longest {
                match retry.next_try(&NotProcessed, true, &Budget::default(), now, &mut rng) {
                    NextTry::At { when } => *longest = (*longest).max(when - now),
                    NextTry::Return | NextTry::Spent => panic!("a retry is left"),
                }
            }
        }
        for (longest, bound) in longest.iter().zip([25u64, 50, 100, 200, 250, 250]) {
            let bound = Duration::from_millis(bound);
            assert!(*longest <= bound && *longest > bound * 9 / 10, "{longest:?} of {bound:?}");
        }
    }

    #[test]
    fn a_routes_backoff_is_a_minimum() {
        let now = Instant::now();
        let policy = RetryPolicy::default()
            .with(&RetryOverride { backoff: Some(Duration::from_millis(400)), ..RetryOverride::default() });
        let mut retry = Retry::new(policy.clone(), &Method::GET, false);
        match retry.next_try(&NotProcessed, true, &Budget::default(), now, &mut rng()) {
            NextTry::At { when } => assert!(when - now >= Duration::from_millis(400)),
            NextTry::Return | NextTry::Spent => panic!("a retry is left"),
        }
    }

    #[test]
    fn a_spent_budget_returns_the_last_answer_and_a_request_gives_its_permit_back() {
        let budget = Budget::new(BudgetPolicy { percent: 20, min_concurrent: 3 });
        let now = Instant::now();
        let mut held: Vec<Retry<RetryPolicy>> =
            (0..4).map(|_| Retry::new(RetryPolicy::default(), &Method::GET, false)).collect();
        let next: Vec<bool> = held
            .iter_mut()
            .map(|retry| retry.next_try(&LostBeforeHead, true, &budget, now, &mut rng()) == NextTry::Spent)
            .collect();
        assert_eq!(next, [false, false, false, true]);
        assert_eq!((budget.retries(), budget.spent_total()), (3, 1));
        // The second retry of one request takes the place of its first.
        assert!(matches!(held[0].next_try(&LostBeforeHead, true, &budget, now, &mut rng()), NextTry::At { .. }));
        assert_eq!(budget.retries(), 3);
        // A success ends the retry at once, the drop of the request at the latest.
        assert_eq!(held[0].next_try(&Response(StatusCode::OK), true, &budget, now, &mut rng()), NextTry::Return);
        assert_eq!(budget.retries(), 2);
        drop(held);
        assert_eq!(budget.retries(), 0);
    }

    #[test]
    fn what_provably_did_nothing_spends_no_budget() {
        let budget = Budget::default();
        let now = Instant::now();
        let mut many: Vec<Retry<RetryPolicy>> =
            (0..100).map(|_| Retry::new(RetryPolicy::default(), &Method::POST, false)).collect();
        for retry in &mut many {
            assert!(matches!(retry.next_try(&NotProcessed, true, &budget, now, &mut rng()), NextTry::At { .. }));
        }
        assert_eq!((budget.retries(), budget.spent_total()), (0, 0));
    }

    fn any_outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            Just(NotProcessed),
            Just(LostBeforeHead),
            Just(PerTryTimeout),
            Just(Outcome::Overflow),
            Just(Other),
            (500u16..505).prop_map(|code| Response(StatusCode::from_u16(code).expect("a status"))),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn never_more_than_allowed_and_never_twice_what_may_have_run(
            outcomes in prop::collection::vec((any_outcome(), any::<bool>()), 1..12),
            max_retries in 0u32..5,
            method in prop::sample::select(vec![Method::GET, Method::PUT, Method::POST, Method::PATCH, Method::CONNECT]),
            is_grpc in any::<bool>(),
            seed in any::<u64>(),
        ) {
            let policy = RetryPolicy { max_retries, ..RetryPolicy::default() };
            let budget = Budget::default();
            let mut rng = SmallRng::seed_from_u64(seed);
            let mut retry = Retry::new(policy.clone(), &method, is_grpc);
            let now = Instant::now();
            let mut made = 0;
            for (outcome, replayable) in outcomes {
                if let NextTry::At { when } = retry.next_try(&outcome, replayable, &budget, now, &mut rng) {
                    made += 1;
                    prop_assert!(replayable);
                    prop_assert!(when >= now && when <= now + policy.backoff_max);
                    let may_have_run = matches!(outcome, LostBeforeHead | PerTryTimeout);
                    prop_assert!(!may_have_run || (!is_grpc && SAFE_TO_REPEAT.contains(&method)), "{method} {outcome:?}");
                    prop_assert!(!matches!(outcome, Response(_) | Outcome::Overflow | Other), "{outcome:?}");
                }
                prop_assert!(budget.retries() <= 1);
            }
            prop_assert!(made <= max_retries);
            prop_assert_eq!(retry.retries(), made);
            drop(retry);
            prop_assert_eq!(budget.retries(), 0);
        }
    }
}
