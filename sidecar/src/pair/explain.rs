//! What `weft explain` is told is what then happens (ARCHITECTURE.md "What a user sees" 4): each explanation beside the
//! answer to the request itself.

use std::time::Duration;

use tokio::time::Instant;
use weft_proto::explain::{Explanation, Question};
use weft_proto::v1;

use super::wire::App;
use super::{Pair, REVIEWS, Sidecar, nobody, plain, routed, rule};
use crate::config::Kind;
use crate::identity::testing::TestCa;

async fn explain(web: &Sidecar, method: &str, url: &str, headers: &[(&str, &str)]) -> Result<Explanation, String> {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    web.outbound.explain(&Question { method: method.to_owned(), url: url.to_owned(), headers }).await
}

async fn of(web: &Sidecar, url: &str) -> Explanation {
    explain(web, "", url, &[]).await.unwrap()
}

fn prefix(prefix: &str, user: Option<&str>) -> v1::HttpMatch {
    let path = v1::PathMatch { kind: Some(v1::path_match::Kind::Prefix(prefix.into())) };
    let header =
        user.map(|user| v1::KeyMatch { name: "x-user".into(), kind: Some(v1::key_match::Kind::Exact(user.into())) });
    v1::HttpMatch { path: Some(path), headers: header.into_iter().collect(), ..v1::HttpMatch::default() }
}

fn header(name: &str, value: &str) -> v1::Filter {
    let set = vec![v1::Header { name: name.into(), value: value.into() }];
    let modifier = v1::HeaderModifier { set, ..v1::HeaderModifier::default() };
    v1::Filter { kind: Some(v1::filter::Kind::RequestHeaders(modifier)) }
}

/// Two rules: `/v2` for user `a` to v2 and v3, and of everybody else to reviews.
fn two_rules(port: &mut v1::ServicePort) {
    let mut first = rule(&[("shop/v2", 9), ("shop/v3", 1)]);
    first.filters = vec![header("x-by", "rule")];
    first.targets[1].filters = vec![header("x-by", "v3")];
    first.request_timeout = Some(v1::Millis { value: 3000 });
    let second = v1::RouteRule { rule: "other".into(), ..rule(&[("shop/reviews", 1)]) };
    port.routed = true;
    port.rules = vec![first, second];
    let entry = |wanted, rule| v1::RouteEntry { r#match: Some(wanted), rule };
    port.entries = vec![entry(prefix("/v2", Some("a")), 0), entry(prefix("/v2", None), 1)];
}

#[tokio::test]
async fn the_rule_that_is_told_is_the_rule_that_acts() {
    let pair = Pair::new(App::says("").await).await;
    pair.web.service(two_rules);
    let told = explain(&pair.web, "", "http://reviews/v2?q=1", &[("x-user", "a")]).await.unwrap();
    let rule = told.rule.as_ref().unwrap();
    assert_eq!((&*rule.route, &*rule.rule, rule.precedence), ("HTTPRoute/shop/reviews", "0", (1, 2)));
    assert_eq!(rule.matched, "path /v2…, header x-user = a");
    assert_eq!(
        (&*rule.filters, &*rule.changes),
        (&["request headers: x-by".into()][..], &["x-by: none → rule".into()][..])
    );
    assert_eq!(rule.says, ["request timeout 3s"]);
    let shares: Vec<_> =
        told.backends.iter().map(|share| (&*share.name, share.percent, share.changes.join("; "))).collect();
    assert_eq!(shares, [("shop/v2:80", 90.0, String::new()), ("shop/v3:80", 10.0, "x-by: rule → v3".to_owned())]);
    assert_eq!(
        (&*told.destination.kind, &*told.destination.name, told.destination.routed),
        ("service", "shop/reviews", true)
    );
    assert_eq!((&*told.request.address, &*told.destination.by), ("10.96.0.1:80", "address 10.96.0.1"));
    assert!(told.policy.allowed, "{}", told.policy.why);

    let told = of(&pair.web, "http://reviews/v2").await;
    assert_eq!((&*told.rule.as_ref().unwrap().rule, told.rule.as_ref().unwrap().precedence), ("other", (2, 2)));
    let endpoint = &told.backends[0].endpoints[0];
    assert!(endpoint.candidate && endpoint.health == "ready", "{endpoint:?}");
    assert_eq!(endpoint.identity.as_deref(), Some(&*pair.reviews.identity));
    assert_eq!(pair.connect().await.get("/v2").await.head.status(), 200);

    let told = of(&pair.web, "http://reviews/else").await;
    let answer = told.answer.unwrap();
    assert_eq!((&*answer.reason, answer.status, told.rule, told.backends.len()), ("no-route", 404, None, 0));
    let response = pair.connect().await.get("/else").await;
    assert_eq!((response.head.status(), response.head.get("x-weft-reason")), (404, Some("no-route")));
    let told = of(&pair.web, "grpc://reviews/pkg.Svc/Call").await;
    assert_eq!(told.answer.unwrap().grpc_status, Some(12), "UNIMPLEMENTED");
}

#[tokio::test]
async fn nothing_is_sent_and_a_name_never_asked_for_is_asked_for() {
    let pair = Pair::new(App::says("").await).await;
    assert!(pair.web.config.known_destination("10.96.0.1:80".parse().unwrap(), std::time::Instant::now()).is_none());
    let told = of(&pair.web, "http://reviews/").await;
    assert_eq!(
        (told.backends.len(), &*told.backends[0].name, told.rule),
        (1, REVIEWS, None),
        "no route: plain balancing"
    );
    assert_eq!(told.backends[0].retries, "at most 2");
    assert_eq!((pair.app.connections(), pair.web.metric("weft_requests_total", "")), (0, 0));
    assert_eq!(told.backends[0].endpoints[0].in_flight, 0);
}

#[tokio::test]
async fn what_a_filter_answers_is_told_as_it_is_answered() {
    let pair = Pair::new(App::says("").await).await;
    pair.web.service(|port| {
        let redirect = v1::Redirect { hostname: "other".into(), status: 302, ..v1::Redirect::default() };
        let filters = vec![v1::Filter { kind: Some(v1::filter::Kind::Redirect(redirect)) }];
        routed(port, v1::RouteRule { filters, ..rule(&[]) });
    });
    let told = of(&pair.web, "http://reviews/x").await;
    let answer = told.answer.unwrap();
    assert_eq!((&*answer.reason, answer.status, answer.grpc_status), ("redirect", 302, None));
    assert!(answer.detail.contains("http://other/x"), "{}", answer.detail);
    assert_eq!(pair.connect().await.get("/x").await.head.status(), 302);
    assert_eq!(told.rule.unwrap().filters.len(), 1);

    pair.web.service(|port| {
        let path = v1::PathModifier { kind: Some(v1::path_modifier::Kind::Full("/new".into())) };
        let rewrite = v1::UrlRewrite { hostname: "other".into(), path: Some(path) };
        let filters = vec![v1::Filter { kind: Some(v1::filter::Kind::UrlRewrite(rewrite)) }];
        routed(port, v1::RouteRule { filters, ..rule(&[("shop/reviews", 1)]) });
    });
    let told = of(&pair.web, "http://reviews/x").await;
    assert_eq!(told.rule.unwrap().changes, ["path: /x → /new", "host: reviews → other"]);
}

#[tokio::test]
async fn a_session_is_told_where_it_stays() {
    let pair = Pair::new(App::says("").await).await;
    pair.web.service(|port| {
        let session =
            v1::SessionPersistence { name: "sid".into(), path: "/".into(), ..v1::SessionPersistence::default() };
        routed(port, v1::RouteRule { session: Some(session), ..rule(&[("shop/reviews", 0), ("shop/v2", 1)]) });
    });
    assert_eq!(of(&pair.web, "http://reviews/").await.backends[0].name, "shop/v2:80", "without one, by weight");
    let at = pair.web.config.backends().iter().find(|it| *it.label == *REVIEWS).unwrap().balancer.endpoints()[0].addr();
    let mut headers = http::HeaderMap::new();
    let session = crate::route::Session::cookie("sid", "/", None, false).unwrap();
    session.write(crate::route::Token::new(REVIEWS, at, 0), &mut headers);
    let cookie = headers["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let told = explain(&pair.web, "", "http://reviews/", &[("cookie", &cookie)]).await.unwrap();
    assert_eq!((told.backends.len(), &*told.backends[0].name), (1, REVIEWS), "although its weight is zero");
    assert!(told.notes.iter().any(|note| note.contains(&at.to_string())), "{:?}", told.notes);
    assert_eq!(told.rule.unwrap().says, ["sessions by cookie sid"]);
}

#[tokio::test]
async fn endpoints_say_why_none_can_answer() {
    let pair = Pair::new(App::says("").await).await;
    let draining = v1::Endpoint { health: v1::Health::Draining.into(), ..plain(nobody()) };
    let not_ready =
        v1::Endpoint { health: v1::Health::NotReady.into(), address: "127.0.0.8".into(), ..plain(nobody()) };
    for (row, endpoints, candidates, answer) in [
        ("none", vec![], vec![], Some(503)),
        ("one that is not ready", vec![not_ready.clone()], vec![("notready", false)], Some(503)),
        ("draining, and nothing else", vec![draining.clone()], vec![("draining", true)], None),
        (
            "draining beside another",
            vec![draining, plain(pair.app.addr)],
            vec![("draining", false), ("ready", true)],
            None,
        ),
    ] {
        pair.web.endpoints(REVIEWS, &endpoints);
        let told = of(&pair.web, "http://reviews/").await;
        let share = &told.backends[0];
        let mut found: Vec<_> = share.endpoints.iter().map(|it| (&*it.health, it.candidate)).collect();
        found.sort_unstable();
        assert_eq!(found, candidates, "{row}");
        assert_eq!(share.answer.as_ref().map(|answer| answer.status), answer, "{row}");
        assert!(share.endpoints.iter().all(|it| it.identity.is_none()), "{row}");
    }
}

#[tokio::test]
async fn what_is_no_service_is_told_by_policy() {
    let pair = Pair::new(App::says("").await).await;
    let told = of(&pair.web, "http://192.0.2.1/").await;
    assert_eq!((&*told.destination.kind, told.policy.allowed), ("outside", true));
    let told = of(&pair.web, "http://reviews:81/").await;
    let answer = told.answer.unwrap();
    assert_eq!((&*answer.reason, told.policy.allowed), ("no-port", false));
    assert!(answer.detail.ends_with("it has 80"), "{}", answer.detail);
    let told = of(&pair.web, "https://reviews:80/").await;
    assert!(told.notes.iter().any(|note| note.contains("opaque bytes")) && told.rule.is_none(), "{told:?}");
    let settings = v1::MeshSettings {
        outbound_policy: v1::OutboundPolicy::RegistryOnly.into(),
        cluster_cidrs: vec!["10.0.0.0/8".into()],
        known_hosts: vec!["db.example.com".into()],
        ..v1::MeshSettings::default()
    };
    pair.web.set(Kind::MeshSettings, "mesh", &[], &settings);
    let told = of(&pair.web, "http://192.0.2.1/").await;
    assert_eq!((told.answer.unwrap().reason.as_str(), told.policy.allowed), ("registry-only", false));
    let service = v1::Service {
        namespace: "shop".into(),
        name: "db".into(),
        hosts: vec!["db.example.com".into()],
        ports: vec![v1::ServicePort { port: 80, ..v1::ServicePort::default() }],
        ..v1::Service::default()
    };
    pair.web.set(Kind::Service, "shop/db", &["db.example.com"], &service);
    pair.web.endpoints("shop/db:80", &[plain(nobody())]);
    let told = explain(&pair.web, "", "http://192.0.2.1/", &[("host", "db.example.com")]).await.unwrap();
    assert_eq!((&*told.destination.name, &*told.destination.by), ("shop/db", "host db.example.com"));
    assert!(told.policy.allowed);
    let unknown = explain(&pair.web, "", "http://nowhere/", &[]).await.unwrap_err();
    assert!(unknown.contains("NAME.NAMESPACE"), "{unknown}");
}

#[tokio::test]
async fn a_call_needs_no_port_where_there_is_only_one() {
    let web = Sidecar::new(&TestCa::new("weft.local"), "web");
    web.service(|port| port.port = 9090);
    web.endpoints("shop/reviews:9090", &[plain(nobody())]);
    let told = of(&web, "grpc://reviews/pkg.Svc/Call").await;
    assert_eq!(
        (told.destination.port, &*told.request.address, &*told.request.protocol),
        (9090, "10.96.0.1:9090", "gRPC")
    );
    assert_eq!(of(&web, "http://reviews/").await.answer.unwrap().reason, "no-port", "as HTTP has it: port 80");
}

#[tokio::test(start_paused = true)]
async fn without_a_control_plane_it_says_so_within_a_second() {
    let web = Sidecar::alone(&TestCa::new("weft.local"), "web");
    let began = Instant::now();
    let told = of(&web, "http://reviews/").await;
    assert_eq!((&*told.answer.unwrap().reason, told.policy.allowed), ("config-unavailable", false));
    assert!(began.elapsed() <= Duration::from_millis(1_001), "{:?}", began.elapsed());
}
