//! TCPRoute and TLSRoute of the Gateway API, by the schema of v1 and in the words of `route.rs`, whose readers they share: their
//! one rule becomes one of an HTTPRoute that matches everything (`model/connection_routes.rs`).

use super::Origin;
use super::route::{MAX_LIST, any_match, backend, parents};
use crate::model::{HttpRouteRule, Meta, TcpRoute, TlsRoute};
use crate::source::files::field::Field;
use crate::source::files::values;

const MAX_HOSTNAMES: usize = 1_024;

const TCP_SPEC: &[&str] = &["parentRefs", "rules"];
const TLS_SPEC: &[&str] = &["parentRefs", "hostnames", "rules"];
const RULE: &[&str] = &["name", "backendRefs"];

pub(super) fn tcp_route(meta: Meta, document: &Field<'_>, origin: Origin) -> Option<TcpRoute> {
    let spec = spec(document, TCP_SPEC)?;
    let rules = rules(&spec, &meta.name.namespace, origin);
    Some(TcpRoute { meta, parents: parents(&spec), rules })
}

pub(super) fn tls_route(meta: Meta, document: &Field<'_>, origin: Origin) -> Option<TlsRoute> {
    let spec = spec(document, TLS_SPEC)?;
    let rules = rules(&spec, &meta.name.namespace, origin);
    let hostnames = spec.require("hostnames")?;
    let items = hostnames.items_up_to(MAX_HOSTNAMES);
    if items.is_empty() {
        hostnames.error("must hold at least one name");
    }
    let hostnames = items.iter().filter_map(hostname).collect();
    Some(TlsRoute { meta, parents: parents(&spec), hostnames, rules })
}

fn spec<'a>(document: &Field<'a>, known: &[&str]) -> Option<Field<'a>> {
    document.only(&["apiVersion", "kind", "metadata", "spec", "status"], &[]);
    document.require("spec").filter(|spec| spec.only(known, &["useDefaultGateways"]))
}

fn hostname(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    if text.parse::<std::net::IpAddr>().is_ok() {
        field.error("must be a DNS name: an address is never a server name (RFC 6066)");
        return None;
    }
    if !values::is_subdomain(text.strip_prefix("*.").unwrap_or(text)) {
        field.error("must be a DNS name, in lower case, or `*.` and one");
        return None;
    }
    Some(text.to_owned())
}

/// The schema wants exactly one.
fn rules(spec: &Field<'_>, namespace: &str, origin: Origin) -> Vec<HttpRouteRule> {
    let Some(list) = spec.require("rules") else { return Vec::new() };
    let items = list.items_up_to(1);
    if items.is_empty() {
        list.error("must hold one rule");
    }
    items.iter().filter_map(|field| rule(field, namespace, origin)).collect()
}

fn rule(field: &Field<'_>, namespace: &str, origin: Origin) -> Option<HttpRouteRule> {
    if !field.only(RULE, &[]) {
        return None;
    }
    let backends = field.require("backendRefs")?;
    let items = backends.items_up_to(MAX_LIST);
    if items.is_empty() {
        backends.error("must hold at least one backend");
    }
    for item in &items {
        if let Some(filters) = item.get("filters") {
            filters.error("must not be there: a connection has no filters");
        }
    }
    Some(HttpRouteRule {
        name: field.get("name").and_then(|name| values::dns_subdomain(&name).map(str::to_owned)),
        matches: vec![any_match()],
        filters: Vec::new(),
        backends: items.iter().filter_map(|field| backend(field, namespace, origin)).collect(),
        request_timeout: None,
        backend_request_timeout: None,
        retry: None,
        session: None,
    })
}
