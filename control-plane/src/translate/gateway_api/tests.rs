mod connections;
mod faults;
mod filters;

use std::time::Duration;

use weft_proto::v1::path_match::Kind as PathKind;
use weft_proto::v1::weighted_target::Target;
use weft_proto::v1::{self, Protocol};

use super::super::Translated;
use super::super::fixtures::{
    aged, backend, condition, map, parent, path, port, prefix, route, rule, service, upserts, world,
};
use crate::model::{
    BackendRef, HeaderModifier, HttpRouteFilter, HttpRouteMatch, HttpRouteRule, KeyMatch, ParentRef, PathMatch,
    Service, ServiceKind, ServicePort,
};

fn reviews() -> Service {
    service("shop/reviews", "10.96.0.1")
}

/// Port 80 of shop/reviews, as a client in `shop` sees it.
fn port_80(world: &Translated) -> v1::ServicePort {
    world.service_for("shop", "shop/reviews").ports.into_iter().find(|port| port.port == 80).unwrap()
}

/// The one rule of one route.
fn only_rule(rule: HttpRouteRule) -> v1::RouteRule {
    let world = world(upserts![
        reviews(),
        service("shop/v2", "10.96.0.2"),
        route("shop/r", vec![parent("reviews")], vec![rule])
    ]);
    let port = port_80(&world);
    assert_eq!(port.rules.len(), 1);
    port.rules.into_iter().next().unwrap()
}

/// `weight backend` or `weight 500`.
fn shares(rule: &v1::RouteRule) -> Vec<String> {
    let share = |target: &v1::WeightedTarget| match target.target.as_ref().unwrap() {
        Target::Backend(backend) => format!("{} {}:{}", target.weight, backend.service, backend.port),
        Target::Answer(answer) => format!("{} {}", target.weight, answer.status),
    };
    rule.targets.iter().map(share).collect()
}

fn header(name: &str, value: &str) -> KeyMatch {
    KeyMatch { name: name.to_owned(), value: value.to_owned(), regex: false }
}

fn regex(text: &str) -> HttpRouteMatch {
    path(PathMatch::Regex(text.to_owned()))
}

fn exact(text: &str) -> HttpRouteMatch {
    path(PathMatch::Exact(text.to_owned()))
}

#[test]
fn without_a_route_a_port_is_not_routed_and_with_one_it_is_http() {
    let before = port_80(&world(upserts![reviews()]));
    assert_eq!((before.routed, before.protocol()), (false, Protocol::Auto));
    let after = port_80(&world(upserts![reviews(), route("shop/r", vec![parent("reviews")], vec![])]));
    assert_eq!((after.routed, after.protocol(), after.entries.len()), (true, Protocol::Http, 0));
}

#[test]
fn matches_are_tried_in_the_order_of_the_specification() {
    let with = |mut condition: HttpRouteMatch, method: bool, headers: usize, params: usize| {
        condition.method = method.then(|| "GET".to_owned());
        condition.headers = (0..headers).map(|n| header(&format!("h{n}"), "v")).collect();
        condition.query_params = (0..params).map(|n| header(&format!("q{n}"), "v")).collect();
        condition
    };
    // Each is tried before the next, however they are written down.
    let ranked = vec![
        exact("/a/b"),
        with(prefix("/a/bcd"), true, 0, 0),
        prefix("/a/bcd/"),
        with(prefix("/a"), true, 0, 0),
        with(prefix("/a"), false, 2, 0),
        with(prefix("/a"), false, 1, 2),
        with(prefix("/a"), false, 1, 1),
        with(prefix("/a"), false, 0, 3),
        prefix("/a"),
        with(regex("/a.*"), true, 0, 0),
        regex("/a/b?"),
        with(prefix("/"), true, 0, 0),
        with(prefix("/"), false, 1, 0),
        prefix("/"),
    ];
    for (name, written) in [("in order", ranked.clone()), ("reversed", ranked.iter().rev().cloned().collect())] {
        let mut many = rule(vec![backend("shop/reviews")]);
        many.matches = written;
        let port = port_80(&world(upserts![reviews(), route("shop/r", vec![parent("reviews")], vec![many])]));
        let tried: Vec<_> = port.entries.iter().map(|entry| entry.r#match.clone().unwrap()).collect();
        let expected: Vec<_> =
            ranked.iter().map(|condition| super::matches::wire_match(condition).unwrap().1).collect();
        assert_eq!(tried, expected, "{name}");
    }
}

#[test]
fn a_tie_goes_to_the_oldest_route_then_its_name_then_the_first_rule() {
    let named = |name: &str, age: i64| {
        let mut rules = vec![rule(vec![backend("shop/reviews")]), rule(vec![backend("shop/reviews")])];
        rules[1].name = Some("second".to_owned());
        let mut route = route(name, vec![parent("reviews")], rules);
        route.meta = aged(route.meta, age);
        route
    };
    let port = port_80(&world(upserts![reviews(), named("shop/c", 5), named("shop/b", 9), named("shop/a", 9)]));
    let order: Vec<_> = port
        .entries
        .iter()
        .map(|entry| &port.rules[entry.rule as usize])
        .map(|rule| format!("{} {}", rule.route, rule.rule))
        .collect();
    assert_eq!(
        order,
        [
            "HTTPRoute/shop/c 0",
            "HTTPRoute/shop/c second",
            "HTTPRoute/shop/a 0",
            "HTTPRoute/shop/a second",
            "HTTPRoute/shop/b 0",
            "HTTPRoute/shop/b second",
        ]
    );
}

#[test]
fn a_consumer_route_replaces_producers_for_its_namespace_and_nobody_else() {
    let producer = route("shop/producer", vec![parent("reviews")], vec![rule(vec![backend("shop/reviews")])]);
    let to_shop = ParentRef { namespace: Some("shop".to_owned()), ..parent("reviews") };
    let consumer = route("web/consumer", vec![to_shop], vec![rule(vec![backend("shop/reviews")])]);
    let world = world(upserts![reviews(), producer, consumer]);
    for (client, expected) in
        [("shop", "HTTPRoute/shop/producer"), ("other", "HTTPRoute/shop/producer"), ("web", "HTTPRoute/web/consumer")]
    {
        let ports = world.service_for(client, "shop/reviews").ports;
        let routes: Vec<_> = ports[0].rules.iter().map(|rule| &*rule.route).collect();
        assert_eq!(routes, [expected], "{client}");
    }
}

#[test]
fn a_consumer_route_for_one_port_leaves_the_producers_of_another() {
    let mut two = reviews();
    two.ports = vec![port(80), port(8080)];
    let producer = route("shop/producer", vec![parent("reviews")], vec![rule(vec![])]);
    let narrow = ParentRef { namespace: Some("shop".to_owned()), port: Some(8080), ..parent("reviews") };
    let world = world(upserts![two, producer, route("web/consumer", vec![narrow], vec![rule(vec![])])]);
    let ports = world.service_for("web", "shop/reviews").ports;
    let routes: Vec<_> = ports.iter().map(|port| (port.port, &*port.rules[0].route)).collect();
    assert_eq!(routes, [(80, "HTTPRoute/shop/producer"), (8080, "HTTPRoute/web/consumer")]);
}

#[test]
fn a_parent_takes_a_route_or_says_why_not() {
    let ports = |ports: Vec<ServicePort>| Service { ports, ..reviews() };
    let declared = |number, protocol| ServicePort { protocol, ..port(number) };
    let kind = |kind| Service { kind, ..reviews() };
    let on = |port| ParentRef { port: Some(port), ..parent("reviews") };
    let section = |name: &str| ParentRef { section_name: Some(name.to_owned()), ..parent("reviews") };
    let web = || ServicePort { name: "web".to_owned(), ..port(80) };
    type Row = (&'static str, Service, ParentRef, Result<&'static [u32], &'static str>);
    let rows: Vec<Row> = vec![
        ("all ports", ports(vec![port(80), port(81)]), parent("reviews"), Ok(&[80, 81])),
        ("port narrows", ports(vec![port(80), port(81)]), on(81), Ok(&[81])),
        ("sectionName is the port's name", ports(vec![web(), port(81)]), section("web"), Ok(&[80])),
        (
            "core is a name of the core group",
            reviews(),
            ParentRef { group: Some("core".to_owned()), ..on(80) },
            Ok(&[80]),
        ),
        ("no such port", reviews(), on(81), Err("NoMatchingParent")),
        ("no such port name", reviews(), section("web"), Err("NoMatchingParent")),
        ("no such Service", reviews(), parent("ratings"), Err("NoMatchingParent")),
        ("headless", kind(ServiceKind::Headless), parent("reviews"), Err("NoMatchingParent")),
        ("ExternalName", kind(ServiceKind::ExternalName("example.com".to_owned())), on(80), Err("NoMatchingParent")),
        ("group left out", reviews(), ParentRef { group: None, ..parent("reviews") }, Err("InvalidKind")),
        ("declared gRPC", ports(vec![declared(80, Protocol::Grpc)]), parent("reviews"), Ok(&[80])),
        ("declared TCP", ports(vec![declared(80, Protocol::Tcp)]), on(80), Err("NoMatchingParent")),
        (
            "declared TLS among others",
            ports(vec![port(80), declared(443, Protocol::Tls)]),
            parent("reviews"),
            Ok(&[80]),
        ),
        ("an opaque number among others", ports(vec![port(80), port(3306)]), parent("reviews"), Ok(&[80])),
        ("an opaque number, named", ports(vec![port(80), port(3306)]), on(3306), Ok(&[3306])),
        ("an opaque number, declared", ports(vec![declared(3306, Protocol::Http)]), parent("reviews"), Ok(&[3306])),
        ("only an opaque number", ports(vec![port(3306)]), parent("reviews"), Err("NoMatchingParent")),
    ];
    for (row, service, parent, expected) in rows {
        let world =
            world(upserts![service, route("shop/r", vec![parent.clone()], vec![rule(vec![backend("shop/reviews")])])]);
        let status = world.status_of("shop/r");
        let accepted = condition(&status, "Accepted").unwrap();
        assert_eq!(status.parents[0].parent_ref, parent, "{row}: copied verbatim");
        assert_eq!(accepted.status, expected.is_ok(), "{row}: {accepted:?}");
        assert_eq!(accepted.reason, expected.err().unwrap_or("Accepted"), "{row}");
        assert!(!accepted.message.is_empty(), "{row}");
        let ports = world.service_for("shop", "shop/reviews").ports;
        let routed: Vec<_> = ports.iter().filter(|port| port.routed).map(|port| port.port).collect();
        assert_eq!(routed, expected.unwrap_or_default(), "{row}");
    }
}

#[test]
fn status_has_one_entry_per_parent_of_ours_and_none_for_others() {
    let gateway = ParentRef { group: None, kind: None, ..parent("edge") };
    let foreign = ParentRef { group: Some("example.com".to_owned()), ..parent("reviews") };
    let mut both =
        route("shop/r", vec![gateway.clone(), parent("reviews"), parent("ratings"), foreign], vec![rule(vec![])]);
    both.meta.generation = 7;
    let status = world(upserts![reviews(), both]).status_of("shop/r");
    let parents: Vec<_> = status.parents.iter().map(|entry| entry.parent_ref.clone()).collect();
    assert_eq!(parents, [parent("reviews"), parent("ratings")]);
    let accepted: Vec<_> = status.parents.iter().map(|entry| entry.conditions[0].status).collect();
    assert_eq!(accepted, [true, false], "each parent has its own answer");
    assert!(status.parents.iter().flat_map(|entry| &entry.conditions).all(|it| it.observed_generation == 7));

    let elsewhere = route("shop/elsewhere", vec![gateway], vec![rule(vec![])]);
    assert_eq!(world(upserts![reviews(), elsewhere]).status_of("shop/elsewhere").parents, []);
}

#[test]
fn a_backend_that_is_not_valid_keeps_its_share_and_answers_500() {
    let valid = || BackendRef { weight: 90, ..backend("shop/reviews") };
    let external =
        Service { kind: ServiceKind::ExternalName("example.com".to_owned()), ..service("shop/ext", "10.96.0.3") };
    let opaque = Service {
        ports: vec![ServicePort { protocol: Protocol::Tcp, ..port(80) }],
        ..service("shop/tcp", "10.96.0.4")
    };
    for (row, bad, reason) in [
        ("no such Service", backend("shop/gone"), "BackendNotFound"),
        ("no such Service there", backend("web/reviews"), "BackendNotFound"),
        ("no such port", BackendRef { port: Some(81), ..backend("shop/reviews") }, "BackendNotFound"),
        ("no port", BackendRef { port: None, ..backend("shop/reviews") }, "UnsupportedValue"),
        ("another kind", BackendRef { kind: "Bucket".to_owned(), ..backend("shop/reviews") }, "InvalidKind"),
        ("another group", BackendRef { group: "example.com".to_owned(), ..backend("shop/reviews") }, "InvalidKind"),
        ("ExternalName", backend("shop/ext"), "UnsupportedValue"),
        ("declared TCP", backend("shop/tcp"), "UnsupportedProtocol"),
    ] {
        let split =
            route("shop/r", vec![parent("reviews")], vec![rule(vec![valid(), BackendRef { weight: 10, ..bad }])]);
        let world = world(upserts![reviews(), external, opaque, split]);
        assert_eq!(shares(&port_80(&world).rules[0]), ["90 shop/reviews:80", "10 500"], "{row}");
        let status = world.status_of("shop/r");
        let (accepted, refs) = (condition(&status, "Accepted").unwrap(), condition(&status, "ResolvedRefs").unwrap());
        assert!(accepted.status, "{row}: the route itself is in effect");
        assert_eq!((refs.status, &*refs.reason), (false, reason), "{row}: {}", refs.message);
    }
}

#[test]
fn a_backend_needs_no_endpoints_no_grant_and_no_vip() {
    let world = world(upserts![
        reviews(),
        Service { kind: ServiceKind::Headless, vips: vec![], ..service("other/v2", "10.96.0.2") },
        route("shop/r", vec![parent("reviews")], vec![rule(vec![backend("other/v2")])]),
    ]);
    assert_eq!(shares(&port_80(&world).rules[0]), ["1 other/v2:80"]);
    assert!(condition(&world.status_of("shop/r"), "ResolvedRefs").unwrap().status);
}

#[test]
fn a_rule_without_anyone_to_send_to_answers_500() {
    let none = BackendRef { weight: 0, ..backend("shop/reviews") };
    for (row, backends, expected) in [
        ("no backends", vec![], vec!["1 500"]),
        ("all weights zero", vec![none.clone(), none.clone()], vec!["1 500"]),
        ("one weight zero", vec![backend("shop/v2"), none], vec!["1 shop/v2:80", "0 shop/reviews:80"]),
    ] {
        assert_eq!(shares(&only_rule(rule(backends))), expected, "{row}");
    }
}

#[test]
fn a_rule_with_an_unsupported_filter_answers_500_and_status_names_it() {
    let filtered = HttpRouteRule {
        filters: vec![HttpRouteFilter::Unsupported("ExternalAuth".to_owned())],
        matches: vec![prefix("/rewritten")],
        ..rule(vec![backend("shop/reviews")])
    };
    let good = rule(vec![backend("shop/reviews")]);
    let partly = world(upserts![reviews(), route("shop/r", vec![parent("reviews")], vec![good, filtered.clone()])]);
    let port = port_80(&partly);
    assert_eq!(shares(&port.rules[1]), ["1 500"]);
    assert_eq!(port.entries[0].rule, 1, "it still takes its requests");
    let status = partly.status_of("shop/r");
    assert!(condition(&status, "Accepted").unwrap().status);
    let partial = condition(&status, "PartiallyInvalid").unwrap();
    assert!(partial.status && partial.message.contains("ExternalAuth"), "{partial:?}");

    let wholly = world(upserts![reviews(), route("shop/r", vec![parent("reviews")], vec![filtered])]);
    let accepted = condition(&wholly.status_of("shop/r"), "Accepted").unwrap();
    assert_eq!((accepted.status, &*accepted.reason), (false, "UnsupportedValue"));
    assert!(accepted.message.contains("ExternalAuth"), "{}", accepted.message);
    assert!(condition(&wholly.status_of("shop/r"), "PartiallyInvalid").is_none());
    assert!(!port_80(&wholly).routed, "only accepted routes attach");
}

#[test]
fn a_backend_with_an_unsupported_filter_answers_500_for_its_share() {
    let filters = vec![HttpRouteFilter::Unsupported("ExternalAuth".to_owned())];
    let split =
        rule(vec![BackendRef { weight: 3, ..backend("shop/v2") }, BackendRef { filters, ..backend("shop/reviews") }]);
    assert_eq!(shares(&only_rule(split.clone())), ["3 shop/v2:80", "1 500"]);
    let world = world(upserts![reviews(), route("shop/r", vec![parent("reviews")], vec![split])]);
    assert!(condition(&world.status_of("shop/r"), "PartiallyInvalid").unwrap().message.contains("ExternalAuth"));
}

#[test]
fn a_rule_that_cannot_be_evaluated_is_dropped_and_named() {
    let with_header = |name: &str, value: &str, regex| HttpRouteMatch {
        headers: vec![KeyMatch { regex, ..header(name, value) }],
        ..prefix("/")
    };
    for (row, bad) in [
        ("bad path expression", regex("/a(")),
        ("closing what is not open", regex("a)(b")),
        ("huge expression", regex("(a{1000}){1000}")),
        ("bad header expression", with_header("x", "[", true)),
        ("bad header name", with_header("x y", "v", false)),
        ("bad method", HttpRouteMatch { method: Some("G ET".to_owned()), ..prefix("/") }),
        ("a path without a slash", exact("a")),
        ("a path with a query", prefix("/a?b")),
        ("a path with an empty segment", prefix("/a//b")),
        ("a path that is empty", prefix("")),
        ("a long expression", regex(&"a".repeat(5000))),
        ("a parameter without a name", HttpRouteMatch { query_params: vec![header("", "v")], ..prefix("/") }),
    ] {
        let bad = HttpRouteRule { matches: vec![bad], ..rule(vec![backend("shop/reviews")]) };
        let good = rule(vec![backend("shop/reviews")]);
        let world = world(upserts![reviews(), route("shop/r", vec![parent("reviews")], vec![good, bad])]);
        let rules: Vec<_> = port_80(&world).rules.into_iter().map(|rule| rule.rule).collect();
        assert_eq!(rules, ["0"], "{row}");
        let partial = condition(&world.status_of("shop/r"), "PartiallyInvalid").unwrap();
        assert!(partial.message.starts_with("Dropped Rule 1: "), "{row}: {}", partial.message);
    }
}

#[test]
fn an_expression_that_is_too_large_is_named_with_what_makes_it_so() {
    let bad = HttpRouteRule { matches: vec![regex("/([a-z]{300}){300}")], ..rule(vec![backend("shop/reviews")]) };
    let world = world(upserts![reviews(), route("shop/r", vec![parent("reviews")], vec![bad])]);
    let status = world.status_of("shop/r");
    let accepted = condition(&status, "Accepted").unwrap();
    assert_eq!((accepted.status, &*accepted.reason), (false, "UnsupportedValue"));
    let wanted =
        "expression `/([a-z]{300}){300}` is larger than 524288 bytes when compiled: are there large repetitions in it?";
    assert!(accepted.message.contains(wanted), "{}", accepted.message);
}

#[test]
fn filters_are_translated_and_of_equal_header_names_the_first_counts() {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let modifier = HeaderModifier {
        set: vec![pair("X-A", "1"), pair("x-a", "2")],
        add: vec![pair("X-B", "3")],
        remove: vec!["X-C".to_owned()],
    };
    let filters = vec![HttpRouteFilter::RequestHeaders(modifier.clone()), HttpRouteFilter::ResponseHeaders(modifier)];
    let header = |name: &str, value: &str| v1::Header { name: name.to_owned(), value: value.to_owned() };
    let expected = v1::HeaderModifier {
        set: vec![header("x-a", "1")],
        add: vec![header("x-b", "3")],
        remove: vec!["x-c".to_owned()],
    };
    let kinds = [v1::filter::Kind::RequestHeaders(expected.clone()), v1::filter::Kind::ResponseHeaders(expected)];
    let expected = kinds.map(|kind| v1::Filter { kind: Some(kind) });
    let on_both = rule(vec![BackendRef { filters: filters.clone(), ..backend("shop/reviews") }]);
    let wire = only_rule(HttpRouteRule { filters, ..on_both });
    assert_eq!(wire.filters, expected);
    assert_eq!(wire.targets[0].filters, expected);
}

#[test]
fn a_filter_that_no_proxy_would_take_costs_its_rule_only() {
    let set = |name: &str, value: &str| HeaderModifier {
        set: vec![(name.to_owned(), value.to_owned())],
        ..HeaderModifier::default()
    };
    let remove = |name: &str| HeaderModifier { remove: vec![name.to_owned()], ..HeaderModifier::default() };
    for (row, modifier, taken) in [
        ("host may be set", set("Host", "example.com"), true),
        ("a value with a line feed", set("x-a", "1\n2"), false),
        ("a name with a space", set("x a", "1"), false),
        ("framing", set("Transfer-Encoding", "chunked"), false),
        ("a connection's own", remove("connection"), false),
        ("the mesh's own", set("X-Weft-Deadline-Ms", "1"), false),
    ] {
        let filters = vec![HttpRouteFilter::RequestHeaders(modifier)];
        let filtered = HttpRouteRule { filters, ..rule(vec![backend("shop/reviews")]) };
        let world = world(upserts![reviews(), route("shop/r", vec![parent("reviews")], vec![filtered, rule(vec![])])]);
        let expected = if taken { "1 shop/reviews:80" } else { "1 500" };
        assert_eq!(shares(&port_80(&world).rules[0]), [expected], "{row}");
        assert_eq!(condition(&world.status_of("shop/r"), "PartiallyInvalid").is_none(), taken, "{row}");
    }
}

#[test]
fn a_timeout_that_is_set_never_rounds_to_off_and_has_an_end() {
    let timeouts = |request, backend| {
        let wire =
            only_rule(HttpRouteRule { request_timeout: request, backend_request_timeout: backend, ..rule(vec![]) });
        (wire.request_timeout.map(|it| it.value), wire.backend_request_timeout.map(|it| it.value))
    };
    assert_eq!(timeouts(None, Some(Duration::ZERO)), (None, Some(0)));
    assert_eq!(timeouts(Some(Duration::MAX), None), (Some(366 * 24 * 3600 * 1000), None));
    assert_eq!(timeouts(Some(Duration::from_millis(1500)), Some(Duration::from_micros(1))), (Some(1500), Some(1)));
}

#[test]
fn a_backend_carries_its_own_policy_and_protocol_and_not_its_routes() {
    let mut v2 = service("shop/v2", "10.96.0.2");
    v2.client_ip_affinity = Some(Duration::from_secs(600));
    v2.node_local = true;
    v2.ports = vec![ServicePort { protocol: Protocol::Http2, ..port(80) }];
    let own = route("shop/own", vec![parent("v2")], vec![rule(vec![])]);
    let world = world(upserts![
        reviews(),
        v2,
        own,
        route("shop/r", vec![parent("reviews")], vec![rule(vec![backend("shop/v2")])])
    ]);
    let rule = port_80(&world).rules.remove(0);
    let Some(Target::Backend(backend)) = &rule.targets[0].target else { panic!("{rule:?}") };
    assert_eq!(backend.protocol(), Protocol::Http2);
    let policy = backend.policy.as_ref().unwrap();
    assert_eq!((policy.client_ip_affinity_seconds, policy.node_local, policy.publish_not_ready), (600, true, false));
}

#[test]
fn a_prefix_is_sent_without_its_trailing_slash() {
    let sent = |text: &str| match super::matches::wire_match(&prefix(text)).unwrap().1.path.unwrap().kind.unwrap() {
        PathKind::Prefix(prefix) => prefix,
        other => panic!("{other:?}"),
    };
    assert_eq!(["/", "/a/", "/a/b"].map(sent), ["/", "/a", "/a/b"]);
}

#[test]
fn the_selector_of_a_parent_does_not_matter() {
    // A Service without pods of its own is the usual front of a canary.
    let front = Service { selector: map(&[]), ..reviews() };
    let world =
        world(upserts![front, route("shop/r", vec![parent("reviews")], vec![rule(vec![backend("shop/reviews")])])]);
    assert!(port_80(&world).routed);
}

mod grpc;
