use bytes::BytesMut;
use http::Request;
use proptest::prelude::*;

use super::HeadError as E;
use super::*;
use crate::http::h1::encode::{Connection, Framing, encode_request};

const LIMITS: HeadLimits = HeadLimits { max_bytes: 64 * 1024, max_headers: 100 };

fn request(text: &str) -> RequestHead {
    match read_request(text.as_bytes(), &LIMITS) {
        Ok(Progress::Complete(head)) => head,
        other => panic!("{text:?} gave {other:?}"),
    }
}

fn response(text: &str, method: &Method) -> ResponseHead {
    match read_response(text.as_bytes(), method, &LIMITS) {
        Ok(Progress::Complete(head)) => head,
        other => panic!("{text:?} gave {other:?}"),
    }
}

/// Every way we know to make two readers disagree about a request, and what ours calls it. None is forwarded.
const SMUGGLING: &[(&str, &[u8], E)] = &[
    // Two lengths
    (
        "CL.TE",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        E::LengthAndTransferEncoding,
    ),
    (
        "TE.CL",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
        E::LengthAndTransferEncoding,
    ),
    (
        "CL.0 with TE",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
        E::LengthAndTransferEncoding,
    ),
    (
        "CL twice, differing",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        E::SeveralContentLengths,
    ),
    (
        "CL twice, equal",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
        E::SeveralContentLengths,
    ),
    ("CL list", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n", E::ContentLength),
    ("CL list, differing", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5,6\r\n\r\n", E::ContentLength),
    (
        "CL in other case",
        b"POST / HTTP/1.1\r\nHost: a\r\nCONTENT-LENGTH: 5\r\ncontent-length: 6\r\n\r\n",
        E::SeveralContentLengths,
    ),
    ("CL with plus", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n", E::ContentLength),
    ("CL with minus", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n", E::ContentLength),
    ("CL with a space inside", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5 5\r\n\r\n", E::ContentLength),
    ("CL in hex", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\n", E::ContentLength),
    ("CL with a fraction", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5.0\r\n\r\n", E::ContentLength),
    ("CL with an underscore", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0\r\n\r\n", E::ContentLength),
    ("CL empty", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", E::ContentLength),
    (
        "CL past 64 bits",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n",
        E::ContentLength,
    ),
    ("CL in other digits", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: ٥\r\n\r\n".as_bytes(), E::ContentLength),
    ("CL of CONNECT", b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 5\r\n\r\n", E::ConnectWithBody),
    ("TE of CONNECT", b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nTransfer-Encoding: chunked\r\n\r\n", E::ConnectWithBody),
    // Transfer codings
    ("TE identity", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", E::TransferEncoding),
    (
        "TE chunked twice in a list",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
        E::TransferEncoding,
    ),
    (
        "TE twice",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        E::TransferEncoding,
    ),
    (
        "TE twice, one unknown",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-encoding: x\r\n\r\n",
        E::TransferEncoding,
    ),
    ("TE xchunked", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", E::TransferEncoding),
    (
        "TE chunked not last",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
        E::TransferEncoding,
    ),
    ("TE gzip first", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", E::TransferEncoding),
    (
        "TE with a parameter",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n",
        E::TransferEncoding,
    ),
    ("TE quoted", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n", E::TransferEncoding),
    ("TE empty", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n", E::TransferEncoding),
    (
        "TE with a trailing comma",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked,\r\n\r\n",
        E::TransferEncoding,
    ),
    (
        "TE with a vertical tab",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
        E::Control(0x0b),
    ),
    ("TE in 1.0", b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", E::TransferEncodingIn10),
    // Names
    ("space before the colon", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n", E::Field),
    ("tab before the colon", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length\t: 5\r\n\r\n", E::Field),
    ("space in a name", b"GET / HTTP/1.1\r\nHost: a\r\nX Y: 1\r\n\r\n", E::Field),
    ("empty name", b"GET / HTTP/1.1\r\nHost: a\r\n: 1\r\n\r\n", E::Field),
    ("no colon", b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", E::Field),
    ("a name in UTF-8", "GET / HTTP/1.1\r\nHost: a\r\nContent-Längth: 1\r\n\r\n".as_bytes(), E::Field),
    ("NUL in a name", b"GET / HTTP/1.1\r\nHost: a\r\nX\0: 1\r\n\r\n", E::Control(0)),
    // Lines
    ("obs-fold with a space", b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n", E::LeadingBlank),
    ("obs-fold with a tab", b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n\t2\r\n\r\n", E::LeadingBlank),
    ("TE folded", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n", E::LeadingBlank),
    ("blank before the first field", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", E::LeadingBlank),
    ("a line of blanks", b"GET / HTTP/1.1\r\nHost: a\r\n \r\n\r\n", E::LeadingBlank),
    ("bare LF after the request line", b"GET / HTTP/1.1\nHost: a\r\n\r\n", E::BareLf),
    ("bare LF after a field", b"GET / HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n", E::BareLf),
    ("bare LF as the empty line", b"GET / HTTP/1.1\r\nHost: a\r\n\n", E::BareLf),
    ("bare CR in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\rY: 2\r\n\r\n", E::BareCr),
    ("CR CR LF", b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", E::BareCr),
    ("bare CR in the request line", b"GET /\r HTTP/1.1\r\nHost: a\r\n\r\n", E::BareCr),
    ("LF before the request", b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", E::BareLf),
    ("two empty lines before the request", b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", E::LeadingEmptyLine),
    ("NUL in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\x002\r\n\r\n", E::Control(0)),
    ("DEL in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n", E::Control(0x7f)),
    ("ESC in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: \x1b[0m\r\n\r\n", E::Control(0x1b)),
    // The request line
    ("two spaces after the method", b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", E::RequestLine),
    ("two spaces before the version", b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", E::RequestLine),
    ("a space after the version", b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", E::RequestLine),
    ("a space before the method", b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", E::RequestLine),
    ("a space in the target", b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", E::RequestLine),
    ("tabs between the words", b"GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n", E::RequestLine),
    ("HTTP/0.9, without a version", b"GET /\r\n\r\n", E::RequestLine),
    ("HTTP/0.9, with one", b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", E::UnsupportedVersion),
    ("HTTP/1.2", b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", E::UnsupportedVersion),
    ("HTTP/2.0 as a version", b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", E::UnsupportedVersion),
    ("HTTP/1.10", b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", E::UnsupportedVersion),
    ("the version in lower case", b"GET / http/1.1\r\nHost: a\r\n\r\n", E::RequestLine),
    ("another protocol", b"GET / ICAP/1.0\r\nHost: a\r\n\r\n", E::RequestLine),
    ("the HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", E::Http2Preface),
    ("a method that is no token", b"GE(T / HTTP/1.1\r\nHost: a\r\n\r\n", E::Method),
    ("a method in UTF-8", "GÉT / HTTP/1.1\r\nHost: a\r\n\r\n".as_bytes(), E::Method),
    // Targets
    ("a fragment", b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", E::Target),
    ("a target in UTF-8", "GET /ä HTTP/1.1\r\nHost: a\r\n\r\n".as_bytes(), E::Target),
    ("a relative target", b"GET a/b HTTP/1.1\r\nHost: a\r\n\r\n", E::Target),
    ("asterisk with GET", b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", E::Target),
    ("authority with GET", b"GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", E::Target),
    ("path with CONNECT", b"CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", E::Target),
    ("CONNECT without a port", b"CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", E::Target),
    ("another scheme", b"GET file:///etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", E::Target),
    ("user information", b"GET http://b@a/ HTTP/1.1\r\nHost: a\r\n\r\n", E::Target),
    ("no authority", b"GET http:///a HTTP/1.1\r\nHost: a\r\n\r\n", E::Target),
    // Host
    ("no Host", b"GET / HTTP/1.1\r\n\r\n", E::MissingHost),
    ("Host twice", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", E::SeveralHosts),
    ("Host twice, equal", b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", E::SeveralHosts),
    ("Host twice in 1.0", b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", E::SeveralHosts),
    ("Host empty", b"GET / HTTP/1.1\r\nHost:\r\n\r\n", E::InvalidHost),
    ("Host with a path", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", E::InvalidHost),
    ("Host with user information", b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", E::InvalidHost),
    ("Host list", b"GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", E::InvalidHost),
    ("Host with a space", b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", E::InvalidHost),
    ("Host with a bad port", b"GET / HTTP/1.1\r\nHost: a:8x\r\n\r\n", E::InvalidHost),
    ("Host with a port past 65535", b"GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", E::InvalidHost),
    ("Host with two ports", b"GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n", E::InvalidHost),
    ("Host with an unclosed bracket", b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", E::InvalidHost),
    ("Host with brackets around a name", b"GET / HTTP/1.1\r\nHost: [a]\r\n\r\n", E::InvalidHost),
    ("Host against an absolute target", b"GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", E::HostConflict),
    ("Host against its port", b"GET http://a:81/ HTTP/1.1\r\nHost: a\r\n\r\n", E::HostConflict),
    ("Host against CONNECT", b"CONNECT a:443 HTTP/1.1\r\nHost: b:443\r\n\r\n", E::HostConflict),
];

#[test]
fn every_smuggling_vector_is_refused_by_name() {
    assert!(SMUGGLING.len() >= 40);
    for (name, bytes, expected) in SMUGGLING {
        match read_request(bytes, &LIMITS) {
            Err(error) => assert_eq!(error, *expected, "{name}"),
            read => panic!("{name} was read: {read:?}"),
        }
    }
}

#[test]
fn every_smuggling_vector_is_refused_alike_in_single_bytes() {
    for (name, bytes, expected) in SMUGGLING {
        assert_eq!(in_pieces(bytes, 1).unwrap_err(), *expected, "{name}");
    }
}

/// Reads a request that arrives `size` bytes at a time.
fn in_pieces(bytes: &[u8], size: usize) -> Result<Progress<RequestHead>, HeadError> {
    let mut scan = HeadScan::default();
    for end in (0..bytes.len()).step_by(size).chain([bytes.len()]) {
        match scan.read_request(&bytes[..end], &LIMITS)? {
            Progress::Incomplete => {}
            complete => return Ok(complete),
        }
    }
    Ok(Progress::Incomplete)
}

#[test]
fn a_plain_request_is_read_in_full() {
    let text =
        "POST /a?b=c HTTP/1.1\r\nHost: shop:8080\r\nX-Some: \t one \t\r\nX-Some: two\r\nContent-Length: 5\r\n\r\nhello";
    let head = request(text);
    assert_eq!(head.method, Method::POST);
    assert_eq!(head.uri, "/a?b=c");
    assert_eq!(head.version, Version::HTTP_11);
    assert_eq!(head.headers.get_all("x-some").iter().collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(head.body, BodyLength::Length(5));
    assert!(head.keep_alive && !head.expect_continue && head.upgrade.is_none());
    assert_eq!(&text[head.len..], "hello");
}

#[test]
fn the_length_of_a_request_body_follows_rfc_9112_6_3() {
    for (fields, expected) in [
        ("", BodyLength::None),
        ("Content-Length: 0\r\n", BodyLength::Length(0)),
        ("Content-Length: 007\r\n", BodyLength::Length(7)),
        ("Content-Length: 18446744073709551615\r\n", BodyLength::Length(u64::MAX)),
        ("Transfer-Encoding: chunked\r\n", BodyLength::Chunked),
        ("transfer-encoding:  Chunked \r\n", BodyLength::Chunked),
    ] {
        let head = request(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
        assert_eq!(head.body, expected, "{fields:?}");
    }
}

#[test]
fn the_length_of_a_response_body_follows_rfc_9112_6_3() {
    let (get, head, connect) = (Method::GET, Method::HEAD, Method::CONNECT);
    for (name, method, status, fields, expected) in [
        ("1: HEAD", &head, 200, "Content-Length: 9\r\n", Ok(BodyLength::None)),
        ("1: HEAD, chunked", &head, 200, "Transfer-Encoding: chunked\r\n", Ok(BodyLength::None)),
        ("1: 1xx", &get, 103, "", Ok(BodyLength::None)),
        ("1: 101", &get, 101, "", Ok(BodyLength::None)),
        ("1: 204", &get, 204, "Content-Length: 0\r\n", Ok(BodyLength::None)),
        ("1: 304", &get, 304, "Content-Length: 9\r\n", Ok(BodyLength::None)),
        ("2: CONNECT 200", &connect, 200, "Content-Length: 9\r\n", Ok(BodyLength::None)),
        ("2: CONNECT 403 has a body", &connect, 403, "Content-Length: 9\r\n", Ok(BodyLength::Length(9))),
        (
            "3: both",
            &get,
            200,
            "Content-Length: 9\r\nTransfer-Encoding: chunked\r\n",
            Err(HeadError::LengthAndTransferEncoding),
        ),
        (
            "3: both, to HEAD as well",
            &head,
            200,
            "Content-Length: 9\r\nTransfer-Encoding: chunked\r\n",
            Err(HeadError::LengthAndTransferEncoding),
        ),
        ("4: chunked", &get, 200, "Transfer-Encoding: chunked\r\n", Ok(BodyLength::Chunked)),
        ("4: another coding", &get, 200, "Transfer-Encoding: gzip\r\n", Err(HeadError::TransferEncoding)),
        ("5: invalid", &get, 200, "Content-Length: x\r\n", Err(HeadError::ContentLength)),
        ("5: several", &get, 200, "Content-Length: 5\r\nContent-Length: 5\r\n", Err(HeadError::SeveralContentLengths)),
        ("6: valid", &get, 200, "Content-Length: 9\r\n", Ok(BodyLength::Length(9))),
        ("8: neither", &get, 200, "", Ok(BodyLength::UntilClose)),
    ] {
        let text = format!("HTTP/1.1 {status} X\r\n{fields}\r\n");
        let body = match read_response(text.as_bytes(), method, &LIMITS) {
            Ok(Progress::Complete(head)) => Ok(head.body),
            Err(error) => Err(error),
            Ok(Progress::Incomplete) => panic!("{name}"),
        };
        assert_eq!(body, expected, "{name}");
    }
    let text = b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(read_response(text, &get, &LIMITS).unwrap_err(), HeadError::TransferEncodingIn10);
}

#[test]
fn status_lines_as_servers_write_them() {
    for (line, expected) in [
        ("HTTP/1.1 200 OK", Ok((200, "OK"))),
        ("HTTP/1.1 404 Not Found", Ok((404, "Not Found"))),
        ("HTTP/1.0 200 OK", Ok((200, "OK"))),
        ("HTTP/1.1 200 ", Ok((200, ""))),
        ("HTTP/1.1 200", Ok((200, ""))),
        ("HTTP/1.1 299 Grüße", Ok((299, "Grüße"))),
        ("HTTP/1.1 200  two", Ok((200, " two"))),
        ("HTTP/1.1  200 OK", Err(HeadError::StatusLine)),
        ("HTTP/1.1 20 OK", Err(HeadError::StatusLine)),
        ("HTTP/1.1 2000 OK", Err(HeadError::StatusLine)),
        ("HTTP/1.1 099 OK", Err(HeadError::StatusLine)),
        ("HTTP/1.1 +20 OK", Err(HeadError::StatusLine)),
        ("HTTP/2.0 200 OK", Err(HeadError::UnsupportedVersion)),
        ("HTTP/1.1", Err(HeadError::StatusLine)),
        ("ICY 200 OK", Err(HeadError::StatusLine)),
        ("", Err(HeadError::LeadingEmptyLine)),
    ] {
        let text = format!("{line}\r\nContent-Length: 0\r\n\r\n");
        let read = match read_response(text.as_bytes(), &Method::GET, &LIMITS) {
            Ok(Progress::Complete(head)) => {
                let reason = head.reason.map(|reason| String::from_utf8(reason.as_bytes().to_vec()).unwrap());
                Ok((head.status.as_u16(), reason.unwrap_or_default()))
            }
            Err(error) => Err(error),
            Ok(Progress::Incomplete) => panic!("{line}"),
        };
        assert_eq!(read, expected.map(|(status, reason)| (status, reason.to_owned())), "{line:?}");
    }
}

#[test]
fn a_response_that_announces_a_body_it_may_not_have_ends_its_connection() {
    for (status, fields, reusable) in [
        ("204 No Content", "", true),
        ("204 No Content", "Content-Length: 0\r\n", true),
        ("204 No Content", "Content-Length: 3\r\n", false),
        ("204 No Content", "Transfer-Encoding: chunked\r\n", false),
        ("304 Not Modified", "Content-Length: 3\r\n", true),
    ] {
        let head = response(&format!("HTTP/1.1 {status}\r\n{fields}\r\n"), &Method::GET);
        assert_eq!(head.keep_alive, reusable, "{status} {fields}");
    }
}

#[test]
fn persistence_follows_version_and_connection() {
    for (version, fields, expected) in [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: keep-alive, Close\r\n", false),
        ("1.1", "Connection: keep-alive\r\nConnection: close\r\n", false),
        ("1.1", "Connection: closed\r\n", true),
        ("1.0", "", false),
        ("1.0", "Connection: Keep-Alive\r\n", true),
        ("1.0", "Connection: keep-alive, close\r\n", false),
    ] {
        let head = request(&format!("GET / HTTP/{version}\r\nHost: a\r\n{fields}\r\n"));
        assert_eq!(head.keep_alive, expected, "request {version} {fields}");
        let head = response(&format!("HTTP/{version} 200 OK\r\nContent-Length: 0\r\n{fields}\r\n"), &Method::GET);
        assert_eq!(head.keep_alive, expected, "response {version} {fields}");
        let head = response(&format!("HTTP/{version} 200 OK\r\n{fields}\r\n"), &Method::GET);
        assert!(!head.keep_alive, "a body until close leaves no connection: {version} {fields}");
    }
}

#[test]
fn targets_keep_the_form_they_came_in() {
    for (line, uri) in [
        ("GET /", "/"),
        ("GET //a//b", "//a//b"),
        ("GET /a?x=/b?c", "/a?x=/b?c"),
        ("GET /{\"a|b\"}?q={a|b^c}", "/{\"a|b\"}?q={a|b^c}"),
        ("GET /%00%2e%2e/", "/%00%2e%2e/"),
        ("GET http://a/b", "http://a/b"),
        ("GET HTTP://A/b", "http://A/b"),
        ("GET http://a:80/b?c", "http://a:80/b?c"),
        ("GET https://a:443/", "https://a:443/"),
        ("OPTIONS *", "*"),
        ("CONNECT a:443", "a:443"),
    ] {
        let head = request(&format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(head.uri.to_string(), uri, "{line}");
    }
}

#[test]
fn options_with_an_absolute_target_without_path_means_the_server() {
    for (target, path) in [("http://a", "*"), ("http://a/", "/"), ("http://a?q", "/?q")] {
        let head = request(&format!("OPTIONS {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(head.uri.authority().unwrap(), "a");
        assert_eq!(head.uri.path_and_query().unwrap().to_string(), path, "{target}");
    }
}

#[test]
fn hosts_that_are_the_same_place_agree() {
    for (target, host) in [
        ("http://a/", "A"),
        ("http://a/", "a:80"),
        ("http://a:80/", "a"),
        ("http://a:/", "a"),
        ("https://a/", "a:443"),
        ("http://[fd00::1]:8080/", "[fd00::1]:8080"),
        ("/", "under_score.example"),
        ("/", "10.0.0.1:65535"),
    ] {
        request(&format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    }
    request("CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(request("GET / HTTP/1.0\r\n\r\n").headers.is_empty(), "1.0 may go without");
}

#[test]
fn expect_continue_counts_only_in_1_1() {
    for (version, value, expected) in [
        ("1.1", "100-continue", true),
        ("1.1", "100-Continue", true),
        ("1.0", "100-continue", false),
        ("1.1", "x", false),
    ] {
        let head =
            request(&format!("POST / HTTP/{version}\r\nHost: a\r\nContent-Length: 1\r\nExpect: {value}\r\n\r\n"));
        assert_eq!(head.expect_continue, expected, "{version} {value}");
    }
}

#[test]
fn an_upgrade_needs_both_fields_and_http2_is_none() {
    let websocket = Some(Upgrade::Protocol(HeaderValue::from_static("websocket")));
    for (version, fields, expected) in [
        ("1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\n", websocket.clone()),
        ("1.1", "Connection: keep-alive, upgrade\r\nUpgrade: websocket\r\n", websocket),
        ("1.1", "Upgrade: websocket\r\n", None),
        ("1.1", "Connection: upgrade\r\n", None),
        ("1.0", "Connection: upgrade\r\nUpgrade: websocket\r\n", None),
        ("1.1", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n", None),
        ("1.1", "Connection: upgrade\r\nUpgrade: websocket, H2C\r\n", None),
        ("1.1", "Connection: upgrade\r\nUpgrade: HTTP/2.0\r\n", None),
        ("1.1", "Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n", None),
    ] {
        let head = request(&format!("GET / HTTP/{version}\r\nHost: a\r\n{fields}\r\n"));
        assert_eq!(head.upgrade, expected, "{version} {fields:?}");
    }
    assert_eq!(request("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n").upgrade, Some(Upgrade::Connect));
}

#[test]
fn one_empty_line_before_a_request_is_skipped_and_counted() {
    let text = "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(request(text).len, text.len());
    assert!(matches!(read_request(b"\r", &LIMITS), Ok(Progress::Incomplete)));
    assert!(matches!(read_request(b"\r\n", &LIMITS), Ok(Progress::Incomplete)));
    assert!(matches!(read_request(b"", &LIMITS), Ok(Progress::Incomplete)));
}

#[test]
fn limits_are_exact() {
    let head = |bytes: usize| {
        let rest = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n".len();
        format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(bytes - rest))
    };
    let limits = HeadLimits { max_bytes: 1000, max_headers: 2 };
    let too_large = HeadError::TooLarge { limit: 1000 };
    assert!(matches!(read_request(head(1000).as_bytes(), &limits), Ok(Progress::Complete(_))));
    assert_eq!(read_request(head(1001).as_bytes(), &limits).unwrap_err(), too_large);
    assert!(matches!(read_request(&head(1001).as_bytes()[..999], &limits), Ok(Progress::Incomplete)));
    assert_eq!(read_request(&head(1001).as_bytes()[..1000], &limits).unwrap_err(), too_large);
    assert_eq!(too_large.status(), 431);

    let three = b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\nX: 2\r\n\r\n";
    assert_eq!(read_request(three, &limits).unwrap_err(), HeadError::TooManyFields { limit: 2 });
    assert_eq!(HeadError::TooManyFields { limit: 2 }.reason(), Reason::HeadTooLarge);
    assert_eq!(HeadError::UnsupportedVersion.status(), 505);
    assert_eq!(HeadError::BareLf.status(), 400);
}

#[test]
fn a_head_of_a_megabyte_is_refused_after_the_limit() {
    let text = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(1 << 20));
    assert_eq!(read_request(text.as_bytes(), &LIMITS).unwrap_err(), HeadError::TooLarge { limit: 65536 });
}

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
