//! HTTP/1 connections read to their end by `http::h1`, as plain values: what `fuzzing::h1` and the differential test
//! (`http::h1::differential`) compare. Only this file touches heads as the reader and the writer have them.

use bytes::BytesMut;
use http::{HeaderMap, Method, Request, Response, Version};

use crate::http::h1::encode::{encode_request, encode_response};
use crate::http::h1::{
    BodyLength, Connection, Decoded, Decoder, Framing, FramingError, HeadError, HeadLimits, HeadScan, Progress,
    RequestHead, ResponseHead, Upgrade,
};

use super::Pieces;

/// Fields by name, and those of one name in their order.
pub(crate) type Fields = Vec<(String, Vec<u8>)>;

/// A head as plain values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    /// Method and target, or status and reason.
    pub(crate) line: [Vec<u8>; 2],
    pub(crate) http_11: bool,
    pub(crate) fields: Fields,
    pub(crate) body: BodyLength,
    pub(crate) keep_alive: bool,
    /// The bytes behind it need not be HTTP.
    pub(crate) tunnel: bool,
    pub(crate) expect_continue: bool,
    pub(crate) len: usize,
}

/// How a message ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BodyEnd {
    /// In full; the next message begins at this offset.
    Complete(usize),
    /// Not in full.
    Broken(FramingError),
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Fields,
    pub(crate) end: BodyEnd,
}

/// Why no further message was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The next head was refused.
    Refused(HeadError),
    /// The bytes ended inside a head, or before it.
    Incomplete,
    /// The last message was the connection's last, or its body broke.
    Over,
}

/// What a connection's bytes were read as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) messages: Vec<Message>,
    pub(crate) stop: Stop,
}

/// Reads the requests of a connection that sends `bytes` and then ends.
pub(crate) fn requests(
    bytes: &[u8],
    pieces: Pieces,
    limits: &HeadLimits,
    mut each: impl FnMut(&RequestHead),
) -> Reading {
    read(bytes, pieces, limits, |scan, buf| {
        Ok(match scan.take_request(buf, limits)? {
            Progress::Incomplete => Progress::Incomplete,
            Progress::Complete(head) => {
                each(&head);
                Progress::Complete(of_request(&head))
            }
        })
    })
}

/// Reads the responses of a connection on which each request had this method.
pub(crate) fn responses(
    bytes: &[u8],
    pieces: Pieces,
    method: &Method,
    limits: &HeadLimits,
    mut each: impl FnMut(&ResponseHead),
) -> Reading {
    read(bytes, pieces, limits, |scan, buf| {
        Ok(match scan.take_response(buf, method, limits)? {
            Progress::Incomplete => Progress::Incomplete,
            Progress::Complete(head) => {
                each(&head);
                Progress::Complete(of_response(&head, method))
            }
        })
    })
}

fn read(
    mut bytes: &[u8],
    mut pieces: Pieces,
    limits: &HeadLimits,
    mut head: impl FnMut(&mut HeadScan, &mut BytesMut) -> Result<Progress<Head>, HeadError>,
) -> Reading {
    let total = bytes.len();
    let mut buf = BytesMut::new();
    let mut messages = Vec::new();
    let mut more = |buf: &mut BytesMut| {
        if bytes.is_empty() {
            return None;
        }
        let (piece, rest) = bytes.split_at(pieces.next(bytes.len()));
        buf.extend_from_slice(piece);
        bytes = rest;
        Some(rest.len())
    };
    let mut unread = total;
    loop {
        let mut scan = HeadScan::default();
        let head = loop {
            let before = buf.len();
            match head(&mut scan, &mut buf) {
                Ok(Progress::Complete(head)) => {
                    assert_eq!(buf.len() + head.len, before, "taken off is what the head says it took");
                    break head;
                }
                Ok(Progress::Incomplete) => {
                    assert_eq!(buf.len(), before, "nothing is taken before the head is complete");
                    assert!(buf.len() < limits.max_bytes + 2, "{} bytes and no end of the head", buf.len());
                    match more(&mut buf) {
                        Some(left) => unread = left,
                        None => return Reading { messages, stop: Stop::Incomplete },
                    }
                }
                Err(error) => return Reading { messages, stop: Stop::Refused(error) },
            }
        };
        let (mut body, mut trailers) = (Vec::new(), Fields::new());
        let mut decoder = Decoder::new(head.body);
        let end = loop {
            match decoder.decode(&mut buf, unread == 0) {
                Ok(Decoded::Data(data)) => body.extend_from_slice(&data),
                Ok(Decoded::Trailers(map)) => trailers = fields(&map),
                Ok(Decoded::End) => break BodyEnd::Complete(total - unread - buf.len()),
                Ok(Decoded::NeedMore) => match more(&mut buf) {
                    Some(left) => unread = left,
                    None => panic!("it wants more than there is"),
                },
                Err(error) => break BodyEnd::Broken(error),
            }
        };
        let over = matches!(end, BodyEnd::Broken(_)) || head.tunnel || !head.keep_alive;
        messages.push(Message { head, body, trailers, end });
        if over {
            return Reading { messages, stop: Stop::Over };
        }
    }
}

/// A request head as values.
pub(crate) fn of_request(head: &RequestHead) -> Head {
    Head {
        line: [head.method.as_str().as_bytes().to_vec(), head.uri.to_string().into_bytes()],
        http_11: head.version == Version::HTTP_11,
        fields: fields(&head.headers),
        body: head.body,
        keep_alive: head.keep_alive,
        tunnel: head.upgrade.is_some(),
        expect_continue: head.expect_continue,
        len: head.len,
    }
}

/// A response head, to a request with this method, as values.
pub(crate) fn of_response(head: &ResponseHead, method: &Method) -> Head {
    let reason = head.reason.as_ref().map(|reason| reason.as_bytes().to_vec()).unwrap_or_default();
    let connected = *method == Method::CONNECT && head.status.is_success();
    Head {
        line: [head.status.as_str().as_bytes().to_vec(), reason],
        http_11: head.version == Version::HTTP_11,
        fields: fields(&head.headers),
        body: head.body,
        keep_alive: head.keep_alive,
        tunnel: connected || head.status == 101,
        expect_continue: false,
        len: head.len,
    }
}

/// The fields of a map, sorted by name.
pub(crate) fn fields(map: &HeaderMap) -> Fields {
    let mut fields: Fields =
        map.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    fields
}

/// The request head as our writer sends it on.
pub(crate) fn request_again(head: &RequestHead) -> Vec<u8> {
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = head.method.clone();
    parts.uri = head.uri.clone();
    parts.version = head.version;
    parts.headers = head.headers.clone();
    let connection = match (&head.upgrade, head.keep_alive) {
        (Some(Upgrade::Protocol(_)), _) => Connection::Upgrade,
        (_, true) => Connection::KeepAlive,
        (_, false) => Connection::Close,
    };
    let mut out = BytesMut::new();
    encode_request(&mut out, &parts, framing(head.body), connection)
        .unwrap_or_else(|error| panic!("{head:?} was read and cannot be written: {error}"));
    out.to_vec()
}

/// The response head as our writer sends it on.
pub(crate) fn response_again(head: &ResponseHead, method: &Method) -> Vec<u8> {
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.status = head.status;
    parts.version = head.version;
    parts.headers = head.headers.clone();
    if let Some(reason) = head.reason.clone() {
        parts.extensions.insert(reason);
    }
    let connection = match head.keep_alive {
        _ if head.status == 101 => Connection::Upgrade,
        true => Connection::KeepAlive,
        false => Connection::Close,
    };
    let mut out = BytesMut::new();
    encode_response(&mut out, &parts, method, framing(head.body), connection);
    out.to_vec()
}

fn framing(body: BodyLength) -> Framing {
    match body {
        BodyLength::None => Framing::None,
        BodyLength::Length(length) => Framing::Length(length),
        BodyLength::Chunked => Framing::Chunked,
        BodyLength::UntilClose => Framing::UntilClose,
    }
}
