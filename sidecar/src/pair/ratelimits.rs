//! Rate limits of a server and of a route, as clients see them (SEMANTICS.md §3 "rate limit").

use bytes::Bytes;
use http::Request;
use weft_proto::explain::Question;
use weft_proto::v1;

use super::wire::{App, ask_h2};
use super::{Pair, Sidecar, VIP, routed, rule};
use crate::config::Kind;

/// The server's policy: so many at once, one back in an hour.
fn limited(sidecar: &Sidecar, ports: &[u16], burst: u32, key: v1::RateKey) {
    let limit = v1::RateLimit {
        name: "shop/limit".into(),
        ports: ports.iter().map(|port| u32::from(*port)).collect(),
        requests: 1,
        per: Some(v1::Millis { value: 3_600_000 }),
        burst,
        key: key.into(),
        header: "x-user".into(),
    };
    let policy = v1::InboundPolicy { rate_limits: vec![limit], ..v1::InboundPolicy::default() };
    sidecar.set(Kind::InboundPolicy, "self", &[], &policy);
}

#[tokio::test]
async fn who_asks_too_often_gets_429_and_is_told_when_to_come_back() {
    let pair = Pair::new(App::says("the app").await).await;
    limited(&pair.reviews, &[pair.app.addr.port()], 2, v1::RateKey::Identity);
    let mut client = pair.connect().await;
    for left in ["1", "0"] {
        let response = client.get("/").await;
        assert_eq!((response.head.status(), response.text()), (200, "the app"));
        assert_eq!(
            (response.head.get("x-ratelimit-limit"), response.head.get("x-ratelimit-remaining")),
            (Some("2"), Some(left))
        );
        assert_eq!(response.head.get("retry-after"), None);
    }
    let response = client.get("/").await;
    assert_eq!(
        (response.head.status(), response.head.get("x-weft-reason")),
        (429, Some("rate-limited; limit=shop/limit"))
    );
    assert_eq!(response.head.get("x-ratelimit-remaining"), Some("0"));
    let wait: u32 = response.head.get("retry-after").unwrap().parse().unwrap();
    assert!((3_590..=3_600).contains(&wait), "{wait}");
    assert!(response.text().contains("RateLimit shop/limit"), "{}", response.text());
    let call = Request::post("http://reviews/pkg.Svc/Call").header("content-type", "application/grpc");
    let (response, _) = ask_h2(&pair.connect().await.h2().await, call.body(Bytes::new()).unwrap()).await.unwrap();
    assert_eq!((response.status().as_u16(), &response.headers()["grpc-status"]), (200, &"8".parse().unwrap()));
    assert_eq!(pair.app.count(), 2);
    assert_eq!(pair.reviews.metric("weft_refused_total", "rate-limited"), 2);
    assert_eq!(pair.web.metric("weft_ejections_total", ""), 0, "that it refuses is no failure of the server's");
    assert_eq!(pair.web.metric("weft_retries_total", ""), 0);
}

#[tokio::test]
async fn clients_do_not_share_and_an_edit_keeps_what_was_used() {
    let pair = Pair::new(App::says("the app").await).await;
    let port = pair.app.addr.port();
    limited(&pair.reviews, &[port], 1, v1::RateKey::Header);
    let mut client = pair.connect().await;
    let mut ask = async |user: &str| {
        client.ask(format!("GET / HTTP/1.1\r\nhost: reviews\r\nx-user: {user}\r\n\r\n")).await.head.status()
    };
    assert_eq!([ask("a").await, ask("a").await, ask("b").await], [200, 429, 200]);
    // Another port's does not count here, and what says the same counts on.
    limited(&pair.reviews, &[port ^ 1], 1, v1::RateKey::Header);
    assert_eq!(ask("a").await, 200);
    limited(&pair.reviews, &[port], 1, v1::RateKey::Header);
    assert_eq!(ask("a").await, 429);
    limited(&pair.reviews, &[port], 3, v1::RateKey::Header);
    assert_eq!(ask("a").await, 200, "another rate begins anew");
}

#[tokio::test]
async fn who_has_no_sidecar_is_counted_by_its_address_and_told_no_names() {
    let pair = Pair::new(App::says("the app").await).await;
    limited(&pair.reviews, &[pair.app.addr.port()], 1, v1::RateKey::SourceIp);
    let mut client = pair.reviews.connect_inbound(pair.app.addr).await;
    assert_eq!(client.get("/").await.head.status(), 200);
    let response = client.get("/").await;
    assert_eq!((response.head.status(), response.head.get("x-weft-reason")), (429, None));
    assert!(!response.text().contains("shop/limit"), "{}", response.text());
    assert!(response.head.get("retry-after").is_some());
}

/// So many at once, one back in an hour.
fn limit(name: &str, burst: u32, key: v1::RateKey) -> v1::RateLimit {
    let (per, header) = (Some(v1::Millis { value: 3_600_000 }), "x-user".into());
    v1::RateLimit { name: name.into(), requests: 1, per, burst, key: key.into(), header, ..v1::RateLimit::default() }
}

/// One rule for each of these paths, with the limit of its place.
fn route_limited(web: &Sidecar, limits: &[(&str, v1::RateLimit)]) {
    web.service(|port| {
        routed(port, rule(&[("shop/reviews", 1)]));
        port.rules = Vec::new();
        port.entries = Vec::new();
        for (index, (path, limit)) in limits.iter().enumerate() {
            let path = v1::PathMatch { kind: Some(v1::path_match::Kind::Prefix((*path).to_owned())) };
            let wanted = v1::HttpMatch { path: Some(path), ..v1::HttpMatch::default() };
            port.entries.push(v1::RouteEntry { r#match: Some(wanted), rule: u32::try_from(index).unwrap() });
            port.rules.push(v1::RouteRule { rate_limits: vec![limit.clone()], ..rule(&[("shop/reviews", 1)]) });
        }
    });
}

#[tokio::test]
async fn a_routes_limit_is_counted_by_the_client_and_nothing_reaches_the_server() {
    let pair = Pair::new(App::says("the app").await).await;
    route_limited(&pair.web, &[("/", limit("shop/limit", 2, v1::RateKey::All))]);
    let mut client = pair.connect().await;
    for left in ["1", "0"] {
        let response = client.get("/").await;
        assert_eq!((response.head.status(), response.text()), (200, "the app"));
        assert_eq!(
            (response.head.get("x-ratelimit-limit"), response.head.get("x-ratelimit-remaining")),
            (Some("2"), Some(left))
        );
    }
    let response = client.get("/").await;
    assert_eq!(
        (response.head.status(), response.head.get("x-weft-reason")),
        (429, Some("rate-limited; limit=shop/limit"))
    );
    let wait: u32 = response.head.get("retry-after").unwrap().parse().unwrap();
    assert!((3_590..=3_600).contains(&wait), "{wait}");
    let call = Request::post("http://reviews/pkg.Svc/Call").header("content-type", "application/grpc");
    let (response, _) = ask_h2(&pair.connect().await.h2().await, call.body(Bytes::new()).unwrap()).await.unwrap();
    assert_eq!((response.status().as_u16(), &response.headers()["grpc-status"]), (200, &"8".parse().unwrap()));
    assert!(response.headers().contains_key("retry-after"));
    assert_eq!((pair.app.count(), pair.web.metric("weft_refused_total", "rate-limited")), (2, 2));
    assert_eq!(pair.reviews.metric("weft_refused_total", ""), 0);
    let question = Question { url: "http://reviews/".to_owned(), ..Question::default() };
    let says = pair.web.outbound.explain(&question).await.unwrap().rule.unwrap().says;
    assert_eq!(says, ["RateLimit shop/limit: 1 in 3600s, 2 at once of all clients together, 1 known"]);
    assert_eq!(pair.web.connect(VIP).await.get("/").await.head.status(), 429, "a question counts nothing");
}

#[tokio::test]
async fn rules_with_one_limit_share_it_and_an_edit_keeps_what_was_used() {
    let pair = Pair::new(App::says("the app").await).await;
    let one = |burst| limit("shop/limit", burst, v1::RateKey::Header);
    let other = limit("shop/other", 1, v1::RateKey::All);
    route_limited(&pair.web, &[("/a", one(1)), ("/b", one(1)), ("/c", other.clone())]);
    let mut client = pair.connect().await;
    let mut ask = async |path: &str, user: &str| {
        client.ask(format!("GET {path} HTTP/1.1\r\nhost: reviews\r\nx-user: {user}\r\n\r\n")).await.head.status()
    };
    assert_eq!([ask("/a", "u").await, ask("/b", "u").await], [200, 429], "one bucket");
    assert_eq!([ask("/b", "v").await, ask("/c", "u").await, ask("/c", "v").await], [200, 200, 429]);
    // Fewer rules, in another order: what says the same counts on.
    route_limited(&pair.web, &[("/c", other), ("/b", one(1))]);
    assert_eq!([ask("/b", "u").await, ask("/c", "x").await], [429, 429]);
    route_limited(&pair.web, &[("/b", one(3))]);
    assert_eq!(ask("/b", "u").await, 200, "another rate begins anew");
    pair.web.service(|port| routed(port, rule(&[("shop/reviews", 1)])));
    assert_eq!(ask("/b", "u").await, 200);
}

#[tokio::test]
async fn a_limit_is_asked_before_filters_act_and_what_the_server_says_stays() {
    let pair = Pair::new(App::says("the app").await).await;
    limited(&pair.reviews, &[pair.app.addr.port()], 7, v1::RateKey::All);
    pair.web.service(|port| {
        let modifier = v1::HeaderModifier { remove: vec!["x-user".into()], ..v1::HeaderModifier::default() };
        let filters = vec![v1::Filter { kind: Some(v1::filter::Kind::RequestHeaders(modifier)) }];
        let rate_limits = vec![limit("shop/limit", 1, v1::RateKey::Header)];
        routed(port, v1::RouteRule { filters, rate_limits, ..rule(&[("shop/reviews", 1)]) });
    });
    let mut client = pair.connect().await;
    for (user, status) in [("a", 200), ("b", 200), ("a", 429)] {
        let response = client.ask(format!("GET / HTTP/1.1\r\nhost: reviews\r\nx-user: {user}\r\n\r\n")).await;
        let limit = if status == 200 { "7" } else { "1" };
        assert_eq!((response.head.status(), response.head.get("x-ratelimit-limit")), (status, Some(limit)), "{user}");
    }
}
