//! What an XBackendTrafficPolicy asks of a backend, as its clients see it: a budget of retries that answers 503 where it is spent,
//! and sessions that need no rule (SEMANTICS.md §2, §3 "retry budget").

use weft_proto::explain::Question;
use weft_proto::v1;

use super::wire::App;
use super::{Pair, Sidecar, routed, rule};

const HOUR: Option<v1::Millis> = Some(v1::Millis { value: 3_600_000 });

/// So many percent of an hour's requests, and so many in an hour in any case.
fn budget(percent: u32, min_count: u32) -> v1::BackendPolicy {
    let budget = v1::RetryBudget { percent, interval: HOUR, min_count, min_interval: HOUR };
    v1::BackendPolicy { retry_budget: Some(Box::new(budget)), ..v1::BackendPolicy::default() }
}

fn session(name: &str, header: bool) -> v1::BackendPolicy {
    let session = v1::SessionPersistence { name: name.into(), header, ..v1::SessionPersistence::default() };
    v1::BackendPolicy { session: Some(Box::new(session)), ..v1::BackendPolicy::default() }
}

/// The backend of a rule's target.
fn backend(rule: &mut v1::RouteRule, target: usize) -> &mut v1::Backend {
    match &mut rule.targets[target].target {
        Some(v1::weighted_target::Target::Backend(backend)) => backend,
        other => panic!("{other:?}"),
    }
}

/// One rule for everything, which tries a 500 again.
fn retried(web: &Sidecar, policy: &v1::BackendPolicy) {
    web.service(|port| {
        let mut rule = rule(&[("shop/reviews", 1)]);
        rule.retry = Some(v1::RetryPolicy { max_retries: 1, status_codes: vec![500], ..v1::RetryPolicy::default() });
        backend(&mut rule, 0).policy = Some(policy.clone());
        port.policy = Some(policy.clone());
        routed(port, rule);
    });
}

async fn failing() -> App {
    App::http1(|_| "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 3\r\n\r\nno\n".to_owned()).await
}

#[tokio::test]
async fn a_budget_that_is_spent_answers_503_and_says_which_it_was() {
    let pair = Pair::new(failing().await).await;
    retried(&pair.web, &budget(20, 1));
    let mut client = pair.connect().await;
    let mut statuses = Vec::new();
    for _ in 0..10 {
        statuses.push(client.get("/").await.head.status());
    }
    // The first has what is always allowed; with the tenth, a fifth of ten requests is two.
    assert_eq!(statuses, [500, 503, 503, 503, 503, 503, 503, 503, 503, 500]);
    assert_eq!(pair.app.count(), 12, "each once, and two of them again");
    let response = client.get("/").await;
    assert_eq!(
        (response.head.status(), response.head.get("x-weft-reason")),
        (503, Some("retry-budget; rule=HTTPRoute/shop/reviews#0"))
    );
    for says in ["shop/reviews:80", "20 % of the requests of 3600s, at least 1 in 3600s", "answered 500"] {
        assert!(response.text().contains(says), "{}", response.text());
    }
    assert_eq!(pair.web.metric("weft_retries_over_budget_total", ""), 9);
    assert_eq!(pair.web.metric("weft_refused_total", "retry-budget"), 9);
}

#[tokio::test]
async fn a_changed_budget_goes_on_with_what_was_counted_and_without_one_the_last_answer_is_returned() {
    let pair = Pair::new(failing().await).await;
    retried(&pair.web, &budget(0, 1));
    let mut client = pair.connect().await;
    assert_eq!([client.get("/").await.head.status(), client.get("/").await.head.status()], [500, 503]);
    // Half of three requests is one, which was made.
    retried(&pair.web, &budget(50, 1));
    assert_eq!(client.get("/").await.head.status(), 503);
    assert_eq!(client.get("/").await.head.status(), 500, "half of four is two");
    retried(&pair.web, &v1::BackendPolicy::default());
    for _ in 0..3 {
        assert_eq!(client.get("/").await.head.status(), 500);
    }
    assert_eq!(pair.web.metric("weft_retries_over_budget_total", ""), 2);
}

#[tokio::test]
async fn a_backends_sessions_need_no_rule_and_stay_with_an_endpoint() {
    let pair = Pair::new(App::says("a").await).await;
    let second = App::says("b").await;
    let both = [pair.reviews.meshed(pair.app.addr).await, pair.reviews.meshed(second.addr).await];
    pair.web.endpoints(super::REVIEWS, &both);
    for (header, gives, takes) in [(false, "set-cookie", "cookie"), (true, "s", "s")] {
        for with_rule in [false, true] {
            pair.web.service(|port| {
                port.policy = Some(session("s", header));
                if with_rule {
                    let mut rule = rule(&[("shop/reviews", 1)]);
                    backend(&mut rule, 0).policy = Some(session("s", header));
                    routed(port, rule);
                }
            });
            let mut client = pair.connect().await;
            let first = client.get("/").await;
            let given = first.head.get(gives).unwrap().to_owned();
            assert!(!given.contains("Path"), "{given}");
            let given = given.split(';').next().unwrap();
            let request = format!("GET / HTTP/1.1\r\nhost: reviews\r\n{takes}: {given}\r\n\r\n");
            for _ in 0..20 {
                let response = client.ask(&request).await;
                assert_eq!((response.text(), response.head.get(gives)), (first.text(), None), "{header} {with_rule}");
            }
            let headers = vec![(takes.to_owned(), given.to_owned())];
            let question = Question { url: "http://reviews/".to_owned(), headers, ..Question::default() };
            let told = pair.web.outbound.explain(&question).await.unwrap();
            assert!(told.notes.iter().any(|note| note.contains("stays with shop/reviews:80, at ")), "{:?}", told.notes);
        }
    }
}

#[tokio::test]
async fn a_rules_own_session_goes_before_a_backends_and_a_backends_before_weights() {
    let pair = Pair::new(App::says("v1").await).await;
    let second = App::says("v2").await;
    pair.web.endpoints("shop/v2:80", &[pair.reviews.meshed(second.addr).await]);
    let shift = |own: bool, old, new| {
        pair.web.service(|port| {
            let mut rule = rule(&[("shop/reviews", old), ("shop/v2", new)]);
            backend(&mut rule, 1).policy = Some(session("policy", true));
            rule.session = own.then(|| v1::SessionPersistence {
                name: "own".into(),
                header: true,
                ..v1::SessionPersistence::default()
            });
            routed(port, rule);
        });
    };
    let mut client = pair.connect().await;
    shift(true, 0, 1);
    let response = client.get("/").await;
    assert!(response.head.get("own").is_some() && response.head.get("policy").is_none(), "{response:?}");
    shift(false, 0, 1);
    let response = client.get("/").await;
    let token = response.head.get("policy").unwrap().to_owned();
    let request = format!("GET / HTTP/1.1\r\nhost: reviews\r\npolicy: {token}\r\n\r\n");
    shift(false, 1, 0);
    let response = client.ask(&request).await;
    assert_eq!((response.text(), response.head.get("policy")), ("v2", None), "its backend's weight is zero now");
    let response = client.get("/").await;
    assert_eq!((response.text(), response.head.get("policy")), ("v1", None), "one without a policy keeps no sessions");
}
