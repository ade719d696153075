//! Reads one request or response head from the front of a buffer (RFC 9112 §2 to §5), strictly.
//!
//! Two passes. [`Section`] walks the raw bytes once, up to the empty line. It keeps its place, so a head that arrives in a
//! thousand pieces is still walked once. Only a section that passed is handed to `httparse` for names and values and to
//! `target` and `length` for their meaning; `httparse` alone would accept bare LF, any number of empty lines first, and
//! non-ASCII targets.
//!
//! Empty lines before a request: exactly one CRLF is skipped (RFC 9112 §2.2 asks for at least one, for clients that
//! end a POST with a stray CRLF). Before a response: none.
//!
//! Field values and the target are slices of the head's bytes: a connection takes them off its buffer without a copy
//! ([`HeadScan::take_request`]).
//! Bound: [`HeadLimits`]. Not here: the body (`body`), which headers may pass (`hygiene`).

use bytes::{Buf, Bytes, BytesMut};
use http::header::HeaderValue;
use http::{HeaderMap, Method, StatusCode, Uri, Version};

use super::error::HeadError;
use super::length::{self, BodyLength};
use super::section::{Fields, HeadLimits, Section, parse_fields};
use super::target;
use crate::http::hygiene;

/// Whether the buffer held all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress<T> {
    /// Read more and ask again.
    Incomplete,
    /// Here it is.
    Complete(T),
}

/// What the client wants the connection to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upgrade {
    /// `Connection: upgrade` with this `Upgrade` value. Never `h2c`: that offer is ignored, since a tunnel that speaks
    /// HTTP/2 would carry requests past routing and policy.
    Protocol(HeaderValue),
    /// `CONNECT host:port`.
    Connect,
}

/// A request's head. Its framing is known, its Host is valid and agrees with its target.
#[derive(Debug, Clone)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// The target as received: origin (`/a?b`), absolute (`http://h/a`), authority (`h:443`, CONNECT only) or `*`
    /// (OPTIONS only; from `OPTIONS http://h` it is `http://h` with the path `*`, RFC 9112 §3.2.4).
    pub uri: Uri,
    /// 1.0 or 1.1.
    pub version: Version,
    /// All fields as received, framing and hop-by-hop ones too, in lower case.
    pub headers: HeaderMap,
    /// What follows.
    pub body: BodyLength,
    /// Whether another request may follow on this connection (RFC 9112 §9.3).
    pub keep_alive: bool,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub expect_continue: bool,
    /// Whether the connection is to become something else.
    pub upgrade: Option<Upgrade>,
    /// Bytes of the buffer this head took, a skipped empty line included.
    pub len: usize,
}

/// A response's head. Its framing is known.
#[derive(Debug, Clone)]
pub struct ResponseHead {
    /// The status, 100 to 999.
    pub status: StatusCode,
    /// The reason phrase, where it is not empty.
    pub reason: Option<ReasonPhrase>,
    /// 1.0 or 1.1.
    pub version: Version,
    /// All fields as received, framing and hop-by-hop ones too, in lower case.
    pub headers: HeaderMap,
    /// What follows.
    pub body: BodyLength,
    /// Whether the connection may be used again once the body has been read.
    pub keep_alive: bool,
    /// Bytes of the buffer this head took.
    pub len: usize,
}

/// The text after a status code. Only the reader makes one, so it is safe to write. Put into a response's extensions it
/// is written again by [`encode_response`](super::encode::encode_response).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReasonPhrase(Bytes);

impl ReasonPhrase {
    /// Its bytes: visible characters, spaces, tabs and bytes from 0x80.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Reads a request head that starts at `buf`.
///
/// # Errors
/// [`HeadError`]; nothing of the request may be forwarded. Some errors show before the head is complete.
pub fn read_request(buf: &[u8], limits: &HeadLimits) -> Result<Progress<RequestHead>, HeadError> {
    HeadScan::default().read_request(buf, limits)
}

/// Reads a response head that starts at `buf`, an answer to `request_method`.
///
/// # Errors
/// [`HeadError`]; nothing of the response may be forwarded.
pub fn read_response(
    buf: &[u8],
    request_method: &Method,
    limits: &HeadLimits,
) -> Result<Progress<ResponseHead>, HeadError> {
    HeadScan::default().read_response(buf, request_method, limits)
}

/// The place reached in a head that has not arrived in full, so that each byte is looked at once however small the
/// pieces. Use one per head, always with a buffer that starts at the same byte and only grows.
#[derive(Debug, Clone, Default)]
pub struct HeadScan(Section);

impl HeadScan {
    /// [`read_request`], going on where the last call stopped.
    ///
    /// # Errors
    /// As [`read_request`].
    pub fn read_request(&mut self, buf: &[u8], limits: &HeadLimits) -> Result<Progress<RequestHead>, HeadError> {
        match self.find_request(buf, limits)? {
            Some((skipped, len)) => self.request(Bytes::copy_from_slice(&buf[skipped..skipped + len]), skipped),
            None => Ok(Progress::Incomplete),
        }
    }

    /// The same; a complete head is taken off the buffer and keeps its bytes, without a copy.
    ///
    /// # Errors
    /// As [`read_request`]. What the buffer then holds means nothing.
    pub fn take_request(
        &mut self,
        buf: &mut BytesMut,
        limits: &HeadLimits,
    ) -> Result<Progress<RequestHead>, HeadError> {
        match self.find_request(buf, limits)? {
            Some((skipped, len)) => {
                buf.advance(skipped);
                self.request(buf.split_to(len).freeze(), skipped)
            }
            None => Ok(Progress::Incomplete),
        }
    }

    /// How many bytes to skip, and how many are the head, once it is complete.
    fn find_request(&mut self, buf: &[u8], limits: &HeadLimits) -> Result<Option<(usize, usize)>, HeadError> {
        let skipped = match buf {
            [b'\r'] | [] => return Ok(None),
            [b'\r', b'\n', ..] => 2,
            _ => 0,
        };
        Ok(self.0.advance(&buf[skipped..], limits)?.then(|| (skipped, self.0.len())))
    }

    fn request(&self, head: Bytes, skipped: usize) -> Result<Progress<RequestHead>, HeadError> {
        let (line_end, fields) = self.0.start_line()?;
        let line = &head[..line_end];
        if line == b"PRI * HTTP/2.0" {
            return Err(HeadError::Http2Preface);
        }
        let mut words = line.split(|&byte| byte == b' ');
        let (Some(method), Some(raw_target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(HeadError::RequestLine);
        };
        let version = parse_version(version).ok_or(HeadError::RequestLine)??;
        let from = method.len() + 1;
        let method = Method::from_bytes(method).map_err(|_| HeadError::Method)?;
        let uri = target::parse(head.slice(from..from + raw_target.len()), &method)?;
        let len = skipped + head.len();
        let Fields { headers, framing, connection } = parse_fields(head, fields, self.0.fields())?;

        target::check_host(&uri, &method, version, &headers)?;
        let declared = if framing { length::declared(version, &headers)? } else { None };
        let body = length::of_request(&method, declared)?;
        // What an HTTP/1.0 client says of 1.1's means nothing.
        let may_ask = connection && version == Version::HTTP_11;
        let expect_continue = may_ask && hygiene::expects_continue(version, &headers);
        let upgrade = if method == Method::CONNECT {
            Some(Upgrade::Connect)
        } else if may_ask {
            hygiene::upgrade_protocol(&headers).cloned().map(Upgrade::Protocol)
        } else {
            None
        };
        let keep_alive = if connection { hygiene::keep_alive(version, &headers) } else { version == Version::HTTP_11 };
        Ok(Progress::Complete(RequestHead {
            method,
            uri,
            version,
            headers,
            body,
            keep_alive,
            expect_continue,
            upgrade,
            len,
        }))
    }

    /// [`read_response`], going on where the last call stopped.
    ///
    /// # Errors
    /// As [`read_response`].
    pub fn read_response(
        &mut self,
        buf: &[u8],
        request_method: &Method,
        limits: &HeadLimits,
    ) -> Result<Progress<ResponseHead>, HeadError> {
        if !self.0.advance(buf, limits)? {
            return Ok(Progress::Incomplete);
        }
        self.response(Bytes::copy_from_slice(&buf[..self.0.len()]), request_method)
    }

    /// The same; a complete head is taken off the buffer and keeps its bytes, without a copy.
    ///
    /// # Errors
    /// As [`read_response`]. What the buffer then holds means nothing.
    pub fn take_response(
        &mut self,
        buf: &mut BytesMut,
        request_method: &Method,
        limits: &HeadLimits,
    ) -> Result<Progress<ResponseHead>, HeadError> {
        if !self.0.advance(buf, limits)? {
            return Ok(Progress::Incomplete);
        }
        self.response(buf.split_to(self.0.len()).freeze(), request_method)
    }

    fn response(&self, head: Bytes, request_method: &Method) -> Result<Progress<ResponseHead>, HeadError> {
        let (line_end, fields) = self.0.start_line()?;
        let (version, rest) = head[..line_end].split_at_checked(b"HTTP/1.1".len()).ok_or(HeadError::StatusLine)?;
        let version = parse_version(version).ok_or(HeadError::StatusLine)??;
        // The space after the status belongs there even before an empty reason (RFC 9112 §4); so many servers leave it
        // out, and nothing is ambiguous without it, that it is not insisted on.
        let (status, reason) = match rest {
            [b' ', a, b, c] => ([*a, *b, *c], &[][..]),
            [b' ', a, b, c, b' ', reason @ ..] => ([*a, *b, *c], reason),
            _ => return Err(HeadError::StatusLine),
        };
        let status = StatusCode::from_bytes(&status).map_err(|_| HeadError::StatusLine)?;
        let reason = (!reason.is_empty()).then(|| ReasonPhrase(head.slice(line_end - reason.len()..line_end)));
        let len = head.len();
        let Fields { headers, framing, connection } = parse_fields(head, fields, self.0.fields())?;

        let declared = if framing { length::declared(version, &headers)? } else { None };
        let body = length::of_response(request_method, status, declared);
        let keeps_alive = if connection { hygiene::keep_alive(version, &headers) } else { version == Version::HTTP_11 };
        let keep_alive = body != BodyLength::UntilClose
            && keeps_alive
            && !(framing && length::says_more_than_it_may(status, &headers));
        Ok(Progress::Complete(ResponseHead { status, reason, version, headers, body, keep_alive, len }))
    }
}

/// `None`: no version at all. `Some(Err)`: one that is not ours.
fn parse_version(text: &[u8]) -> Option<Result<Version, HeadError>> {
    match text {
        b"HTTP/1.1" => Some(Ok(Version::HTTP_11)),
        b"HTTP/1.0" => Some(Ok(Version::HTTP_10)),
        [b'H', b'T', b'T', b'P', b'/', major, rest @ ..]
            if major.is_ascii_digit() && rest.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'.')) =>
        {
            Some(Err(HeadError::UnsupportedVersion))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
