//! HTTP/1 over the h2 leg (SEMANTICS.md §1, the row of that name): one test per clause.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};

use super::wire::{Answer2, App, End, ask_h2, ok};
use super::{Pair, VIP};

#[tokio::test]
async fn a_request_goes_through_both_sidecars_and_back() {
    let pair = Pair::new(App::says("hello").await).await;
    let mut client = pair.connect().await;
    for _ in 0..3 {
        let response = client.get("/a?b=c").await;
        assert_eq!((response.head.start.as_str(), response.text()), ("HTTP/1.1 200 OK", "hello"));
    }
    assert_eq!(pair.app.count(), 3);
    assert_eq!(pair.app.connections(), 1, "connections to the app are reused");
    let seen = &pair.app.requests()[0];
    assert_eq!(seen.head.start, "GET /a?b=c HTTP/1.1");
    assert_eq!(seen.head.get("host"), Some("reviews"));
    assert_eq!(pair.web.metric("weft_requests_total", "mtls=\"true\""), 3);
    assert_eq!(pair.reviews.metric("weft_connections_total", "protocol=\"http/2\",mtls=\"true\""), 1);
}

#[tokio::test]
async fn conflicting_hosts_are_refused_and_never_forwarded() {
    let pair = Pair::new(App::says("hello").await).await;
    let rows = [
        ("two Host fields", "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n"),
        ("absolute form and Host disagree", "GET http://a/ HTTP/1.1\r\nhost: b\r\n\r\n"),
        ("no Host in HTTP/1.1", "GET / HTTP/1.1\r\n\r\n"),
        ("Host is no host", "GET / HTTP/1.1\r\nhost: a/b\r\n\r\n"),
    ];
    for (row, request) in rows {
        let response = pair.connect().await.ask(request).await;
        assert_eq!(response.head.status(), 400, "{row}");
    }
    // RFC 9113 §8.3.1: over HTTP/2 the two come apart.
    let client = pair.connect().await.h2().await;
    let request = Request::get("http://a/").header("host", "b").body(Bytes::new()).unwrap();
    let (response, _) = ask_h2(&client, request).await.unwrap();
    assert_eq!(response.status(), 400);
    assert_eq!(pair.app.count(), 0);
}

#[tokio::test]
async fn targets_in_every_form_arrive_in_origin_form() {
    let pair = Pair::new(App::says("").await).await;
    let mut client = pair.connect().await;
    let rows = [
        ("GET http://reviews/x?y HTTP/1.1\r\nhost: reviews\r\n\r\n", "GET /x?y HTTP/1.1"),
        ("GET http://reviews HTTP/1.1\r\nhost: reviews\r\n\r\n", "GET / HTTP/1.1"),
        ("OPTIONS * HTTP/1.1\r\nhost: reviews\r\n\r\n", "OPTIONS * HTTP/1.1"),
        ("OPTIONS /x HTTP/1.1\r\nhost: reviews\r\n\r\n", "OPTIONS /x HTTP/1.1"),
    ];
    for (number, (request, expected)) in rows.into_iter().enumerate() {
        assert_eq!(client.ask(request).await.head.status(), 200, "{request:?}");
        let seen = pair.app.requests().remove(number);
        assert_eq!((seen.head.start.as_str(), seen.head.all("host")), (expected, vec!["reviews"]), "{request:?}");
    }
}

#[tokio::test]
async fn cookie_crumbs_are_one_field_again() {
    let pair = Pair::new(App::says("").await).await;
    let request = "GET / HTTP/1.1\r\nhost: reviews\r\ncookie: a=1\r\ncookie: b=2; c=3\r\n\r\n";
    assert_eq!(pair.connect().await.ask(request).await.head.status(), 200);
    assert_eq!(pair.app.only().head.all("cookie"), ["a=1; b=2; c=3"]);
}

#[tokio::test]
async fn hop_by_hop_fields_stay_on_their_hop() {
    let answer = "HTTP/1.1 200 OK\r\nconnection: x-hop\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\nx-end: 1\r\ncontent-length: 0\r\n\r\n";
    let pair = Pair::new(App::http1(move |_| answer.into()).await).await;
    let request = "GET / HTTP/1.1\r\nhost: reviews\r\nconnection: keep-alive, x-hop\r\nx-hop: 1\r\nproxy-connection: \
                   keep-alive\r\nte: gzip, trailers\r\nx-end: 1\r\nx-weft-version: 9\r\nx-forwarded-client-cert: By=me\r\n\r\n";
    let response = pair.connect().await.ask(request).await;
    let seen = pair.app.only();
    for name in ["x-hop", "proxy-connection", "keep-alive", "x-weft-version"] {
        assert_eq!(seen.head.get(name), None, "{name} towards the app");
        assert_eq!(response.head.get(name), None, "{name} towards the client");
    }
    assert_eq!((seen.head.get("x-end"), response.head.get("x-end")), (Some("1"), Some("1")));
    assert_eq!(seen.head.get("te"), Some("trailers"));
    assert_eq!(
        seen.head.all("x-forwarded-client-cert"),
        ["By=spiffe://weft.local/ns/shop/sa/reviews;URI=spiffe://weft.local/ns/shop/sa/web"]
    );
}

#[tokio::test]
async fn trailers_travel_both_ways() {
    let answer =
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 7\r\n\r\n";
    let pair = Pair::new(App::http1(move |_| answer.into()).await).await;
    let request = "POST / HTTP/1.1\r\nhost: reviews\r\nte: trailers\r\ntransfer-encoding: chunked\r\n\r\n\
                   3\r\nabc\r\n0\r\nx-count: 3\r\n\r\n";
    let response = pair.connect().await.ask(request).await;
    assert_eq!((response.text(), &*response.trailers), ("hello", &[("x-sum".into(), "7".into())][..]));
    let seen = pair.app.only();
    assert_eq!((seen.text(), &*seen.trailers), ("abc", &[("x-count".into(), "3".into())][..]));
}

#[tokio::test]
async fn expect_100_continue_is_answered_before_the_body_is_sent() {
    let pair = Pair::new(App::http1(|request| ok(request.text())).await).await;
    let mut client = pair.connect().await;
    client.send("POST / HTTP/1.1\r\nhost: reviews\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 100);
    client.send("body").await;
    assert_eq!(client.response().await.text(), "body");
    // And on the same connection without it.
    assert_eq!(client.post("/", "more").await.text(), "more");
}

#[tokio::test]
async fn an_app_may_refuse_before_the_body_without_100_continue() {
    let app = App::raw(|mut wire, _| async move {
        let head = wire.head().await;
        assert_eq!(head.get("expect"), Some("100-continue"));
        wire.send("HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
        let _ = wire.more().await;
    })
    .await;
    let pair = Pair::new(app).await;
    let mut client = pair.connect().await;
    client.send("POST / HTTP/1.1\r\nhost: reviews\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 417);
}

#[tokio::test]
async fn lengths_survive_where_there_is_no_content() {
    let app = App::http1(|request| match request.head.path() {
        "/head" => "HTTP/1.1 200 OK\r\ncontent-length: 12345\r\n\r\n".into(),
        "/204" => "HTTP/1.1 204 No Content\r\n\r\n".into(),
        "/304" => "HTTP/1.1 304 Not Modified\r\ncontent-length: 77\r\netag: \"x\"\r\n\r\n".into(),
        _ => ok(""),
    })
    .await;
    let pair = Pair::new(app).await;
    let mut client = pair.connect().await;
    let rows = [("HEAD", "/head", 200, Some("12345")), ("GET", "/204", 204, None), ("GET", "/304", 304, Some("77"))];
    for (method, path, status, length) in rows {
        client.send(format!("{method} {path} HTTP/1.1\r\nhost: reviews\r\n\r\n")).await;
        let head = client.head().await;
        assert_eq!((head.status(), head.get("content-length")), (status, length), "{method} {path}");
        assert_eq!(head.get("transfer-encoding"), None, "{method} {path}");
    }
    assert_eq!(client.get("/").await.head.get("content-length"), Some("0"));
}

#[tokio::test]
async fn a_response_of_unknown_length_ends_by_closing_for_http_1_0() {
    let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let pair = Pair::new(App::http1(move |_| answer.into()).await).await;
    let mut client = pair.connect().await;
    client.send("GET / HTTP/1.0\r\nhost: reviews\r\nconnection: keep-alive\r\n\r\n").await;
    let head = client.head().await;
    assert_eq!((head.get("transfer-encoding"), head.get("content-length")), (None, None));
    assert_eq!(head.get("connection"), Some("close"));
    assert_eq!(client.content(&head, true).await.unwrap().0, "hello");
}

/// SEMANTICS.md §1: "RST mid-body → truncated HTTP/1, never a clean end".
#[tokio::test]
async fn an_app_lost_in_mid_body_never_looks_like_a_clean_end() {
    let rows = [
        ("chunked", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", true),
        ("with a length", "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello", true),
        ("chunked, closed", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", false),
        ("with a length, closed", "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello", false),
        ("until close", "HTTP/1.1 200 OK\r\n\r\nhello", true),
    ];
    for (row, answer, reset) in rows {
        let app = App::raw(move |mut wire, _| async move {
            wire.request().await;
            wire.send(answer).await;
            // So that the reset does not overtake what was sent.
            tokio::time::sleep(Duration::from_millis(20)).await;
            if reset {
                wire.reset();
            }
        })
        .await;
        let pair = Pair::new(app).await;
        for version in ["1.1", "1.0"] {
            let mut client = pair.connect().await;
            client.send(format!("GET / HTTP/{version}\r\nhost: reviews\r\n\r\n")).await;
            let head = client.head().await;
            assert_eq!(head.status(), 200, "{row}, HTTP/{version}");
            let ended = client.content(&head, true).await;
            match (version, head.get("content-length")) {
                // With no framing of its own only a reset tells.
                ("1.0", None) => assert_eq!(ended, Err(End::Reset), "{row}, HTTP/{version}"),
                _ => assert!(ended.is_err(), "{row}, HTTP/{version}: {ended:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_response_with_two_framings_is_502_and_its_connection_is_closed() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    let pair = Pair::new(App::http1(move |_| answer.into()).await).await;
    let mut client = pair.connect().await;
    for number in 1..=2 {
        let response = client.get("/").await;
        assert_eq!(response.head.status(), 502);
        assert!(response.head.get("x-weft-reason").unwrap().starts_with("upstream-protocol"), "{response:?}");
        assert_eq!(pair.app.connections(), number, "the connection is not used again");
    }
}

#[tokio::test]
async fn the_version_the_client_spoke_is_restored() {
    let pair = Pair::new(App::says("").await).await;
    for version in ["1.0", "1.1"] {
        let request = format!("GET / HTTP/{version}\r\nhost: reviews\r\n\r\n");
        let response = pair.connect().await.ask(request).await;
        assert_eq!(response.head.status(), 200);
        assert!(pair.app.requests().last().unwrap().head.start.ends_with(&format!("HTTP/{version}")), "{version}");
        assert_eq!(pair.app.requests().last().unwrap().head.get("x-weft-version"), None);
    }
}

#[tokio::test]
async fn http_1_0_without_a_host_arrives_without_one() {
    let pair = Pair::new(App::says("x").await).await;
    let response = pair.connect().await.ask("GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!((response.head.status(), response.text()), (200, "x"));
    assert_eq!(pair.app.only().head.get("host"), None);
}

#[tokio::test]
async fn h2c_stays_h2c_and_grpc_keeps_its_trailers() {
    let app = App::h2(|parts, body| {
        assert_eq!(parts.version, http::Version::HTTP_2);
        let mut headers = HeaderMap::new();
        headers.insert("content-type", "application/grpc".parse().unwrap());
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        trailers.insert("grpc-message", "done".parse().unwrap());
        Answer2 { status: 200, headers, body: body.clone(), trailers: Some(trailers) }
    })
    .await;
    let pair = Pair::new(app).await;
    let client = pair.web.connect(VIP).await.h2().await;
    for _ in 0..2 {
        let request = Request::post("http://reviews/pkg.Svc/Call")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Bytes::from_static(b"\0\0\0\0\x02hi"))
            .unwrap();
        let (response, trailers) = ask_h2(&client, request).await.unwrap();
        assert_eq!((response.status().as_u16(), &response.body()[..]), (200, &b"\0\0\0\0\x02hi"[..]));
        let trailers = trailers.unwrap();
        assert_eq!(trailers["grpc-status"], "0");
        assert_eq!(trailers["grpc-message"], "done");
    }
    let seen = &pair.app.requests()[0];
    assert_eq!(seen.head.get("te"), Some("trailers"));
    assert!(seen.head.path().ends_with("/pkg.Svc/Call"));
    assert_eq!(pair.app.connections(), 1);
}
