//! Heads as peers send them, read or refused.

mod properties;
mod smuggling;

use super::*;
use crate::reason::Reason;

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
    // A CR as the last byte that may be: a line's end that would be too long, or none, whoever sees the next byte.
    let cr = head(1003).replacen("\r\n\r\n", "\r%", 1);
    for end in [1000, cr.len()] {
        assert_eq!(cr.as_bytes()[999], b'\r');
        assert_eq!(read_request(&cr.as_bytes()[..end], &limits).unwrap_err(), too_large, "{end}");
    }

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
