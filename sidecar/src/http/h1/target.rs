//! Request targets (RFC 9112 §3.2) and the Host field (§3.2, RFC 9110 §7.2): which forms are taken, and that the two
//! agree. A request whose Host and target disagree would be routed by one and served by the other.
//!
//! Stricter than RFC 3986 in: no user information, no percent-encoding and no comma in a host (no DNS name has them, and
//! a comma reads as a list elsewhere). Looser in: the ASCII characters that browsers leave unescaped in paths and queries
//! (`| { } ^`, and `"` in paths), since apps live with them and nothing splits on them. Never: a fragment, a blank, a control character
//! or a byte from 0x80.

use std::net::Ipv6Addr;

use bytes::Bytes;
use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Uri, Version};

use super::error::HeadError;
use crate::http::hygiene;

/// Reads the target of a request with this method.
pub(super) fn parse(raw: Bytes, method: &Method) -> Result<Uri, HeadError> {
    if raw.is_empty() || raw.iter().any(|&byte| !byte.is_ascii_graphic() || byte == b'#') {
        return Err(HeadError::Target);
    }
    if *method == Method::CONNECT {
        // authority-form; the port is mandatory
        let port = split_host(&raw).ok_or(HeadError::Target)?.1;
        if port.is_none_or(<[u8]>::is_empty) {
            return Err(HeadError::Target);
        }
        return Uri::from_maybe_shared(raw).map_err(|_| HeadError::Target);
    }
    if raw[0] == b'/' {
        return Uri::from_maybe_shared(raw).map_err(|_| HeadError::Target);
    }
    if &raw[..] == b"*" {
        // asterisk-form
        return if *method == Method::OPTIONS { Ok(Uri::from_static("*")) } else { Err(HeadError::Target) };
    }
    // absolute-form
    let rest = strip_prefix_ignore_case(&raw, b"http://")
        .or_else(|| strip_prefix_ignore_case(&raw, b"https://"))
        .ok_or(HeadError::Target)?;
    let no_path = !rest.contains(&b'/') && !rest.contains(&b'?');
    let uri = Uri::from_maybe_shared(raw).map_err(|_| HeadError::Target)?;
    if !uri.authority().is_some_and(|authority| is_host(authority.as_str().as_bytes())) {
        return Err(HeadError::Target);
    }
    if *method == Method::OPTIONS && no_path {
        // RFC 9112 §3.2.4: the last proxy turns this into `*`. `Uri` would make it `/`, so it is done here.
        let mut parts = uri.into_parts();
        parts.path_and_query = Some(PathAndQuery::from_static("*"));
        return Uri::from_parts(parts).map_err(|_| HeadError::Target);
    }
    Ok(uri)
}

/// Host is there where it must be, once, valid, and names the same place as the target.
pub(super) fn check_host(uri: &Uri, method: &Method, version: Version, headers: &HeaderMap) -> Result<(), HeadError> {
    let host = match hygiene::first_two(headers, &HOST) {
        [None, _] if version == Version::HTTP_10 => return Ok(()),
        [None, _] => return Err(HeadError::MissingHost),
        [Some(_), Some(_)] => return Err(HeadError::SeveralHosts),
        [Some(host), None] => host.as_bytes(),
    };
    if !is_host(host) {
        return Err(HeadError::InvalidHost);
    }
    let Some(authority) = uri.authority() else { return Ok(()) };
    let same = if *method == Method::CONNECT {
        // Clients differ in whether they repeat the port here.
        match (split_host(host), split_host(authority.as_str().as_bytes())) {
            (Some((a, None)), Some((b, _))) => a.eq_ignore_ascii_case(b),
            (a, b) => a.zip(b).is_some_and(|(a, b)| a.0.eq_ignore_ascii_case(b.0) && a.1 == b.1),
        }
    } else {
        same_authority(host, authority.as_str().as_bytes(), uri.scheme_str())
    };
    if same { Ok(()) } else { Err(HeadError::HostConflict) }
}

/// Whether `text` is `host [":" port]`, as Host and `:authority` have it.
pub(crate) fn is_host(text: &[u8]) -> bool {
    split_host(text).is_some()
}

/// The host of `host [":" port]`. `None`: not of that form.
pub(crate) fn host_of(authority: &str) -> Option<&str> {
    let (host, _) = split_host(authority.as_bytes())?;
    authority.get(..host.len())
}

/// Whether two valid hosts are the same place: case apart, and with the scheme's default port filled in.
pub(crate) fn same_authority(a: &[u8], b: &[u8], scheme: Option<&str>) -> bool {
    let default: &[u8] = if scheme == Some("https") { b"443" } else { b"80" };
    match (split_host(a), split_host(b)) {
        (Some((a, a_port)), Some((b, b_port))) => {
            let a_port = a_port.filter(|port| !port.is_empty()).unwrap_or(default);
            let b_port = b_port.filter(|port| !port.is_empty()).unwrap_or(default);
            a.eq_ignore_ascii_case(b) && a_port == b_port
        }
        _ => false,
    }
}

/// The host and, after a colon, the port, which may be empty (RFC 3986 §3.2.3). `None`: not of that form.
fn split_host(text: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let (host, rest) = if text.first() == Some(&b'[') {
        let end = text.iter().position(|&byte| byte == b']')?;
        std::str::from_utf8(&text[1..end]).ok()?.parse::<Ipv6Addr>().ok()?;
        text.split_at(end + 1)
    } else {
        let end = text.iter().position(|&byte| byte == b':').unwrap_or(text.len());
        let (host, rest) = text.split_at(end);
        let legal = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=".contains(byte);
        if host.is_empty() || !host.iter().all(legal) {
            return None;
        }
        (host, rest)
    };
    match rest {
        [] => Some((host, None)),
        [b':', port @ ..] if port.len() <= 5 && port.iter().all(u8::is_ascii_digit) => {
            let number = port.iter().fold(0_u32, |number, digit| number * 10 + u32::from(digit - b'0'));
            (number <= u32::from(u16::MAX)).then_some((host, Some(port)))
        }
        _ => None,
    }
}

fn strip_prefix_ignore_case<'t>(text: &'t [u8], prefix: &[u8]) -> Option<&'t [u8]> {
    let (head, rest) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}
