//! Which header fields may pass from one connection to the next (RFC 9110 §7.6.1; SEMANTICS.md §6), and the few
//! questions about fields that several rooms ask. Pure.
//!
//! Not here: writing the fields that a connection of ours needs (`h1::encode`, the `h2` crate).

use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, COOKIE,
    EXPECT, HOST, HeaderName, HeaderValue, MAX_FORWARDS, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE, WWW_AUTHENTICATE,
};
use http::{HeaderMap, Method, Version};
use smallvec::SmallVec;
use weft_proto::headers::{DEADLINE, OURS};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const X_FORWARDED_CLIENT_CERT: &str = "x-forwarded-client-cert";

/// Fields that `Connection` cannot take out: they are meant for the recipient of the content, so naming them there is
/// either a mistake or an attempt to make us drop what the next hop's checks rest on (RFC 9110 §7.6.1: "MUST NOT").
const END_TO_END: [HeaderName; 9] = [
    HOST,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    CONTENT_ENCODING,
    CONTENT_RANGE,
    AUTHORIZATION,
    COOKIE,
    SET_COOKIE,
    CACHE_CONTROL,
];

/// With no more names than this a pass over all of them is cheaper than the hash that one is looked for by.
const FEW: usize = 12;

/// Whether a field is there: for those that mostly are not. Inlined, since which one is looked for is known where it is.
#[inline]
pub(crate) fn has(headers: &HeaderMap, name: &HeaderName) -> bool {
    if headers.keys_len() <= FEW { headers.keys().any(|there| there == name) } else { headers.contains_key(name) }
}

/// The first two lines of a field: those that may be there once are right if there is no second.
#[inline]
pub(crate) fn first_two<'h>(headers: &'h HeaderMap, name: &HeaderName) -> [Option<&'h HeaderValue>; 2] {
    if headers.keys_len() <= FEW && !headers.keys().any(|there| there == name) {
        [None, None]
    } else if headers.keys_len() <= FEW && headers.len() == headers.keys_len() {
        // Each field has one line.
        [headers.iter().find(|(there, _)| *there == name).map(|(_, value)| value), None]
    } else {
        let mut lines = headers.get_all(name).iter();
        [lines.next(), lines.next()]
    }
}

/// Whether there is anything for [`strip_hop_by_hop`] to do. Without it a message offers no other protocol, either.
pub fn has_hop_by_hop(headers: &HeaderMap) -> bool {
    // One pass over the few names there are is cheaper than looking for each of these.
    headers.keys().any(|name| {
        *name == CONNECTION
            || *name == TRANSFER_ENCODING
            || *name == UPGRADE
            || *name == TE
            || *name == KEEP_ALIVE
            || *name == PROXY_CONNECTION
            || *name == HTTP2_SETTINGS
    })
}

/// Removes what belongs to one connection only: the fields `Connection` names, `Connection` itself and those that are
/// known to go with it. `TE` stays, as `trailers`, if that was among its members. `Upgrade` goes as well: who carries an
/// upgrade out puts it back.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if !has_hop_by_hop(headers) {
        return;
    }
    if headers.contains_key(CONNECTION) {
        let named: SmallVec<[HeaderName; 4]> = members(headers, &CONNECTION)
            .filter_map(|name| HeaderName::from_bytes(name).ok())
            .filter(|name| *name != TE && !END_TO_END.contains(name))
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, TRANSFER_ENCODING, UPGRADE, HTTP2_SETTINGS] {
        headers.remove(name);
    }
    if headers.contains_key(TE) {
        let trailers = accepts_trailers(headers);
        headers.remove(TE);
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    }
}

/// The same for messages that change their connection's protocol, or offer to: `Upgrade` stays.
pub fn strip_all_but_upgrade(headers: &mut HeaderMap) {
    let upgrade = headers.get(&UPGRADE).cloned();
    strip_hop_by_hop(headers);
    if let Some(upgrade) = upgrade {
        headers.insert(UPGRADE, upgrade);
    }
}

/// Whether any field is one of ours (`x-weft-*`). Cheaper than looking for one of them, where mostly there are none.
pub fn has_ours(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| name.as_str().starts_with(OURS))
}

/// Removes what only a verified peer may say: `x-weft-*` and `x-forwarded-client-cert`. `keep_deadline`: the headers
/// are from the local app, whose `x-weft-deadline-ms` counts (SEMANTICS.md §6).
pub fn strip_untrusted(headers: &mut HeaderMap, keep_deadline: bool) {
    if !has_untrusted(headers, keep_deadline) {
        return;
    }
    let is_one = |name: &&HeaderName| is_untrusted(name, keep_deadline);
    let ours: SmallVec<[HeaderName; 4]> = headers.keys().filter(is_one).cloned().collect();
    for name in ours {
        headers.remove(name);
    }
}

/// Whether there is anything for [`strip_untrusted`] to do.
pub fn has_untrusted(headers: &HeaderMap, keep_deadline: bool) -> bool {
    headers.keys().any(|name| is_untrusted(name, keep_deadline))
}

fn is_untrusted(name: &HeaderName, keep_deadline: bool) -> bool {
    let name = name.as_str();
    name.starts_with("x-")
        && match name {
            DEADLINE => !keep_deadline,
            name => name.starts_with(OURS) || name == X_FORWARDED_CLIENT_CERT,
        }
}

/// Removes from trailers what must not be there because a recipient that merges trailers into headers would be misled
/// (RFC 9110 §6.5.1): framing, routing, request modifiers, authentication, content format, and what is ours.
pub fn strip_forbidden_trailers(trailers: &mut HeaderMap) {
    const FORBIDDEN: [HeaderName; 22] = [
        AUTHORIZATION,
        CACHE_CONTROL,
        CONNECTION,
        CONTENT_ENCODING,
        CONTENT_LENGTH,
        CONTENT_RANGE,
        CONTENT_TYPE,
        COOKIE,
        EXPECT,
        HOST,
        KEEP_ALIVE,
        MAX_FORWARDS,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        PROXY_CONNECTION,
        SET_COOKIE,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
        WWW_AUTHENTICATE,
        HTTP2_SETTINGS,
    ];
    for name in FORBIDDEN {
        trailers.remove(name);
    }
    strip_untrusted(trailers, false);
}

/// Whether this is a gRPC message: content type `application/grpc`, alone or with `+…` or `;…`. (gRPC-Web is not.)
pub fn is_grpc(headers: &HeaderMap) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    if !has(headers, &CONTENT_TYPE) {
        return false;
    }
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.as_bytes().split_at_checked(GRPC.len()))
        .is_some_and(|(start, rest)| start.eq_ignore_ascii_case(GRPC) && matches!(rest, [] | [b'+' | b';' | b' ', ..]))
}

/// The protocol these headers ask to change to, or agree to: `Connection: upgrade` with one `Upgrade` field. An offer of
/// HTTP/2 (`h2c`, RFC 7540 §3.2, withdrawn by RFC 9113) is none: the requests inside would pass by routing and policy.
pub fn upgrade_protocol(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut values = headers.get_all(UPGRADE).iter();
    let (Some(protocol), None) = (values.next(), values.next()) else { return None };
    let is_http2 = |member: &[u8]| {
        let name = member.split(|&byte| byte == b'/').next().unwrap_or(member);
        name.eq_ignore_ascii_case(b"h2c") || name.eq_ignore_ascii_case(b"h2") || name.eq_ignore_ascii_case(b"http")
    };
    let asked = lists(headers, &CONNECTION, "upgrade");
    (asked && !protocol.is_empty() && !members(headers, &UPGRADE).any(is_http2)).then_some(protocol)
}

/// Whether a request asks for its connection to become something else: CONNECT, or an upgrade. Not of HTTP/1.0, where `Upgrade`
/// means nothing (RFC 9110 §7.8), nor in HTTP/2, where a CONNECT is a stream like any other.
pub fn is_tunnel(method: &Method, version: Version, headers: &HeaderMap) -> bool {
    version != Version::HTTP_2
        && (method == Method::CONNECT || (version == Version::HTTP_11 && upgrade_protocol(headers).is_some()))
}

/// Whether the sender of this request waits for `100 Continue` before its body. Not in HTTP/1.0 (RFC 9110 §10.1.1).
pub fn expects_continue(version: Version, headers: &HeaderMap) -> bool {
    version != Version::HTTP_10 && lists(headers, &EXPECT, "100-continue")
}

/// Whether the sender keeps this HTTP/1 connection open after the message (RFC 9112 §9.3).
pub fn keep_alive(version: Version, headers: &HeaderMap) -> bool {
    if lists(headers, &CONNECTION, "close") {
        return false;
    }
    version >= Version::HTTP_11 || lists(headers, &CONNECTION, "keep-alive")
}

/// Whether the sender of these request headers reads trailers (`TE: trailers`).
pub fn accepts_trailers(headers: &HeaderMap) -> bool {
    members(headers, &TE).any(|member| {
        let coding = member.split(|&byte| byte == b';').next().unwrap_or(member);
        coding.trim_ascii().eq_ignore_ascii_case(b"trailers")
    })
}

/// Whether a list field has this member, case apart.
pub(crate) fn lists(headers: &HeaderMap, name: &HeaderName, member: &str) -> bool {
    has(headers, name) && members(headers, name).any(|found| found.eq_ignore_ascii_case(member.as_bytes()))
}

/// The members of a comma-separated list field, over all its lines, blanks trimmed, empty ones left out.
fn members<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h [u8]> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|member| !member.is_empty())
}

#[cfg(test)]
mod tests;
