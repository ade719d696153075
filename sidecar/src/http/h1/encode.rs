//! Writes heads, chunks and trailers (RFC 9112 §3 to §7). The framing and connection fields are written from arguments,
//! never copied from the map, so what is said and what is done cannot differ.
//!
//! `http`'s types hold no CR, LF or blank where they would matter (a field value, a method, a URI), so there is nothing to
//! escape. No `Date` is added: a sidecar is no origin server. Field names go out in lower case.

use bytes::{BufMut, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderName, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::Authority;
use http::{HeaderMap, Method, StatusCode, Version, request, response};

use super::head::ReasonPhrase;
use super::length;
use crate::http::hygiene;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// What follows a chunk's data.
pub const CHUNK_END: &[u8] = b"\r\n";

/// How a body is to be framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// No body and no framing field. A Content-Length in the map is written only where it speaks of the body that GET
    /// would have brought: in a response to HEAD, or a 304.
    None,
    /// `Content-Length`.
    Length(u64),
    /// `Transfer-Encoding: chunked`; HTTP/1.1 only.
    Chunked,
    /// No field: the end of the connection ends it. Responses only; implies [`Connection::Close`].
    UntilClose,
}

impl Framing {
    /// How to frame a request to a server that is spoken to in `version`. `length`: as declared; `empty`: known to have no
    /// body.
    ///
    /// # Errors
    /// [`EncodeError::LengthRequired`]: HTTP/1.0 has no way to send a request body of unknown length.
    pub fn for_request(
        method: &Method,
        version: Version,
        length: Option<u64>,
        empty: bool,
    ) -> Result<Self, EncodeError> {
        match length {
            _ if *method == Method::CONNECT => Ok(Self::None),
            Some(length) => Ok(Self::Length(length)),
            None if empty => Ok(Self::None),
            None if version == Version::HTTP_10 => Err(EncodeError::LengthRequired),
            None => Ok(Self::Chunked),
        }
    }

    /// How to frame a response to a client that spoke `version`. `empty`: known to have no body, though no length was
    /// declared (an h2 stream that ended with its head).
    pub fn for_response(
        request_method: &Method,
        status: StatusCode,
        version: Version,
        length: Option<u64>,
        empty: bool,
    ) -> Self {
        match length {
            _ if length::has_no_body(request_method, status) => Self::None,
            Some(length) => Self::Length(length),
            None if empty => Self::Length(0),
            None if version == Version::HTTP_10 => Self::UntilClose,
            None => Self::Chunked,
        }
    }
}

/// What becomes of the connection after this message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// It may carry another one.
    KeepAlive,
    /// It is closed.
    Close,
    /// It changes its protocol, if the other side agrees (request) or now (101): the map's `Upgrade` is written.
    Upgrade,
}

/// Why a head cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// HTTP/1.1 wants a Host, and neither the map nor the URI has one.
    #[error("no Host and no authority for an HTTP/1.1 request")]
    NoHost,
    /// A CONNECT without an authority.
    #[error("CONNECT needs host:port as its target")]
    NoAuthority,
    /// A body of unknown length for HTTP/1.0.
    #[error("an HTTP/1.0 request needs a Content-Length")]
    LengthRequired,
}

/// Writes a request head. `parts.version` HTTP/1.0 is kept, any other becomes 1.1. The target is written in the form
/// the URI has: authority for CONNECT, absolute with a scheme, else path and query (or `*`).
///
/// # Errors
/// [`EncodeError`]; nothing has been written then.
pub fn encode_request(
    dst: &mut BytesMut,
    parts: &request::Parts,
    framing: Framing,
    connection: Connection,
) -> Result<(), EncodeError> {
    let version = version(parts.version);
    let host = match (hygiene::first_two(&parts.headers, &HOST)[0], parts.uri.authority()) {
        (Some(host), _) => Some(host.as_bytes()),
        (None, Some(authority)) => Some(without_userinfo(authority)),
        (None, None) if version == Version::HTTP_10 => None,
        (None, None) => return Err(EncodeError::NoHost),
    };
    if framing == Framing::Chunked && version == Version::HTTP_10 {
        return Err(EncodeError::LengthRequired);
    }
    let authority = match (&parts.method, parts.uri.authority()) {
        (&Method::CONNECT, None) => return Err(EncodeError::NoAuthority),
        (_, authority) => authority,
    };

    put(dst, parts.method.as_str().as_bytes());
    put(dst, b" ");
    match (authority, parts.uri.scheme()) {
        (Some(authority), _) if parts.method == Method::CONNECT => put(dst, authority.as_str().as_bytes()),
        (Some(authority), Some(scheme)) => {
            put(dst, scheme.as_str().as_bytes());
            put(dst, b"://");
            put(dst, authority.as_str().as_bytes());
            put_path(dst, &parts.uri);
        }
        _ => put_path(dst, &parts.uri),
    }
    put(dst, if version == Version::HTTP_10 { b" HTTP/1.0\r\n" } else { b" HTTP/1.1\r\n" });
    if let Some(host) = host {
        // RFC 9110 §7.2: Host first.
        put_field(dst, &HOST, host);
    }
    let mut te = false;
    put_fields(dst, &parts.headers, connection, |name| {
        te |= *name == TE;
        *name != HOST && *name != CONTENT_LENGTH
    });
    put_connection(dst, version, connection, te);
    put_framing(dst, framing);
    put(dst, b"\r\n");
    Ok(())
}

/// Writes a response head (also a 1xx: [`Framing::None`]) in answer to `request_method`. `parts.version` HTTP/1.0 is
/// kept, any other becomes 1.1. A [`ReasonPhrase`] among the extensions is written, otherwise the usual one.
pub fn encode_response(
    dst: &mut BytesMut,
    parts: &response::Parts,
    request_method: &Method,
    framing: Framing,
    connection: Connection,
) {
    let version = version(parts.version);
    // Chunks to HTTP/1.0 would be read as content.
    let framing =
        if framing == Framing::Chunked && version == Version::HTTP_10 { Framing::UntilClose } else { framing };
    let connection = if framing == Framing::UntilClose { Connection::Close } else { connection };

    put(dst, if version == Version::HTTP_10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    put(dst, parts.status.as_str().as_bytes());
    put(dst, b" ");
    match parts.extensions.get::<ReasonPhrase>() {
        Some(reason) => put(dst, reason.as_bytes()),
        None => put(dst, parts.status.canonical_reason().unwrap_or_default().as_bytes()),
    }
    put(dst, b"\r\n");
    let keep_length = framing == Framing::None
        && (*request_method == Method::HEAD || parts.status == StatusCode::NOT_MODIFIED)
        && matches!(length::content_length(&parts.headers), Ok(Some(_)));
    put_fields(dst, &parts.headers, connection, |name| *name != CONTENT_LENGTH || keep_length);
    if !parts.status.is_informational() || connection == Connection::Upgrade {
        put_connection(dst, version, connection, false);
    }
    put_framing(dst, framing);
    put(dst, b"\r\n");
}

/// Writes what comes before a chunk's data; [`CHUNK_END`] comes after it. `len` is not 0: that would end the body.
pub fn encode_chunk_head(dst: &mut BytesMut, len: u64) {
    debug_assert_ne!(len, 0, "an empty chunk ends the body");
    let digits = (u64::BITS - len.leading_zeros()).div_ceil(4).max(1);
    dst.reserve(digits as usize + 2);
    for digit in (0..digits).rev() {
        let nibble = (len >> (4 * digit)) & 0xf;
        dst.put_u8(b"0123456789abcdef"[nibble as usize]);
    }
    put(dst, b"\r\n");
}

/// Writes the last chunk and the trailers, without those that must not be there (RFC 9110 §6.5.1).
pub fn encode_last_chunk(dst: &mut BytesMut, trailers: Option<HeaderMap>) {
    put(dst, b"0\r\n");
    if let Some(mut trailers) = trailers {
        hygiene::strip_forbidden_trailers(&mut trailers);
        for (name, value) in &trailers {
            put_field(dst, name, value.as_bytes());
        }
    }
    put(dst, b"\r\n");
}

fn version(version: Version) -> Version {
    if version == Version::HTTP_10 { version } else { Version::HTTP_11 }
}

/// An authority's host and port. User information does not belong in Host (RFC 9110 §4.2.4).
fn without_userinfo(authority: &Authority) -> &[u8] {
    let text = authority.as_str();
    text.rsplit_once('@').map_or(text, |(_, host)| host).as_bytes()
}

fn put_path(dst: &mut BytesMut, uri: &http::Uri) {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    match path.as_bytes() {
        // `http://h` with the path `*` goes out as `http://h`.
        b"*" if uri.scheme().is_some() => {}
        [] => put(dst, b"/"),
        [b'?', ..] => {
            put(dst, b"/");
            put(dst, path.as_bytes());
        }
        path => put(dst, path),
    }
}

/// All fields but those that are written from arguments, and those `keep` refuses.
fn put_fields(
    dst: &mut BytesMut,
    headers: &HeaderMap,
    connection: Connection,
    mut keep: impl FnMut(&HeaderName) -> bool,
) {
    for (name, value) in headers {
        let ours = *name == CONNECTION
            || *name == TRANSFER_ENCODING
            || *name == KEEP_ALIVE
            || *name == PROXY_CONNECTION
            || (*name == UPGRADE && connection != Connection::Upgrade);
        if !ours && keep(name) {
            put_field(dst, name, value.as_bytes());
        }
    }
}

/// `Connection`, where the version's default is not meant. TE must be named in it (RFC 9110 §10.1.4).
fn put_connection(dst: &mut BytesMut, version: Version, connection: Connection, te: bool) {
    let option: &[u8] = match (connection, version) {
        (Connection::KeepAlive, Version::HTTP_10) => b"keep-alive",
        (Connection::KeepAlive, _) => b"",
        (Connection::Close, _) => b"close",
        (Connection::Upgrade, _) => b"upgrade",
    };
    if option.is_empty() && !te {
        return;
    }
    put(dst, b"connection: ");
    put(dst, option);
    if te {
        put(dst, if option.is_empty() { b"te" } else { b", te" });
    }
    put(dst, b"\r\n");
}

fn put_framing(dst: &mut BytesMut, framing: Framing) {
    match framing {
        Framing::None | Framing::UntilClose => {}
        Framing::Chunked => put(dst, b"transfer-encoding: chunked\r\n"),
        Framing::Length(length) => {
            let mut digits = [0_u8; 20];
            let mut at = digits.len();
            let mut rest = length;
            loop {
                at -= 1;
                digits[at] = b'0' + (rest % 10) as u8;
                rest /= 10;
                if rest == 0 {
                    break;
                }
            }
            put_field(dst, &CONTENT_LENGTH, &digits[at..]);
        }
    }
}

fn put_field(dst: &mut BytesMut, name: &HeaderName, value: &[u8]) {
    put(dst, name.as_str().as_bytes());
    put(dst, b": ");
    put(dst, value);
    put(dst, b"\r\n");
}

/// Appends. Inlined, since a head is many short pieces: one whose length is known is a store, and not a call.
#[inline]
fn put(dst: &mut BytesMut, bytes: &[u8]) {
    dst.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests;
