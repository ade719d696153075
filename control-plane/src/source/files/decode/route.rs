//! HTTPRoute of the Gateway API: the whole v1 schema is known and its limits kept (those of the CRD's OpenAPI schema and
//! CEL rules), defaults are filled in. A filter that this version does not do is kept by name, so that its rule
//! answers 500 and status says why, instead of the route doing less than it says.
//!
//! `parentRefs` stay as written: status has to copy them verbatim. `hostnames` mean nothing where the parent is a
//! Service (GWAPI, Mesh) and are accepted without a word.

use std::collections::BTreeSet;

use crate::model::{
    BackendRef, HttpRoute, HttpRouteFilter, HttpRouteMatch, HttpRouteRule, KeyMatch, Meta, ParentRef, PathMatch,
    PathModifier,
};
use crate::source::files::field::Field;
use crate::source::files::values;

use super::Origin;
use super::filters::{filters, retry, session};

const MAX_PARENTS: usize = 32;
const MAX_RULES: usize = 16;
pub(super) const MAX_MATCHES: usize = 64;
/// Over all rules.
const MAX_MATCHES_IN_ALL: usize = 128;
/// Filters, backends, header and query conditions, header edits: each list of a rule.
pub(super) const MAX_LIST: usize = 16;
const MAX_WEIGHT: i64 = 1_000_000;

const METHODS: &[&str] = &["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

pub(super) fn http_route(meta: Meta, document: &Field<'_>, origin: Origin) -> Option<HttpRoute> {
    document.only(&["apiVersion", "kind", "metadata", "spec", "status"], &[]);
    let namespace = meta.name.namespace.clone();
    let mut route = HttpRoute { meta, parents: Vec::new(), rules: Vec::new() };
    let spec = document.require("spec")?;
    if !spec.only(&["parentRefs", "hostnames", "rules"], &["useDefaultGateways"]) {
        return None;
    }
    check_hostnames(&spec);
    route.parents = parents(&spec);
    match spec.get("rules") {
        Some(list) => {
            route.rules = rules(&list, |field| rule(field, &namespace, origin));
            if list.items().is_empty() {
                list.error("must hold at least one rule");
            }
        }
        // The CRD's default: one rule with one `/` match and no backend.
        None => route.rules.push(HttpRouteRule {
            name: None,
            matches: vec![any_match()],
            filters: Vec::new(),
            backends: Vec::new(),
            request_timeout: None,
            backend_request_timeout: None,
            retry: None,
            session: None,
        }),
    }
    Some(route)
}

/// They mean nothing to a mesh, but must be names.
pub(super) fn check_hostnames(spec: &Field<'_>) {
    for hostname in spec.get("hostnames").map(|field| field.items_up_to(16)).unwrap_or_default() {
        if let Some(text) = hostname.text()
            && !values::is_subdomain(text.strip_prefix("*.").unwrap_or(text))
        {
            hostname.error("must be a DNS name, in lower case, or `*.` and one");
        }
    }
}

pub(super) fn parents(spec: &Field<'_>) -> Vec<ParentRef> {
    let parents = spec.get("parentRefs").map(|field| field.items_up_to(MAX_PARENTS)).unwrap_or_default();
    parents.iter().filter_map(parent).collect()
}

/// Rules, each read by `rule`, with what must hold among them.
pub(super) fn rules(list: &Field<'_>, rule: impl Fn(&Field<'_>) -> Option<HttpRouteRule>) -> Vec<HttpRouteRule> {
    let mut out = Vec::new();
    let mut names = BTreeSet::new();
    for field in &list.items_up_to(MAX_RULES) {
        let Some(rule) = rule(field) else { continue };
        if let (Some(name), Some(field)) = (&rule.name, field.get("name"))
            && !names.insert(name.clone())
        {
            field.error(format_args!("duplicate rule name {name:?}"));
        }
        out.push(rule);
    }
    let matches: usize = out.iter().map(|rule| rule.matches.len()).sum();
    if matches > MAX_MATCHES_IN_ALL {
        list.error(format_args!("hold {matches} matches together, at most {MAX_MATCHES_IN_ALL} are allowed"));
    }
    out
}

pub(super) fn any_match() -> HttpRouteMatch {
    HttpRouteMatch {
        path: PathMatch::Prefix("/".to_owned()),
        headers: Vec::new(),
        query_params: Vec::new(),
        method: None,
    }
}

fn parent(field: &Field<'_>) -> Option<ParentRef> {
    if !field.only(&["group", "kind", "namespace", "name", "sectionName", "port"], &[]) {
        return None;
    }
    let owned = |field: Field<'_>| field.text().map(str::to_owned);
    Some(ParentRef {
        group: field.get("group").and_then(owned),
        kind: field.get("kind").and_then(owned),
        namespace: field.get("namespace").and_then(|f| values::dns_label(&f).map(str::to_owned)),
        name: values::text_of(&field.require("name")?, 253)?.to_owned(),
        section_name: field.get("sectionName").and_then(|f| values::dns_subdomain(&f).map(str::to_owned)),
        port: field.get("port").and_then(|f| f.port()),
    })
}

fn rule(field: &Field<'_>, namespace: &str, origin: Origin) -> Option<HttpRouteRule> {
    let known = ["name", "matches", "filters", "backendRefs", "timeouts", "retry", "sessionPersistence"];
    if !field.only(&known, &[]) {
        return None;
    }
    let name = field.get("name").and_then(|f| values::dns_subdomain(&f).map(str::to_owned));
    let mut matches: Vec<_> = match field.get("matches") {
        Some(matches) => matches.items_up_to(MAX_MATCHES).iter().filter_map(|field| one_match(field, origin)).collect(),
        None => Vec::new(),
    };
    if matches.is_empty() {
        matches.push(any_match());
    }
    let filters = filters(field, namespace, origin);
    let backends: Vec<_> = match field.get("backendRefs") {
        Some(backends) => {
            let backends = backends.items_up_to(MAX_LIST);
            backends.iter().filter_map(|field| backend(field, namespace, origin)).collect()
        }
        None => Vec::new(),
    };
    let strict = origin == Origin::Manifest;
    if strict
        && filters.iter().any(|filter| matches!(filter, HttpRouteFilter::Redirect(_)))
        && !backends.is_empty()
        && let Some(field) = field.get("backendRefs")
    {
        field.error("must be empty beside a RequestRedirect filter");
    }
    let replaces_prefix = |filter: &HttpRouteFilter| {
        let path = match filter {
            HttpRouteFilter::Redirect(redirect) => &redirect.path,
            HttpRouteFilter::Rewrite(rewrite) => &rewrite.path,
            _ => return false,
        };
        matches!(path, Some(PathModifier::Prefix(_)))
    };
    let mut all_filters = filters.iter().chain(backends.iter().flat_map(|backend| &backend.filters));
    if strict
        && all_filters.any(replaces_prefix)
        && !matches!(&*matches, [HttpRouteMatch { path: PathMatch::Prefix(_), .. }])
    {
        let place = field.get("matches").unwrap_or_else(|| field.clone());
        place.error("must be one match with a PathPrefix where a filter has replacePrefixMatch");
    }
    let (mut request_timeout, mut backend_request_timeout) = (None, None);
    if let Some(timeouts) = field.get("timeouts")
        && timeouts.only(&["request", "backendRequest"], &[])
    {
        request_timeout = timeouts.get("request").and_then(|f| values::duration(&f));
        let backend = timeouts.get("backendRequest");
        backend_request_timeout = backend.as_ref().and_then(values::duration);
        if let (Some(whole), Some(one), Some(field)) = (request_timeout, backend_request_timeout, backend)
            && strict
            && !whole.is_zero()
            && one > whole
        {
            field.error("must not be longer than timeouts.request, which covers it");
        }
    }
    let retry = field.get("retry").and_then(|field| retry(&field));
    let session = field.get("sessionPersistence").and_then(|field| session(&field, origin));
    Some(HttpRouteRule { name, matches, filters, backends, request_timeout, backend_request_timeout, retry, session })
}

fn one_match(field: &Field<'_>, origin: Origin) -> Option<HttpRouteMatch> {
    if !field.only(&["path", "headers", "queryParams", "method"], &[]) {
        return None;
    }
    Some(HttpRouteMatch {
        path: match field.get("path") {
            Some(path) => path_match(&path, origin)?,
            None => PathMatch::Prefix("/".to_owned()),
        },
        headers: keys(field, "headers", true, origin),
        query_params: keys(field, "queryParams", false, origin),
        method: match field.get("method") {
            Some(method) => Some(method.one_of(METHODS)?.to_owned()),
            None => None,
        },
    })
}

fn path_match(field: &Field<'_>, origin: Origin) -> Option<PathMatch> {
    if !field.only(&["type", "value"], &[]) {
        return None;
    }
    let kind = match field.get("type") {
        Some(kind) => kind.one_of(&["Exact", "PathPrefix", "RegularExpression"])?,
        None => "PathPrefix",
    };
    let Some(value) = field.get("value") else {
        return Some(if kind == "Exact" { PathMatch::Exact("/".into()) } else { PathMatch::Prefix("/".into()) });
    };
    Some(match kind {
        "Exact" => PathMatch::Exact(values::path(&value)?.to_owned()),
        "RegularExpression" => PathMatch::Regex(values::regex(&value, 1_024, origin)?.to_owned()),
        _ => PathMatch::Prefix(values::path(&value)?.to_owned()),
    })
}

/// Header or query conditions. The same name written twice is refused; names that differ in case are one header, and
/// the first of them counts.
pub(super) fn keys(field: &Field<'_>, key: &str, are_headers: bool, origin: Origin) -> Vec<KeyMatch> {
    let mut written = BTreeSet::new();
    let mut out: Vec<KeyMatch> = Vec::new();
    for item in field.get(key).map(|field| field.items_up_to(MAX_LIST)).unwrap_or_default() {
        if !item.only(&["type", "name", "value"], &[]) {
            continue;
        }
        let regex = match item.get("type").map(|field| field.one_of(&["Exact", "RegularExpression"])) {
            Some(None) => continue,
            Some(Some(kind)) => kind == "RegularExpression",
            None => false,
        };
        let (name, value) = (item.require("name"), item.require("value"));
        let (Some(name_field), Some(value)) = (name, value) else { continue };
        let Some(name) = values::header_name(&name_field) else { continue };
        let max = if are_headers { 4_096 } else { 1_024 };
        let Some(value) = (if regex { values::regex(&value, max, origin) } else { values::text_of(&value, max) })
        else {
            continue;
        };
        let as_written = name_field.text().unwrap_or_default();
        if !written.insert(as_written) {
            name_field.error(format_args!("duplicate name {as_written:?}"));
        }
        let name = if are_headers { name } else { as_written.to_owned() };
        if !out.iter().any(|known| known.name == name) {
            out.push(KeyMatch { name, value: value.to_owned(), regex });
        }
    }
    out
}

pub(super) fn backend(field: &Field<'_>, namespace: &str, origin: Origin) -> Option<BackendRef> {
    if !field.only(&["group", "kind", "namespace", "name", "port", "weight", "filters"], &[]) {
        return None;
    }
    let backend = backend_object(field, namespace)?;
    let weight = match field.get("weight") {
        Some(weight) => u32::try_from(weight.int_in(0, MAX_WEIGHT)?).ok()?,
        None => 1,
    };
    Some(BackendRef { weight, filters: filters(field, namespace, origin), ..backend })
}

/// What a reference to a backend names, without weight and filters.
pub(super) fn backend_object(field: &Field<'_>, namespace: &str) -> Option<BackendRef> {
    let text = |key: &str, default: &str| match field.get(key) {
        Some(field) => field.text().map(str::to_owned),
        None => Some(default.to_owned()),
    };
    let group = text("group", "")?;
    let kind = text("kind", "Service")?;
    let name = values::text_of(&field.require("name")?, 253)?.to_owned();
    let namespace = match field.get("namespace") {
        Some(field) => values::dns_label(&field)?.to_owned(),
        None => namespace.to_owned(),
    };
    let port = field.get("port");
    if port.is_none() && group.is_empty() && kind == "Service" {
        field.missing("port", "is required for a Service");
    }
    let port = match port {
        Some(port) => Some(port.port()?),
        None => None,
    };
    Some(BackendRef { group, kind, namespace, name, port, weight: 1, filters: Vec::new() })
}
