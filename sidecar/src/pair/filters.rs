//! Redirects, rewrites, mirrors and CORS, as clients and servers see them (SEMANTICS.md §2 "Gateway API").

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};
use weft_proto::v1;
use weft_proto::v1::filter::Kind;

use super::wire::{Answer2, App, ask_h2, ok};
use super::{Pair, routed, rule};

const MIRRORED: &str = "shop/mirrored:80";

fn full(path: &str) -> Option<v1::PathModifier> {
    Some(v1::PathModifier { kind: Some(v1::path_modifier::Kind::Full(path.into())) })
}

fn prefix(matched: &str, replacement: &str) -> Option<v1::PathModifier> {
    let prefix = v1::PrefixReplacement { matched: matched.into(), replacement: replacement.into() };
    Some(v1::PathModifier { kind: Some(v1::path_modifier::Kind::Prefix(prefix)) })
}

fn rewrite(hostname: &str, path: Option<v1::PathModifier>) -> Kind {
    Kind::UrlRewrite(v1::UrlRewrite { hostname: hostname.into(), path })
}

fn mirror(numerator: u32, denominator: u32) -> Kind {
    let backend = v1::Backend { service: "shop/mirrored".into(), port: 80, ..v1::Backend::default() };
    Kind::Mirror(v1::Mirror { backend: Some(backend), numerator, denominator })
}

fn cors(origin: &str) -> Kind {
    Kind::Cors(v1::Cors { allow_origins: vec![origin.into()], max_age_seconds: 5, ..v1::Cors::default() })
}

fn modify(name: &str, value: &str) -> v1::HeaderModifier {
    let set = vec![v1::Header { name: name.into(), value: value.into() }];
    v1::HeaderModifier { set, ..v1::HeaderModifier::default() }
}

/// Everything goes to `shop/reviews`, by these filters.
fn filtered(pair: &Pair, kinds: Vec<Kind>) {
    pair.web.service(|port| {
        let mut rule = rule(&[("shop/reviews", 1)]);
        rule.filters = kinds.into_iter().map(|kind| v1::Filter { kind: Some(kind) }).collect();
        routed(port, rule);
    });
}

/// What nobody waits for comes when it comes.
async fn sooner_or_later(what: &str, is: impl Fn() -> bool) {
    for _ in 0..2_000 {
        if is() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{what}");
}

#[tokio::test]
async fn a_redirect_is_answered_without_asking_anybody() {
    let pair = Pair::new(App::says("").await).await;
    let to = v1::Redirect {
        hostname: "new.example".into(),
        path: prefix("/old", "/new"),
        status: 308,
        ..v1::Redirect::default()
    };
    filtered(&pair, vec![Kind::Redirect(to), Kind::ResponseHeaders(modify("x-by", "rule"))]);
    let mut client = pair.connect().await;
    let response = client.post("/old/x?q=1", "content").await;
    assert_eq!((response.head.status(), response.head.get("location")), (308, Some("http://new.example/new/x?q=1")));
    assert_eq!(response.head.get("x-weft-reason"), Some("redirect; rule=HTTPRoute/shop/reviews#0"));
    assert_eq!((response.head.get("x-by"), response.text()), (Some("rule"), ""));
    assert_eq!(client.get("/old").await.head.get("location"), Some("http://new.example/new"), "the connection goes on");
    assert_eq!(pair.app.connections(), 0);
    assert_eq!(pair.web.metric("weft_requests_total", "response_code=\"308\",response_flags=\"redirect\""), 2);

    let h2 = pair.connect().await.h2().await;
    let request = Request::get("http://reviews/old/y").body(Bytes::new()).unwrap();
    let (response, _) = ask_h2(&h2, request).await.unwrap();
    assert_eq!(response.headers()["location"], "http://new.example/new/y");
    let call = Request::post("http://reviews/old/y").header("content-type", "application/grpc");
    let (response, _) = ask_h2(&h2, call.body(Bytes::new()).unwrap()).await.unwrap();
    assert_eq!((response.status().as_u16(), &response.headers()["grpc-status"]), (200, &"14".parse().unwrap()));
    assert!(response.headers()["grpc-message"].to_str().unwrap().contains("http://new.example/new/y"));
}

#[tokio::test]
async fn a_redirect_without_a_port_keeps_the_one_that_was_called() {
    let pair = Pair::new(App::says("").await).await;
    filtered(&pair, vec![Kind::Redirect(v1::Redirect { status: 302, ..v1::Redirect::default() })]);
    let request = "GET /x HTTP/1.1\r\nhost: reviews.shop:8080\r\n\r\n";
    let response = pair.connect().await.ask(request).await;
    assert_eq!(response.head.get("location"), Some("http://reviews.shop/x"), "the Service's port 80, not the Host's");
}

#[tokio::test]
async fn the_server_sees_the_rewritten_path_and_host_and_proves_the_same_identity() {
    let pair = Pair::new(App::says("here").await).await;
    filtered(&pair, vec![rewrite("new.example", prefix("/old", "/new"))]);
    let mut client = pair.connect().await;
    assert_eq!(client.get("/old/x?q=1").await.text(), "here");
    let seen = pair.app.only();
    assert_eq!((seen.head.path(), seen.head.get("host")), ("/new/x?q=1", Some("new.example")));
    assert_eq!(pair.web.metric("weft_requests_total", "mtls=\"true\""), 1);
    // An absolute target names the host twice.
    client.ask("GET http://reviews/old HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
    let seen = pair.app.requests().pop().unwrap();
    assert_eq!((seen.head.path(), seen.head.get("host")), ("/new", Some("new.example")));
}

#[tokio::test]
async fn over_http2_the_authority_is_rewritten() {
    let answer = || Answer2 { status: 200, headers: HeaderMap::new(), body: Bytes::new(), trailers: None };
    let pair = Pair::new(App::h2(move |_, _| answer()).await).await;
    for (kind, seen) in [
        (rewrite("new.example", full("/one")), "GET http://new.example/one?q HTTP/2.0"),
        (Kind::RequestHeaders(modify("host", "set.example")), "GET http://set.example/x?q HTTP/2.0"),
    ] {
        filtered(&pair, vec![kind]);
        pair.app.log.requests.lock().clear();
        let request = Request::get("http://reviews/x?q").body(Bytes::new()).unwrap();
        let (response, _) = ask_h2(&pair.connect().await.h2().await, request).await.unwrap();
        assert_eq!(response.status(), 200, "{seen}");
        assert_eq!(pair.app.only().head.start, seen);
    }
}

#[tokio::test]
async fn copies_go_to_the_mirror_and_its_answers_nowhere() {
    let pair = Pair::new(App::says("the app").await).await;
    let shadow = App::http1(|_| "HTTP/1.1 500 Oops\r\ncontent-length: 3\r\n\r\nbad".into()).await;
    pair.web.endpoints(MIRRORED, &[pair.reviews.meshed(shadow.addr).await]);
    // The rule's, twice, and the backend's: each as the request is at its place.
    pair.web.service(|port| {
        let mut rule = rule(&[("shop/reviews", 1)]);
        rule.filters = [mirror(1, 1), rewrite("new.example", full("/new")), mirror(1, 1), mirror(0, 1)]
            .map(|kind| v1::Filter { kind: Some(kind) })
            .to_vec();
        rule.targets[0].filters = vec![v1::Filter { kind: Some(mirror(1, 1)) }];
        routed(port, rule);
    });
    let mut client = pair.connect().await;
    for (sent, copies) in [("", 3), ("content", 6)] {
        let response = if sent.is_empty() { client.get("/old").await } else { client.post("/old", sent).await };
        assert_eq!((response.head.status(), response.text()), (200, "the app"));
        sooner_or_later("copies", || shadow.count() >= copies).await;
        let seen: Vec<_> = shadow.requests().split_off(copies - 3);
        let mut heads: Vec<_> = seen.iter().map(|seen| (seen.head.path(), seen.head.get("host").unwrap())).collect();
        heads.sort_unstable();
        assert_eq!(heads, [("/new", "new.example"), ("/new", "new.example"), ("/old", "reviews")]);
        assert!(seen.iter().all(|seen| seen.text() == sent), "{seen:?}");
    }
    assert_eq!((pair.app.count(), shadow.count()), (2, 6));
    assert_eq!(pair.web.metric("weft_mirrors_total", MIRRORED), 6);
    assert_eq!(pair.web.metric("weft_requests_total", ""), 2, "copies are not the app's requests");
}

#[tokio::test]
async fn a_mirror_that_is_dead_or_slow_delays_and_fails_nothing() {
    let pair = Pair::new(App::says("the app").await).await;
    let slow = App::raw(|mut wire, log| async move {
        while let Some(request) = wire.request().await {
            log.requests.lock().push(request);
            std::future::pending::<()>().await;
        }
    })
    .await;
    let slow = pair.reviews.meshed(slow.addr).await;
    filtered(&pair, vec![mirror(1, 1)]);
    for endpoints in [vec![], vec![super::plain(super::nobody())], vec![slow]] {
        pair.web.endpoints(MIRRORED, &endpoints);
        let mut client = pair.connect().await;
        for _ in 0..5 {
            let response = client.post("/", "x").await;
            assert_eq!((response.head.status(), response.text()), (200, "the app"));
        }
    }
    assert_eq!(pair.app.count(), 15);
}

#[tokio::test]
async fn a_body_beyond_the_retry_buffer_is_not_copied_and_that_is_counted() {
    let pair = Pair::new(App::says("the app").await).await;
    let shadow = App::says("").await;
    pair.web.endpoints(MIRRORED, &[pair.reviews.meshed(shadow.addr).await]);
    filtered(&pair, vec![mirror(1, 1)]);
    let mut client = pair.connect().await;
    let large = "x".repeat(65 * 1024);
    assert_eq!(client.post("/known", &large).await.text(), "the app");
    let chunked = format!("{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
    let request = format!("POST /found HTTP/1.1\r\nhost: reviews\r\ntransfer-encoding: chunked\r\n\r\n{chunked}");
    assert_eq!(client.ask(request).await.text(), "the app");
    assert_eq!(client.post("/small", &large[..60 * 1024]).await.text(), "the app");
    sooner_or_later("a copy", || shadow.count() > 0).await;
    let seen = shadow.only();
    assert_eq!((seen.head.path(), seen.body.len()), ("/small", 60 * 1024));
    assert_eq!(pair.web.metric("weft_mirrors_dropped_total", MIRRORED), 2);
    assert!(pair.app.requests().iter().all(|seen| seen.body.len() >= 60 * 1024), "the requests themselves are whole");
}

#[tokio::test]
async fn preflights_are_answered_and_responses_say_who_may_read_them() {
    let told = "HTTP/1.1 200 OK\r\naccess-control-allow-origin: https://app\r\ncontent-length: 0\r\n\r\n";
    let pair = Pair::new(App::http1(move |_| told.into()).await).await;
    filtered(&pair, vec![cors("https://a.example")]);
    let mut client = pair.connect().await;
    let preflight = |origin: &str| {
        format!(
            "OPTIONS /x HTTP/1.1\r\nhost: reviews\r\norigin: {origin}\r\naccess-control-request-method: PUT\r\n\r\n"
        )
    };
    for (origin, allowed) in [("https://a.example", Some("https://a.example")), ("https://b.example", None)] {
        let response = client.ask(preflight(origin)).await;
        assert_eq!((response.head.status(), response.head.get("access-control-allow-origin")), (204, allowed));
        assert_eq!(response.head.get("x-weft-reason"), Some("preflight; rule=HTTPRoute/shop/reviews#0"));
        assert_eq!(pair.app.count(), 0, "nobody is asked");
    }
    for (origin, allowed) in [("https://a.example", Some("https://a.example")), ("https://b.example", None)] {
        let response = client.ask(format!("GET /x HTTP/1.1\r\nhost: reviews\r\norigin: {origin}\r\n\r\n")).await;
        assert_eq!((response.head.status(), response.head.get("access-control-allow-origin")), (200, allowed));
    }
    // Else a browser would hide from the script what went wrong.
    pair.web.endpoints(super::REVIEWS, &[]);
    let response = client.ask("GET /x HTTP/1.1\r\nhost: reviews\r\norigin: https://a.example\r\n\r\n").await;
    assert_eq!(response.head.status(), 503);
    assert_eq!(response.head.all("access-control-allow-origin"), ["https://a.example"]);
}

#[tokio::test]
async fn where_a_route_has_a_retry_a_lost_connection_is_retried_whatever_the_method() {
    let app = App::raw(|mut wire, log| async move {
        while let Some(request) = wire.request().await {
            log.requests.lock().push(request);
            if log.requests.lock().len() == 1 {
                return wire.reset();
            }
            wire.send(ok("second")).await;
        }
    })
    .await;
    let pair = Pair::new(app).await;
    for (any_method, status, tries) in [(false, 502, 1), (true, 200, 2)] {
        pair.app.log.requests.lock().clear();
        pair.web.service(|port| {
            let mut rule = rule(&[("shop/reviews", 1)]);
            rule.retry = Some(v1::RetryPolicy { max_retries: 1, any_method, ..v1::RetryPolicy::default() });
            routed(port, rule);
        });
        let response = pair.connect().await.post("/", "once").await;
        assert_eq!((response.head.status(), pair.app.count()), (status, tries), "{any_method}");
    }
    assert!(pair.app.requests().iter().all(|seen| seen.text() == "once"), "the body goes with each");
}

#[tokio::test]
async fn a_session_stays_with_its_endpoint_though_the_weight_of_its_backend_goes_to_zero() {
    let pair = Pair::new(App::says("v1").await).await;
    let (second, third) = (App::says("v2").await, App::says("v2 too").await);
    let endpoints = [pair.reviews.meshed(second.addr).await, pair.reviews.meshed(third.addr).await];
    pair.web.endpoints("shop/reviews-v2:80", &endpoints);
    let shift = |header: bool, old, new| {
        pair.web.service(|port| {
            let mut rule = rule(&[("shop/reviews", old), ("shop/reviews-v2", new)]);
            rule.session = Some(v1::SessionPersistence {
                name: "s".into(),
                header,
                path: "/".into(),
                ..v1::SessionPersistence::default()
            });
            routed(port, rule);
        });
    };
    for (header, gives, takes) in [(false, "set-cookie", "cookie"), (true, "s", "s")] {
        shift(header, 0, 100);
        let mut client = pair.connect().await;
        let first = client.get("/").await;
        let given = first.head.get(gives).unwrap().split(';').next().unwrap().to_owned();
        let request = format!("GET / HTTP/1.1\r\nhost: reviews\r\n{takes}: {given}\r\n\r\n");
        for (old, new) in [(0, 100), (100, 0), (50, 50)] {
            shift(header, old, new);
            for _ in 0..10 {
                let response = client.ask(&request).await;
                assert_eq!((response.text(), response.head.get(gives)), (first.text(), None), "{old}:{new}");
            }
        }
        shift(header, 100, 0);
        let other = client.get("/").await;
        assert_eq!(other.text(), "v1", "without a session it is balanced");
        assert!(other.head.get(gives).is_some());
        // Its endpoint is gone: weights count again, and the session is there from now on.
        let left = usize::from(first.text() == "v2");
        pair.web.endpoints("shop/reviews-v2:80", &endpoints[left..=left]);
        let moved = client.ask(&request).await;
        assert_eq!(moved.text(), "v1");
        assert_ne!(moved.head.get(gives).unwrap().split(';').next(), Some(&*given));
        pair.web.endpoints("shop/reviews-v2:80", &endpoints);
    }
}
