//! RateLimit of `weft.dev`, by the schema of its CRD (`charts/weft/kinds`), which is held against this by a test.

use std::time::Duration;

use super::route::MAX_LIST;
use crate::model::{Kind, Meta, ObjectKey, ObjectName, RateKey, RateLimit, RateTarget};
use crate::source::files::field::Field;
use crate::source::files::values;

/// Most requests in one `per`.
const MOST: i64 = 1_000_000_000;
/// Longest `per`.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

const SPEC: &[&str] = &["targetRefs", "requests", "per", "burst", "key"];
const TARGET: &[&str] = &["group", "kind", "name", "sectionName"];
const KEY: &[&str] = &["type", "header"];

pub(super) fn rate_limit(meta: Meta, document: &Field<'_>) -> Option<RateLimit> {
    document.only(&["apiVersion", "kind", "metadata", "spec", "status"], &[]);
    let spec = document.require("spec")?;
    if !spec.only(SPEC, &[]) {
        return None;
    }
    // Read one by one before any is given up: all that is wrong is said at once.
    let targets = spec.require("targetRefs").map(|field| {
        let items = field.items_up_to(MAX_LIST);
        if items.is_empty() {
            field.error("must hold at least one Service or route");
        }
        items.iter().filter_map(|item| target(item, &meta.name.namespace)).collect()
    });
    let count = |field: Field<'_>| field.int_in(1, MOST).and_then(|number| u32::try_from(number).ok());
    let requests = spec.require("requests").and_then(count);
    let burst = match spec.get("burst") {
        Some(field) => count(field),
        None => requests,
    };
    let per = match spec.get("per") {
        Some(field) => per(&field),
        None => Some(Duration::from_secs(1)),
    };
    let key = match spec.get("key") {
        Some(field) => key(&field),
        None => Some(RateKey::All),
    };
    Some(RateLimit { targets: targets?, requests: requests?, per: per?, burst: burst?, key: key?, meta })
}

/// A Service, whose pods' sidecars count, or a route, whose clients' do.
fn target(field: &Field<'_>, namespace: &str) -> Option<RateTarget> {
    if !field.only(TARGET, &[]) {
        return None;
    }
    let kind = match field.require("kind")?.one_of(&["Service", "HTTPRoute", "GRPCRoute"])? {
        "Service" => Kind::Service,
        "HTTPRoute" => Kind::HttpRoute,
        _ => Kind::GrpcRoute,
    };
    let is_service = kind == Kind::Service;
    match field.get("group") {
        Some(group) => {
            group.one_of(if is_service { &["", "core"] } else { &["gateway.networking.k8s.io"] })?;
        }
        None if is_service => {}
        None => {
            field.missing("group", "is required for a route: gateway.networking.k8s.io");
            return None;
        }
    }
    let text = |field: &Field<'_>| {
        let text = if is_service { values::dns_label(field) } else { values::dns_subdomain(field) };
        text.map(str::to_owned)
    };
    let name = ObjectName::new(namespace, text(&field.require("name")?)?);
    let section = match field.get("sectionName") {
        Some(section) => Some(text(&section)?),
        None => None,
    };
    Some(RateTarget { object: ObjectKey { kind, name }, section })
}

fn per(field: &Field<'_>) -> Option<Duration> {
    let per = values::duration(field)?;
    if per.is_zero() || per > LONGEST {
        field.error("must be more than 0s and 24h at most");
        return None;
    }
    Some(per)
}

fn key(field: &Field<'_>) -> Option<RateKey> {
    if !field.only(KEY, &[]) {
        return None;
    }
    let kind = field.require("type")?.one_of(&["All", "Identity", "SourceIP", "Header"])?;
    let header = field.get("header");
    match (kind, header) {
        ("Header", Some(header)) => values::header_name(&header).map(RateKey::Header),
        ("Header", None) => {
            field.missing("header", "is required where type is Header");
            None
        }
        (_, Some(header)) => {
            header.error(format_args!("must not be set where type is {kind}"));
            None
        }
        ("Identity", None) => Some(RateKey::Identity),
        ("SourceIP", None) => Some(RateKey::SourceIp),
        _ => Some(RateKey::All),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_has_these_fields() {
        let kind = include_str!("../../../../../charts/weft/kinds/ratelimits.yaml");
        for field in SPEC.iter().chain(TARGET).chain(KEY) {
            assert!(kind.contains(&format!("{field}:")), "{field} is not in the kind");
        }
    }
}
