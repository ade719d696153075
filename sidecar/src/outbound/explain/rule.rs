//! One request at one port of a Service: the rule it matches, what filters make of it, and whose share it may become. Asks the
//! very functions that the forwarding path asks (`request.rs`), so it cannot disagree with it.

use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;
use http::header::{HOST, LOCATION};
use http::request::Parts;
use rand::RngCore;
use weft_proto::explain::{BackendShare, Endpoint, Explanation, MatchedRule, OwnAnswer as Told};

use super::super::fault::aborted;
use super::super::request::{find, holds, no_route, session_at, session_of};
use crate::answer::OwnAnswer;
use crate::config::{Backend, RuleView, ServicePort};
use crate::reason::Reason;
use crate::resilience::{RecentPolicy, RetryPolicy};
use crate::route::{After, Filters, Found, Made, Rule, Target, Token};

/// What the moment and the settings add.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) now: Instant,
    pub(super) is_grpc: bool,
    /// Whether retries are switched on at all.
    pub(super) retries: bool,
}

impl Now {
    /// An answer of our own, as it is told.
    pub(super) fn told(self, own: &OwnAnswer) -> Told {
        Told {
            reason: own.reason.to_string(),
            status: own.status().as_u16(),
            grpc_status: self.is_grpc.then(|| own.grpc_status()),
            detail: own.detail.to_string(),
        }
    }
}

/// Explains `request`, which its filters change, into `told`.
pub(super) fn explain(port: &ServicePort, mut request: Parts, now: Now, told: &mut Explanation) {
    let Some(routes) = &port.routes else {
        told.backends = vec![alone(&port.backend, now)];
        if let Some(token) = session_at(&port.backend, &request.headers) {
            told.notes.push(stays_with(&port.backend, token));
        }
        return;
    };
    let Some(found) = find(routes, &request) else {
        told.answer = Some(now.told(&no_route(&port.service)));
        return;
    };
    let (rule, view) = (found.rule, port.rule_view(found.index));
    // Before a filter takes its header or cookie away.
    let token = session_of(rule, &request.headers);
    let filtered = filter(&rule.filters, &mut request, now);
    told.rule = Some(matched(&found, view, routes.entries(), filtered.changes));
    if filtered.answer.is_some() {
        told.answer = filtered.answer;
        return;
    }
    let stays = token.and_then(|token| rule.choose_for(|backend| holds(backend, token)));
    if let (Some(token), Some((Target::Backend(backend), filters))) = (token, stays) {
        let of_the_session = share(Some(rule), backend, now);
        let filtered = filter(filters, &mut request, now);
        let (changes, answer) = (filtered.changes, filtered.answer.or(of_the_session.answer));
        let its = |(weight, target, _): (u64, &Target<Arc<Backend>>, _)| {
            matches!(target, Target::Backend(one) if one.name == backend.name).then_some(weight)
        };
        let weight = rule.targets.shares().find_map(its).unwrap_or(0);
        told.backends = vec![BackendShare { weight, percent: 100.0, changes, answer, ..of_the_session }];
        told.notes.push(stays_with(backend, token));
        return;
    }
    told.backends = shares(rule, view, &request, now);
}

fn stays_with(backend: &Backend, token: Token) -> String {
    let at = backend.balancer.endpoints().iter().find(|endpoint| token.is_at(endpoint.addr())).map(|it| it.addr());
    let at = at.map(|at| format!(", at {at} while it is ready")).unwrap_or_default();
    format!("its session stays with {}{at}", backend.name)
}

/// All traffic to one backend, by no rule.
pub(super) fn alone(backend: &Arc<Backend>, now: Now) -> BackendShare {
    BackendShare { weight: 1, percent: 100.0, ..share(None, backend, now) }
}

fn shares(rule: &Rule<Arc<Backend>>, view: Option<&RuleView>, request: &Parts, now: Now) -> Vec<BackendShare> {
    let sum: u64 = rule.targets.shares().map(|(weight, ..)| weight).sum();
    let mut readable = view.into_iter().flat_map(RuleView::target_filters);
    let of = |(weight, target, filters): (u64, &Target<Arc<Backend>>, &Filters<Arc<Backend>>)| {
        let filtered = filter(filters, &mut request.clone(), now);
        let share = match target {
            Target::Backend(backend) => share(Some(rule), backend, now),
            Target::Answer(fixed) => {
                let own = OwnAnswer::new(Reason::InvalidBackend, fixed.detail.clone());
                let own = OwnAnswer { status: Some(fixed.status), ..own };
                BackendShare { answer: Some(now.told(&own)), ..BackendShare::default() }
            }
        };
        // Shares are figures for people.
        let percent = if sum == 0 { 100.0 } else { 100.0 * weight as f64 / sum as f64 };
        let (changes, answer) = (filtered.changes, filtered.answer.or(share.answer));
        let filters = readable.next().unwrap_or_default().to_vec();
        BackendShare { weight, percent, filters, changes, answer, ..share }
    };
    rule.targets.shares().map(of).collect()
}

fn share(rule: Option<&Rule<Arc<Backend>>>, backend: &Arc<Backend>, now: Now) -> BackendShare {
    let answer = if backend.is_known() {
        backend.balancer.why_none().map(|none| OwnAnswer::new(Reason::NoEndpoints, format!("{}: {none}", backend.name)))
    } else {
        let detail = format!("the control plane did not say in time which endpoints {} has", backend.name);
        Some(OwnAnswer::new(Reason::ConfigUnavailable, detail))
    };
    let policy = match rule.and_then(|rule| rule.retry.as_ref()) {
        Some(says) => backend.retry.with(says),
        None => backend.retry.clone(),
    };
    let view = backend.balancer.snapshot(now.now);
    let endpoints = view.endpoints.into_iter().map(|view| Endpoint {
        address: view.addr.to_string(),
        pod: view.pod,
        health: format!("{:?}", view.health).to_ascii_lowercase(),
        zone: view.zone.into(),
        near: view.near,
        candidate: view.candidate,
        ejected_ms: view.ejected_ms,
        consecutive_failures: view.consecutive_failures,
        identity: view.identity,
        weight: view.weight,
        in_flight: view.in_flight,
        latency_ms: view.ewma_ms,
    });
    BackendShare {
        name: backend.name.to_string(),
        answer: answer.map(|own| now.told(&own)),
        retries: retries(&policy, backend.budget.recent(), now.retries),
        near: view.near.unwrap_or_default(),
        endpoints: endpoints.collect(),
        ..BackendShare::default()
    }
}

fn retries(policy: &RetryPolicy, budget: Option<&RecentPolicy>, on: bool) -> String {
    if !on || policy.max_retries == 0 {
        return "none".to_owned();
    }
    let codes: Vec<String> = policy.status_codes.iter().map(|code| code.as_u16().to_string()).collect();
    let after = if codes.is_empty() { String::new() } else { format!(", also after {}", codes.join(", ")) };
    let within = budget.map(|budget| format!(", within {budget}")).unwrap_or_default();
    format!("at most {}{after}{within}", policy.max_retries)
}

fn matched(found: &Found<'_, Arc<Backend>>, view: Option<&RuleView>, all: usize, changes: Vec<String>) -> MatchedRule {
    let rule = found.rule;
    let mut says = Vec::new();
    says.extend(rule.request_timeout.map(|timeout| format!("request timeout {timeout:?}")));
    says.extend(rule.backend_request_timeout.map(|timeout| format!("backendRequest timeout {timeout:?}")));
    says.extend(rule.retry.as_ref().and_then(|retry| retry.max_retries).map(|most| format!("retry, {most} at most")));
    says.extend(rule.session.as_ref().map(|session| session.to_string()));
    says.extend(rule.rate_limits.iter().map(|limit| format!("RateLimit {limit}")));
    MatchedRule {
        route: rule.route.to_string(),
        rule: rule.name.to_string(),
        matched: view.and_then(|view| view.conditions(found.entry)).unwrap_or_default().to_owned(),
        precedence: (found.entry + 1, all),
        filters: view.map(|view| view.filters().to_vec()).unwrap_or_default(),
        says,
        changes,
    }
}

struct Filtered {
    changes: Vec<String>,
    answer: Option<Told>,
}

/// Draws only what is certain: a share of requests is told as such, with its filter.
struct Certain;

impl RngCore for Certain {
    fn next_u32(&mut self) -> u32 {
        u32::MAX
    }

    fn next_u64(&mut self) -> u64 {
        u64::MAX
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        bytes.fill(u8::MAX);
    }
}

/// Does to `request` what they say, as the forwarding path does, and tells what that was.
fn filter(filters: &Filters<Arc<Backend>>, request: &mut Parts, now: Now) -> Filtered {
    let before = request.clone();
    let mut after = After::default();
    let made = filters.apply_request(request, &mut Certain, &mut after);
    let mut changes = changes(&before, request);
    if !after.delay.is_zero() {
        changes.push(format!("waits {:?}", after.delay));
    }
    let answer = match made {
        Ok(None) => None,
        Ok(Some(Made::Redirect(response))) => {
            let to = response.headers().get(LOCATION).map(|to| String::from_utf8_lossy(to.as_bytes()).into_owned());
            let own = OwnAnswer::new(Reason::Redirect, format!("redirected to {}", to.unwrap_or_default()));
            // gRPC follows no redirects.
            let status = (!now.is_grpc).then(|| response.status());
            Some(now.told(&OwnAnswer { status, ..own }))
        }
        Ok(Some(Made::Preflight(response))) => {
            let own = OwnAnswer::new(Reason::Preflight, "a browser's question whether it may ask (CORS)");
            Some(now.told(&OwnAnswer { status: Some(response.status()), ..own }))
        }
        Ok(Some(Made::Abort(abort))) => Some(now.told(&aborted(abort))),
        Err(unsendable) => Some(now.told(&OwnAnswer::new(Reason::BadRequest, unsendable.to_string()))),
    };
    Filtered { changes, answer }
}

fn changes(before: &Parts, after: &Parts) -> Vec<String> {
    let mut all = Vec::new();
    let mut differs = |what: &str, before: Option<&str>, after: Option<&str>| {
        if before != after {
            let text = |side: Option<&str>| side.map_or("none".to_owned(), str::to_owned);
            all.push(format!("{what}: {} → {}", text(before), text(after)));
        }
    };
    let path = |parts: &Parts| parts.uri.path_and_query().map(|path| path.as_str().to_owned());
    differs("path", path(before).as_deref(), path(after).as_deref());
    let host = |parts: &Parts| {
        let header = parts.headers.get(HOST).map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned());
        parts.uri.authority().map(ToString::to_string).or(header)
    };
    differs("host", host(before).as_deref(), host(after).as_deref());
    let joined = |headers: &HeaderMap, name: &http::HeaderName| {
        let lines: Vec<_> = headers.get_all(name).iter().map(|line| String::from_utf8_lossy(line.as_bytes())).collect();
        (!lines.is_empty()).then(|| lines.join(", "))
    };
    let mut names: Vec<_> = before.headers.keys().chain(after.headers.keys()).filter(|name| *name != HOST).collect();
    names.sort_unstable_by_key(|name| name.as_str());
    names.dedup();
    for name in names {
        differs(name.as_str(), joined(&before.headers, name).as_deref(), joined(&after.headers, name).as_deref());
    }
    all
}
