//! How long the largest tables take to compile: a whole service as it comes off the wire, with as many matches on one port
//! as there may be, each with a rule of its own that splits by weight.
//!
//! A time and no count of instructions: it is a time that is promised. So it is for optimized code alone, and the best of
//! some tries: `make instructions` runs it. Where this happens is said in `apply.rs`.

use std::time::{Duration, Instant};

use prost::Message;
use weft_proto::EndpointsName;

use super::*;
use crate::config::model::{Backend, BackendState, Policy, Protocol};

#[derive(Default)]
struct Backends(HashMap<EndpointsName, Arc<Backend>>);

impl Intern for Backends {
    fn intern(&mut self, name: EndpointsName, protocol: Protocol, policy: Policy) -> Arc<Backend> {
        let made = || Arc::new(Backend::new(name.clone(), protocol, policy.clone(), BackendState::new(&policy)));
        Arc::clone(self.0.entry(name.clone()).or_insert_with(made))
    }
}

/// A service with a rule for each of 10,000 paths.
pub(in crate::config) fn service(path: impl Fn(usize) -> v1::path_match::Kind) -> v1::Service {
    let share = |version: &str, of: usize, weight| v1::WeightedTarget {
        weight,
        target: Some(v1::weighted_target::Target::Backend(v1::Backend {
            service: format!("shop/reviews-{version}-{}", of % 100),
            port: 80,
            protocol: v1::Protocol::Http.into(),
            policy: None,
        })),
        filters: Vec::new(),
    };
    let rule = |n: usize| v1::RouteRule {
        route: format!("HTTPRoute/shop/reviews-{}", n / 16),
        rule: format!("{}", n % 16),
        targets: vec![share("v1", n, 90), share("v2", n, 10)],
        ..v1::RouteRule::default()
    };
    let entry = |n: usize| v1::RouteEntry {
        r#match: Some(v1::HttpMatch { path: Some(v1::PathMatch { kind: Some(path(n)) }), ..v1::HttpMatch::default() }),
        rule: u32::try_from(n).unwrap(),
    };
    v1::Service {
        namespace: "shop".into(),
        name: "reviews".into(),
        hosts: vec!["reviews.shop".into()],
        vips: vec!["10.96.0.1".into()],
        ports: vec![v1::ServicePort {
            port: 80,
            name: "http".into(),
            protocol: v1::Protocol::Http.into(),
            policy: None,
            routed: true,
            entries: (0..10_000).map(entry).collect(),
            rules: (0..10_000).map(rule).collect(),
            connections: None,
        }],
    }
}

/// As people write them.
pub(in crate::config) fn expression(n: usize) -> v1::path_match::Kind {
    v1::path_match::Kind::Regex(format!("/shop-{n}/v[0-9]+/(items|orders)/[^/]+(/.*)?"))
}

#[test]
#[ignore = "a time of optimized code: `make instructions` takes it"]
fn ten_thousand_rules_compile_in_time() {
    let prefix = |n| v1::path_match::Kind::Prefix(format!("/shop-{n}/items"));
    let rows = [
        ("10,000 path rules", Duration::from_millis(100), service(prefix)),
        ("10,000 expressions", Duration::from_secs(2), service(expression)),
    ];
    for (what, limit, service) in rows {
        let payload = service.encode_to_vec();
        let mut best = (Duration::MAX, Duration::MAX);
        for _ in 0..5 {
            let began = Instant::now();
            let service = v1::Service::decode(&*payload).unwrap();
            let compiled = compile_service(&service, "node", &mut Backends::default()).unwrap();
            let compiling = began.elapsed();
            // Likewise on the control thread: `retired.rs`.
            let began = Instant::now();
            drop(compiled);
            best = best.min((compiling, began.elapsed()));
        }
        let (compiling, dropping) = best;
        println!("{what}: compiled in {compiling:.1?} of {limit:?}, dropped in {dropping:.1?}");
        assert!(compiling <= limit, "{what}: {compiling:?}, and {limit:?} is what is promised");
    }
}
