use http::{Request, Response};

use super::*;
use crate::http::h1::HeadLimits;
use crate::http::h1::head::{Progress, read_response};

fn write_request(request: Request<()>, framing: Framing, connection: Connection) -> Result<String, EncodeError> {
    let mut dst = BytesMut::new();
    encode_request(&mut dst, &request.into_parts().0, framing, connection)?;
    Ok(String::from_utf8(dst.to_vec()).unwrap())
}

fn write_response(response: Response<()>, method: &Method, framing: Framing, connection: Connection) -> String {
    let mut dst = BytesMut::new();
    encode_response(&mut dst, &response.into_parts().0, method, framing, connection);
    String::from_utf8(dst.to_vec()).unwrap()
}

#[test]
fn targets_are_written_in_the_form_of_the_uri() {
    for (method, uri, expected) in [
        ("GET", "/a?b", "GET /a?b HTTP/1.1\r\nhost: h\r\n\r\n"),
        ("GET", "http://h/a?b", "GET http://h/a?b HTTP/1.1\r\nhost: h\r\n\r\n"),
        ("GET", "http://h?b", "GET http://h/?b HTTP/1.1\r\nhost: h\r\n\r\n"),
        ("OPTIONS", "*", "OPTIONS * HTTP/1.1\r\nhost: h\r\n\r\n"),
        ("CONNECT", "h:443", "CONNECT h:443 HTTP/1.1\r\nhost: h\r\n\r\n"),
    ] {
        let request = Request::builder().method(method).uri(uri).header("host", "h").body(()).unwrap();
        assert_eq!(write_request(request, Framing::None, Connection::KeepAlive).unwrap(), expected, "{method} {uri}");
    }
}

#[test]
fn host_comes_first_and_from_the_authority_if_need_be() {
    let request = Request::builder().uri("/").header("a", "1").header("host", "h").body(()).unwrap();
    let text = write_request(request, Framing::None, Connection::KeepAlive).unwrap();
    assert!(text.starts_with("GET / HTTP/1.1\r\nhost: h\r\na: 1\r\n"), "{text}");
    let request = Request::builder().uri("http://u:p@h:81/").body(()).unwrap();
    assert!(write_request(request, Framing::None, Connection::KeepAlive).unwrap().contains("\r\nhost: h:81\r\n"));
    let bare = |version| Request::builder().uri("/").version(version).body(()).unwrap();
    assert_eq!(write_request(bare(Version::HTTP_11), Framing::None, Connection::Close), Err(EncodeError::NoHost));
    assert_eq!(
        write_request(bare(Version::HTTP_10), Framing::None, Connection::Close).unwrap(),
        "GET / HTTP/1.0\r\nconnection: close\r\n\r\n"
    );
}

#[test]
fn framing_and_connection_never_come_from_the_map() {
    let lying = || {
        Request::builder()
            .method("POST")
            .uri("/")
            .header("host", "h")
            .header("content-length", "99")
            .header("transfer-encoding", "gzip")
            .header("connection", "close, x-secret")
            .header("keep-alive", "timeout=5")
            .header("proxy-connection", "keep-alive")
            .header("upgrade", "h2c")
            .body(())
            .unwrap()
    };
    for (framing, expected) in [
        (Framing::None, ""),
        (Framing::Length(0), "content-length: 0\r\n"),
        (Framing::Length(u64::MAX), "content-length: 18446744073709551615\r\n"),
        (Framing::Chunked, "transfer-encoding: chunked\r\n"),
    ] {
        let text = write_request(lying(), framing, Connection::KeepAlive).unwrap();
        assert_eq!(text, format!("POST / HTTP/1.1\r\nhost: h\r\n{expected}\r\n"), "{framing:?}");
    }
}

#[test]
fn connection_is_written_only_where_the_default_is_not_meant() {
    for (version, connection, expected) in [
        (Version::HTTP_11, Connection::KeepAlive, ""),
        (Version::HTTP_11, Connection::Close, "connection: close\r\n"),
        (Version::HTTP_10, Connection::KeepAlive, "connection: keep-alive\r\n"),
        (Version::HTTP_10, Connection::Close, "connection: close\r\n"),
    ] {
        let response = Response::builder().version(version).body(()).unwrap();
        let text = write_response(response, &Method::GET, Framing::Length(0), connection);
        let minor = if version == Version::HTTP_10 { 0 } else { 1 };
        assert_eq!(text, format!("HTTP/1.{minor} 200 OK\r\n{expected}content-length: 0\r\n\r\n"), "{version:?}");
    }
}

#[test]
fn te_is_named_in_connection() {
    for (connection, expected) in [
        (Connection::KeepAlive, "connection: te\r\n"),
        (Connection::Close, "connection: close, te\r\n"),
        (Connection::Upgrade, "connection: upgrade, te\r\n"),
    ] {
        let request = Request::builder().uri("/").header("host", "h").header("te", "trailers").body(()).unwrap();
        let text = write_request(request, Framing::None, connection).unwrap();
        assert_eq!(text, format!("GET / HTTP/1.1\r\nhost: h\r\nte: trailers\r\n{expected}\r\n"));
    }
}

#[test]
fn an_upgrade_is_written_with_its_protocol() {
    let request = Request::builder().uri("/").header("host", "h").header("upgrade", "websocket").body(()).unwrap();
    assert_eq!(
        write_request(request, Framing::None, Connection::Upgrade).unwrap(),
        "GET / HTTP/1.1\r\nhost: h\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"
    );
    let response = Response::builder().status(101).header("upgrade", "websocket").body(()).unwrap();
    assert_eq!(
        write_response(response, &Method::GET, Framing::None, Connection::Upgrade),
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"
    );
}

#[test]
fn a_response_without_body_keeps_only_a_length_that_speaks_of_get() {
    for (name, method, status, kept) in [
        ("HEAD", Method::HEAD, 200, true),
        ("304", Method::GET, 304, true),
        ("204", Method::GET, 204, false),
        ("103", Method::GET, 103, false),
        ("CONNECT", Method::CONNECT, 200, false),
    ] {
        let response = Response::builder().status(status).header("content-length", "9").body(()).unwrap();
        let text = write_response(response, &method, Framing::None, Connection::KeepAlive);
        assert_eq!(text.contains("content-length: 9"), kept, "{name}: {text}");
    }
}

#[test]
fn framing_of_a_response_follows_the_clients_version() {
    let of = |method: &Method, status: u16, version, length, empty| {
        Framing::for_response(method, StatusCode::from_u16(status).unwrap(), version, length, empty)
    };
    let (v10, v11) = (Version::HTTP_10, Version::HTTP_11);
    for (name, got, expected) in [
        ("known length", of(&Method::GET, 200, v11, Some(5), false), Framing::Length(5)),
        ("known length, 1.0", of(&Method::GET, 200, v10, Some(5), false), Framing::Length(5)),
        ("unknown length", of(&Method::GET, 200, v11, None, false), Framing::Chunked),
        ("unknown length, 1.0", of(&Method::GET, 200, v10, None, false), Framing::UntilClose),
        ("empty", of(&Method::GET, 200, v11, None, true), Framing::Length(0)),
        ("HEAD", of(&Method::HEAD, 200, v11, Some(5), true), Framing::None),
        ("204", of(&Method::GET, 204, v11, Some(5), false), Framing::None),
        ("304", of(&Method::GET, 304, v11, Some(5), false), Framing::None),
        ("1xx", of(&Method::GET, 103, v11, None, false), Framing::None),
        ("CONNECT 200", of(&Method::CONNECT, 200, v11, None, false), Framing::None),
        ("CONNECT 403", of(&Method::CONNECT, 403, v11, Some(2), false), Framing::Length(2)),
    ] {
        assert_eq!(got, expected, "{name}");
    }
}

#[test]
fn framing_of_a_request_follows_the_servers_version() {
    let (post, v10, v11) = (Method::POST, Version::HTTP_10, Version::HTTP_11);
    for (name, got, expected) in [
        ("known length", Framing::for_request(&post, v10, Some(5), false), Ok(Framing::Length(5))),
        ("declared zero", Framing::for_request(&post, v11, Some(0), true), Ok(Framing::Length(0))),
        ("no body", Framing::for_request(&post, v10, None, true), Ok(Framing::None)),
        ("unknown length", Framing::for_request(&post, v11, None, false), Ok(Framing::Chunked)),
        ("unknown length, 1.0", Framing::for_request(&post, v10, None, false), Err(EncodeError::LengthRequired)),
        ("CONNECT", Framing::for_request(&Method::CONNECT, v11, None, false), Ok(Framing::None)),
    ] {
        assert_eq!(got, expected, "{name}");
    }
    let request = Request::builder().method("POST").uri("/").version(v10).body(()).unwrap();
    assert_eq!(write_request(request, Framing::Chunked, Connection::Close), Err(EncodeError::LengthRequired));
}

#[test]
fn chunks_never_go_to_1_0() {
    let response = Response::builder().version(Version::HTTP_10).body(()).unwrap();
    let text = write_response(response, &Method::GET, Framing::Chunked, Connection::KeepAlive);
    assert_eq!(text, "HTTP/1.0 200 OK\r\nconnection: close\r\n\r\n");
}

#[test]
fn a_reason_phrase_is_passed_on() {
    let text = b"HTTP/1.1 200 Fine, thanks\r\n\r\n";
    let Ok(Progress::Complete(head)) = read_response(text, &Method::GET, &HeadLimits::default()) else { panic!() };
    let response = Response::builder().extension(head.reason.unwrap()).body(()).unwrap();
    let text = write_response(response, &Method::GET, Framing::Length(0), Connection::KeepAlive);
    assert!(text.starts_with("HTTP/1.1 200 Fine, thanks\r\n"), "{text}");
}

#[test]
fn chunk_heads_are_hexadecimal_without_leading_zeros() {
    for (len, expected) in
        [(1, "1\r\n"), (15, "f\r\n"), (16, "10\r\n"), (0x1_0000, "10000\r\n"), (u64::MAX, "ffffffffffffffff\r\n")]
    {
        let mut dst = BytesMut::new();
        encode_chunk_head(&mut dst, len);
        assert_eq!(dst, expected, "{len}");
    }
}

#[test]
fn trailers_are_written_without_what_must_not_be_there() {
    let mut trailers = HeaderMap::new();
    for name in ["content-length", "transfer-encoding", "host", "x-weft-version", "grpc-status"] {
        trailers.insert(name, http::HeaderValue::from_static("0"));
    }
    let mut dst = BytesMut::new();
    encode_last_chunk(&mut dst, Some(trailers));
    assert_eq!(dst, "0\r\ngrpc-status: 0\r\n\r\n");
    dst.clear();
    encode_last_chunk(&mut dst, None);
    assert_eq!(dst, "0\r\n\r\n");
}
