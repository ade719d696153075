//! What holds for any head: pieces do not matter, and what we write we read.

use bytes::BytesMut;
use http::Request;
use proptest::prelude::*;

use super::*;
use crate::http::h1::encode::{Connection, Framing, encode_request};

fn valid_request() -> impl Strategy<Value = (Request<()>, Framing)> {
    let method =
        prop_oneof![Just("GET"), Just("POST"), Just("DELETE"), Just("OPTIONS"), Just("M-SEARCH"), Just("patch")];
    let target = "/[a-zA-Z0-9/._~%!$&'()*+,;=:@-]{0,40}(\\?[a-zA-Z0-9/?=&%]{0,20})?";
    let host = "[a-z0-9][a-z0-9.-]{0,20}(:[1-9][0-9]{0,3})?";
    let field = ("x-[a-z0-9-]{1,20}", "([!-~]([ -~\\t]{0,30}[!-~])?)?");
    let framing = prop_oneof![Just(Framing::None), Just(Framing::Chunked), any::<u64>().prop_map(Framing::Length),];
    (method, target, host, proptest::collection::vec(field, 0..20), framing).prop_map(
        |(method, target, host, fields, framing)| {
            let mut request = Request::builder().method(method).uri(target).header("host", host);
            for (name, value) in fields {
                request = request.header(name, value);
            }
            (request.body(()).unwrap(), framing)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_is_encoded_is_read_back((expected, framing) in valid_request()) {
        let (parts, ()) = expected.into_parts();
        let mut buf = BytesMut::new();
        encode_request(&mut buf, &parts, framing, Connection::KeepAlive).unwrap();
        let len = buf.len();
        buf.extend_from_slice(b"what follows");
        let Ok(Progress::Complete(mut head)) = read_request(&buf, &LIMITS) else {
            return Err(TestCaseError::fail(format!("{:?}", read_request(&buf, &LIMITS))));
        };
        prop_assert_eq!(head.len, len);
        prop_assert_eq!(head.method, parts.method);
        prop_assert_eq!(head.uri, parts.uri);
        prop_assert_eq!(head.body, match framing {
            Framing::Length(length) => BodyLength::Length(length),
            Framing::Chunked => BodyLength::Chunked,
            _ => BodyLength::None,
        });
        head.headers.remove("content-length");
        head.headers.remove("transfer-encoding");
        prop_assert_eq!(head.headers, parts.headers);
    }

    #[test]
    fn pieces_do_not_matter((expected, framing) in valid_request(), size in 1_usize..40) {
        let (parts, ()) = expected.into_parts();
        let mut buf = BytesMut::new();
        encode_request(&mut buf, &parts, framing, Connection::Close).unwrap();
        let whole = format!("{:?}", read_request(&buf, &LIMITS));
        prop_assert_eq!(format!("{:?}", in_pieces(&buf, size)), whole);
    }

    /// Bytes that look like a head often enough to get deep into the reader, broken somewhere.
    #[test]
    fn a_broken_request_gives_the_same_in_pieces(
        (expected, framing) in valid_request(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        size in 1_usize..40,
    ) {
        let (parts, ()) = expected.into_parts();
        let mut buf = BytesMut::new();
        encode_request(&mut buf, &parts, framing, Connection::Close).unwrap();
        let at = at.index(buf.len());
        buf[at] = byte;
        prop_assert_eq!(format!("{:?}", in_pieces(&buf, size)), format!("{:?}", read_request(&buf, &LIMITS)));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = read_request(&bytes, &LIMITS);
        let _ = read_response(&bytes, &Method::GET, &LIMITS);
    }

    #[test]
    fn nothing_that_is_read_holds_a_line_end_or_a_nul(text in "(GET|POST) /[ -~\\x00-\\x20]{0,10} HTTP/1[.]1\r\nHost: a\r\n(X: [\\x00-\\xff]{0,8}\r\n){0,3}\r\n") {
        if let Ok(Progress::Complete(head)) = read_request(text.as_bytes(), &LIMITS) {
            for value in head.headers.values() {
                prop_assert!(!value.as_bytes().iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
            }
            prop_assert!(!head.uri.to_string().contains([' ', '\r', '\n', '\0']));
        }
    }
}
