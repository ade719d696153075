//! HTTP/1: pieces do not matter, bounds hold, and what was read and written is read again as the same.

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::wire::{self, Fields, Head};
use super::{Pieces, seeded};
use crate::http::h1::body::{MAX_TRAILER_FIELDS, MAX_TRAILERS};
use crate::http::h1::encode::{CHUNK_END, encode_chunk_head, encode_last_chunk};
use crate::http::h1::{BodyLength, Decoded, Decoder, FramingError, HeadLimits, Progress, head};

/// Small enough for a fuzzer to reach.
const LIMITS: HeadLimits = HeadLimits { max_bytes: 1024, max_headers: 16 };

/// A client's bytes: requests with their bodies.
pub fn h1_request(data: &[u8]) {
    let Some((seed, bytes)) = seeded(data) else { return };
    let whole = wire::requests(bytes, Pieces::Whole, &LIMITS, |head| {
        let first = wire::of_request(head);
        check(&first);
        let written = wire::request_again(head);
        let limits = HeadLimits { max_bytes: 2 * LIMITS.max_bytes, max_headers: 2 * LIMITS.max_headers };
        let Ok(Progress::Complete(again)) = head::read_request(&written, &limits) else {
            panic!("{:?} is not read again", text(&written));
        };
        let second = wire::of_request(&again);
        same(&first, &second, &written);
        assert_eq!(first.expect_continue, second.expect_continue);
        assert_eq!(head.upgrade, again.upgrade, "{:?}", text(&written));
        assert_eq!(text(&wire::request_again(&again)), text(&written), "written twice it is the same");
    });
    for pieces in Pieces::ways(seed) {
        assert_eq!(wire::requests(bytes, pieces.clone(), &LIMITS, |_| {}), whole, "{pieces:?}");
    }
}

/// A server's bytes: responses with their bodies. The seed also says which method was asked.
pub fn h1_response(data: &[u8]) {
    let Some((seed, bytes)) = seeded(data) else { return };
    let method = match seed % 8 {
        0 => Method::HEAD,
        1 => Method::CONNECT,
        _ => Method::GET,
    };
    let whole = wire::responses(bytes, Pieces::Whole, &method, &LIMITS, |head| {
        let first = wire::of_response(head, &method);
        check(&first);
        let written = wire::response_again(head, &method);
        let limits = HeadLimits { max_bytes: 2 * LIMITS.max_bytes, max_headers: 2 * LIMITS.max_headers };
        let Ok(Progress::Complete(again)) = head::read_response(&written, &method, &limits) else {
            panic!("{:?} is not read again", text(&written));
        };
        let second = wire::of_response(&again, &method);
        same(&first, &second, &written);
        assert_eq!(text(&wire::response_again(&again, &method)), text(&written), "written twice it is the same");
    });
    for pieces in Pieces::ways(seed) {
        assert_eq!(wire::responses(bytes, pieces.clone(), &method, &LIMITS, |_| {}), whole, "{pieces:?}");
    }
}

/// A body out of its framing, which the first byte of the seed chooses, and back into chunks.
pub fn h1_body(data: &[u8]) {
    let Some((seed, bytes)) = seeded(data) else { return };
    let length = match seed % 8 {
        0 => BodyLength::UntilClose,
        1 => BodyLength::Length(u64::from(seed >> 8)),
        2 => BodyLength::Length(u64::MAX),
        _ => BodyLength::Chunked,
    };
    let whole = body(length, bytes, Pieces::Whole);
    for pieces in Pieces::ways(seed) {
        assert_eq!(body(length, bytes, pieces.clone()), whole, "{pieces:?}");
    }
    let Ok(left) = whole.end else { return };
    assert!(whole.data.len() + left <= bytes.len());
    assert!(whole.trailers.len() <= MAX_TRAILER_FIELDS);
    assert!(whole.trailers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() <= MAX_TRAILERS);

    let mut again = BytesMut::new();
    let mut pieces = Pieces::Seeded(u32::from(seed) | 0x5eed_0000);
    let mut rest = &whole.data[..];
    while !rest.is_empty() {
        let (piece, others) = rest.split_at(pieces.next(rest.len()));
        encode_chunk_head(&mut again, piece.len() as u64);
        again.extend_from_slice(piece);
        again.extend_from_slice(CHUNK_END);
        rest = others;
    }
    let mut trailers = HeaderMap::new();
    for (name, value) in &whole.trailers {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("it was a name");
        trailers.append(name, HeaderValue::from_bytes(value).expect("it was a value"));
    }
    encode_last_chunk(&mut again, Some(trailers));
    let second = body(BodyLength::Chunked, &again, Pieces::Whole);
    assert_eq!((second.data, second.trailers, second.end), (whole.data, whole.trailers, Ok(0)));
}

/// What came out of a body's framing, and how many bytes were left behind it.
#[derive(Debug, PartialEq, Eq)]
struct Body {
    data: Vec<u8>,
    trailers: Fields,
    end: Result<usize, FramingError>,
}

fn body(length: BodyLength, mut bytes: &[u8], mut pieces: Pieces) -> Body {
    let mut decoder = Decoder::new(length);
    let mut buf = BytesMut::new();
    let (mut data, mut trailers) = (Vec::new(), Fields::new());
    loop {
        match decoder.decode(&mut buf, bytes.is_empty()) {
            Ok(Decoded::Data(piece)) => {
                assert!(!piece.is_empty());
                data.extend_from_slice(&piece);
            }
            Ok(Decoded::Trailers(map)) => {
                assert!(!map.is_empty());
                trailers = wire::fields(&map);
            }
            Ok(Decoded::End) => {
                assert!(decoder.is_end());
                return Body { data, trailers, end: Ok(buf.len() + bytes.len()) };
            }
            Ok(Decoded::NeedMore) => {
                let (piece, rest) = bytes.split_at(pieces.next(bytes.len()));
                buf.extend_from_slice(piece);
                bytes = rest;
            }
            Err(error) => {
                assert_eq!(decoder.decode(&mut buf, true), Err(error), "an error stays");
                return Body { data, trailers, end: Err(error) };
            }
        }
    }
}

/// Bounds, and no byte that would mean something to the next reader.
fn check(head: &Head) {
    // A skipped empty line before a request does not count.
    assert!(head.len <= LIMITS.max_bytes + 2, "{}", head.len);
    assert!(head.fields.len() <= LIMITS.max_headers, "{}", head.fields.len());
    let texts = head.line.iter().chain(head.fields.iter().map(|(_, value)| value));
    for text in texts {
        assert!(!text.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)), "{text:?}");
    }
    assert!(!head.line[0].contains(&b' '));
}

/// What was written from `first` and read again, but for what belongs to one connection only.
fn same(first: &Head, second: &Head, written: &[u8]) {
    // Written anew, or left out; and Host, which HTTP/1.0 may lack where the target has it.
    const OURS: [&str; 8] = [
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "transfer-encoding",
        "upgrade",
    ];
    let written_as = text(written);
    let rest = |head: &Head| {
        let mut fields = head.fields.clone();
        fields.retain(|(name, _)| !OURS.contains(&name.as_str()));
        fields
    };
    let host = |head: &Head| head.fields.iter().find(|(name, _)| name == "host").cloned();
    assert_eq!(first.line[0], second.line[0], "{written_as:?}");
    let no_reason = first.line[1].is_empty() && first.line[0].len() == 3;
    assert!(first.line[1] == second.line[1] || no_reason, "{written_as:?}");
    assert_eq!(first.http_11, second.http_11, "{written_as:?}");
    assert_eq!(rest(first), rest(second), "{written_as:?}");
    assert!(host(first).is_none() || host(first) == host(second), "{written_as:?}");
    assert_eq!(first.body, second.body, "{written_as:?}");
    assert_eq!(first.tunnel, second.tunnel, "{written_as:?}");
    // What is said of the connection is said in the final response.
    let interim = first.line[0].starts_with(b"1") && first.line[0].len() == 3;
    assert!(first.tunnel || interim || first.keep_alive == second.keep_alive, "{written_as:?}");
    assert_eq!(second.len, written.len(), "{written_as:?}");
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
