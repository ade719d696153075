//! Trace context: W3C `traceparent` and B3 (single and multi header) are read and passed on; spans are made only for
//! sampled requests and only where an OTLP endpoint is set, through `tracing-opentelemetry`. An unsampled request costs
//! one header look-up.
//!
//! Sampling is parent-based: a client's decision stands. Without one, `tracing_sample_per_10000` of requests begin a
//! trace here (W3C Trace Context Level 1; OpenTelemetry "ParentBased").

use http::HeaderMap;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use rand::Rng;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The `tracing` target of exported spans; the log never shows them.
pub const TARGET: &str = "weft::span";

/// The context a request came with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incoming {
    /// 16 bytes, not zero.
    pub trace_id: [u8; 16],
    /// 8 bytes, not zero.
    pub span_id: [u8; 8],
    /// What the client decided; `None` where B3 defers.
    pub sampled: Option<bool>,
    /// Which headers carry it on.
    pub format: Format,
}

/// How the context is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `traceparent`
    W3c,
    /// `b3`
    B3Single,
    /// `x-b3-traceid`, `x-b3-spanid`, `x-b3-sampled`
    B3Multi,
}

/// Reads the context; malformed headers count as none (W3C §3.2: restart the trace).
pub fn read(headers: &HeaderMap) -> Option<Incoming> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(value) = text("traceparent") {
        return read_w3c(value);
    }
    if let Some(value) = text("b3") {
        return read_b3(value);
    }
    let trace_id = b3_trace_id(text("x-b3-traceid")?)?;
    let span_id = nonzero(hex::<8>(text("x-b3-spanid")?)?)?;
    let sampled = match (text("x-b3-flags"), text("x-b3-sampled")) {
        (Some("1"), _) | (_, Some("1" | "true")) => Some(true),
        (_, Some("0" | "false")) => Some(false),
        _ => None,
    };
    Some(Incoming { trace_id, span_id, sampled, format: Format::B3Multi })
}

fn read_w3c(value: &str) -> Option<Incoming> {
    let mut parts = value.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let version = hex::<1>(version)?[0];
    // Version ff is invalid; version 00 has exactly four parts, later ones may add some.
    if version == 0xff || (version == 0 && parts.next().is_some()) {
        return None;
    }
    let sampled = Some(hex::<1>(flags)?[0] & 1 == 1);
    Some(Incoming { trace_id: nonzero(hex(trace)?)?, span_id: nonzero(hex(span)?)?, sampled, format: Format::W3c })
}

fn read_b3(value: &str) -> Option<Incoming> {
    let mut parts = value.split('-');
    let (trace, span) = (parts.next()?, parts.next()?);
    let sampled = match parts.next() {
        Some("1" | "d") => Some(true),
        Some("0") => Some(false),
        _ => None,
    };
    let format = Format::B3Single;
    Some(Incoming { trace_id: b3_trace_id(trace)?, span_id: nonzero(hex(span)?)?, sampled, format })
}

/// B3 trace ids have 16 or 32 digits.
fn b3_trace_id(text: &str) -> Option<[u8; 16]> {
    if text.len() == 16 {
        let mut id = [0; 16];
        id[8..].copy_from_slice(&hex::<8>(text)?);
        return nonzero(id);
    }
    nonzero(hex(text)?)
}

fn nonzero<const N: usize>(bytes: [u8; N]) -> Option<[u8; N]> {
    bytes.iter().any(|&b| b != 0).then_some(bytes)
}

fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    // W3C asks for lower case; what is upper case is B3's habit, so both are read.
    if digits.len() != N * 2 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// Whether B3 says "do not sample" without naming a trace (`b3: 0`, or `x-b3-sampled: 0` alone).
pub fn is_declined(headers: &HeaderMap) -> bool {
    let says = |name: &str, no: &[&str]| headers.get(name).is_some_and(|value| no.iter().any(|no| value == no));
    says("b3", &["0"]) || says("x-b3-sampled", &["0", "false"])
}

/// Decides whether this request gets a span.
pub fn sample(incoming: Option<&Incoming>, per_10000: u32, rng: &mut impl Rng) -> bool {
    match incoming.and_then(|context| context.sampled) {
        Some(decision) => decision,
        None => per_10000 > 0 && rng.random_range(0..10_000) < per_10000,
    }
}

/// Starts a span under `incoming` and puts its context into the request's headers, in the format it came in.
pub fn start(name: &'static str, incoming: Option<&Incoming>, headers: &mut HeaderMap) -> tracing::Span {
    let span = tracing::info_span!(
        target: TARGET,
        "request",
        otel.name = name,
        otel.status_code = tracing::field::Empty,
        http.request.method = tracing::field::Empty,
        url.path = tracing::field::Empty,
        http.response.status_code = tracing::field::Empty,
        weft.service = tracing::field::Empty,
        weft.endpoint = tracing::field::Empty,
        weft.reason = tracing::field::Empty,
    );
    if let Some(parent) = incoming {
        let parent = SpanContext::new(
            TraceId::from_bytes(parent.trace_id),
            SpanId::from_bytes(parent.span_id),
            TraceFlags::SAMPLED,
            true,
            TraceState::default(),
        );
        // Fails only where no OpenTelemetry layer is installed: then there is no span to parent.
        let _ = span.set_parent(opentelemetry::Context::new().with_remote_span_context(parent));
    }
    let context = span.context();
    let own = context.span().span_context().clone();
    if own.is_valid() {
        write(incoming, &own, headers);
    }
    span
}

/// The trace id of a span, for the access log.
pub fn id_of(span: &tracing::Span) -> String {
    span.context().span().span_context().trace_id().to_string()
}

fn write(incoming: Option<&Incoming>, context: &SpanContext, headers: &mut HeaderMap) {
    if incoming.is_none() {
        // A trace that begins here is not the one an unreadable `traceparent` had state for (W3C §3.2).
        headers.remove("tracestate");
    }
    let (trace, span) = (context.trace_id(), context.span_id());
    let mut set = |name: &'static str, text: String| {
        if let Ok(value) = text.parse() {
            headers.insert(name, value);
        }
    };
    match incoming.map_or(Format::W3c, |incoming| incoming.format) {
        Format::W3c => set("traceparent", format!("00-{trace}-{span}-01")),
        Format::B3Single => set("b3", format!("{trace}-{span}-1")),
        Format::B3Multi => {
            set("x-b3-traceid", trace.to_string());
            set("x-b3-spanid", span.to_string());
            set("x-b3-sampled", "1".to_owned());
            if let Some(parent) = incoming {
                set("x-b3-parentspanid", SpanId::from_bytes(parent.span_id).to_string());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const S: &str = "00f067aa0ba902b7";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn contexts_are_read_in_every_format() {
        type Want = Option<(Format, Option<bool>)>;
        let rows: &[(&str, HeaderMap, Want)] = &[
            ("none", headers(&[]), None),
            ("w3c sampled", headers(&[("traceparent", &format!("00-{T}-{S}-01"))]), Some((Format::W3c, Some(true)))),
            ("w3c unsampled", headers(&[("traceparent", &format!("00-{T}-{S}-00"))]), Some((Format::W3c, Some(false)))),
            (
                "a later version may have more parts",
                headers(&[("traceparent", &format!("01-{T}-{S}-01-x"))]),
                Some((Format::W3c, Some(true))),
            ),
            ("version 00 may not", headers(&[("traceparent", &format!("00-{T}-{S}-01-x"))]), None),
            ("version ff is invalid", headers(&[("traceparent", &format!("ff-{T}-{S}-01"))]), None),
            ("zero trace id", headers(&[("traceparent", &format!("00-{}-{S}-01", "0".repeat(32)))]), None),
            ("b3 single", headers(&[("b3", &format!("{T}-{S}-1"))]), Some((Format::B3Single, Some(true)))),
            ("b3 deferred", headers(&[("b3", &format!("{T}-{S}"))]), Some((Format::B3Single, None))),
            (
                "b3 64-bit",
                headers(&[("x-b3-traceid", S), ("x-b3-spanid", S), ("x-b3-sampled", "0")]),
                Some((Format::B3Multi, Some(false))),
            ),
            (
                "b3 debug",
                headers(&[("x-b3-traceid", T), ("x-b3-spanid", S), ("x-b3-flags", "1")]),
                Some((Format::B3Multi, Some(true))),
            ),
            ("b3 zero span id", headers(&[("x-b3-traceid", T), ("x-b3-spanid", "0000000000000000")]), None),
            ("garbage", headers(&[("traceparent", "00-é")]), None),
        ];
        for (name, headers, expected) in rows {
            let got = read(headers).map(|context| (context.format, context.sampled));
            assert_eq!(got, *expected, "{name}");
        }
    }

    #[test]
    fn b3_can_decline_without_a_trace() {
        for (pairs, declined) in [
            (&[("b3", "0")][..], true),
            (&[("x-b3-sampled", "0")], true),
            (&[("x-b3-sampled", "1")], false),
            (&[("b3", "1")], false),
            (&[], false),
        ] {
            assert_eq!(is_declined(&headers(pairs)), declined, "{pairs:?}");
        }
    }

    #[test]
    fn the_context_goes_on_in_the_format_it_came_in() {
        let own = |sampled| {
            SpanContext::new(
                TraceId::from_bytes([2; 16]),
                SpanId::from_bytes([3; 8]),
                sampled,
                false,
                TraceState::default(),
            )
        };
        let (t, s) = ("02".repeat(16), "03".repeat(8));
        for (name, mut sent, want) in [
            ("none", headers(&[("tracestate", "a=1")]), vec![("traceparent", format!("00-{t}-{s}-01"))]),
            (
                "w3c",
                headers(&[("traceparent", &format!("00-{T}-{S}-01")), ("tracestate", "a=1")]),
                vec![("traceparent", format!("00-{t}-{s}-01")), ("tracestate", "a=1".to_owned())],
            ),
            ("b3", headers(&[("b3", &format!("{T}-{S}-1"))]), vec![("b3", format!("{t}-{s}-1"))]),
            (
                "b3 multi",
                headers(&[
                    ("x-b3-traceid", T),
                    ("x-b3-spanid", S),
                    ("x-b3-sampled", "1"),
                    ("x-b3-parentspanid", "00000000000000ff"),
                ]),
                vec![
                    ("x-b3-traceid", t.clone()),
                    ("x-b3-spanid", s.clone()),
                    ("x-b3-sampled", "1".to_owned()),
                    ("x-b3-parentspanid", S.to_owned()),
                ],
            ),
        ] {
            let incoming = read(&sent);
            write(incoming.as_ref(), &own(TraceFlags::SAMPLED), &mut sent);
            let want: HeaderMap =
                want.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
            assert_eq!(sent, want, "{name}");
        }
    }

    #[test]
    fn a_clients_decision_stands() {
        let mut rng = rand::rng();
        let incoming = |sampled| Incoming { trace_id: [1; 16], span_id: [1; 8], sampled, format: Format::W3c };
        assert!(sample(Some(&incoming(Some(true))), 0, &mut rng));
        assert!(!sample(Some(&incoming(Some(false))), 10_000, &mut rng));
        assert!(sample(Some(&incoming(None)), 10_000, &mut rng));
        assert!(sample(None, 10_000, &mut rng));
        assert!(!sample(None, 0, &mut rng));
    }
}
