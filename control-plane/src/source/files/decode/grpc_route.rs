//! GRPCRoute of the Gateway API, by the schema of v1 and in the words of `route.rs`, whose readers it shares: its rules become
//! those of an HTTPRoute (`model/grpc_route.rs`).
//!
//! Of the filters of an HTTPRoute it has four. A route without rules is good, and matches nothing.

use super::Origin;
use super::filters::{filters, session};
use super::route::{MAX_LIST, MAX_MATCHES, any_match, backend, check_hostnames, keys, parents, rules};
use crate::model::{GrpcRoute, HttpRouteMatch, HttpRouteRule, Meta, MethodMatch, PathMatch};
use crate::source::files::field::Field;
use crate::source::files::values;

/// Characters of a service or method.
const MAX_NAME: usize = 1_024;

const SPEC: &[&str] = &["parentRefs", "hostnames", "rules"];
const RULE: &[&str] = &["name", "matches", "filters", "backendRefs", "sessionPersistence"];
const MATCH: &[&str] = &["method", "headers"];
const METHOD: &[&str] = &["type", "service", "method"];

const FILTERS: &[&str] = &["RequestHeaderModifier", "ResponseHeaderModifier", "RequestMirror", "ExtensionRef"];

pub(super) fn grpc_route(meta: Meta, document: &Field<'_>, origin: Origin) -> Option<GrpcRoute> {
    document.only(&["apiVersion", "kind", "metadata", "spec", "status"], &[]);
    let spec = document.require("spec")?;
    if !spec.only(SPEC, &["useDefaultGateways"]) {
        return None;
    }
    check_hostnames(&spec);
    let parents = parents(&spec);
    let rules = match spec.get("rules") {
        Some(list) => rules(&list, |field| rule(field, &meta.name.namespace, origin)),
        None => Vec::new(),
    };
    Some(GrpcRoute { meta, parents, rules })
}

fn rule(field: &Field<'_>, namespace: &str, origin: Origin) -> Option<HttpRouteRule> {
    if !field.only(RULE, &[]) {
        return None;
    }
    let name = field.get("name").and_then(|f| values::dns_subdomain(&f).map(str::to_owned));
    let matches = field.get("matches").map(|field| field.items_up_to(MAX_MATCHES)).unwrap_or_default();
    let mut matches: Vec<_> = matches.iter().filter_map(|field| one_match(field, origin)).collect();
    if matches.is_empty() {
        matches.push(post(any_match()));
    }
    let backends = field.get("backendRefs").map(|field| field.items_up_to(MAX_LIST)).unwrap_or_default();
    for part in backends.iter().chain([field]) {
        check_filters(part);
    }
    Some(HttpRouteRule {
        name,
        matches,
        filters: filters(field, namespace, origin),
        backends: backends.iter().filter_map(|field| backend(field, namespace, origin)).collect(),
        request_timeout: None,
        backend_request_timeout: None,
        retry: None,
        session: field.get("sessionPersistence").and_then(|field| session(&field, origin)),
    })
}

/// A call is a POST.
fn post(any: HttpRouteMatch) -> HttpRouteMatch {
    HttpRouteMatch { method: Some("POST".to_owned()), ..any }
}

fn one_match(field: &Field<'_>, origin: Origin) -> Option<HttpRouteMatch> {
    if !field.only(MATCH, &[]) {
        return None;
    }
    let headers = keys(field, "headers", true, origin);
    let path = match field.get("method") {
        Some(method) => PathMatch::Call(method_match(&method, origin)?),
        None => any_match().path,
    };
    Some(post(HttpRouteMatch { path, headers, ..any_match() }))
}

fn method_match(field: &Field<'_>, origin: Origin) -> Option<MethodMatch> {
    if !field.only(METHOD, &[]) {
        return None;
    }
    let regex = match field.get("type") {
        Some(kind) => kind.one_of(&["Exact", "RegularExpression"])? == "RegularExpression",
        None => false,
    };
    // Empty is the same as left out.
    let part = |key: &str, is_exact: fn(&str) -> bool, wanted: &str| {
        let Some(part) = field.get(key) else { return Some(None) };
        let text = part.text()?;
        if text.is_empty() && regex {
            return Some(None);
        }
        let text = if regex { values::regex(&part, MAX_NAME, origin)? } else { values::text_of(&part, MAX_NAME)? };
        if !regex && !is_exact(text) {
            part.error(format_args!("must be {wanted}, not {text:?}"));
            return None;
        }
        Some(Some(text.to_owned()))
    };
    let service =
        part("service", is_service, "a gRPC service with its package: names of letters, digits and `_`, and dots")?;
    let method = part("method", is_name, "a gRPC method: letters, digits and `_`, no digit first")?;
    if service.is_none() && method.is_none() {
        field.error("needs a service, a method, or both");
        return None;
    }
    Some(MethodMatch { service, method, regex })
}

/// As the CRD has it: it may begin with a dot.
fn is_service(text: &str) -> bool {
    text.strip_prefix('.').unwrap_or(text).split('.').all(is_name)
}

fn is_name(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && !text.is_empty()
}

/// Filters that only an HTTPRoute has.
fn check_filters(of: &Field<'_>) {
    for kind in of.list("filters").iter().filter_map(|filter| filter.get("type")) {
        kind.one_of(FILTERS);
    }
}
