//! A port's routes: wire entries and rules → a `RouteTable` (`route/`), the backends its rules name, and a
//! readable form of both. Order and precedence are the control plane's; everything that can be wrong is found here.

use std::fmt::Write;
use std::sync::Arc;

use http::{Method, StatusCode};
use weft_proto::v1;

use super::backend::{Intern, compile_backend};
use super::error::{CompileError, In};
use super::filters::{self, Around, compile_filters};
use super::values::{at_least_1_ms, port_number, span, status_codes};
use crate::config::model::{Backend, RuleView, TargetView};
use crate::config::rate_limit::compile_rate_limit;
use crate::resilience::RetryOverride;
use crate::route::{
    FixedAnswer, KeyMatch, Match, PathMatch, RouteTable, Rule, Session, Target, ValueMatch, WeightedTarget,
    WeightedTargets,
};

/// Most matches on one port: a lookup is one pass over them.
const MAX_ENTRIES: usize = 10_000;

pub(super) struct CompiledRoutes {
    pub(super) table: RouteTable<Arc<Backend>>,
    /// Each once, also those whose weight is zero: shifting weight to one must not wait for its endpoints.
    pub(super) backends: Vec<Arc<Backend>>,
    pub(super) rules: Vec<RuleView>,
}

pub(super) fn compile_routes(
    port: &v1::ServicePort,
    node: &str,
    interned: &mut dyn Intern,
) -> Result<CompiledRoutes, CompileError> {
    if port.entries.len() > MAX_ENTRIES {
        let why = format!("{} are more than {MAX_ENTRIES}", port.entries.len());
        return Err(CompileError::new(why)).field("entries");
    }
    let mut rules = Vec::with_capacity(port.rules.len());
    let mut views = Vec::with_capacity(port.rules.len());
    let mut backends: Vec<Arc<Backend>> = Vec::new();
    let called = port_number(port.port).field("port")?;
    let mut around = Around { node, interned, called, backends: &mut backends };
    for (index, rule) in port.rules.iter().enumerate() {
        let (rule, view) = compile_rule(rule, &mut around).field(format_args!("rules[{index}]"))?;
        rules.push(rule);
        views.push(view);
    }
    let mut entries = Vec::with_capacity(port.entries.len());
    for (index, entry) in port.entries.iter().enumerate() {
        let field = format_args!("entries[{index}]").to_string();
        let default = v1::HttpMatch::default();
        let wire = entry.r#match.as_ref().unwrap_or(&default);
        let compiled = compile_match(wire).field("match").field(&field)?;
        let rule = usize::try_from(entry.rule).ok().filter(|rule| *rule < rules.len());
        let Some(rule) = rule else {
            let why = format!("there is no rule {}, only {}", entry.rule, rules.len());
            return Err(CompileError::new(why)).field("rule").field(field);
        };
        if let Some(view) = views.get_mut(rule) {
            view.matches.push(format!("{index}: {}", readable(wire)));
        }
        entries.push((compiled, rule));
    }
    let table = RouteTable::new(entries, rules).map_err(CompileError::new).field("entries")?;
    Ok(CompiledRoutes { table, backends, rules: views })
}

fn compile_rule(rule: &v1::RouteRule, around: &mut Around<'_>) -> Result<(Rule<Arc<Backend>>, RuleView), CompileError> {
    let mut view = RuleView {
        route: rule.route.clone(),
        rule: rule.rule.clone(),
        matches: Vec::new(),
        filters: filters::readable(&rule.filters),
        rate_limits: Vec::new(),
        targets: Vec::new(),
    };
    for (index, wire) in rule.rate_limits.iter().enumerate() {
        let limit = compile_rate_limit(wire).field(format_args!("rate_limits[{index}]"))?;
        view.rate_limits.push(around.interned.limit(limit));
    }
    let filters = compile_filters(&rule.filters, around)?;
    let mut targets = Vec::with_capacity(rule.targets.len());
    for (index, wire) in rule.targets.iter().enumerate() {
        let target = compile_target(wire, around).field(format_args!("targets[{index}]"))?;
        view.targets.push(readable_target(&target, wire, around));
        targets.push(target);
    }
    let retry = match &rule.retry {
        None => None,
        Some(retry) => Some(RetryOverride {
            max_retries: Some(retry.max_retries),
            status_codes: status_codes(&retry.status_codes).field("retry")?,
            backoff: span(retry.backoff.as_ref()).field("retry.backoff")?,
            any_method: retry.any_method,
        }),
    };
    // Zero is off, and off is the default.
    let timeout = |wire: &Option<v1::Millis>| Ok(span(wire.as_ref())?.filter(|span| !span.is_zero()));
    let timeout = |wire, name| -> Result<_, CompileError> {
        let result: Result<_, CompileError> = timeout(wire);
        result.field(name)
    };
    let rule = Rule {
        route: rule.route.as_str().into(),
        name: rule.rule.as_str().into(),
        filters,
        targets: WeightedTargets::new(targets),
        request_timeout: timeout(&rule.request_timeout, "request_timeout")?,
        backend_request_timeout: timeout(&rule.backend_request_timeout, "backend_request_timeout")?,
        retry,
        session: rule.session.as_ref().map(session).transpose().field("session")?,
        rate_limits: view.rate_limits.clone().into(),
    };
    Ok((rule, view))
}

/// Names its backend as one of the port's, and says what it is.
pub(super) fn readable_target(
    target: &WeightedTarget<Arc<Backend>>,
    wire: &v1::WeightedTarget,
    around: &mut Around<'_>,
) -> TargetView {
    let to = match &target.target {
        Target::Backend(backend) => {
            around.names(backend);
            backend.name.to_string()
        }
        Target::Answer(answer) => format!("{} ({})", answer.status, answer.detail),
    };
    TargetView { weight: target.weight, to, filters: filters::readable(&wire.filters) }
}

fn session(wire: &v1::SessionPersistence) -> Result<Box<Session>, CompileError> {
    let lasts = at_least_1_ms(wire.absolute_timeout.as_ref()).field("absolute_timeout")?;
    let session = match wire.header {
        true => Session::header(&wire.name, lasts),
        false => Session::cookie(&wire.name, &wire.path, lasts, wire.permanent),
    };
    Ok(Box::new(session?))
}

pub(super) fn compile_target(
    wire: &v1::WeightedTarget,
    around: &mut Around<'_>,
) -> Result<WeightedTarget<Arc<Backend>>, CompileError> {
    use v1::weighted_target::Target as Wire;
    let target = match &wire.target {
        Some(Wire::Backend(backend)) => {
            Target::Backend(compile_backend(backend, around.node, around.interned).field("backend")?)
        }
        Some(Wire::Answer(answer)) => {
            let status = u16::try_from(answer.status).ok().and_then(|status| StatusCode::from_u16(status).ok());
            let status = status.filter(|status| status.is_client_error() || status.is_server_error());
            let why = || CompileError::new(format_args!("{} is not an HTTP error status", answer.status));
            let status = status.ok_or_else(why).field("answer.status")?;
            Target::Answer(FixedAnswer { status, detail: answer.detail.as_str().into() })
        }
        None => return Err(CompileError::new("neither a backend nor an answer")).field("target"),
    };
    Ok(WeightedTarget { weight: wire.weight, target, filters: compile_filters(&wire.filters, around)? })
}

fn compile_match(wire: &v1::HttpMatch) -> Result<Match, CompileError> {
    use v1::key_match::Kind as Key;
    use v1::path_match::Kind as Path;
    let path = match wire.path.as_ref().map(|path| &path.kind) {
        None => None,
        Some(Some(Path::Exact(path))) => Some(PathMatch::Exact(path.clone())),
        Some(Some(Path::Prefix(path))) => Some(PathMatch::Prefix(path.clone())),
        Some(Some(Path::Regex(path))) => Some(PathMatch::Regex(path.clone())),
        Some(Some(Path::Call(call))) => Some(compile_call(call)),
        Some(None) => return Err(CompileError::new("a kind this version does not know")).field("path"),
    };
    let method = match wire.method.as_str() {
        "" => None,
        method => Some(Method::from_bytes(method.as_bytes()).field("method")?),
    };
    let keys = |wire: &[v1::KeyMatch], field: &str| -> Result<Vec<KeyMatch>, CompileError> {
        let compile = |(index, key): (usize, &v1::KeyMatch)| {
            let value = match &key.kind {
                Some(Key::Exact(value)) => ValueMatch::Exact(value.clone()),
                Some(Key::Regex(value)) => ValueMatch::Regex(value.clone()),
                None => {
                    let why = CompileError::new("a kind this version does not know");
                    return Err(why).field(format_args!("{field}[{index}]"));
                }
            };
            Ok(KeyMatch { name: key.name.clone(), value })
        };
        wire.iter().enumerate().map(compile).collect()
    };
    let (headers, query) = (keys(&wire.headers, "headers")?, keys(&wire.query_params, "query_params")?);
    Ok(Match::new(path, method, headers, query)?)
}

fn compile_call(wire: &v1::CallMatch) -> PathMatch {
    use v1::call_match::{Method as Called, Service as Of};
    let service = wire.service.as_ref().map(|service| match service {
        Of::ExactService(service) => ValueMatch::Exact(service.clone()),
        Of::ServiceRegex(service) => ValueMatch::Regex(service.clone()),
    });
    let method = wire.method.as_ref().map(|method| match method {
        Called::ExactMethod(method) => ValueMatch::Exact(method.clone()),
        Called::MethodRegex(method) => ValueMatch::Regex(method.clone()),
    });
    PathMatch::Call { service, method }
}

fn readable_call(wire: &v1::CallMatch) -> String {
    use v1::call_match::{Method as Called, Service as Of};
    let service = match &wire.service {
        None => "any service".to_owned(),
        Some(Of::ExactService(service)) => format!("service {service}"),
        Some(Of::ServiceRegex(service)) => format!("service ~ {service}"),
    };
    match &wire.method {
        None => service,
        Some(Called::ExactMethod(method)) => format!("{service}, method {method}"),
        Some(Called::MethodRegex(method)) => format!("{service}, method ~ {method}"),
    }
}

fn readable(wire: &v1::HttpMatch) -> String {
    use v1::key_match::Kind as Key;
    use v1::path_match::Kind as Path;
    let mut text = match wire.path.as_ref().and_then(|path| path.kind.as_ref()) {
        None => "any path".to_owned(),
        Some(Path::Exact(path)) => format!("path {path}"),
        Some(Path::Prefix(path)) => format!("path {path}…"),
        Some(Path::Regex(path)) => format!("path ~ {path}"),
        Some(Path::Call(call)) => readable_call(call),
    };
    if !wire.method.is_empty() {
        text.insert_str(0, &format!("{} ", wire.method));
    }
    for (what, keys) in [("header", &wire.headers), ("query", &wire.query_params)] {
        for key in keys {
            // Writing to a String cannot fail.
            let _ = match &key.kind {
                Some(Key::Exact(value)) => write!(text, ", {what} {} = {value}", key.name),
                Some(Key::Regex(value)) => write!(text, ", {what} {} ~ {value}", key.name),
                None => Ok(()),
            };
        }
    }
    text
}
