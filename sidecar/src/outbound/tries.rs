//! The tries of one request against one backend: pick an endpoint, send, judge what came of it, and let
//! `resilience::Retry` decide whether another try is safe. This file only acts: what counts as what is in `judge.rs`.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use http::header::SET_COOKIE;
use http::request::Parts;
use smallvec::SmallVec;

use super::Outbound;
use super::judge::{Judged, judge};
use super::upstream::Exchange;
use crate::answer::OwnAnswer;
use crate::balance::{EndpointKey, Finished, Pick, PickRequest, TryResult};
use crate::config::{Backend, Protocol};
use crate::http::pool::Wait;
use crate::http::replay::Replay;
use crate::http::{Body, Outgoing, Response, hygiene};
use crate::reason::Reason;
use crate::resilience::{
    ActiveGuard, Deadline, NextTry, Outcome, RecentPolicy, RequestGuard, Retry, RetryOverride, RetryPolicy,
};
use crate::route::{HashKey, Token};
use crate::telemetry::record::Record;

/// What is asked of one backend.
pub(super) struct Plan<'a> {
    pub(super) backend: &'a Arc<Backend>,
    /// What the port that the client called declares.
    pub(super) called: Protocol,
    pub(super) deadline: Deadline,
    pub(super) per_try: Option<Duration>,
    /// What the rule says about retries.
    pub(super) retry: Option<&'a RetryOverride>,
    /// Which endpoint the client's session is at.
    pub(super) session: Option<Token>,
}

/// The tries of one request.
pub(super) struct Tries<'a> {
    pub(super) outbound: &'a Arc<Outbound>,
    pub(super) client: SocketAddr,
    pub(super) plan: Plan<'a>,
    /// When they begin.
    pub(super) now: Instant,
}

/// The response that is passed on, and what must live until its last byte.
pub(super) struct Kept<G> {
    pub(super) response: Box<Response>,
    /// `None`: nobody was asked.
    pub(super) guards: Option<G>,
}

/// Load and limits are counted until these are dropped. A retry's permit ends with its try.
pub(super) struct Held<'a> {
    pick: Pick,
    active: ActiveGuard<'a>,
    request: RequestGuard<'a>,
}

impl Held<'_> {
    /// Everything stays counted: the backend that was asked is owed [`Guards`].
    pub(super) fn leave(self) -> Pick {
        self.active.leave();
        self.request.leave();
        self.pick
    }
}

/// [`Held`] by the response: one reference to the backend, instead of one to each of its counts.
pub(super) struct Guards {
    _pick: Pick,
    backend: Arc<Backend>,
}

impl Guards {
    /// Of what was [left](Held::leave).
    pub(super) fn new(pick: Pick, backend: Arc<Backend>) -> Self {
        Self { _pick: pick, backend }
    }
}

impl Drop for Guards {
    fn drop(&mut self) {
        self.backend.budget.end();
        self.backend.limits.request_over();
    }
}

impl<'a> Tries<'a> {
    pub(super) async fn run(
        self,
        parts: &mut Parts,
        body: Body,
        record: &mut Record,
    ) -> Result<Kept<Held<'a>>, OwnAnswer> {
        let mut tries = pin!(self.tries(parts, body, record));
        let Some(at) = self.plan.deadline.at() else { return tries.as_mut().await };
        match tokio::time::timeout_at(at.into(), tries.as_mut()).await {
            // The deadline is that of the whole response (GEP-1742): from the head on, what is late is cut.
            Ok(Ok(mut kept)) => {
                let body = kept.response.body_mut();
                *body = std::mem::take(body).until(at.into());
                Ok(kept)
            }
            Ok(Err(own)) => Err(own),
            // During a back-off: a try ends by itself, so that its endpoint is told.
            Err(_) => Err(timed_out()),
        }
    }

    async fn tries(&self, parts: &mut Parts, body: Body, record: &mut Record) -> Result<Kept<Held<'a>>, OwnAnswer> {
        let backend = self.plan.backend;
        let settings = &self.outbound.settings.args;
        let request_guard = backend
            .limits
            .request()
            .map_err(|full| OwnAnswer::new(Reason::Overflow, format!("{}: {full}", backend.name)))?;
        let active = backend.budget.begin(self.now);
        let retry_policy = self.retry_policy();
        let mut retry = Retry::new(&*retry_policy, &parts.method, record.is_grpc());
        let of_the_connection = hygiene::has_hop_by_hop(&parts.headers);
        let tunnels = (of_the_connection || parts.method == Method::CONNECT)
            && hygiene::is_tunnel(&parts.method, parts.version, &parts.headers);
        if of_the_connection && !tunnels {
            // Once for all tries.
            hygiene::strip_hop_by_hop(&mut parts.headers);
        }
        let mut replay = Some(Replay::new(body, if retry.may_retry() { settings.replay_limit } else { 0 }));
        let mut tried: SmallVec<[EndpointKey; 3]> = SmallVec::new();
        let session = self.plan.session.and_then(|token| {
            backend.balancer.endpoints().iter().map(|endpoint| endpoint.addr()).find(|addr| token.is_at(*addr))
        });
        let mut key = self.hash_key(parts);
        let mut now = self.now;
        loop {
            let request = PickRequest {
                avoid: &tried,
                client: Some(self.client.ip()),
                session,
                hash: key.as_ref().map(|key| key.hash),
            };
            let pick = backend
                .balancer
                .pick(now, &mut rand::rng(), request)
                .map_err(|none| OwnAnswer::new(Reason::NoEndpoints, format!("{}: {none}", backend.name)))?;
            self.describe(&pick, record);
            let Some(body) = replay.as_ref().and_then(Replay::body) else {
                // `next_try` is told that the body cannot be replayed, so it never asks for this.
                return Err(OwnAnswer::new(Reason::Internal, "a request body was to be sent twice: please report it"));
            };
            if !retry.may_retry() {
                // The last try: from here on nothing of the body is kept.
                replay = None;
            }
            let wait = Wait::since(now.into());
            let mut judged = self.once(&pick, parts, body, tunnels, now, &wait).await;
            if record.is_grpc() {
                judged.look_at_grpc();
            }
            let ended = wait.answered().unwrap_or_else(tokio::time::Instant::now).into_std();
            let sent = wait.over().map_or(now, tokio::time::Instant::into_std);
            if judged.result == TryResult::Silent {
                self.outbound.upstreams.suspect(pick.endpoint());
            }
            self.outbound.record(backend, &pick, ended, ended.saturating_duration_since(sent), judged.result);
            let replayable = replay.as_ref().is_some_and(Replay::can_replay);
            let next = retry.next_try(&judged.outcome, replayable, &backend.budget, ended, &mut rand::rng());
            match next {
                NextTry::Return | NextTry::Spent => {
                    if next == NextTry::Spent {
                        let metrics = &self.outbound.telemetry.metrics;
                        metrics.of_backend(&metrics.retries_over_budget, &(&backend.label).into());
                        if let Some(budget) = backend.budget.recent() {
                            return Err(over_budget(backend, budget, judged.end));
                        }
                    }
                    let held = Held { pick, active, request: request_guard };
                    return judged.end.map(|mut response| {
                        if let Some(cookie) = key.take().and_then(|key| key.cookie) {
                            response.headers_mut().append(SET_COOKIE, cookie);
                        }
                        Kept { response, guards: Some(held) }
                    });
                }
                NextTry::At { when } => {
                    tracing::debug!(backend = %backend.name, endpoint = ?record.endpoint, outcome = ?judged.outcome, "retrying");
                    let metrics = &self.outbound.telemetry.metrics;
                    metrics.of_backend(&metrics.retries, &(&backend.label).into());
                    tried.push(pick.endpoint().key().clone());
                    // The endpoint is no longer busy with us while we wait.
                    drop((pick, judged));
                    tokio::time::sleep_until(when.into()).await;
                    now = tokio::time::Instant::now().into_std();
                }
            }
        }
    }

    /// In a box, since few backends have keys and every request has a future.
    fn hash_key(&self, parts: &Parts) -> Option<Box<HashKey>> {
        let by = self.plan.backend.hash_by.as_ref()?;
        by.key(&parts.headers, &parts.uri, self.client.ip(), &mut rand::rng()).map(Box::new)
    }

    fn retry_policy(&self) -> Cow<'_, RetryPolicy> {
        let Plan { backend, retry, .. } = &self.plan;
        match retry {
            _ if !self.outbound.settings.args.retries.is_on() => {
                Cow::Owned(RetryPolicy { max_retries: 0, ..backend.retry.clone() })
            }
            Some(rule) => Cow::Owned(backend.retry.with(rule)),
            None => Cow::Borrowed(&backend.retry),
        }
    }

    fn describe(&self, pick: &Pick, record: &mut Record) {
        record.tries += 1;
        record.endpoint = Some(pick.endpoint().addr());
        let identity = pick.endpoint().mesh().map(|(_, identity)| identity);
        record.mtls = identity.is_some() && !self.outbound.is_own(pick.endpoint().addr());
        record.peer(identity);
    }

    /// One go at one endpoint.
    async fn once(&self, pick: &Pick, parts: &Parts, body: Body, tunnels: bool, now: Instant, wait: &Wait) -> Judged {
        let mut request = Outgoing::Lent(parts, body);
        if self.plan.deadline.at().is_some() {
            let mut own = request.into_owned();
            self.plan.deadline.shorten_headers(now, own.headers_mut());
            request = own.into();
        }
        let endpoint = pick.endpoint().addr();
        let Plan { backend, called, .. } = self.plan;
        let exchange = Exchange { outbound: self.outbound, backend, called, tunnels, wait };
        // Pinned here, once: awaited by value in each branch, it would have room in the future for each.
        let mut send = pin!(exchange.send(pick.endpoint(), request));
        let (deadline, own) = self.plan.deadline.of_try(now, self.plan.per_try.filter(|per_try| !per_try.is_zero()));
        let Some(at) = deadline.at() else { return judge(send.as_mut().await, endpoint) };
        if let Ok(sent) = tokio::time::timeout_at(at.into(), send.as_mut()).await {
            let mut judged = judge(sent, endpoint);
            judged.look_at_deadline(|| self.plan.deadline.blames(now));
            return judged;
        }
        // An endpoint that a limit of ours kept the request from has not failed.
        let to_blame = !wait.is_held() && (own || self.plan.deadline.blames(now));
        let result = if to_blame { TryResult::Failure } else { TryResult::Neutral };
        if own {
            let waited = at.saturating_duration_since(now);
            let end =
                Err(OwnAnswer::new(Reason::PerTryTimeout, format!("no response from {endpoint} within {waited:?}")));
            Judged { outcome: Outcome::PerTryTimeout, result, end }
        } else {
            Judged { outcome: Outcome::Other, result, end: Err(timed_out()) }
        }
    }
}

fn timed_out() -> OwnAnswer {
    OwnAnswer::new(Reason::Timeout, "no response within the request timeout")
}

/// A budget that somebody asked for is told to the client, not the last answer (GEP-3388).
fn over_budget(backend: &Backend, budget: &RecentPolicy, last: Result<Box<Response>, OwnAnswer>) -> OwnAnswer {
    let last = last.map_or_else(
        |own| own.detail,
        |response| format!("the last try was answered {}", response.status().as_u16()).into(),
    );
    let detail = format!("{}: not tried again, since its budget of retries ({budget}) is spent; {last}", backend.name);
    OwnAnswer::new(Reason::RetryBudget, detail)
}

impl Outbound {
    /// Records how a try went, and reports an ejection.
    pub(super) fn record(&self, backend: &Backend, pick: &Pick, now: Instant, latency: Duration, result: TryResult) {
        // Switched off for diagnosis: failures are then nobody's.
        let result = if self.settings.args.ejection.is_on() { result } else { TryResult::Neutral };
        if let Finished::Ejected { until } = backend.balancer.record(pick, now, latency, result) {
            let seconds = until.saturating_duration_since(now).as_secs_f32();
            tracing::info!(backend = %backend.name, endpoint = %pick.endpoint().addr(), seconds, "endpoint ejected");
            let metrics = &self.telemetry.metrics;
            metrics.of_backend(&metrics.ejections, &(&backend.label).into());
        }
    }
}
