//! Rules of a route into wire rules: their matches (`matches`), filters (`filters`), and backends (here).
//!
//! Proxies refuse a resource as a whole, so what they would refuse is found here and costs no more than its rule.
//!
//! A rule whose match cannot be evaluated (a bad regular expression, say) is dropped: it would match nothing. A rule with a
//! filter this version does not do is kept and answers 500, because skipping a filter would let requests through that
//! it was meant to change. A backendRef that is not valid keeps its share and answers 500 (HTTPRoute `backendRefs`). A call of
//! gRPC gets UNAVAILABLE instead of every such 500: the proxy sees what it is.

use std::time::Duration;

use weft_proto::ServiceName;
use weft_proto::v1::weighted_target::Target;
use weft_proto::v1::{self, FixedAnswer, HttpMatch, Millis, Protocol, RouteRule, WeightedTarget};

use super::super::kubernetes::{backend_policy, declared, may_carry_http};
use super::filters::wire_filters;
use super::matches::{match_all, wire_match};
use super::parents::ports_of;
use super::precedence::Precedence;
use crate::model::{BackendRef, HttpRouteRule, Kind, Model, ObjectName, Route, ServiceKind};
use crate::source::kind_name;

/// Nobody waits longer, and proxies take no longer time span. The Gateway API's own limit is eleven years.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// A rule that attaches.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rule {
    pub(super) wire: RouteRule,
    pub(super) matches: Vec<(Precedence, HttpMatch)>,
}

/// Why a reference to a backend is not valid.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadRef {
    /// A reason of the ResolvedRefs condition.
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// All rules of a route, and what is wrong with some.
#[derive(Debug, Default)]
pub(super) struct Compiled {
    pub(super) rules: Vec<Rule>,
    /// Rules that are not there, and why.
    pub(super) dropped: Vec<String>,
    /// Rules, or shares of rules, that answer 500 for something this version does not do, and why.
    pub(super) answering: Vec<String>,
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
        let (filters, targets) = match wire_filters(&rule.filters) {
            Ok(filters) => {
                out.implemented += 1;
                (filters, targets(rule, &label, undeclared, model, &mut out))
            }
            Err(why) => {
                let target = answer(1, format!("rule {label}: {why}"));
                out.answering.push(format!("{label}: {why}"));
                (Vec::new(), vec![target])
            }
        };
        let wire = RouteRule {
            route: format!("{}/{}", kind_name(route.kind), route.meta.name),
            rule: rule.name.clone().unwrap_or_else(|| index.to_string()),
            filters,
            targets,
            request_timeout: rule.request_timeout.map(millis),
            backend_request_timeout: rule.backend_request_timeout.map(millis),
            retry: None,
        };
        out.rules.push(Rule { wire, matches });
    }
    out
}

/// What a port without a declaration is taken to speak where a route of this kind leads there, or from there.
pub(super) fn undeclared(kind: Kind) -> Protocol {
    if kind == Kind::GrpcRoute { Protocol::Grpc } else { Protocol::Http }
}

/// What status calls that, and the appProtocol that declares it.
pub(super) fn declaration(undeclared: Protocol) -> (&'static str, &'static str) {
    if undeclared == Protocol::Grpc { ("gRPC", "grpc") } else { ("HTTP", "http") }
}

fn targets(
    rule: &HttpRouteRule,
    label: &str,
    undeclared: Protocol,
    model: &Model,
    out: &mut Compiled,
) -> Vec<WeightedTarget> {
    if rule.backends.is_empty() {
        return vec![answer(1, format!("rule {label} has no backendRefs"))];
    }
    let targets: Vec<_> = rule
        .backends
        .iter()
        .map(|reference| {
            let filters = match wire_filters(&reference.filters) {
                Ok(filters) => filters,
                Err(why) => {
                    let why = format!("{label}, backend {}: {why}", reference.name);
                    out.answering.push(why.clone());
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
fn backend(reference: &BackendRef, undeclared: Protocol, model: &Model) -> Result<v1::Backend, BadRef> {
    let bad = |reason, message| Err(BadRef { reason, message });
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
    // The request is HTTP already, or a call of gRPC, so an undeclared port is taken to speak it too.
    let protocol = declared(port).unwrap_or(undeclared);
    if !may_carry_http(protocol) {
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
        policy: backend_policy(service),
    })
}

/// Rounded up: a timeout that is set must not become zero, which is off.
fn millis(timeout: Duration) -> Millis {
    Millis { value: u64::try_from(timeout.min(LONGEST).as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX) }
}
