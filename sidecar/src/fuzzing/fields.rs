//! Header fields that we read, and those we take away: `traceparent`, B3, `grpc-timeout`, `x-weft-deadline-ms`, what
//! belongs to one connection, and what only a peer may say.

use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::seeded;
use crate::http::hygiene;
use crate::resilience::{Deadline, format_grpc_timeout, parse_deadline_ms, parse_grpc_timeout};
use crate::telemetry::trace;

/// Fields as lines `name: value`.
pub fn fields(data: &[u8]) {
    let Some((seed, bytes)) = seeded(data) else { return };
    let mut headers = HeaderMap::new();
    for line in bytes.split(|&byte| byte == b'\n').take(64) {
        let at = line.iter().position(|&byte| byte == b':').unwrap_or(line.len());
        let (name, value) = line.split_at(at);
        let value = value.strip_prefix(b":").unwrap_or_default().trim_ascii();
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    traces(&headers);
    timeouts(&headers, seed);
    passing(headers);
}

fn traces(headers: &HeaderMap) {
    let incoming = trace::read(headers);
    if let Some(context) = &incoming {
        assert!(context.trace_id != [0; 16] && context.span_id != [0; 8]);
    }
    let mut rng = StdRng::seed_from_u64(0);
    let decided = incoming.as_ref().and_then(|context| context.sampled);
    for per_10000 in [0, 10_000] {
        let sampled = trace::sample(incoming.as_ref(), per_10000, &mut rng);
        assert_eq!(sampled, decided.unwrap_or(per_10000 > 0));
    }
    let _ = trace::is_declined(headers);
}

fn timeouts(headers: &HeaderMap, seed: u16) {
    for value in headers.values() {
        if let Ok(timeout) = parse_grpc_timeout(value) {
            let again = parse_grpc_timeout(&format_grpc_timeout(timeout)).expect("we read what we write");
            // Rounded down to the finest unit of which eight digits are enough: by less than a thousandth.
            assert!(again <= timeout && timeout - again <= timeout / 1000 + Duration::from_nanos(1), "{timeout:?}");
        }
    }
    let now = Instant::now();
    let deadline = Deadline::of_request(now, Some(Duration::from_millis(seed.into())), headers);
    let at = deadline.at().expect("the timeout at the latest");
    assert!(at <= now + Duration::from_millis(seed.into()));
    let mut shortened = headers.clone();
    deadline.shorten_headers(now, &mut shortened);
    let read = |headers: &HeaderMap| {
        let grpc = headers.get("grpc-timeout").and_then(|value| parse_grpc_timeout(value).ok());
        let weft = headers.get("x-weft-deadline-ms").and_then(|value| parse_deadline_ms(value).ok());
        [grpc, weft]
    };
    let left = deadline.remaining(now).expect("there is a deadline");
    for (before, after) in read(headers).into_iter().zip(read(&shortened)) {
        assert_eq!(before.is_some(), after.is_some(), "what cannot be read stays as it is");
        assert!(after <= before && after.is_none_or(|after| after <= left), "{before:?} {after:?} {left:?}");
    }
}

fn passing(mut headers: HeaderMap) {
    let _ = (
        hygiene::is_grpc(&headers),
        hygiene::is_tunnel(&Method::GET, Version::HTTP_11, &headers),
        hygiene::keep_alive(Version::HTTP_11, &headers),
    );
    let te = hygiene::accepts_trailers(&headers);
    let mut trailers = headers.clone();
    hygiene::strip_hop_by_hop(&mut headers);
    for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "http2-settings"] {
        assert!(!headers.contains_key(name), "{name}");
    }
    assert_eq!(headers.get("te").is_some_and(|te| te == "trailers"), te);
    let once = headers.clone();
    hygiene::strip_hop_by_hop(&mut headers);
    assert_eq!(headers, once, "once is enough");
    hygiene::strip_untrusted(&mut headers, true);
    assert_eq!(headers.get("x-weft-deadline-ms"), once.get("x-weft-deadline-ms"));
    hygiene::strip_untrusted(&mut headers, false);
    hygiene::strip_forbidden_trailers(&mut trailers);
    for name in headers.keys().chain(trailers.keys()) {
        assert!(!name.as_str().starts_with("x-weft-") && name != "x-forwarded-client-cert", "{name}");
    }
    assert!(!trailers.contains_key("content-length") && !trailers.contains_key("host"));
}
