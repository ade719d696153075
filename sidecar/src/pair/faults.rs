//! Faults that a route asks for, as clients and servers see them (SEMANTICS.md §3 "fault injection").

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use tokio::time::Instant;
use weft_proto::explain::Question;
use weft_proto::v1;
use weft_proto::v1::filter::Kind;

use super::wire::{App, ask_h2};
use super::{Pair, routed, rule};

fn delay(ms: u64, numerator: u32, denominator: u32) -> Option<v1::FaultDelay> {
    Some(v1::FaultDelay { fixed: Some(v1::Millis { value: ms }), numerator, denominator })
}

fn abort(http_status: u32, grpc_status: u32, numerator: u32, denominator: u32) -> Option<v1::FaultAbort> {
    Some(v1::FaultAbort { http_status, grpc_status, numerator, denominator })
}

/// Everything goes to `shop/reviews`, by a rule with this fault and that its backend has that one.
fn faulty(pair: &Pair, of_rule: v1::Fault, of_backend: Option<v1::Fault>, timeout: Option<u64>) {
    let filter =
        |fault: v1::Fault| v1::Filter { kind: Some(Kind::Fault(v1::Fault { name: "shop/faults".into(), ..fault })) };
    pair.web.service(|port| {
        let mut rule = rule(&[("shop/reviews", 1)]);
        rule.filters = vec![filter(of_rule)];
        rule.targets[0].filters = of_backend.map(filter).into_iter().collect();
        rule.request_timeout = timeout.map(|value| v1::Millis { value });
        routed(port, rule);
    });
}

#[tokio::test]
async fn an_abort_is_answered_in_the_apps_place_and_says_whose_it_is() {
    let pair = Pair::new(App::says("the app").await).await;
    faulty(&pair, v1::Fault { abort: abort(418, 8, 1, 1), ..v1::Fault::default() }, None, None);
    let mut client = pair.connect().await;
    for _ in 0..2 {
        let response = client.post("/", "content").await;
        assert_eq!(
            (response.head.status(), response.head.get("x-weft-reason")),
            (418, Some("fault; rule=HTTPRoute/shop/reviews#0"))
        );
        assert!(response.text().contains("FaultInjection shop/faults"), "{}", response.text());
    }
    let call = Request::post("http://reviews/pkg.Svc/Call").header("content-type", "application/grpc");
    let (response, _) = ask_h2(&pair.connect().await.h2().await, call.body(Bytes::new()).unwrap()).await.unwrap();
    assert_eq!((response.status().as_u16(), &response.headers()["grpc-status"]), (200, &"8".parse().unwrap()));
    assert_eq!(pair.app.connections(), 0);
    assert_eq!(pair.web.metric("weft_requests_total", "response_code=\"418\",response_flags=\"fault\""), 3);
    assert_eq!(pair.web.metric("weft_ejections_total", ""), 0);

    faulty(&pair, v1::Fault { abort: abort(204, 1, 1, 1), ..v1::Fault::default() }, None, None);
    let mut client = pair.connect().await;
    for _ in 0..2 {
        let response = client.get("/").await;
        assert_eq!((response.head.status(), response.text()), (204, ""), "and the connection goes on");
    }
}

#[tokio::test]
async fn a_share_of_requests_fails_and_the_others_are_as_ever() {
    let pair = Pair::new(App::says("the app").await).await;
    // Of the rule's half and the backend's half, a quarter is left.
    let half = || v1::Fault { abort: abort(503, 14, 1, 2), ..v1::Fault::default() };
    faulty(&pair, half(), Some(half()), None);
    let mut client = pair.connect().await;
    let mut failed = 0;
    for _ in 0..200 {
        let response = client.get("/").await;
        match response.head.status() {
            503 => failed += 1,
            status => assert_eq!((status, response.text()), (200, "the app")),
        }
    }
    // Five standard deviations of a binomial.
    assert!((119..=181).contains(&failed), "{failed} of 200, three quarters should");
    assert_eq!(pair.app.count(), 200 - failed);
}

#[tokio::test]
async fn a_delay_comes_before_the_server_is_asked_and_before_an_abort() {
    let pair = Pair::new(App::says("the app").await).await;
    let fault = v1::Fault { delay: delay(200, 1, 1), ..v1::Fault::default() };
    let aborted = v1::Fault { abort: abort(503, 14, 1, 1), ..fault.clone() };
    for (row, of_backend, status, ms) in [("once", None, 200, 200), ("twice, then answered", Some(aborted), 503, 400)] {
        faulty(&pair, fault.clone(), of_backend, None);
        let began = Instant::now();
        let response = pair.connect().await.get("/").await;
        let took = began.elapsed();
        assert_eq!(response.head.status(), status, "{row}");
        assert!((Duration::from_millis(ms)..Duration::from_millis(ms + 1_500)).contains(&took), "{row}: {took:?}");
    }
    assert_eq!(pair.app.count(), 1);
    assert_eq!(pair.web.metric("weft_faults_delayed_total", ""), 3);
}

#[tokio::test]
async fn a_delay_is_a_part_of_the_requests_time() {
    let pair = Pair::new(App::says("the app").await).await;
    let fault = || v1::Fault { delay: delay(10_000, 1, 1), ..v1::Fault::default() };
    for (row, timeout, header) in [("the rule's", Some(100), ""), ("the client's", None, "x-weft-deadline-ms: 100\r\n")]
    {
        faulty(&pair, fault(), None, timeout);
        let began = Instant::now();
        let request = format!("GET / HTTP/1.1\r\nhost: reviews\r\n{header}\r\n");
        let response = pair.connect().await.ask(request).await;
        let took = began.elapsed();
        assert_eq!(response.head.status(), 504, "{row}");
        assert!(response.head.get("x-weft-reason").unwrap().starts_with("timeout"), "{row}");
        assert!(response.text().contains("FaultInjection"), "{row}: {}", response.text());
        assert!((Duration::from_millis(95)..Duration::from_secs(2)).contains(&took), "{row}: {took:?}");
    }
    assert_eq!(pair.app.connections(), 0);
}

#[tokio::test]
async fn what_is_certain_is_explained_as_such_and_a_share_by_its_filter() {
    let pair = Pair::new(App::says("the app").await).await;
    let explain = async || {
        let question = Question { method: String::new(), url: "http://reviews/".to_owned(), headers: Vec::new() };
        pair.web.outbound.explain(&question).await.unwrap()
    };
    let rare = v1::Fault { delay: delay(1000, 99, 100), abort: abort(503, 14, 99, 100), ..v1::Fault::default() };
    faulty(&pair, rare, None, None);
    let told = explain().await;
    assert!(told.answer.is_none() && told.rule.as_ref().unwrap().changes.is_empty(), "{told:?}");
    let filters = &told.rule.unwrap().filters;
    assert!(filters[0].contains("99 of 100 wait 1000 ms"), "{filters:?}");
    let sure = v1::Fault { delay: delay(1000, 1, 1), abort: abort(418, 8, 1, 1), ..v1::Fault::default() };
    faulty(&pair, sure, None, None);
    let told = explain().await;
    assert_eq!(told.answer.map(|answer| (answer.reason, answer.status)), Some(("fault".to_owned(), 418)));
    assert_eq!(told.rule.unwrap().changes, ["waits 1s"]);
}
