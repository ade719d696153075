//! Routes, filters, weights, time limits, and answers of our own (SEMANTICS.md §2 "Gateway API", §3 "deadlines", §5).

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request};
use weft_proto::v1;

use super::wire::{Answer2, App, ask_h2, ok};
use super::{Pair, REVIEWS, Sidecar, VIP, nobody, routed, rule};
use crate::identity::testing::TestCa;

fn path(exact: &str) -> v1::HttpMatch {
    let path = v1::PathMatch { kind: Some(v1::path_match::Kind::Exact(exact.into())) };
    v1::HttpMatch { path: Some(path), ..v1::HttpMatch::default() }
}

fn answer(status: u32) -> v1::RouteRule {
    let fixed = v1::FixedAnswer { status, detail: "backend shop/nowhere does not exist".into() };
    let target =
        v1::WeightedTarget { weight: 1, target: Some(v1::weighted_target::Target::Answer(fixed)), filters: Vec::new() };
    v1::RouteRule { targets: vec![target], ..rule(&[]) }
}

fn grpc(timeout: Option<&str>) -> Request<Bytes> {
    let mut request = Request::post("http://reviews/pkg.Svc/Call").header("content-type", "application/grpc");
    if let Some(timeout) = timeout {
        request = request.header("grpc-timeout", timeout);
    }
    request.header("te", "trailers").body(Bytes::from_static(b"\0\0\0\0\x02hi")).unwrap()
}

/// A trailers-only response: the status is in the only head there is (gRPC over HTTP/2, "Responses").
async fn ask_grpc(web: &Sidecar, timeout: Option<&str>) -> (u16, String, String) {
    let client = web.connect(VIP).await.h2().await;
    let (response, trailers) = ask_h2(&client, grpc(timeout)).await.unwrap();
    assert_eq!((response.status().as_u16(), response.body().len(), trailers), (200, 0, None), "not trailers-only");
    let field = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(field("content-type"), "application/grpc");
    (field("grpc-status").parse().unwrap(), field("x-weft-reason"), field("grpc-message"))
}

#[tokio::test]
async fn what_no_rule_matches_is_404_once_a_route_is_attached() {
    let pair = Pair::new(App::says("").await).await;
    assert_eq!(pair.connect().await.get("/other").await.head.status(), 200, "no route: plain balancing");
    pair.web.service(|port| {
        routed(port, rule(&[("shop/reviews", 1)]));
        port.entries[0].r#match = Some(path("/known"));
    });
    let mut client = pair.connect().await;
    assert_eq!(client.get("/known").await.head.status(), 200);
    let response = client.get("/other").await;
    assert_eq!((response.head.status(), response.head.get("x-weft-reason")), (404, Some("no-route")));
    assert_eq!(client.get("/known").await.head.status(), 200, "the connection goes on");
    let (status, reason, _) = ask_grpc(&pair.web, None).await;
    assert_eq!((status, reason.as_str()), (12, "no-route"), "UNIMPLEMENTED");
}

#[tokio::test]
async fn an_invalid_backend_keeps_its_share_and_answers_500() {
    let pair = Pair::new(App::says("").await).await;
    pair.web.service(|port| routed(port, answer(500)));
    let response = pair.connect().await.get("/").await;
    assert_eq!(response.head.status(), 500);
    assert_eq!(response.head.get("x-weft-reason"), Some("invalid-backend; rule=HTTPRoute/shop/reviews#0"));
    assert!(response.text().contains("shop/nowhere"));
    let (status, reason, message) = ask_grpc(&pair.web, None).await;
    assert_eq!(status, 14, "UNAVAILABLE");
    assert!(reason.starts_with("invalid-backend") && message.contains("shop/nowhere"), "{reason}, {message}");
}

#[tokio::test]
async fn no_endpoints_is_503() {
    let pair = Pair::new(App::says("").await).await;
    pair.web.endpoints(REVIEWS, &[]);
    let response = pair.connect().await.get("/").await;
    assert_eq!((response.head.status(), response.head.get("x-weft-reason")), (503, Some("no-endpoints")));
    assert_eq!(ask_grpc(&pair.web, None).await.0, 14);
}

#[tokio::test]
async fn filters_act_on_request_and_response_rule_before_backend() {
    use v1::filter::Kind::{RequestHeaders, ResponseHeaders};
    let header = |name: &str, value: &str| v1::Header { name: name.into(), value: value.into() };
    let modify = |who: &str| v1::HeaderModifier {
        set: vec![header("x-set", who)],
        add: vec![header("x-add", who)],
        remove: vec!["x-remove".into()],
    };
    let filters = |who: &str| {
        let both = [RequestHeaders(modify(who)), ResponseHeaders(modify(who))];
        both.into_iter().map(|kind| v1::Filter { kind: Some(kind) }).collect::<Vec<_>>()
    };
    let told = "HTTP/1.1 200 OK\r\nx-set: app\r\nx-add: app\r\nx-remove: app\r\ncontent-length: 0\r\n\r\n";
    let pair = Pair::new(App::http1(move |_| told.into()).await).await;
    pair.web.service(|port| {
        let mut rule = rule(&[("shop/reviews", 1)]);
        rule.filters = filters("rule");
        rule.targets[0].filters = filters("backend");
        routed(port, rule);
    });
    let request = "GET / HTTP/1.1\r\nhost: reviews\r\nx-set: client\r\nx-add: client\r\nx-remove: client\r\n\r\n";
    let response = pair.connect().await.ask(request).await;
    let seen = pair.app.only();
    assert_eq!(seen.head.all("x-set"), ["backend"]);
    assert_eq!(seen.head.all("x-add"), ["client", "rule", "backend"]);
    assert_eq!(seen.head.all("x-remove"), [""; 0]);
    // A response meets them on its way back, the other way round.
    assert_eq!(response.head.all("x-set"), ["rule"]);
    assert_eq!(response.head.all("x-add"), ["app", "backend", "rule"]);
    assert_eq!(response.head.all("x-remove"), [""; 0]);
}

#[tokio::test]
async fn a_changed_weight_acts_on_the_next_request_of_an_open_connection() {
    let pair = Pair::new(App::says("v1").await).await;
    let second = App::says("v2").await;
    pair.web.endpoints("shop/reviews-v2:80", &[pair.reviews.meshed(second.addr).await]);
    let shift = |old, new| {
        pair.web.service(|port| routed(port, rule(&[("shop/reviews", old), ("shop/reviews-v2", new)])));
    };
    shift(100, 0);
    let mut h1 = pair.connect().await;
    for (old, new, expected) in [(100, 0, "v1"), (0, 100, "v2"), (100, 0, "v1"), (0, 1, "v2")] {
        shift(old, new);
        for _ in 0..10 {
            assert_eq!(h1.get("/").await.text(), expected, "{old}:{new}");
        }
    }
    assert_eq!(pair.web.metric("weft_connections_total", "http/1"), 1);
}

#[tokio::test]
async fn a_request_timeout_is_504_in_time_and_covers_all_tries() {
    let app = App::raw(|mut wire, log| async move {
        while let Some(request) = wire.request().await {
            log.requests.lock().push(request);
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
    })
    .await;
    let pair = Pair::new(app).await;
    // (request, per try, tries)
    for (request, per_try, tries) in [(150, None, 1), (250, Some(100), 2)] {
        pair.app.log.requests.lock().clear();
        pair.web.service(|port| {
            let mut rule = rule(&[("shop/reviews", 1)]);
            rule.request_timeout = Some(v1::Millis { value: request });
            rule.backend_request_timeout = per_try.map(|value| v1::Millis { value });
            routed(port, rule);
        });
        let began = Instant::now();
        let response = pair.connect().await.get("/").await;
        let took = began.elapsed();
        assert_eq!(response.head.status(), 504);
        assert!(response.head.get("x-weft-reason").unwrap().starts_with("timeout"), "{response:?}");
        assert!(took >= Duration::from_millis(request) && took < Duration::from_millis(request + 200), "{took:?}");
        assert!(pair.app.count() >= tries, "{} tries in {request} ms", pair.app.count());
    }
}

#[tokio::test]
async fn a_try_that_takes_too_long_is_repeated_where_that_is_safe() {
    let app = App::raw(|mut wire, log| async move {
        while let Some(request) = wire.request().await {
            log.requests.lock().push(request);
            if log.requests.lock().len() == 1 {
                tokio::time::sleep(Duration::from_secs(10)).await;
            }
            wire.send(ok("second")).await;
        }
    })
    .await;
    let pair = Pair::new(app).await;
    pair.web.service(|port| {
        let mut rule = rule(&[("shop/reviews", 1)]);
        rule.backend_request_timeout = Some(v1::Millis { value: 100 });
        routed(port, rule);
    });
    let mut client = pair.connect().await;
    assert_eq!(client.get("/").await.text(), "second");
    assert_eq!(pair.app.count(), 2);
    pair.app.log.requests.lock().clear();
    let response = client.post("/", "x").await;
    assert_eq!(response.head.status(), 504);
    assert!(response.head.get("x-weft-reason").unwrap().starts_with("per-try-timeout"), "{response:?}");
    assert_eq!(pair.app.count(), 1, "a POST may have run");
}

#[tokio::test]
async fn a_listed_status_is_retried_and_the_last_answer_kept() {
    let app = App::http1(|_| "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy".into()).await;
    let pair = Pair::new(app).await;
    pair.web.service(|port| {
        let mut rule = rule(&[("shop/reviews", 1)]);
        rule.retry = Some(v1::RetryPolicy {
            max_retries: 2,
            status_codes: vec![503],
            backoff: Some(v1::Millis { value: 1 }),
            any_method: false,
        });
        routed(port, rule);
    });
    let response = pair.connect().await.post("/", "x").await;
    assert_eq!((response.head.status(), response.text(), response.head.get("x-weft-reason")), (503, "busy", None));
    assert_eq!(pair.app.count(), 3);
    assert!(pair.app.requests().iter().all(|seen| seen.text() == "x"), "the body goes with each");
}

#[tokio::test]
async fn a_spent_deadline_is_answered_without_calling() {
    let pair = Pair::new(App::says("").await).await;
    let (status, reason, _) = ask_grpc(&pair.web, Some("0n")).await;
    assert_eq!((status, reason.as_str()), (4, "timeout"), "DEADLINE_EXCEEDED");
    let request = "GET / HTTP/1.1\r\nhost: reviews\r\nx-weft-deadline-ms: 0\r\n\r\n";
    assert_eq!(pair.connect().await.ask(request).await.head.status(), 504);
    assert_eq!(pair.app.connections(), 0);
}

#[tokio::test]
async fn a_grpc_deadline_passes_while_the_app_thinks() {
    let app = App::raw(|wire, _| async move {
        let Ok(mut connection) = h2::server::handshake(wire.stream).await else { return };
        let mut held = Vec::new();
        while let Some(Ok(request)) = connection.accept().await {
            held.push(request);
        }
    })
    .await;
    let pair = Pair::new(app).await;
    let began = Instant::now();
    let (status, reason, _) = ask_grpc(&pair.web, Some("100m")).await;
    assert_eq!((status, reason.as_str()), (4, "timeout"));
    assert!((100..300).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn the_app_is_told_how_long_its_client_still_waits_and_nothing_else_of_ours() {
    let pair = Pair::new(App::says("").await).await;
    let request = "GET / HTTP/1.1\r\nhost: reviews\r\nx-weft-deadline-ms: 5000\r\nx-weft-not-processed: 1\r\n\
                   x-weft-reason: x\r\nx-weft-version: 1.0\r\nx-weft-made-up: 1\r\n\r\n";
    assert_eq!(pair.connect().await.ask(request).await.head.status(), 200);
    let seen = pair.app.only();
    assert!(seen.head.start.ends_with("HTTP/1.1"), "{}", seen.head.start);
    let ours: Vec<_> = seen.head.fields.iter().filter(|(name, _)| name.starts_with("x-weft-")).collect();
    assert_eq!(ours.len(), 1, "{ours:?}");
    let left: u64 = seen.head.get("x-weft-deadline-ms").unwrap().parse().unwrap();
    assert!((4000..=5000).contains(&left), "{left}");
}

#[tokio::test]
async fn the_reason_is_for_the_local_app_and_for_peers_only() {
    let ca = TestCa::new("weft.local");
    let (web, reviews) = (Sidecar::new(&ca, "web"), Sidecar::new(&ca, "reviews"));
    let app = nobody();
    let mut stranger = reviews.connect_inbound(app).await;
    let response = stranger.get("/").await;
    assert_eq!((response.head.status(), response.head.get("x-weft-reason")), (503, None));
    web.service(|_| {});
    web.endpoints(REVIEWS, &[reviews.meshed(app).await]);
    let response = web.connect(VIP).await.get("/").await;
    assert_eq!((response.head.status(), response.head.get("x-weft-reason")), (503, Some("connect-failed")));
}

/// The peer's sidecar made the answer; the client's passes its reason on.
#[tokio::test]
async fn a_reason_given_by_the_peers_sidecar_reaches_the_client() {
    let pair = Pair::new(App::http1(|_| "HTTP/1.1 200 OK\r\nbad field\r\n\r\n".into()).await).await;
    let response = pair.connect().await.get("/").await;
    assert_eq!((response.head.status(), response.head.get("x-weft-reason")), (502, Some("upstream-protocol")));
}

#[tokio::test]
async fn h2_requests_of_one_connection_go_where_each_is_routed() {
    let answer = |name: &'static str| {
        App::h2(move |_, _| Answer2 { status: 200, headers: HeaderMap::new(), body: name.into(), trailers: None })
    };
    let pair = Pair::new(answer("v1").await).await;
    let second = answer("v2").await;
    pair.web.endpoints("shop/reviews-v2:80", &[pair.reviews.meshed(second.addr).await]);
    let client = pair.connect().await.h2().await;
    for (weights, expected) in [((1, 0), "v1"), ((0, 1), "v2"), ((1, 0), "v1")] {
        let backends = [("shop/reviews", weights.0), ("shop/reviews-v2", weights.1)];
        pair.web.service(|port| routed(port, rule(&backends)));
        let request = Request::get("http://reviews/").body(Bytes::new()).unwrap();
        assert_eq!(&ask_h2(&client, request).await.unwrap().0.body()[..], expected.as_bytes());
    }
    assert_eq!(pair.web.metric("weft_connections_total", "http/2"), 1);
}
