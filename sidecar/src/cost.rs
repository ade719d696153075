//! What the hot decisions cost in instructions: nothing is asserted here. `make instructions` runs each of these under
//! callgrind, as it does `pair/cost.rs` (whole requests), and holds the figures against `bench/instructions.txt`.
//!
//! Each does its one thing [`times`] times: the difference between two runs is free of what comes before the first.

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, Method};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::balance::{BalancePolicy, Balancer, EndpointKey, EndpointSpec, Health, PickRequest, Reach, TryResult};
use crate::http::h1::HeadLimits;
use crate::http::h1::encode::{Connection, Framing, encode_response};
use crate::http::h1::head::read_request;
use crate::route::{
    Filters, KeyMatch, Match, PathMatch, RequestView, RouteTable, Rule, Target, ValueMatch, WeightedTarget,
    WeightedTargets,
};

/// As a browser sends it.
const HEAD: &[u8] = b"GET /reviews/1?full=true HTTP/1.1\r\nhost: reviews.shop.svc.cluster.local\r\n\
    user-agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
    accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\naccept-language: en-GB,en;q=0.5\r\n\
    accept-encoding: gzip, deflate, br\r\ncookie: session=5bf1fd927dfb8679496a2e6cf00cbe50c1c87145\r\n\
    x-request-id: 7a4b6f0e-1d5c-4b0e-9d63-3f6d9f1d2c11\r\nconnection: keep-alive\r\n\r\n";

/// How often each does what it measures: `WEFT_COST_REQUESTS`, or a few times.
pub(crate) fn times() -> usize {
    std::env::var("WEFT_COST_REQUESTS").ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

#[test]
fn reading_a_request_head() {
    let limits = HeadLimits::default();
    for _ in 0..times() {
        black_box(read_request(black_box(HEAD), &limits)).unwrap();
    }
}

#[test]
fn writing_a_response_head() {
    let (parts, ()) = http::Response::builder()
        .header("content-type", "application/json")
        .header("server", "app")
        .header("date", "Sat, 21 Nov 2026 12:00:00 GMT")
        .header("cache-control", "no-store")
        .body(())
        .unwrap()
        .into_parts();
    let mut written = BytesMut::with_capacity(4096);
    for _ in 0..times() {
        written.clear();
        encode_response(&mut written, black_box(&parts), &Method::GET, Framing::Length(512), Connection::KeepAlive);
        black_box(&written);
    }
}

/// A table whose rules split their requests in two.
fn table(entries: impl Iterator<Item = Match>) -> RouteTable<u32> {
    let share =
        |weight, backend| WeightedTarget { weight, target: Target::Backend(backend), filters: Filters::default() };
    let rule = |n: usize| Rule {
        route: "HTTPRoute/shop/reviews".into(),
        name: n.to_string().into(),
        filters: Filters::default(),
        targets: WeightedTargets::new(vec![share(90, 1), share(10, 2)]),
        request_timeout: None,
        backend_request_timeout: None,
        retry: None,
        session: None,
        rate_limits: Box::default(),
    };
    let entries: Vec<_> = entries.enumerate().map(|(n, entry)| (entry, n)).collect();
    let rules = (0..entries.len()).map(rule).collect();
    RouteTable::new(entries, rules).unwrap()
}

fn paths(count: usize) -> RouteTable<u32> {
    table(
        (0..count)
            .map(|n| Match::new(Some(PathMatch::Prefix(format!("/service-{n}/items"))), None, vec![], vec![]).unwrap()),
    )
}

/// Finds a rule, then its target, by weight.
fn finding(table: &RouteTable<u32>, path: &str, headers: &[(&'static str, &str)]) {
    let headers: HeaderMap =
        headers.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect();
    let mut rng = SmallRng::seed_from_u64(7);
    for _ in 0..times() {
        let request = RequestView { method: &Method::GET, path, query: None, headers: &headers };
        let rule = table.find(black_box(&request)).unwrap();
        black_box(rule.choose(&mut rng));
    }
}

/// The last of twenty rules, by its prefix.
#[test]
fn finding_a_rule_among_twenty() {
    finding(&paths(20), "/service-19/items/7", &[]);
}

/// What the next is held against.
#[test]
fn finding_the_only_rule() {
    finding(&paths(1), "/service-0/items/7", &[]);
}

#[test]
fn finding_a_rule_among_500() {
    finding(&paths(500), "/service-499/items/7", &[]);
}

/// The last of a hundred that look at nothing but a header, each at one of its own.
#[test]
fn finding_a_rule_by_one_of_100_headers() {
    let entry = |n: usize| {
        let header = KeyMatch { name: format!("x-canary-{n}"), value: ValueMatch::Exact("always".to_owned()) };
        Match::new(None, None, vec![header], vec![]).unwrap()
    };
    let sent = [("host", "reviews"), ("user-agent", "a"), ("accept", "*/*"), ("x-canary-99", "always")];
    finding(&table((0..100).map(entry)), "/", &sent);
}

/// The last of a hundred values of one header.
#[test]
fn finding_a_rule_by_one_of_100_values() {
    let entry = |n: usize| {
        let header = KeyMatch { name: "x-user".to_owned(), value: ValueMatch::Exact(format!("user-{n}")) };
        Match::new(None, None, vec![header], vec![]).unwrap()
    };
    let sent = [("host", "reviews"), ("user-agent", "a"), ("accept", "*/*"), ("x-user", "user-99")];
    finding(&table((0..100).map(entry)), "/", &sent);
}

#[test]
fn picking_one_of_ten_endpoints() {
    let spec = |id: u8| EndpointSpec {
        key: EndpointKey { addr: SocketAddr::from(([10, 0, 0, id], 8080)), reach: Reach::Plain },
        pod: format!("shop/reviews-{id}").into(),
        health: Health::Ready,
        weight: 1,
        zone: "".into(),
        node: "".into(),
        priority: 0,
        hints: None,
    };
    let balancer = Balancer::new(BalancePolicy::default());
    let now = Instant::now();
    balancer.update((1..=10).map(spec).collect(), now);
    let mut rng = SmallRng::seed_from_u64(7);
    for n in 0..times() {
        let at = now + Duration::from_millis(n as u64);
        let pick = balancer.pick(at, &mut rng, PickRequest::default()).unwrap();
        let _ = black_box(balancer.finish(pick, at, Duration::from_millis(1), TryResult::Success));
    }
}
