//! Reads one request or response head from the front of a buffer (RFC 9112 §2 to §5), strictly.
//!
//! Two passes. [`Section`] walks the raw bytes once and knows only lines: exact CRLF, no control characters, no
//! folding, the limits. It keeps its place, so a head that arrives in a thousand pieces is still walked once. Only a
//! section that passed is handed to `httparse` for names and values and to `target` and `length` for their meaning;
//! `httparse` alone would accept bare LF, any number of empty lines first, and non-ASCII targets.
//!
//! Empty lines before a request: exactly one CRLF is skipped (RFC 9112 §2.2 asks for at least one, for clients that
//! end a POST with a stray CRLF). Before a response: none.
//!
//! Field values and the target are slices of one copy of the head: one allocation for all of them.
//! Bound: [`HeadLimits`]. Not here: the body (`body`), which headers may pass (`hygiene`).

use bytes::Bytes;
use http::header::{EXPECT, HeaderName, HeaderValue};
use http::{HeaderMap, Method, StatusCode, Uri, Version};
use smallvec::{SmallVec, smallvec};

use super::length::{self, BodyLength};
use super::target;
use crate::http::hygiene;
use crate::reason::Reason;

/// The largest head that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes, from the start line to the empty line. Default 64 KiB (SEMANTICS.md §6).
    pub max_bytes: usize,
    /// Field lines. Default 100 (SEMANTICS.md §6).
    pub max_headers: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self { max_bytes: 64 * 1024, max_headers: 100 }
    }
}

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

/// Why a head is refused. The connection it came on cannot be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// More bytes than the limit.
    #[error("the head is larger than {limit} bytes")]
    TooLarge {
        /// [`HeadLimits::max_bytes`]
        limit: usize,
    },
    /// More field lines than the limit.
    #[error("the head has more than {limit} fields")]
    TooManyFields {
        /// [`HeadLimits::max_headers`]
        limit: usize,
    },
    /// The HTTP/2 connection preface where an HTTP/1 request was expected.
    #[error("this is the HTTP/2 preface: was the port detected or declared as HTTP/1?")]
    Http2Preface,
    /// An HTTP version other than 1.0 and 1.1.
    #[error("the HTTP version is neither 1.0 nor 1.1")]
    UnsupportedVersion,
    /// More than one empty line before the request, or any before a response.
    #[error("empty lines where a head should start")]
    LeadingEmptyLine,
    /// A line feed without its carriage return.
    #[error("a line ends in LF alone")]
    BareLf,
    /// A carriage return without its line feed.
    #[error("CR that is no line end")]
    BareCr,
    /// NUL or another control character.
    #[error("control character 0x{0:02x}")]
    Control(u8),
    /// A line that starts with a blank: folding (RFC 9112 §5.2), or blanks before the first field (§2.2).
    #[error("a field line starts with a blank (obsolete folding)")]
    LeadingBlank,
    /// The request line is not `method SP target SP version`. HTTP/0.9 is among these.
    #[error("the request line is not `METHOD TARGET VERSION`, one space between each")]
    RequestLine,
    /// The status line is not `version SP 3DIGIT [SP reason]`.
    #[error("the status line is not `VERSION STATUS REASON`")]
    StatusLine,
    /// The method is no token.
    #[error("the method has a character that no token may have")]
    Method,
    /// The target has a character that no URI may have, or is not of a form that the method may use.
    #[error("the request target is malformed or not of a form its method may use")]
    Target,
    /// A field line is not `name ":" value`: no colon, an empty name, a blank in the name or before the colon.
    #[error("a field line is not `name: value`")]
    Field,
    /// HTTP/1.1 without Host.
    #[error("an HTTP/1.1 request has no Host")]
    MissingHost,
    /// More than one Host.
    #[error("several Host fields")]
    SeveralHosts,
    /// Host is not `host[:port]`.
    #[error("Host is not a host and an optional port")]
    InvalidHost,
    /// Host and the target name different places.
    #[error("Host and the request target disagree")]
    HostConflict,
    /// Content-Length is not one plain decimal number that fits 64 bits.
    #[error("Content-Length is not one decimal number")]
    ContentLength,
    /// More than one Content-Length, equal or not.
    #[error("several Content-Length fields")]
    SeveralContentLengths,
    /// Transfer-Encoding is not exactly one `chunked`.
    #[error("Transfer-Encoding is not exactly `chunked`")]
    TransferEncoding,
    /// Transfer-Encoding in an HTTP/1.0 message (RFC 9112 §6.1).
    #[error("Transfer-Encoding in an HTTP/1.0 message")]
    TransferEncodingIn10,
    /// Both lengths: the message to smuggle with.
    #[error("both Content-Length and Transfer-Encoding")]
    LengthAndTransferEncoding,
    /// A CONNECT request that announces content.
    #[error("a CONNECT request with content")]
    ConnectWithBody,
}

impl HeadError {
    /// The status a refused request is answered with, before the connection is closed.
    pub const fn status(self) -> StatusCode {
        self.answer().0
    }

    /// The reason of that answer. (A refused *response* is [`Reason::UpstreamProtocol`], whatever was wrong with it.)
    pub const fn reason(self) -> Reason {
        self.answer().1
    }

    const fn answer(self) -> (StatusCode, Reason) {
        match self {
            Self::TooLarge { .. } | Self::TooManyFields { .. } => {
                (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, Reason::HeadTooLarge)
            }
            Self::UnsupportedVersion => (StatusCode::HTTP_VERSION_NOT_SUPPORTED, Reason::BadRequest),
            Self::Http2Preface
            | Self::LeadingEmptyLine
            | Self::BareLf
            | Self::BareCr
            | Self::Control(_)
            | Self::LeadingBlank
            | Self::RequestLine
            | Self::StatusLine
            | Self::Method
            | Self::Target
            | Self::Field
            | Self::MissingHost
            | Self::SeveralHosts
            | Self::InvalidHost
            | Self::HostConflict
            | Self::ContentLength
            | Self::SeveralContentLengths
            | Self::TransferEncoding
            | Self::TransferEncodingIn10
            | Self::LengthAndTransferEncoding
            | Self::ConnectWithBody => (StatusCode::BAD_REQUEST, Reason::BadRequest),
        }
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
        let skipped = match buf {
            [b'\r'] | [] => return Ok(Progress::Incomplete),
            [b'\r', b'\n', ..] => 2,
            _ => 0,
        };
        let buf = &buf[skipped..];
        if !self.0.advance(buf, limits)? {
            return Ok(Progress::Incomplete);
        }
        let (line, fields, len) = self.0.split(buf)?;
        if line == b"PRI * HTTP/2.0" {
            return Err(HeadError::Http2Preface);
        }
        // From here on everything borrows from one copy.
        let head = Bytes::copy_from_slice(&buf[..len]);

        let mut words = line.split(|&byte| byte == b' ');
        let (Some(method), Some(raw_target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(HeadError::RequestLine);
        };
        let version = parse_version(version).ok_or(HeadError::RequestLine)??;
        let method = Method::from_bytes(method).map_err(|_| HeadError::Method)?;
        let from = method.as_str().len() + 1;
        let uri = target::parse(head.slice(from..from + raw_target.len()), &method)?;
        let headers = parse_fields(&head.slice(fields..), self.0.fields())?;

        target::check_host(&uri, &method, version, &headers)?;
        let body = length::of_request(&method, version, &headers)?;
        let expect_continue = version == Version::HTTP_11 && hygiene::lists(&headers, &EXPECT, "100-continue");
        let upgrade = if method == Method::CONNECT {
            Some(Upgrade::Connect)
        } else if version == Version::HTTP_11 {
            hygiene::upgrade_protocol(&headers).cloned().map(Upgrade::Protocol)
        } else {
            None
        };
        let keep_alive = hygiene::keep_alive(version, &headers);
        let len = skipped + len;
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
        let (line, fields, len) = self.0.split(buf)?;
        let head = Bytes::copy_from_slice(&buf[..len]);

        let (version, rest) = line.split_at_checked(b"HTTP/1.1".len()).ok_or(HeadError::StatusLine)?;
        let version = parse_version(version).ok_or(HeadError::StatusLine)??;
        // The space after the status belongs there even before an empty reason (RFC 9112 §4); so many servers leave it
        // out, and nothing is ambiguous without it, that it is not insisted on.
        let (status, reason_len) = match rest {
            [b' ', a, b, c] => ([*a, *b, *c], 0),
            [b' ', a, b, c, b' ', reason @ ..] => ([*a, *b, *c], reason.len()),
            _ => return Err(HeadError::StatusLine),
        };
        let status = StatusCode::from_bytes(&status).map_err(|_| HeadError::StatusLine)?;
        let reason = (reason_len > 0).then(|| ReasonPhrase(head.slice(line.len() - reason_len..line.len())));
        let headers = parse_fields(&head.slice(fields..), self.0.fields())?;

        let body = length::of_response(request_method, status, version, &headers)?;
        let keep_alive = body != BodyLength::UntilClose
            && hygiene::keep_alive(version, &headers)
            && !length::says_more_than_it_may(status, &headers);
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

/// Field lines up to and with the empty line, already walked by a [`Section`] that counted `count` of them.
pub(super) fn parse_fields(lines: &Bytes, count: usize) -> Result<HeaderMap, HeadError> {
    let mut raw: SmallVec<[httparse::Header<'_>; 32]> = smallvec![httparse::EMPTY_HEADER; count];
    match httparse::parse_headers(lines, &mut raw) {
        Ok(httparse::Status::Complete((len, _))) if len == lines.len() => {}
        _ => return Err(HeadError::Field),
    }
    let mut headers = HeaderMap::try_with_capacity(count).map_err(|_| HeadError::Field)?;
    for field in raw {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| HeadError::Field)?;
        let value = trim_blanks(field.value);
        // `slice_ref` wants a slice of `lines`; an empty one may point anywhere.
        let value = if value.is_empty() { Bytes::new() } else { lines.slice_ref(value) };
        let value = HeaderValue::from_maybe_shared(value).map_err(|_| HeadError::Field)?;
        headers.try_append(name, value).map_err(|_| HeadError::Field)?;
    }
    Ok(headers)
}

fn trim_blanks(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Walks lines up to an empty one: a head, or the trailer section of a chunked body. Finds the same whatever the pieces
/// in which the bytes come, since each byte is judged once, in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Section {
    /// Next byte to look at.
    at: usize,
    /// Where its line starts.
    line: usize,
    /// Lines ended so far, the empty one not counted.
    lines: usize,
    /// Where the first line ends, its CRLF not counted.
    first: usize,
    /// A trailer section has no start line: its first line is a field.
    trailers: bool,
}

impl Section {
    pub(super) fn trailers() -> Self {
        Self { trailers: true, ..Self::default() }
    }

    /// Bytes up to here, with the empty line, once [`advance`](Self::advance) has said so.
    pub(super) fn len(&self) -> usize {
        self.at
    }

    /// Field lines seen.
    pub(super) fn fields(&self) -> usize {
        if self.trailers { self.lines } else { self.lines.saturating_sub(1) }
    }

    /// Goes on as far as it can; true when the empty line has been reached.
    pub(super) fn advance(&mut self, buf: &[u8], limits: &HeadLimits) -> Result<bool, HeadError> {
        let too_large = HeadError::TooLarge { limit: limits.max_bytes };
        while let Some(&byte) = buf.get(self.at) {
            if self.at >= limits.max_bytes {
                return Err(too_large);
            }
            match byte {
                b'\r' => match buf.get(self.at + 1) {
                    None => break,
                    Some(b'\n') if self.at + 2 > limits.max_bytes => return Err(too_large),
                    Some(b'\n') => {
                        let empty = self.at == self.line;
                        if self.lines == 0 {
                            self.first = self.at;
                        }
                        self.at += 2;
                        if empty {
                            return Ok(true);
                        }
                        self.line = self.at;
                        self.lines += 1;
                        if self.fields() > limits.max_headers {
                            return Err(HeadError::TooManyFields { limit: limits.max_headers });
                        }
                    }
                    Some(_) => return Err(HeadError::BareCr),
                },
                b'\n' => return Err(HeadError::BareLf),
                b' ' | b'\t' if self.at == self.line && (self.trailers || self.lines > 0) => {
                    return Err(HeadError::LeadingBlank);
                }
                b'\t' | b' '..=b'~' | 0x80.. => self.at += 1,
                _ => return Err(HeadError::Control(byte)),
            }
        }
        if buf.len() >= limits.max_bytes { Err(too_large) } else { Ok(false) }
    }

    /// The start line, where the fields start, and where the head ends.
    fn split<'b>(&self, buf: &'b [u8]) -> Result<(&'b [u8], usize, usize), HeadError> {
        if self.lines == 0 {
            return Err(HeadError::LeadingEmptyLine);
        }
        Ok((&buf[..self.first], self.first + 2, self.at))
    }
}

#[cfg(test)]
mod tests;
