//! Filters, `retry` and `sessionPersistence` of an HTTPRoute's rules, as written: the limits of the CRD's schema are kept, defaults filled in.
//!
//! What only CEL rules of the CRD forbid (two filters that exclude each other, say) is an error in a manifest, with its
//! line. An API server with older rules may let it pass: then it is kept as it is, and `translate/` names it in status.

use std::collections::BTreeSet;

use crate::model::{
    BackendRef, Cors, ExtensionRef, HeaderModifier, HttpRouteFilter, Mirror, ObjectName, PathModifier, Redirect,
    RouteRetry, SessionPersistence, Share, UrlRewrite,
};
use crate::source::files::field::Field;
use crate::source::files::values;

use super::Origin;
use super::route::MAX_LIST;

/// Origins and headers of a CORS filter.
const MAX_CORS: usize = 64;
const MAX_METHODS: usize = 9;
/// What the CRD fills in.
const CORS_MAX_AGE: u32 = 5;

const METHODS: &[&str] = &["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "*"];

/// Filter types of the specification, and the field that holds each one's settings.
const FILTERS: &[(&str, &str)] = &[
    ("RequestHeaderModifier", "requestHeaderModifier"),
    ("ResponseHeaderModifier", "responseHeaderModifier"),
    ("RequestMirror", "requestMirror"),
    ("RequestRedirect", "requestRedirect"),
    ("URLRewrite", "urlRewrite"),
    ("CORS", "cors"),
    ("ExternalAuth", "externalAuth"),
    ("ExtensionRef", "extensionRef"),
];

/// The `filters` of a rule or of a backendRef. `namespace` is the route's.
pub(super) fn filters(field: &Field<'_>, namespace: &str, origin: Origin) -> Vec<HttpRouteFilter> {
    let mut seen = BTreeSet::new();
    let mut out = Vec::new();
    for item in field.get("filters").map(|field| field.items_up_to(MAX_LIST)).unwrap_or_default() {
        let settings: Vec<&str> = FILTERS.iter().map(|(_, key)| *key).chain(["type"]).collect();
        if !item.only(&settings, &[]) {
            continue;
        }
        let types: Vec<&'static str> = FILTERS.iter().map(|(kind, _)| *kind).collect();
        let Some(type_field) = item.require("type") else { continue };
        let Some(kind) = type_field.one_of(&types) else { continue };
        let mut own = None;
        for (known, key) in FILTERS {
            match item.get(key) {
                Some(settings) if *known == kind => own = Some(settings),
                Some(settings) => settings.error(format_args!("must not be set where type is {kind}")),
                None if *known == kind => item.missing(key, format_args!("is required where type is {kind}")),
                None => {}
            }
        }
        // Several mirrors and several extensions are meant to be; of the others, one each, and one that edits the URL.
        let once = match kind {
            "RequestMirror" | "ExtensionRef" => None,
            "RequestRedirect" | "URLRewrite" => Some("RequestRedirect or URLRewrite"),
            other => Some(other),
        };
        if let Some(once) = once
            && !seen.insert(once)
            && origin == Origin::Manifest
        {
            type_field.error(format_args!("only one {once} filter is allowed here"));
        }
        let Some(own) = own else { continue };
        let filter = match kind {
            "RequestHeaderModifier" => Some(HttpRouteFilter::RequestHeaders(modifier(&own))),
            "ResponseHeaderModifier" => Some(HttpRouteFilter::ResponseHeaders(modifier(&own))),
            "RequestRedirect" => redirect(&own, origin).map(HttpRouteFilter::Redirect),
            "URLRewrite" => rewrite(&own, origin).map(HttpRouteFilter::Rewrite),
            "RequestMirror" => mirror(&own, namespace).map(|mirror| HttpRouteFilter::Mirror(Box::new(mirror))),
            "CORS" => cors(&own).map(HttpRouteFilter::Cors),
            "ExtensionRef" => extension(&own, namespace).map(HttpRouteFilter::Extension),
            other => {
                type_field.warn(format_args!("{other} is not done by this version: requests it applies to answer 500"));
                Some(HttpRouteFilter::Unsupported(other.to_owned()))
            }
        };
        out.extend(filter);
    }
    out
}

fn modifier(field: &Field<'_>) -> HeaderModifier {
    let mut out = HeaderModifier::default();
    if !field.only(&["set", "add", "remove"], &[]) {
        return out;
    }
    let pairs = |key: &str| {
        let mut written = BTreeSet::new();
        let mut pairs: Vec<(String, String)> = Vec::new();
        for item in field.get(key).map(|field| field.items_up_to(MAX_LIST)).unwrap_or_default() {
            if !item.only(&["name", "value"], &[]) {
                continue;
            }
            let (Some(name_field), Some(value)) = (item.require("name"), item.require("value")) else { continue };
            let (Some(name), Some(value)) = (values::header_name(&name_field), values::header_value(&value)) else {
                continue;
            };
            let as_written = name_field.text().unwrap_or_default();
            if !written.insert(as_written) {
                name_field.error(format_args!("duplicate name {as_written:?}"));
            }
            if !pairs.iter().any(|(known, _)| *known == name) {
                pairs.push((name, value.to_owned()));
            }
        }
        pairs
    };
    out.set = pairs("set");
    out.add = pairs("add");
    if let Some(remove) = field.get("remove") {
        out.remove = remove.items_up_to(MAX_LIST).iter().filter_map(values::header_name).collect();
    }
    out
}

fn redirect(field: &Field<'_>, origin: Origin) -> Option<Redirect> {
    if !field.only(&["scheme", "hostname", "path", "port", "statusCode"], &[]) {
        return None;
    }
    let scheme = match field.get("scheme") {
        Some(scheme) => Some(scheme.one_of(&["http", "https"])?.to_owned()),
        None => None,
    };
    let status = match field.get("statusCode") {
        Some(status) => {
            let code = status.int()?;
            if ![301, 302, 303, 307, 308].contains(&code) {
                status.error(format_args!("must be one of 301, 302, 303, 307, 308, not {code}"));
                return None;
            }
            u16::try_from(code).ok()?
        }
        None => 302,
    };
    let port = match field.get("port") {
        Some(port) => Some(port.port()?),
        None => None,
    };
    let UrlRewrite { hostname, path } = hostname_and_path(field, origin);
    Some(Redirect { scheme, hostname, path, port, status })
}

fn rewrite(field: &Field<'_>, origin: Origin) -> Option<UrlRewrite> {
    field.only(&["hostname", "path"], &[]).then(|| hostname_and_path(field, origin))
}

fn hostname_and_path(field: &Field<'_>, origin: Origin) -> UrlRewrite {
    UrlRewrite {
        hostname: field.get("hostname").and_then(|field| values::dns_subdomain(&field).map(str::to_owned)),
        path: field.get("path").and_then(|field| path_modifier(&field, origin)),
    }
}

fn path_modifier(field: &Field<'_>, origin: Origin) -> Option<PathModifier> {
    if !field.only(&["type", "replaceFullPath", "replacePrefixMatch"], &[]) {
        return None;
    }
    let kind = field.require("type")?.one_of(&["ReplaceFullPath", "ReplacePrefixMatch"])?;
    let (own, other) = match kind {
        "ReplaceFullPath" => ("replaceFullPath", "replacePrefixMatch"),
        _ => ("replacePrefixMatch", "replaceFullPath"),
    };
    if let Some(other) = field.get(other) {
        other.error(format_args!("must not be set where type is {kind}"));
    }
    let Some(value) = field.get(own) else {
        field.missing(own, format_args!("is required where type is {kind}"));
        return None;
    };
    let text = match value.text()? {
        "" => "",
        _ if origin == Origin::Manifest => values::path(&value)?,
        _ => values::text_of(&value, 1_024)?,
    };
    Some(match kind {
        "ReplaceFullPath" => PathModifier::Full(text.to_owned()),
        _ => PathModifier::Prefix(text.to_owned()),
    })
}

fn mirror(field: &Field<'_>, namespace: &str) -> Option<Mirror> {
    if !field.only(&["backendRef", "percent", "fraction"], &[]) {
        return None;
    }
    let reference = field.require("backendRef")?;
    if !reference.only(&["group", "kind", "namespace", "name", "port"], &[]) {
        return None;
    }
    let backend = super::route::backend_object(&reference, namespace)?;
    let Share { numerator, denominator } = share(field)?;
    Some(Mirror { backend: BackendRef { weight: 0, ..backend }, numerator, denominator })
}

/// An object that says what the filter does.
fn extension(field: &Field<'_>, namespace: &str) -> Option<ExtensionRef> {
    if !field.only(&["group", "kind", "name"], &[]) {
        return None;
    }
    let group = field.require("group").and_then(|field| field.text());
    let kind = field.require("kind").and_then(|field| values::text_of(&field, 63));
    let name = field.require("name").and_then(|field| values::text_of(&field, 253));
    let name = ObjectName::new(namespace, name?);
    let reference = ExtensionRef { group: group?.to_owned(), kind: kind?.to_owned(), name };
    if !reference.is_fault_injection() {
        field.warn(format_args!(
            "{} of {} is no ExtensionRef of this version's: requests it applies to answer 500",
            reference.kind, reference.group
        ));
    }
    Some(reference)
}

/// `percent` or `fraction` of requests, all where neither is given.
pub(super) fn share(field: &Field<'_>) -> Option<Share> {
    let (mut numerator, mut denominator) = (100, 100);
    match (field.get("percent"), field.get("fraction")) {
        (Some(percent), None) => numerator = u32::try_from(percent.int_in(0, 100)?).ok()?,
        (None, Some(fraction)) => {
            if !fraction.only(&["numerator", "denominator"], &[]) {
                return None;
            }
            if let Some(field) = fraction.get("denominator") {
                denominator = u32::try_from(field.int_in(1, i32::MAX.into())?).ok()?;
            }
            let field = fraction.require("numerator")?;
            numerator = u32::try_from(field.int_in(0, i32::MAX.into())?).ok()?;
            if numerator > denominator {
                field.error(format_args!("must not be more than the denominator, which is {denominator}"));
                return None;
            }
        }
        (Some(percent), Some(_)) => percent.error("must not be set beside fraction: they say the same"),
        (None, None) => {}
    }
    Some(Share { numerator, denominator })
}

fn cors(field: &Field<'_>) -> Option<Cors> {
    let known = ["allowOrigins", "allowCredentials", "allowMethods", "allowHeaders", "exposeHeaders", "maxAge"];
    if !field.only(&known, &[]) {
        return None;
    }
    let list = |key: &str, max: usize, read: &dyn Fn(&Field<'_>) -> Option<String>| -> Vec<String> {
        let Some(field) = field.get(key) else { return Vec::new() };
        let out: Vec<String> = field.items_up_to(max).iter().filter_map(read).collect();
        if key != "exposeHeaders" && out.len() > 1 && out.iter().any(|item| item == "*") {
            field.error("must not hold `*` beside others: it means all of them");
        }
        out
    };
    let header = |field: &Field<'_>| values::header_name(field);
    Some(Cors {
        allow_origins: list("allowOrigins", MAX_CORS, &|field| Some(values::text_of(field, 253)?.to_owned())),
        allow_credentials: match field.get("allowCredentials") {
            Some(field) => field.bool()?,
            None => false,
        },
        allow_methods: list("allowMethods", MAX_METHODS, &|field| Some(field.one_of(METHODS)?.to_owned())),
        allow_headers: list("allowHeaders", MAX_CORS, &header),
        expose_headers: list("exposeHeaders", MAX_CORS, &header),
        max_age: match field.get("maxAge") {
            Some(field) => u32::try_from(field.int_in(1, i32::MAX.into())?).ok()?,
            None => CORS_MAX_AGE,
        },
    })
}

/// `retry` of a rule.
pub(super) fn retry(field: &Field<'_>) -> Option<RouteRetry> {
    if !field.only(&["codes", "attempts", "backoff"], &[]) {
        return None;
    }
    let code = |field: &Field<'_>| u16::try_from(field.int_in(400, 599)?).ok();
    Some(RouteRetry {
        codes: field.list("codes").iter().filter_map(code).collect(),
        attempts: match field.get("attempts") {
            Some(field) => Some(u32::try_from(field.int_in(1, i32::MAX.into())?).ok()?),
            None => None,
        },
        backoff: field.get("backoff").and_then(|field| values::duration(&field)),
    })
}

/// `sessionPersistence` of a rule.
pub(super) fn session(field: &Field<'_>, origin: Origin) -> Option<SessionPersistence> {
    if !field.only(&["sessionName", "absoluteTimeout", "type", "cookieConfig"], &[]) {
        return None;
    }
    let header = match field.get("type") {
        Some(kind) => kind.one_of(&["Cookie", "Header"])? == "Header",
        None => false,
    };
    let name = match field.get("sessionName") {
        Some(name) => Some(values::text_of(&name, 128)?.to_owned()),
        None => None,
    };
    let absolute_timeout = field.get("absoluteTimeout").and_then(|field| values::duration(&field));
    let mut permanent = false;
    if let Some(cookie) = field.get("cookieConfig")
        && cookie.only(&["lifetimeType"], &[])
    {
        if let Some(lifetime) = cookie.get("lifetimeType") {
            permanent = lifetime.one_of(&["Session", "Permanent"])? == "Permanent";
        }
        if header && origin == Origin::Manifest {
            cookie.error("must not be set where type is Header");
        }
    }
    if permanent && absolute_timeout.is_none() && origin == Origin::Manifest {
        field.missing("absoluteTimeout", "is required where cookieConfig.lifetimeType is Permanent");
    }
    Some(SessionPersistence { name, header, absolute_timeout, permanent })
}
