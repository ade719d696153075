//! BackendPolicy of `weft.dev`: how clients call a Service (docs/reference/backendpolicy.md has every field).
//!
//! Nothing in it is taken half: a field that is wrong refuses the object, whose last good form stays.

mod locality;
mod outlier;

use std::time::Duration;

use crate::model::{Algorithm, BackendPolicy, ConnectionLimits, HashKey, LoadBalancer, Meta, SlowStart};
use crate::source::files::field::Field;
use crate::source::files::values;

/// Most Services one policy is for.
const MAX_TARGETS: usize = 16;

/// Most percent that requests in flight count against the weight.
const MAX_BIAS: i64 = 1_000;

/// Most points on a ring.
const MAX_RING: i64 = 1 << 20;

/// Most cells of a table, as in Envoy.
const MAX_CELLS: i64 = 5_000_011;

const FIELDS: [&str; 7] = [
    "targetRefs",
    "loadBalancer",
    "outlierDetection",
    "connectionLimits",
    "connectTimeout",
    "httpIdleTimeout",
    "tcpIdleTimeout",
];

const ALGORITHMS: [&str; 6] = ["PowerOfTwo", "RoundRobin", "LeastRequest", "Random", "RingHash", "Maglev"];

const KEYS: [&str; 4] = ["httpHeaderName", "httpCookie", "useSourceIp", "httpQueryParameterName"];

pub(super) fn backend_policy(meta: Meta, document: &Field<'_>) -> Option<BackendPolicy> {
    document.only(&["apiVersion", "kind", "metadata", "spec", "status"], &[]);
    let spec = document.require("spec")?;
    if !spec.only(&FIELDS, &[]) {
        return None;
    }
    let targets = spec.require("targetRefs")?;
    let refs = targets.items_up_to(MAX_TARGETS);
    if refs.is_empty() {
        targets.error("must name a Service at least");
    }
    Some(BackendPolicy {
        meta,
        targets: refs.iter().filter_map(target).collect(),
        load_balancer: spec.get("loadBalancer").and_then(|field| load_balancer(&field)),
        outlier_detection: spec.get("outlierDetection").map(|field| Box::new(outlier::outlier_detection(&field))),
        limits: spec.get("connectionLimits").map_or_else(ConnectionLimits::default, |field| limits(&field)),
        connect_timeout: spec.get("connectTimeout").and_then(|field| positive(&field)),
        http_idle_timeout: spec.get("httpIdleTimeout").and_then(|field| positive(&field)),
        tcp_idle_timeout: spec.get("tcpIdleTimeout").and_then(|field| positive(&field)),
    })
}

/// A Service of the policy's own namespace.
fn target(field: &Field<'_>) -> Option<String> {
    if !field.only(&["group", "kind", "name"], &[]) {
        return None;
    }
    if let Some(group) = field.get("group") {
        group.one_of(&["", "core"])?;
    }
    field.require("kind")?.one_of(&["Service"])?;
    values::dns_label(&field.require("name")?).map(str::to_owned)
}

fn load_balancer(field: &Field<'_>) -> Option<LoadBalancer> {
    let known = ["algorithm", "leastRequest", "ringHash", "maglev", "consistentHash", "slowStart", "locality"];
    if !field.only(&known, &[]) {
        return None;
    }
    let name = match field.get("algorithm") {
        None => "PowerOfTwo",
        Some(name) => name.one_of(&ALGORITHMS)?,
    };
    for (key, of) in [("leastRequest", "LeastRequest"), ("ringHash", "RingHash"), ("maglev", "Maglev")] {
        if let Some(other) = field.get(key).filter(|_| name != of) {
            other.error(format_args!("needs algorithm: {of}, not {name}"));
        }
    }
    let key = field.get("consistentHash");
    if let Some(key) = key.as_ref().filter(|_| !matches!(name, "RingHash" | "Maglev")) {
        key.error(format_args!("needs algorithm: RingHash or Maglev, not {name}"));
    }
    let key = || match &key {
        Some(key) => hash_key(key),
        None => {
            field.missing("consistentHash", format_args!("is required by {name}: say what a request stays by"));
            None
        }
    };
    let number = |of: &str, key: &str, min, max| match field.get(of).and_then(|of| of.get(key)) {
        None => Some(0),
        Some(value) => value.int_in(min, max).and_then(|value| u32::try_from(value).ok()),
    };
    let known = |of: &str, known: &[&str]| field.get(of).is_none_or(|of| of.only(known, &[]));
    let algorithm = match name {
        "RoundRobin" => Algorithm::RoundRobin,
        "Random" => Algorithm::Random,
        "LeastRequest" => {
            known("leastRequest", &["choiceCount", "activeRequestBiasPercent"]);
            let bias = field.get("leastRequest").and_then(|of| of.get("activeRequestBiasPercent"));
            let bias = bias.map(|value| value.int_in(0, MAX_BIAS).and_then(|value| u32::try_from(value).ok()));
            Algorithm::LeastRequest {
                choices: number("leastRequest", "choiceCount", 2, 32)?,
                bias_percent: match bias {
                    None => None,
                    Some(said) => Some(said?),
                },
            }
        }
        "RingHash" => {
            known("ringHash", &["minimumRingSize", "maximumRingSize"]);
            let minimum = number("ringHash", "minimumRingSize", 1, MAX_RING)?;
            let maximum = number("ringHash", "maximumRingSize", 1, MAX_RING)?;
            if let Some(ring) = field.get("ringHash").filter(|_| maximum > 0 && minimum > maximum) {
                ring.error("minimumRingSize must not be more than maximumRingSize");
            }
            Algorithm::RingHash { key: key()?, minimum, maximum }
        }
        "Maglev" => {
            known("maglev", &["tableSize"]);
            let cells = number("maglev", "tableSize", 2, MAX_CELLS)?;
            if let Some(maglev) = field.get("maglev").filter(|_| cells > 0 && !is_prime(cells)) {
                maglev.error(format_args!("tableSize must be a prime number such as 65537, not {cells}"));
            }
            Algorithm::Maglev { key: key()?, cells }
        }
        _ => Algorithm::PowerOfTwo,
    };
    Some(LoadBalancer {
        algorithm,
        slow_start: field.get("slowStart").and_then(|field| slow_start(&field)),
        locality: field.get("locality").and_then(|field| locality::locality(&field, name)),
    })
}

fn is_prime(number: u32) -> bool {
    number > 1 && (2..).take_while(|factor| factor * factor <= number).all(|factor| !number.is_multiple_of(factor))
}

fn hash_key(field: &Field<'_>) -> Option<HashKey> {
    if !field.only(&KEYS, &[]) {
        return None;
    }
    let said: Vec<_> = KEYS.iter().filter_map(|key| Some((*key, field.get(key)?))).collect();
    let [(key, value)] = &said[..] else {
        field.error(format_args!("must have exactly one of {}", KEYS.join(", ")));
        return None;
    };
    match *key {
        "httpHeaderName" => values::header_name(value).map(HashKey::Header),
        "httpCookie" => {
            value.only(&["name", "path", "ttl"], &[]);
            Some(HashKey::Cookie {
                name: cookie_name(&value.require("name")?)?,
                path: match value.get("path") {
                    None => String::new(),
                    Some(path) => cookie_path(&path)?,
                },
                lasts: match value.get("ttl") {
                    None => None,
                    Some(ttl) => Some(values::duration(&ttl)?),
                },
            })
        }
        "useSourceIp" => {
            if value.bool()? {
                return Some(HashKey::Client);
            }
            value.error("must be true, or another key be given");
            None
        }
        _ => {
            let name = value.text()?;
            if name.is_empty() {
                value.error("must not be empty");
                return None;
            }
            Some(HashKey::Query(name.to_owned()))
        }
    }
}

/// A token, of either case (RFC 6265 §4.1.1).
fn cookie_name(field: &Field<'_>) -> Option<String> {
    values::header_name(field)?;
    field.text().map(str::to_owned)
}

fn cookie_path(field: &Field<'_>) -> Option<String> {
    let path = field.text()?;
    let legal = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b';');
    if !legal {
        field.error(format_args!("must start with / and have no space and no `;`, not {path:?}"));
    }
    legal.then(|| path.to_owned())
}

fn slow_start(field: &Field<'_>) -> Option<SlowStart> {
    field.only(&["window", "aggressionPercent", "minWeightPercent"], &[]);
    Some(SlowStart {
        window: positive(&field.require("window")?)?,
        aggression_percent: number(field, "aggressionPercent", 1, 10_000),
        min_weight_percent: number(field, "minWeightPercent", 0, 100),
    })
}

fn limits(field: &Field<'_>) -> ConnectionLimits {
    const KEYS: [&str; 4] = ["maxConnections", "maxPendingRequests", "maxRequests", "maxRequestsPerConnection"];
    field.only(&KEYS, &[]);
    let limit = |key: &str| number(field, key, 1, i64::from(i32::MAX)).unwrap_or(0);
    ConnectionLimits {
        connections: limit(KEYS[0]),
        pending: limit(KEYS[1]),
        requests: limit(KEYS[2]),
        requests_per_connection: limit(KEYS[3]),
    }
}

fn number(field: &Field<'_>, key: &str, min: i64, max: i64) -> Option<u32> {
    field.get(key)?.int_in(min, max).and_then(|value| u32::try_from(value).ok())
}

fn positive(field: &Field<'_>) -> Option<Duration> {
    let duration = values::duration(field)?;
    if duration.is_zero() {
        field.error("must be more than zero");
    }
    (!duration.is_zero()).then_some(duration)
}

#[cfg(test)]
mod tests;
