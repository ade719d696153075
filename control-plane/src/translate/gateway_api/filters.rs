//! Filters of rules and backendRefs, checked (HTTPRoute `filters`). One that this version does not do, or that cannot be
//! done as written, is an error here, and its rule or share answers 500: skipping it would let requests through that it
//! was meant to change.
//!
//! Refused as well, as in a proxy (sidecar `route/`): changing headers that frame the message or belong to one connection,
//! and the mesh's own; and what excludes each other. What may stand together in one list, and in a rule and one of
//! its backendRefs:
//!
//! | | the same list | rule and backendRef |
//! |---|---|---|
//! | header modifiers twice | no | yes |
//! | RequestRedirect, URLRewrite or CORS twice | no | no |
//! | RequestRedirect beside URLRewrite | no | no |
//! | RequestMirror and ExtensionRef | any number | any number |
//!
//! Paths and hosts are checked in `url`, CORS here. What an ExtensionRef names is in `fault`.

use http::{HeaderName, HeaderValue, Method};
use weft_proto::OriginPattern;
use weft_proto::headers::is_out_of_bounds;
use weft_proto::v1::{self, Protocol, filter::Kind};

use super::rules::{BadRef, Costs, Wrong, backend};
use super::{fault, short, url};
use crate::model::{BackendRef, Cors, HeaderModifier, HttpRouteFilter, HttpRouteRule, Mirror, Model};

/// The filters of a rule, in their order. A mirror whose backend is not valid is left out, and named in `bad_refs`.
///
/// # Errors
/// Says which filter cannot be done, and why.
pub(super) fn of_rule(
    rule: &HttpRouteRule,
    undeclared: Protocol,
    model: &Model,
    bad_refs: &mut Vec<BadRef>,
) -> Result<Vec<v1::Filter>, Wrong> {
    compatible(&rule.filters, &[])?;
    if rule.filters.iter().any(|filter| matches!(filter, HttpRouteFilter::Redirect(_))) && !rule.backends.is_empty() {
        let message = "a RequestRedirect answers by itself: the rule must have no backendRefs";
        return Err(Wrong::incompatible(message.to_owned()));
    }
    wire_filters(&rule.filters, rule, undeclared, model, bad_refs)
}

/// The filters of one of its backendRefs, likewise.
///
/// # Errors
/// Says which filter cannot be done, and why.
pub(super) fn of_backend(
    reference: &BackendRef,
    rule: &HttpRouteRule,
    undeclared: Protocol,
    model: &Model,
    bad_refs: &mut Vec<BadRef>,
) -> Result<Vec<v1::Filter>, Wrong> {
    compatible(&reference.filters, &rule.filters)?;
    wire_filters(&reference.filters, rule, undeclared, model, bad_refs)
}

fn wire_filters(
    filters: &[HttpRouteFilter],
    rule: &HttpRouteRule,
    undeclared: Protocol,
    model: &Model,
    bad_refs: &mut Vec<BadRef>,
) -> Result<Vec<v1::Filter>, Wrong> {
    let mut wire = Vec::with_capacity(filters.len());
    for filter in filters {
        let kind = match filter {
            HttpRouteFilter::RequestHeaders(modifier) => Kind::RequestHeaders(header_modifier(modifier)?),
            HttpRouteFilter::ResponseHeaders(modifier) => Kind::ResponseHeaders(header_modifier(modifier)?),
            HttpRouteFilter::Redirect(redirect) => Kind::Redirect(url::redirect(redirect, &rule.matches)?),
            HttpRouteFilter::Rewrite(rewrite) => Kind::UrlRewrite(url::rewrite(rewrite, &rule.matches)?),
            HttpRouteFilter::Mirror(mirror) => match wire_mirror(mirror, undeclared, model)? {
                Ok(Some(mirror)) => Kind::Mirror(mirror),
                Ok(None) => continue,
                Err(bad) => {
                    bad_refs.push(BadRef { costs: Costs::Copies, ..bad });
                    continue;
                }
            },
            HttpRouteFilter::Cors(cors) => Kind::Cors(wire_cors(cors)?),
            HttpRouteFilter::Extension(reference) => Kind::Fault(fault::named(reference, model)?),
            HttpRouteFilter::Unsupported(kind) => {
                return Err(format!("filter {kind} is not supported by this version").into());
            }
        };
        wire.push(v1::Filter { kind: Some(kind) });
    }
    Ok(wire)
}

/// The table above. `above` are the rule's, where these are a backendRef's.
fn compatible(filters: &[HttpRouteFilter], above: &[HttpRouteFilter]) -> Result<(), Wrong> {
    use HttpRouteFilter::{Cors, Extension, Mirror, Redirect, RequestHeaders, ResponseHeaders, Rewrite, Unsupported};
    for (index, filter) in filters.iter().enumerate() {
        let before = filters.iter().take(index);
        let others: Vec<_> = match filter {
            Mirror(_) | Extension(_) | Unsupported(_) => continue,
            RequestHeaders(_) | ResponseHeaders(_) => before.collect(),
            Redirect(_) | Rewrite(_) | Cors(_) => before.chain(above).collect(),
        };
        let kind = filter.kind();
        if others.iter().any(|other| other.kind() == kind) {
            return Err(Wrong::incompatible(format!("there are two {kind} filters: make them one")));
        }
        let excluded = |other: &&HttpRouteFilter| {
            matches!((filter, *other), (Redirect(_), Rewrite(_)) | (Rewrite(_), Redirect(_)))
        };
        if others.iter().any(excluded) {
            let message = "RequestRedirect and URLRewrite exclude each other: the one answers what the other sends on";
            return Err(Wrong::incompatible(message.to_owned()));
        }
    }
    Ok(())
}

/// A header's name in lower case.
///
/// # Errors
/// When it is none.
pub(super) fn header_name(name: &str) -> Result<String, String> {
    let valid =
        HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("`{}` is not a header name", short(name)))?;
    Ok(valid.as_str().to_owned())
}

fn header_modifier(modifier: &HeaderModifier) -> Result<v1::HeaderModifier, String> {
    // Of entries with equivalent names the first counts (HTTPHeaderFilter).
    let headers = |list: &[(String, String)]| {
        let mut headers: Vec<v1::Header> = Vec::new();
        for (name, value) in list {
            let name = changeable(name)?;
            HeaderValue::from_bytes(value.as_bytes())
                .map_err(|_| format!("header {name} cannot have the value `{}`", short(value)))?;
            if !headers.iter().any(|header| header.name == name) {
                headers.push(v1::Header { name, value: value.clone() });
            }
        }
        Ok::<_, String>(headers)
    };
    let remove = modifier.remove.iter().map(|name| changeable(name)).collect::<Result<_, _>>()?;
    Ok(v1::HeaderModifier { set: headers(&modifier.set)?, add: headers(&modifier.add)?, remove })
}

fn changeable(name: &str) -> Result<String, String> {
    let name = header_name(name)?;
    if is_out_of_bounds(&name) {
        return Err(format!("header {name} frames the message or is the mesh's own: a filter cannot change it"));
    }
    Ok(name)
}

/// `None` where its share is nothing; its backend is checked all the same.
fn wire_mirror(
    mirror: &Mirror,
    undeclared: Protocol,
    model: &Model,
) -> Result<Result<Option<v1::Mirror>, BadRef>, Wrong> {
    let Mirror { backend: reference, numerator, denominator } = mirror;
    if *denominator == 0 || numerator > denominator {
        return Err(format!("a RequestMirror cannot mirror {numerator} of {denominator} requests").into());
    }
    Ok(backend(reference, undeclared, model).map(|backend| {
        let wire = v1::Mirror { backend: Some(backend), numerator: *numerator, denominator: *denominator };
        (*numerator > 0).then_some(wire)
    }))
}

/// Lists keep their order: it is that of the answer's headers. What is there twice is there once.
fn wire_cors(cors: &Cors) -> Result<v1::Cors, String> {
    let list = |field: &str, items: &[String], check: &dyn Fn(&str) -> Result<String, String>| {
        let mut out: Vec<String> = Vec::with_capacity(items.len());
        for item in items {
            let item = check(item)?;
            if !out.contains(&item) {
                out.push(item);
            }
        }
        if out.len() > 1 && field != "exposeHeaders" && out.iter().any(|item| item == "*") {
            return Err(format!("CORS {field} has `*` beside others: it means all of them"));
        }
        Ok::<_, String>(out)
    };
    let origin = |text: &str| match text.parse::<OriginPattern>() {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("CORS cannot allow origin `{}`: {error}", short(text))),
    };
    let method = |text: &str| match Method::from_bytes(text.as_bytes()) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(format!("CORS cannot allow method `{}`: it is none", short(text))),
    };
    let header = |text: &str| header_name(text);
    let expose_headers = list("exposeHeaders", &cors.expose_headers, &header)?;
    let all = expose_headers.iter().any(|name| name == "*");
    Ok(v1::Cors {
        allow_origins: list("allowOrigins", &cors.allow_origins, &origin)?,
        allow_credentials: cors.allow_credentials,
        allow_methods: list("allowMethods", &cors.allow_methods, &method)?,
        allow_headers: list("allowHeaders", &cors.allow_headers, &header)?,
        expose_headers: if all { vec!["*".to_owned()] } else { expose_headers },
        max_age_seconds: cors.max_age,
    })
}
