//! One match of a rule, checked (HTTPRoute and GRPCRoute `matches`). The files source and the API server refuse most of what is refused
//! here; what slips through, or comes from an older CRD, must not cost more than its rule.
//!
//! Bound: an expression has at most 4 KiB and compiles to at most 512 KiB, as in a proxy (sidecar `route/matching.rs`).

use http::Method;
use regex::bytes::{Regex, RegexBuilder};
use weft_proto::v1::call_match::{Method as CallMethod, Service as CallService};
use weft_proto::v1::key_match::Kind as KeyKind;
use weft_proto::v1::path_match::Kind as PathKind;
use weft_proto::v1::{self, HttpMatch};

use super::filters::header_name;
use super::precedence::{Precedence, prefix_of};
use super::short;
use crate::model::{HttpRouteMatch, KeyMatch, MethodMatch, PathMatch};

const PATTERN_LIMIT: usize = 4096;
const REGEX_LIMIT: usize = 512 * 1024;

/// What a rule without matches matches (the CRD's default).
pub(super) fn match_all() -> (Precedence, HttpMatch) {
    let condition = HttpRouteMatch {
        path: PathMatch::Prefix("/".to_owned()),
        headers: Vec::new(),
        query_params: Vec::new(),
        method: None,
    };
    let path = v1::PathMatch { kind: Some(PathKind::Prefix("/".to_owned())) };
    (Precedence::of(&condition), HttpMatch { path: Some(path), ..HttpMatch::default() })
}

/// A match and its rank.
///
/// # Errors
/// Says which condition cannot be evaluated, and why.
pub(super) fn wire_match(condition: &HttpRouteMatch) -> Result<(Precedence, HttpMatch), String> {
    let kind = match &condition.path {
        PathMatch::Exact(path) => PathKind::Exact(checked_path(path)?.to_owned()),
        PathMatch::Prefix(path) => PathKind::Prefix(prefix_of(checked_path(path)?).to_owned()),
        PathMatch::Regex(regex) => PathKind::Regex(checked_regex(regex)?),
        PathMatch::Call(call) => call_match(call)?,
    };
    let method = match &condition.method {
        Some(method) => Method::from_bytes(method.as_bytes())
            .map_err(|_| format!("`{}` is not an HTTP method", short(method)))?
            .as_str()
            .to_ascii_uppercase(),
        None => String::new(),
    };
    let headers = condition.headers.iter().map(|header| key_match(header, header_name(&header.name)?));
    let query_params = condition.query_params.iter().map(|param| match &*param.name {
        "" => Err("a query parameter needs a name".to_owned()),
        name => key_match(param, name.to_owned()),
    });
    let wire = HttpMatch {
        path: Some(v1::PathMatch { kind: Some(kind) }),
        method,
        headers: headers.collect::<Result<_, _>>()?,
        query_params: query_params.collect::<Result<_, _>>()?,
    };
    Ok((Precedence::of(condition), wire))
}

/// A path where it is one: proxies look for paths faster than for parts of them.
fn call_match(call: &MethodMatch) -> Result<PathKind, String> {
    if call.regex {
        let part = |part: &Option<String>| part.as_deref().map(checked_regex).transpose();
        let (service, method) = (part(&call.service)?, part(&call.method)?);
        let call = v1::CallMatch {
            service: service.map(CallService::ServiceRegex),
            method: method.map(CallMethod::MethodRegex),
        };
        return Ok(PathKind::Call(call));
    }
    for part in [&call.service, &call.method].into_iter().flatten() {
        if part.is_empty() || part.contains(['/', '?', '#']) {
            return Err(format!("`{}` is not the name of a gRPC service or method", short(part)));
        }
    }
    Ok(match (&call.service, &call.method) {
        (Some(service), Some(method)) => PathKind::Exact(format!("/{service}/{method}")),
        (Some(service), None) => PathKind::Prefix(format!("/{service}")),
        (None, method) => {
            PathKind::Call(v1::CallMatch { service: None, method: method.clone().map(CallMethod::ExactMethod) })
        }
    })
}

fn checked_path(path: &str) -> Result<&str, String> {
    if path.starts_with('/') && !path.contains(['?', '#']) && !path.contains("//") {
        Ok(path)
    } else {
        Err(format!("path `{}` must start with `/` and have no `//`, `?` or `#`", short(path)))
    }
}

fn key_match(condition: &KeyMatch, name: String) -> Result<v1::KeyMatch, String> {
    let kind = if condition.regex {
        KeyKind::Regex(checked_regex(&condition.value)?)
    } else {
        KeyKind::Exact(condition.value.clone())
    };
    Ok(v1::KeyMatch { name, kind: Some(kind) })
}

fn checked_regex(pattern: &str) -> Result<String, String> {
    if pattern.len() > PATTERN_LIMIT {
        return Err(format!("expression `{}` is longer than {PATTERN_LIMIT} bytes", short(pattern)));
    }
    let compile = |pattern: &str, unicode| -> Result<Regex, regex::Error> {
        RegexBuilder::new(pattern).unicode(unicode).size_limit(REGEX_LIMIT).build()
    };
    // As a proxy does it: ASCII classes, as in RE2, and Unicode where the pattern needs that; by itself first, so that
    // `a)(b` is refused, then against the whole value.
    let whole = format!("\\A(?:{pattern})\\z");
    let alone = |unicode| compile(pattern, unicode).and_then(|_| compile(&whole, unicode));
    match alone(false).or_else(|_| alone(true)) {
        Ok(_) => Ok(pattern.to_owned()),
        Err(regex::Error::CompiledTooBig(limit)) => Err(format!(
            "expression `{}` is larger than {limit} bytes when compiled: are there large repetitions in it?",
            short(pattern)
        )),
        Err(_) => Err(format!("`{}` is not a regular expression (RE2 syntax)", short(pattern))),
    }
}
