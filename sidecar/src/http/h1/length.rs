//! How long a message's body is (RFC 9112 §6.3), and when that cannot be told and the message is refused.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Method, StatusCode, Version};

use super::error::HeadError;
use crate::http::hygiene;

/// What follows a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// Nothing, and nothing was announced (a HEAD response's Content-Length is not about what follows).
    None,
    /// This many bytes, possibly 0.
    Length(u64),
    /// Chunks (RFC 9112 §7.1).
    Chunked,
    /// Everything up to the end of the connection; responses only.
    UntilClose,
}

// RFC 9112 §6.3, its eight steps:
//
// 1. A response to HEAD, and any 1xx, 204 or 304: no body, whatever the fields say.      -> `of_response`
// 2. A 2xx to CONNECT: the connection becomes a tunnel; both fields are ignored.         -> `of_response`
// 3. Both Transfer-Encoding and Content-Length: "ought to be handled as an error".       -> refused, both ways
// 4. Transfer-Encoding: chunked last -> chunks; a request without it -> refused; a response without it -> until close.
//    We read exactly `chunked`, once, in 1.1: anything else is refused, both ways. (§6.1: in 1.0 it is faulty framing.)
// 5. An invalid Content-Length: unrecoverable, except for a list of one repeated value.  -> refused, that list as well
// 6. A valid Content-Length: so many bytes.
// 7. A request with neither: no body.
// 8. A response with neither: until close.
//
// Steps 3 to 5 are checked before step 1 and 2 answer: such fields would be passed on, and the next parser might look.

/// Steps 1, 2 and 6 to 8 for a request, of what it [`declared`].
pub(super) fn of_request(method: &Method, declared: Option<BodyLength>) -> Result<BodyLength, HeadError> {
    match declared.unwrap_or(BodyLength::None) {
        // RFC 9110 §9.3.6: CONNECT has no content; bytes that follow belong to the tunnel.
        BodyLength::None | BodyLength::Length(0) if *method == Method::CONNECT => Ok(BodyLength::None),
        _ if *method == Method::CONNECT => Err(HeadError::ConnectWithBody),
        body => Ok(body),
    }
}

/// The same for a response.
pub(super) fn of_response(request_method: &Method, status: StatusCode, declared: Option<BodyLength>) -> BodyLength {
    if has_no_body(request_method, status) {
        return BodyLength::None;
    }
    declared.unwrap_or(BodyLength::UntilClose)
}

/// Steps 1 and 2: whether no body follows this status, whatever the fields say.
pub(crate) fn has_no_body(request_method: &Method, status: StatusCode) -> bool {
    *request_method == Method::HEAD
        || status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
        || (*request_method == Method::CONNECT && status.is_success())
}

/// A 1xx or 204 that announces a body may be followed by one all the same: such a connection is not used again.
pub(super) fn says_more_than_it_may(status: StatusCode, headers: &HeaderMap) -> bool {
    (status.is_informational() || status == StatusCode::NO_CONTENT)
        && (headers.contains_key(TRANSFER_ENCODING) || !matches!(content_length(headers), Ok(None | Some(0))))
}

/// Steps 3 to 6.
pub(super) fn declared(version: Version, headers: &HeaderMap) -> Result<Option<BodyLength>, HeadError> {
    let chunked = chunked(headers)?;
    let length = content_length(headers)?;
    match (chunked, length) {
        (true, Some(_)) => Err(HeadError::LengthAndTransferEncoding),
        (true, None) if version == Version::HTTP_10 => Err(HeadError::TransferEncodingIn10),
        (true, None) => Ok(Some(BodyLength::Chunked)),
        (false, length) => Ok(length.map(BodyLength::Length)),
    }
}

/// Whether Transfer-Encoding is there, as exactly one `chunked`.
fn chunked(headers: &HeaderMap) -> Result<bool, HeadError> {
    match hygiene::first_two(headers, &TRANSFER_ENCODING) {
        [None, _] => Ok(false),
        [Some(coding), None] if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(true),
        _ => Err(HeadError::TransferEncoding),
    }
}

/// The Content-Length, if there is one.
///
/// # Errors
/// When there are several, or it is not 1*DIGIT that fits 64 bits.
pub fn content_length(headers: &HeaderMap) -> Result<Option<u64>, HeadError> {
    match hygiene::first_two(headers, &CONTENT_LENGTH) {
        [None, _] => Ok(None),
        [Some(_), Some(_)] => Err(HeadError::SeveralContentLengths),
        [Some(length), None] => decimal(length.as_bytes()).map(Some).ok_or(HeadError::ContentLength),
    }
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| match digit {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}
