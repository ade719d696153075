//! One row per way a resource can be wrong, and what a good one becomes.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use http::{HeaderMap, Method};
use rand::SeedableRng;
use rand::rngs::StdRng;
use weft_proto::EndpointsName;
use weft_proto::v1::filter::Kind;

use super::*;
use crate::balance::{BalancePolicy, Health, Hints, OutlierPolicy, Reach};
use crate::config::model::{Backend, BackendState, Policy, Protocol};
use crate::resilience::RetryPolicy;
use crate::route::{After, RequestView, Target};

#[derive(Default)]
struct Backends(BTreeMap<String, Arc<Backend>>);

impl Intern for Backends {
    fn intern(&mut self, name: EndpointsName, protocol: Protocol, policy: Policy) -> Arc<Backend> {
        let made = || Arc::new(Backend::new(name.clone(), protocol, policy.clone(), BackendState::new(&policy)));
        Arc::clone(self.0.entry(name.to_string()).or_insert_with(made))
    }
}

fn service() -> v1::Service {
    let backend = |name: &str, weight| v1::WeightedTarget {
        weight,
        target: Some(v1::weighted_target::Target::Backend(v1::Backend {
            service: format!("shop/{name}"),
            port: 80,
            protocol: v1::Protocol::Http.into(),
            policy: None,
        })),
        filters: vec![modifier("x-target", name)],
    };
    let rule = v1::RouteRule {
        route: "HTTPRoute/shop/reviews".into(),
        rule: "canary".into(),
        filters: vec![modifier("x-rule", "canary")],
        targets: vec![backend("v1", 90), backend("v2", 10), backend("v3", 0)],
        request_timeout: Some(v1::Millis { value: 1500 }),
        backend_request_timeout: Some(v1::Millis { value: 0 }),
        retry: Some(v1::RetryPolicy {
            max_retries: 1,
            status_codes: vec![503],
            backoff: Some(v1::Millis { value: 20 }),
            any_method: true,
        }),
        session: Some(v1::SessionPersistence { name: "s".into(), path: "/".into(), ..Default::default() }),
        rate_limits: vec![v1::RateLimit {
            name: "shop/often".into(),
            requests: 10,
            per: Some(v1::Millis { value: 1_000 }),
            burst: 2,
            ..v1::RateLimit::default()
        }],
    };
    let path = v1::PathMatch { kind: Some(v1::path_match::Kind::Prefix("/api".into())) };
    let header = v1::KeyMatch { name: "X-Env".into(), kind: Some(v1::key_match::Kind::Regex("dev|qa".into())) };
    let query = v1::KeyMatch { name: "q".into(), kind: Some(v1::key_match::Kind::Exact("1".into())) };
    let first =
        v1::HttpMatch { path: Some(path), method: "GET".into(), headers: vec![header], query_params: vec![query] };
    let port = v1::ServicePort {
        port: 80,
        name: "http".into(),
        protocol: v1::Protocol::Http.into(),
        policy: Some(policy_resource()),
        routed: true,
        entries: vec![v1::RouteEntry { r#match: Some(first), rule: 0 }],
        rules: vec![rule],
        connections: None,
    };
    v1::Service {
        namespace: "shop".into(),
        name: "reviews".into(),
        hosts: vec!["Reviews.shop".into()],
        vips: vec!["10.96.0.1".into(), "::ffff:10.96.0.2".into()],
        ports: vec![port],
    }
}

fn modifier(name: &str, value: &str) -> v1::Filter {
    let set = vec![v1::Header { name: name.into(), value: value.into() }];
    let modifier = v1::HeaderModifier { set, ..v1::HeaderModifier::default() };
    v1::Filter { kind: Some(v1::filter::Kind::RequestHeaders(modifier)) }
}

fn policy_resource() -> v1::BackendPolicy {
    v1::BackendPolicy {
        limits: Some(Box::new(v1::Limits { max_connections: 10, ..v1::Limits::default() })),
        outlier_detection: Some(v1::OutlierDetection {
            consecutive_failures: 3,
            base_ejection: Some(v1::Millis { value: 2000 }),
            ..v1::OutlierDetection::default()
        }),
        retry: None,
        connect_timeout: Some(v1::Millis { value: 700 }),
        http_idle_timeout: Some(v1::Millis { value: 800 }),
        tcp_idle_timeout: Some(v1::Millis { value: 900 }),
        client_ip_affinity_seconds: 60,
        publish_not_ready: true,
        node_local: true,
        retry_budget: Some(Box::new(v1::RetryBudget {
            percent: 25,
            interval: Some(v1::Millis { value: 20_000 }),
            min_count: 3,
            min_interval: Some(v1::Millis { value: 500 }),
        })),
        session: Some(Box::new(v1::SessionPersistence { name: "b".into(), ..Default::default() })),
        ..v1::BackendPolicy::default()
    }
}

fn compiled(service: &v1::Service) -> Result<Service, CompileError> {
    compile_service(service, "node-1", &mut Backends::default())
}

#[test]
fn a_service_becomes_tables() {
    let service = compiled(&service()).unwrap();
    assert_eq!(service.name.to_string(), "shop/reviews");
    assert_eq!(service.hosts, ["reviews.shop".into()]);
    assert_eq!(service.vips, ["10.96.0.1", "10.96.0.2"].map(|vip| vip.parse::<IpAddr>().unwrap()));
    let port = &service.ports[&80];
    let backend = &port.backend;
    assert_eq!((backend.name.to_string().as_str(), backend.protocol), ("shop/reviews:80", Protocol::Http));
    assert_eq!(backend.connect_timeout, Duration::from_millis(700));
    assert_eq!(backend.idle.http, Some(Duration::from_millis(800)));
    assert_eq!(backend.idle.tcp, Some(Duration::from_millis(900)));
    let mut hasty = self::service();
    hasty.ports[0].policy.as_mut().unwrap().http_idle_timeout = Some(v1::Millis { value: 1 });
    let hasty = compiled(&hasty).unwrap();
    assert_eq!(hasty.ports[&80].backend.idle.http, Some(Duration::from_millis(100)), "no less");
    assert_eq!(backend.limits.limits().max_connections, NonZeroU32::new(10));
    assert_eq!(backend.limits.limits().max_requests, None, "zero is no limit");
    assert_eq!(backend.retry, RetryPolicy::default(), "absent is the safe default");
    let balance = BalancePolicy {
        outlier: OutlierPolicy {
            consecutive_failures: NonZeroU32::new(3),
            base: Duration::from_secs(2),
            ..OutlierPolicy::default()
        },
        publish_not_ready: true,
        only_node: Some("node-1".into()),
        client_ip_affinity: Some(Duration::from_secs(60)),
        ..BalancePolicy::default()
    };
    assert_eq!(backend.balance, balance);
    let budget = backend.budget.recent().map(ToString::to_string);
    assert_eq!(budget.as_deref(), Some("25 % of the requests of 20s, at least 3 in 500ms"));
    assert_eq!(backend.session.as_ref().map(ToString::to_string).as_deref(), Some("sessions by cookie b"));
    let routed: Vec<String> = port.backends().map(|backend| backend.name.to_string()).collect();
    assert_eq!(routed, ["shop/reviews:80", "shop/v1:80", "shop/v2:80", "shop/v3:80"], "a weight of zero too");
}

#[test]
fn a_rule_is_found_and_shared_as_the_resource_says() {
    let service = compiled(&service()).unwrap();
    let table = service.ports[&80].routes.as_ref().unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("x-env", "qa".parse().unwrap());
    let get = |path, query, headers| table.find(&RequestView { method: &Method::GET, path, query, headers });
    assert!(get("/other", Some("q=1"), &headers).is_none());
    assert!(get("/api/x", None, &headers).is_none());
    let rule = get("/api/x", Some("q=1"), &headers).unwrap();
    assert_eq!((&*rule.route, &*rule.name), ("HTTPRoute/shop/reviews", "canary"));
    assert_eq!(rule.request_timeout, Some(Duration::from_millis(1500)));
    assert_eq!(rule.backend_request_timeout, None, "zero is off");
    let retry = rule.retry.as_ref().unwrap();
    assert_eq!((retry.max_retries, retry.status_codes.len()), (Some(1), 1));
    assert_eq!((retry.backoff, retry.any_method), (Some(Duration::from_millis(20)), true));
    assert!(rule.session.is_some());
    let limits: Vec<_> = rule.rate_limits.iter().map(ToString::to_string).collect();
    assert_eq!(limits, ["shop/often: 10 in 1s, 2 at once of all clients together, 0 known"]);
    assert_eq!(service.ports[&80].rules[0].rate_limits, *rule.rate_limits);
    let mut rng = StdRng::seed_from_u64(7);
    let (mut sent, ()) = http::Request::new(()).into_parts();
    rule.filters.apply_request(&mut sent, &mut rng, &mut After::default()).unwrap();
    assert_eq!(sent.headers["x-rule"], "canary");
    let mut shares: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..1000 {
        let (Target::Backend(backend), filters) = rule.choose(&mut rng) else { panic!("an answer") };
        filters.apply_request(&mut sent, &mut StdRng::seed_from_u64(7), &mut After::default()).unwrap();
        assert_eq!(sent.headers["x-target"], backend.name.service.name.as_str());
        *shares.entry(backend.name.to_string()).or_default() += 1;
    }
    assert!(shares.len() == 2 && (95..=105).contains(&shares["shop/v2:80"]), "{shares:?}");
}

#[test]
fn an_invalid_backend_ref_keeps_its_share_as_an_answer() {
    let mut wire = service();
    let answer = v1::FixedAnswer { status: 500, detail: "Service shop/gone not found".into() };
    wire.ports[0].rules[0].targets = vec![v1::WeightedTarget {
        weight: 1,
        target: Some(v1::weighted_target::Target::Answer(answer)),
        filters: Vec::new(),
    }];
    let service = compiled(&wire).unwrap();
    let rule = &service.ports[&80].routes.as_ref().unwrap().rules()[0];
    let (target, _) = rule.choose(&mut StdRng::seed_from_u64(1));
    assert!(matches!(target, Target::Answer(answer) if answer.status == 500), "{target:?}");
}

#[test]
fn who_gets_copies_is_a_backend_like_any_other_and_filters_can_be_read() {
    let mut wire = service();
    let mirror = |name: &str| {
        let backend = v1::Backend { service: format!("shop/{name}"), port: 80, ..v1::Backend::default() };
        v1::Filter { kind: Some(Kind::Mirror(v1::Mirror { backend: Some(backend), numerator: 1, denominator: 10 })) }
    };
    let rule = &mut wire.ports[0].rules[0];
    rule.filters.push(mirror("m1"));
    let fixed = Some(v1::Millis { value: 1500 });
    let fault = v1::Fault {
        name: "shop/slow".into(),
        delay: Some(v1::FaultDelay { fixed, numerator: 1, denominator: 100 }),
        abort: Some(v1::FaultAbort { http_status: 503, grpc_status: 14, numerator: 1, denominator: 1000 }),
    };
    rule.filters.push(v1::Filter { kind: Some(Kind::Fault(fault)) });
    rule.targets[2].filters = vec![mirror("m2"), mirror("v1")];
    let service = compiled(&wire).unwrap();
    let port = &service.ports[&80];
    let routed: Vec<String> = port.backends().map(|backend| backend.name.to_string()).collect();
    let all = ["shop/reviews:80", "shop/m1:80", "shop/v1:80", "shop/v2:80", "shop/m2:80", "shop/v3:80"];
    assert_eq!(routed, all, "they are subscribed to");
    let fault = "FaultInjection shop/slow: 1 of 100 wait 1500 ms, 1 of 1000 are answered 503 (gRPC 14)";
    assert_eq!(port.rules[0].filters, ["request headers: x-rule", "mirror 1 of 10 to shop/m1:80", fault]);
    let target = "0: shop/v3:80; mirror 1 of 10 to shop/m2:80; mirror 1 of 10 to shop/v1:80";
    assert_eq!(port.rules[0].targets[2].to_string(), target);
}

/// Every refusal names the field.
#[test]
fn what_is_wrong_with_a_service_is_named() {
    type Break = fn(&mut v1::Service);
    fn backend(service: &mut v1::Service) -> &mut v1::Backend {
        match &mut service.ports[0].rules[0].targets[1].target {
            Some(v1::weighted_target::Target::Backend(backend)) => backend,
            other => panic!("{other:?}"),
        }
    }
    fn policy(service: &mut v1::Service) -> &mut v1::BackendPolicy {
        service.ports[0].policy.as_mut().unwrap()
    }
    fn budget(service: &mut v1::Service) -> &mut v1::RetryBudget {
        policy(service).retry_budget.as_mut().unwrap()
    }
    fn backend_session(service: &mut v1::Service) -> &mut v1::SessionPersistence {
        policy(service).session.as_mut().unwrap()
    }
    fn outlier(service: &mut v1::Service) -> &mut v1::OutlierDetection {
        policy(service).outlier_detection.as_mut().unwrap()
    }
    fn matched(service: &mut v1::Service) -> &mut v1::HttpMatch {
        service.ports[0].entries[0].r#match.as_mut().unwrap()
    }
    fn rule(service: &mut v1::Service) -> &mut v1::RouteRule {
        &mut service.ports[0].rules[0]
    }
    fn put(service: &mut v1::Service, kind: Kind) {
        rule(service).filters[0].kind = Some(kind);
    }
    fn redirect(service: &mut v1::Service) -> &mut v1::Redirect {
        put(service, Kind::Redirect(v1::Redirect { status: 302, ..v1::Redirect::default() }));
        match &mut rule(service).filters[0].kind {
            Some(Kind::Redirect(redirect)) => redirect,
            other => panic!("{other:?}"),
        }
    }
    fn delayed(service: &mut v1::Service) -> &mut v1::FaultDelay {
        let fixed = Some(v1::Millis { value: 1 });
        let delay = v1::FaultDelay { fixed, numerator: 1, denominator: 1 };
        put(service, Kind::Fault(v1::Fault { delay: Some(delay), ..v1::Fault::default() }));
        match &mut rule(service).filters[0].kind {
            Some(Kind::Fault(fault)) => fault.delay.as_mut().unwrap(),
            other => panic!("{other:?}"),
        }
    }
    fn aborted(service: &mut v1::Service) -> &mut v1::FaultAbort {
        let abort = v1::FaultAbort { http_status: 200, grpc_status: 1, numerator: 1, denominator: 1 };
        put(service, Kind::Fault(v1::Fault { abort: Some(abort), ..v1::Fault::default() }));
        match &mut rule(service).filters[0].kind {
            Some(Kind::Fault(fault)) => fault.abort.as_mut().unwrap(),
            other => panic!("{other:?}"),
        }
    }
    fn session(service: &mut v1::Service) -> &mut v1::SessionPersistence {
        rule(service).session.as_mut().unwrap()
    }
    let rows: &[(Break, &str)] = &[
        (|s| session(s).name = "a b".into(), "ports[0].rules[0].session: \"a b\" is not the name"),
        (|s| session(s).path.clear(), "ports[0].rules[0].session: \"\" is not a cookie's path"),
        (|s| session(s).permanent = true, "ports[0].rules[0].session: a permanent cookie needs"),
        (
            |s| session(s).absolute_timeout = Some(v1::Millis { value: 0 }),
            "ports[0].rules[0].session.absolute_timeout: zero",
        ),
        (|s| rule(s).rate_limits[0].burst = 0, "ports[0].rules[0].rate_limits[0]: 10 requests in 1s, 0 at once"),
        (|s| rule(s).rate_limits[0].key = 9, "ports[0].rules[0].rate_limits[0].key: not known to this version"),
        (|s| budget(s).percent = 101, "ports[0].policy.retry_budget: 101 is more than 100 percent"),
        (|s| budget(s).interval = None, "ports[0].policy.retry_budget: an interval of 0ns"),
        (|s| budget(s).interval = Some(v1::Millis { value: 0 }), "ports[0].policy.retry_budget.interval: zero"),
        (|s| budget(s).min_count = 0, "ports[0].policy.retry_budget: 0 retries in 500ms"),
        (|s| budget(s).min_interval = None, "ports[0].policy.retry_budget: 3 retries in 0ns"),
        (|s| backend_session(s).name = "a b".into(), "ports[0].policy.session: \"a b\" is not the name"),
        (|s| backend_session(s).path = "a".into(), "ports[0].policy.session: \"a\" is not a cookie's path"),
        (|s| backend_session(s).permanent = true, "ports[0].policy.session: a permanent cookie needs"),
        (|s| s.namespace.clear(), "name: "),
        (|s| s.vips[1] = "10.96.0".into(), "vips[1]: "),
        (|s| s.ports[0].port = 0, "ports[0].port: 0 is not a port"),
        (|s| s.ports[0].port = 65536, "ports[0].port: 65536 is not a port"),
        (|s| s.ports.push(s.ports[0].clone()), "ports[1].port: the port is listed twice"),
        (|s| s.ports[0].protocol = 9, "ports[0].protocol: 9 is not known to this version"),
        (|s| s.ports[0].routed = false, "ports[0].routed: there are rules although"),
        (|s| s.ports[0].entries[0].rule = 7, "ports[0].entries[0].rule: there is no rule 7, only 1"),
        (|s| policy(s).connect_timeout = Some(v1::Millis { value: 0 }), "ports[0].policy.connect_timeout: zero"),
        (|s| policy(s).http_idle_timeout = Some(v1::Millis { value: 0 }), "ports[0].policy.http_idle_timeout: zero"),
        (|s| policy(s).tcp_idle_timeout = Some(v1::Millis { value: 0 }), "ports[0].policy.tcp_idle_timeout: zero"),
        (
            |s| policy(s).connect_timeout = Some(v1::Millis { value: u64::MAX }),
            "ports[0].policy.connect_timeout: longer than a year",
        ),
        (
            |s| policy(s).retry = Some(v1::RetryPolicy { status_codes: vec![200, 99], ..v1::RetryPolicy::default() }),
            "ports[0].policy.retry.status_codes[1]: 99 is not an HTTP status",
        ),
        (
            |s| outlier(s).max_ejection = Some(v1::Millis { value: 10 }),
            "ports[0].policy.outlier_detection.max_ejection: shorter than base_ejection",
        ),
        (
            |s| outlier(s).max_ejection_percent = 101,
            "ports[0].policy.outlier_detection.max_ejection_percent: more than 100 %",
        ),
        (
            |s| outlier(s).base_ejection = Some(v1::Millis { value: 0 }),
            "ports[0].policy.outlier_detection.base_ejection",
        ),
        (|s| backend(s).service = "reviews".into(), "ports[0].rules[0].targets[1].backend.service: "),
        (|s| backend(s).port = 0, "ports[0].rules[0].targets[1].backend.port: 0 is not a port"),
        (|s| backend(s).protocol = -1, "ports[0].rules[0].targets[1].backend.protocol: -1 is not known"),
        (|s| rule(s).targets[2].target = None, "ports[0].rules[0].targets[2].target: neither a backend nor an answer"),
        (
            |s| {
                let answer = v1::FixedAnswer { status: 200, detail: String::new() };
                rule(s).targets[0].target = Some(v1::weighted_target::Target::Answer(answer));
            },
            "ports[0].rules[0].targets[0].answer.status: 200 is not an HTTP error status",
        ),
        (
            |s| rule(s).request_timeout = Some(v1::Millis { value: u64::MAX }),
            "ports[0].rules[0].request_timeout: longer than a year",
        ),
        (
            |s| rule(s).retry.as_mut().unwrap().status_codes = vec![0],
            "ports[0].rules[0].retry.status_codes[0]: 0 is not an HTTP status",
        ),
        (|s| rule(s).filters[0].kind = None, "ports[0].rules[0].filters[0]: a filter that this version"),
        (|s| rule(s).filters[0] = modifier("bad name", "x"), "ports[0].rules[0].filters[0].request_headers: "),
        (|s| rule(s).filters[0] = modifier("x-a", "a\nb"), "ports[0].rules[0].filters[0].request_headers: "),
        (|s| rule(s).targets[0].filters[0].kind = None, "ports[0].rules[0].targets[0].filters[0]: "),
        (|s| redirect(s).status = 300, "ports[0].rules[0].filters[0].redirect: 300 is not 301"),
        (|s| redirect(s).scheme = "ftp".into(), "ports[0].rules[0].filters[0].redirect: \"ftp\" is neither"),
        (|s| redirect(s).port = 70_000, "ports[0].rules[0].filters[0].redirect.port: 70000 is not a port"),
        (
            |s| redirect(s).path = Some(v1::PathModifier { kind: None }),
            "ports[0].rules[0].filters[0].redirect.path: a kind this version",
        ),
        (|s| delayed(s).fixed = None, "ports[0].rules[0].filters[0].fault.delay.fixed: there is none"),
        (|s| delayed(s).fixed = Some(v1::Millis { value: 0 }), "ports[0].rules[0].filters[0].fault.delay.fixed: zero"),
        (|s| delayed(s).numerator = 2, "ports[0].rules[0].filters[0].fault.delay: 2 of 1"),
        (|s| aborted(s).denominator = 0, "ports[0].rules[0].filters[0].fault.abort: 1 of 0"),
        (|s| aborted(s).http_status = 199, "ports[0].rules[0].filters[0].fault.abort.http_status: 199 is no status"),
        (|s| aborted(s).http_status = 600, "ports[0].rules[0].filters[0].fault.abort.http_status: 600 is no status"),
        (|s| aborted(s).grpc_status = 0, "ports[0].rules[0].filters[0].fault.abort.grpc_status: 0 is no status"),
        (|s| aborted(s).grpc_status = 17, "ports[0].rules[0].filters[0].fault.abort.grpc_status: 17 is no status"),
        (
            |s| put(s, Kind::UrlRewrite(v1::UrlRewrite { hostname: "a b".into(), path: None })),
            "ports[0].rules[0].filters[0].url_rewrite.hostname: \"a b\" is not",
        ),
        (
            |s| {
                let path = Some(v1::PathModifier { kind: Some(v1::path_modifier::Kind::Full("a".into())) });
                put(s, Kind::UrlRewrite(v1::UrlRewrite { hostname: String::new(), path }));
            },
            "ports[0].rules[0].filters[0].url_rewrite.path: path \"a\"",
        ),
        (
            |s| put(s, Kind::Mirror(v1::Mirror { backend: None, numerator: 1, denominator: 1 })),
            "ports[0].rules[0].filters[0].mirror.backend: there is none",
        ),
        (
            |s| {
                let mirrored = v1::Backend { service: "shop/m".into(), port: 80, ..v1::Backend::default() };
                put(s, Kind::Mirror(v1::Mirror { backend: Some(mirrored), numerator: 2, denominator: 1 }));
            },
            "ports[0].rules[0].filters[0].mirror: 2 of 1",
        ),
        (
            |s| put(s, Kind::Cors(v1::Cors { allow_origins: vec!["a".into()], ..v1::Cors::default() })),
            "ports[0].rules[0].filters[0].cors: \"a\": an origin is",
        ),
        (|s| matched(s).method = "GE T".into(), "ports[0].entries[0].match.method: "),
        (
            |s| matched(s).path = Some(v1::PathMatch { kind: None }),
            "ports[0].entries[0].match.path: a kind this version",
        ),
        (
            |s| matched(s).path = Some(v1::PathMatch { kind: Some(v1::path_match::Kind::Regex("(".into())) }),
            "ports[0].entries[0].match: regular expression",
        ),
        (|s| matched(s).headers[0].name = "a b".into(), "ports[0].entries[0].match: "),
        (|s| matched(s).headers[0].kind = None, "ports[0].entries[0].match.headers[0]: a kind this version"),
        (|s| matched(s).query_params[0].name.clear(), "ports[0].entries[0].match: "),
    ];
    compiled(&service()).unwrap();
    for (break_it, expected) in rows {
        let mut wire = service();
        break_it(&mut wire);
        let error = compiled(&wire).map(|_| ()).expect_err(expected).to_string();
        assert!(error.starts_with(expected), "{expected}\n  {error}");
    }
}

fn endpoint(address: &str) -> v1::Endpoint {
    v1::Endpoint {
        address: address.into(),
        port: 8080,
        identity: "spiffe://weft.local/ns/shop/sa/reviews".into(),
        mesh_tls: true,
        ..v1::Endpoint::default()
    }
}

#[test]
fn endpoints_become_specs() {
    let plain = v1::Endpoint {
        mesh_tls: false,
        weight: 5,
        priority: 2,
        health: v1::Health::Draining.into(),
        hint_zones: vec!["a".into(), "b".into()],
        hint_nodes: vec!["n".into()],
        ..endpoint("fd00::7")
    };
    let named = v1::Endpoint { address: "DB.example.com.".into(), identity: String::new(), ..plain.clone() };
    let wire = v1::Endpoints { endpoints: vec![endpoint("::ffff:10.1.0.7"), plain, named] };
    let compiled = compile_endpoints(&wire).unwrap();
    let [meshed, plain] = &compiled.endpoints[..] else { panic!("{compiled:?}") };
    assert_eq!(meshed.key.addr, "10.1.0.7:8080".parse().unwrap());
    assert!(matches!(&meshed.key.reach, Reach::Mesh(id) if id.service_account() == "reviews"));
    assert_eq!((meshed.weight, meshed.health), (1, Health::Ready), "a weight of zero counts as one");
    assert_eq!((&plain.key.reach, plain.weight, plain.health, plain.priority), (&Reach::Plain, 5, Health::Draining, 2));
    let hints = Hints { zones: Box::new(["a".into(), "b".into()]), nodes: Box::new(["n".into()]) };
    assert_eq!((&meshed.hints, plain.hints.as_deref()), (&None, Some(&hints)));
    let [named] = &compiled.named[..] else { panic!("{compiled:?}") };
    assert_eq!((&*named.host, named.port), ("db.example.com", 8080));
    let named = named.at("192.0.2.1".parse().unwrap());
    assert_eq!((named.key.reach, named.priority), (Reach::Plain, 2));
}

#[test]
fn what_is_wrong_with_endpoints_is_named() {
    type Break = fn(&mut v1::Endpoint);
    let rows: [(Break, &str); 7] = [
        (|e| e.address = "10.1.0".into(), "endpoints[1].address: `10.1.0` is neither"),
        (|e| e.address = "-a.b".into(), "endpoints[1].address: "),
        (|e| e.address = "db.example.com".into(), "endpoints[1].mesh_tls: a name cannot speak mesh TLS"),
        (|e| e.port = 0, "endpoints[1].port: 0 is not a port"),
        (|e| e.identity.clear(), "endpoints[1].identity: it speaks mesh TLS and has no identity"),
        (|e| e.identity = "spiffe://x".into(), "endpoints[1].identity: "),
        (|e| e.health = 9, "endpoints[1].health: 9 is not known"),
    ];
    for (break_it, expected) in rows {
        let mut wire = v1::Endpoints { endpoints: vec![endpoint("10.1.0.7"), endpoint("10.1.0.8")] };
        break_it(&mut wire.endpoints[1]);
        let error = compile_endpoints(&wire).expect_err(expected).to_string();
        assert!(error.starts_with(expected), "{expected}\n  {error}");
    }
}

fn workload() -> v1::Workload {
    v1::Workload {
        identity: "spiffe://weft.local/ns/shop/sa/reviews".into(),
        addresses: vec!["10.1.0.7".into()],
        mesh_tls: true,
        ports: vec![v1::WorkloadPort { port: 9090, protocol: v1::Protocol::Http2.into(), mesh_tls: false }],
        ..v1::Workload::default()
    }
}

#[test]
fn a_workload_says_how_each_port_is_reached() {
    let compiled = compile_workload(&workload()).unwrap();
    assert_eq!((compiled.reach(9090), compiled.protocol(9090)), (Reach::Plain, Protocol::Http2), "excluded");
    assert!(matches!(compiled.reach(80), Reach::Mesh(_)), "not declared: as the workload");
    assert_eq!(compiled.protocol(80), Protocol::Auto);
}

#[test]
fn what_is_wrong_with_a_workload_is_named() {
    type Break = fn(&mut v1::Workload);
    let rows: [(Break, &str); 7] = [
        (|w| w.identity.clear(), "mesh_tls: it speaks mesh TLS and has no identity"),
        (|w| w.identity = "reviews".into(), "identity: "),
        (|w| w.addresses.push("x".into()), "addresses[1]: "),
        (|w| w.ports[0].port = 70_000, "ports[0].port: 70000 is not a port"),
        (|w| w.ports[0].protocol = 77, "ports[0].protocol: 77 is not known"),
        (
            |w| {
                w.identity.clear();
                w.mesh_tls = false;
                w.ports[0].mesh_tls = true;
            },
            "ports[0]: it speaks mesh TLS and has no identity",
        ),
        (|w| w.health = 5, "health: 5 is not known"),
    ];
    for (break_it, expected) in rows {
        let mut wire = workload();
        break_it(&mut wire);
        let error = compile_workload(&wire).expect_err(expected).to_string();
        assert!(error.starts_with(expected), "{expected}\n  {error}");
    }
}

#[test]
fn what_is_wrong_with_the_small_ones_is_named() {
    let settings = |change: fn(&mut v1::MeshSettings)| {
        let mut wire = v1::MeshSettings::default();
        change(&mut wire);
        compile_settings(&wire, None).map(|_| ())
    };
    let inbound = |mode, port| {
        let ports = vec![v1::PortMtls { port, mode }];
        compile_inbound_policy(&v1::InboundPolicy { ports, ..v1::InboundPolicy::default() }).map(|_| ())
    };
    let bundle = v1::TrustBundle { trust_domain: "other".into(), roots: Vec::new() };
    let rows = [
        (settings(|s| s.outbound_policy = 9), "outbound_policy: 9 is not known"),
        (settings(|s| s.cluster_cidrs = vec!["10.0.0.0/33".into()]), "cluster_cidrs[0]: "),
        (settings(|s| s.opaque_ports = vec![80, 0]), "opaque_ports[1]: 0 is not a port"),
        (settings(|s| s.tracing_sample_per_10000 = 10_001), "tracing_sample_per_10000: more than"),
        (inbound(9, 80), "ports[0].mode: 9 is not known"),
        (inbound(0, 0), "ports[0].port: 0 is not a port"),
        (compile_trust_bundle(bundle, "weft.local").map(|_| ()), "trust_domain: `other` is not ours"),
    ];
    for (result, expected) in rows {
        let error = result.expect_err(expected).to_string();
        assert!(error.starts_with(expected), "{expected}\n  {error}");
    }
}

#[test]
fn the_control_planes_ranges_replace_our_own() {
    let local = ["192.168.0.0/16".parse().unwrap()];
    let told = v1::MeshSettings { cluster_cidrs: vec!["10.0.0.0/8".into()], ..v1::MeshSettings::default() };
    let ranges = |wire: &v1::MeshSettings| compile_settings(wire, Some(&local)).unwrap().cluster_cidrs;
    assert_eq!(ranges(&told), Some(vec!["10.0.0.0/8".parse().unwrap()]));
    assert_eq!(ranges(&v1::MeshSettings::default()), Some(local.to_vec()), "none named: ours stay");
}

mod balancing;
mod calls;
