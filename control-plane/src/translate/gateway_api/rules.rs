//! Rules of a route into wire rules: their matches (`matches`), filters (`filters`), and backends (here).
//!
//! Proxies refuse a resource as a whole, so what they would refuse is found here and costs no more than its rule.
//!
//! A rule whose match cannot be evaluated (a bad regular expression, say) is dropped: it would match nothing. A rule with a
//! filter this version does not do is kept and answers 500, because skipping a filter would let requests through that
//! it was meant to change; so is one with timeouts or retries that cannot be as written. A backendRef that is not valid keeps
//! its share and answers 500 (HTTPRoute `backendRefs`), and so does what has a filter whose ExtensionRef leads nowhere. A call
//! of gRPC gets UNAVAILABLE instead of every such 500: the proxy sees what it is.

use std::time::Duration;

use weft_proto::ServiceName;
use weft_proto::v1::weighted_target::Target;
use weft_proto::v1::{self, FixedAnswer, HttpMatch, Millis, Protocol, RouteRule, WeightedTarget};

use super::super::backend_policy::backend_policy;
use super::super::kubernetes::{declared, may_carry, rule_rate_limits};
use super::filters;
use super::matches::{match_all, wire_match};
use super::parents::ports_of;
use super::precedence::Precedence;
use super::session::wire_session;
use crate::model::{
    BackendRef, HttpRouteFilter, HttpRouteRule, Kind, Model, ObjectName, Route, RouteRetry, ServiceKind,
};
use crate::source::kind_name;

/// Nobody waits longer, and proxies take no longer time span. The Gateway API's own limit is eleven years.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// Most tries after the first that a route may ask for. Beyond lies a typing error: even the shortest waits add up to seconds.
const MOST_RETRIES: u32 = 100;
/// Where `retry` does not say (SEMANTICS.md §3).
const RETRIES: u32 = 2;

/// A rule that attaches.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rule {
    pub(super) wire: RouteRule,
    pub(super) matches: Vec<(Precedence, HttpMatch)>,
}

/// Why a reference is not valid.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadRef {
    /// A reason of the ResolvedRefs condition.
    pub(super) reason: &'static str,
    pub(super) message: String,
    pub(super) costs: Costs,
}

/// What a reference that is not valid costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Costs {
    /// A backend's share of requests.
    Share,
    /// Copies of requests.
    Copies,
    /// All requests of a rule.
    Rule,
}

/// Why a rule, or a share of one, cannot be done as written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    /// A reason of the Accepted condition.
    pub(super) reason: &'static str,
    pub(super) message: String,
    /// Nothing is wrong with the rule itself, but what a filter of its names is not there: the reason is one of ResolvedRefs.
    pub(super) unresolved: bool,
}

impl Wrong {
    /// What a filter names is not there.
    pub(super) fn unresolved(reason: &'static str, message: String) -> Self {
        Self { reason, message, unresolved: true }
    }

    fn into_bad_ref(self, costs: Costs) -> BadRef {
        BadRef { reason: self.reason, message: format!("rule {}", self.message), costs }
    }

    /// Filters that exclude each other.
    pub(super) fn incompatible(message: String) -> Self {
        Self { reason: "IncompatibleFilters", message, unresolved: false }
    }

    /// Says where.
    fn at(self, place: &str) -> Self {
        Self { message: format!("{place}: {}", self.message), ..self }
    }
}

impl From<String> for Wrong {
    fn from(message: String) -> Self {
        Self { reason: "UnsupportedValue", message, unresolved: false }
    }
}

/// All rules of a route, and what is wrong with some.
#[derive(Debug, Default)]
pub(super) struct Compiled {
    pub(super) rules: Vec<Rule>,
    /// Rules that are not there, and why.
    pub(super) dropped: Vec<String>,
    /// Rules, or shares of rules, that answer 500 for something this version does not do, and why.
    pub(super) answering: Vec<Wrong>,
    pub(super) bad_refs: Vec<BadRef>,
    /// Rules that do what they say.
    implemented: usize,
}

impl Compiled {
    /// At least one rule does what it says, or there is none at all.
    pub(super) fn usable(&self) -> bool {
        self.implemented > 0 || (self.rules.is_empty() && self.dropped.is_empty())
    }
}

pub(super) fn compile(route: Route<'_>, model: &Model) -> Compiled {
    let mut out = Compiled::default();
    let undeclared = undeclared(route.kind);
    for (index, rule) in route.rules.iter().enumerate() {
        let label = match &rule.name {
            Some(name) => format!("{index} ({name})"),
            None => index.to_string(),
        };
        let matches = match rule.matches.iter().map(wire_match).collect::<Result<Vec<_>, _>>() {
            Ok(matches) if matches.is_empty() => vec![match_all()],
            Ok(matches) => matches,
            Err(why) => {
                out.dropped.push(format!("{label}: {why}"));
                continue;
            }
        };
        let name = rule.name.clone().unwrap_or_else(|| index.to_string());
        let full_name = format!("{}/{name}", route.meta.name);
        let wire = match wire_rule(rule, &label, &full_name, undeclared, model, &mut out) {
            Ok(wire) => {
                out.implemented += 1;
                wire
            }
            Err(wrong) => {
                let target = answer(1, format!("rule {label}: {}", wrong.message));
                let wrong = wrong.at(&label);
                if wrong.unresolved {
                    // As where a backendRef is not valid: it takes its requests, whatever becomes of them.
                    out.implemented += 1;
                    out.bad_refs.push(wrong.into_bad_ref(Costs::Rule));
                } else {
                    out.answering.push(wrong);
                }
                RouteRule { targets: vec![target], ..RouteRule::default() }
            }
        };
        let wire = RouteRule {
            route: format!("{}/{}", kind_name(route.kind), route.meta.name),
            rule: name,
            rate_limits: rule_rate_limits(route, rule.name.as_deref(), model),
            ..wire
        };
        out.rules.push(Rule { wire, matches });
    }
    out
}

/// What a port without a declaration is taken to speak where a route of this kind leads there, or from there.
pub(super) fn undeclared(kind: Kind) -> Protocol {
    match kind {
        Kind::GrpcRoute => Protocol::Grpc,
        Kind::TlsRoute => Protocol::Tls,
        Kind::TcpRoute => Protocol::Tcp,
        _ => Protocol::Http,
    }
}

/// What status calls that, and the appProtocol that declares it.
pub(super) fn declaration(undeclared: Protocol) -> (&'static str, &'static str) {
    match undeclared {
        Protocol::Grpc => ("gRPC", "grpc"),
        Protocol::Tls => ("TLS", "tls"),
        Protocol::Tcp => ("TCP", "tcp"),
        Protocol::Auto | Protocol::Http | Protocol::Http2 => ("HTTP", "http"),
    }
}

/// What a rule does, without its name.
///
/// # Errors
/// Says why it can do nothing.
fn wire_rule(
    rule: &HttpRouteRule,
    label: &str,
    name: &str,
    undeclared: Protocol,
    model: &Model,
    out: &mut Compiled,
) -> Result<RouteRule, Wrong> {
    let filters = filters::of_rule(rule, undeclared, model, &mut out.bad_refs)?;
    if let (Some(whole), Some(one)) = (rule.request_timeout, rule.backend_request_timeout)
        && !whole.is_zero()
        && one > whole
    {
        return Err(format!("timeouts.backendRequest ({one:?}) is longer than timeouts.request ({whole:?})").into());
    }
    Ok(RouteRule {
        filters,
        retry: rule.retry.as_ref().map(retry).transpose()?,
        session: rule.session.as_ref().map(|session| wire_session(session, rule, name)).transpose()?,
        targets: targets(rule, label, undeclared, model, out),
        request_timeout: rule.request_timeout.map(millis),
        backend_request_timeout: rule.backend_request_timeout.map(millis),
        ..RouteRule::default()
    })
}

/// Where it stands, lost connections are retried as well, whatever the method (GEP-1731).
fn retry(retry: &RouteRetry) -> Result<v1::RetryPolicy, String> {
    let max_retries = retry.attempts.unwrap_or(RETRIES);
    if max_retries > MOST_RETRIES {
        return Err(format!("retry.attempts is {max_retries}; at most {MOST_RETRIES} are made"));
    }
    if let Some(code) = retry.codes.iter().find(|code| !(400..600).contains(*code)) {
        return Err(format!("retry.codes has {code}, which is not an error status (400 to 599)"));
    }
    let mut status_codes: Vec<u32> = retry.codes.iter().map(|code| u32::from(*code)).collect();
    status_codes.sort_unstable();
    status_codes.dedup();
    Ok(v1::RetryPolicy { max_retries, status_codes, backoff: retry.backoff.map(millis), any_method: true })
}

fn targets(
    rule: &HttpRouteRule,
    label: &str,
    undeclared: Protocol,
    model: &Model,
    out: &mut Compiled,
) -> Vec<WeightedTarget> {
    if rule.filters.iter().any(|filter| matches!(filter, HttpRouteFilter::Redirect(_))) {
        return Vec::new();
    }
    if rule.backends.is_empty() {
        return vec![answer(1, format!("rule {label} has no backendRefs"))];
    }
    let targets: Vec<_> = rule
        .backends
        .iter()
        .map(|reference| {
            let filters = match filters::of_backend(reference, rule, undeclared, model, &mut out.bad_refs) {
                Ok(filters) => filters,
                Err(wrong) => {
                    let wrong = wrong.at(&format!("{label}, backend {}", reference.name));
                    let why = wrong.message.clone();
                    if wrong.unresolved {
                        out.bad_refs.push(wrong.into_bad_ref(Costs::Share));
                    } else {
                        out.answering.push(wrong);
                    }
                    // The reference itself is still checked, so that status names everything at once.
                    if let Err(bad) = backend(reference, undeclared, model) {
                        out.bad_refs.push(bad);
                    }
                    return answer(reference.weight, format!("rule {why}"));
                }
            };
            match backend(reference, undeclared, model) {
                Ok(backend) => {
                    WeightedTarget { weight: reference.weight, filters, target: Some(Target::Backend(backend)) }
                }
                Err(bad) => {
                    let target = answer(reference.weight, bad.message.clone());
                    out.bad_refs.push(bad);
                    target
                }
            }
        })
        .collect();
    if targets.iter().all(|target| target.weight == 0) {
        return vec![answer(1, format!("every backend of rule {label} has weight 0"))];
    }
    targets
}

fn answer(weight: u32, detail: String) -> WeightedTarget {
    WeightedTarget { weight, filters: Vec::new(), target: Some(Target::Answer(FixedAnswer { status: 500, detail })) }
}

/// A backend that exists; whether it has endpoints is the proxy's to see (503).
pub(super) fn backend(reference: &BackendRef, undeclared: Protocol, model: &Model) -> Result<v1::Backend, BadRef> {
    let bad = |reason, message| Err(BadRef { reason, message, costs: Costs::Share });
    let name = ObjectName::new(&*reference.namespace, &*reference.name);
    if !matches!(&*reference.group, "" | "core") || reference.kind != "Service" {
        let group = if reference.group.is_empty() { "core" } else { &reference.group };
        return bad(
            "InvalidKind",
            format!("backend {name} is a {} of group {group}; only a Service can be one", reference.kind),
        );
    }
    let Some(service) = model.service(&name) else {
        return bad("BackendNotFound", format!("there is no Service {name}"));
    };
    if let ServiceKind::ExternalName(external) = &service.kind {
        let message =
            format!("Service {name} is an ExternalName for {external}; a backend must have endpoints of its own");
        return bad("UnsupportedValue", message);
    }
    let Some(number) = reference.port else {
        return bad("UnsupportedValue", format!("backend {name} needs a port; the Service has {}", ports_of(service)));
    };
    let Some(port) = service.ports.iter().find(|port| port.port == number) else {
        return bad("BackendNotFound", format!("Service {name} has no port {number}; it has {}", ports_of(service)));
    };
    // The request is HTTP already, or a call of gRPC, so an undeclared port is taken to speak it too; of a connection likewise.
    let protocol = declared(port).unwrap_or(undeclared);
    if !may_carry(protocol, undeclared) {
        let (what, app_protocol) = declaration(undeclared);
        let message = format!(
            "port {number} of Service {name} is not declared {what}; set its appProtocol to {app_protocol} if it is"
        );
        return bad("UnsupportedProtocol", message);
    }
    Ok(v1::Backend {
        service: ServiceName::new(name.namespace, name.name).to_string(),
        port: number.into(),
        protocol: protocol.into(),
        policy: backend_policy(service, port, model),
    })
}

/// Rounded up: a timeout that is set must not become zero, which is off.
pub(in super::super) fn millis(timeout: Duration) -> Millis {
    Millis { value: u64::try_from(timeout.min(LONGEST).as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX) }
}
