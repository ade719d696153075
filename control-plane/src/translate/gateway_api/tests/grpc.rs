//! What is a GRPCRoute's own: calls, their precedence, gRPC on ports that declare nothing, and who acts beside an HTTPRoute.

use weft_proto::v1::call_match::{Method, Service as CallService};

use super::super::super::fixtures::{call, grpc_route};
use super::super::super::{MeshConfig, Translator};
use super::super::matches::wire_match;
use super::*;
use crate::model::{
    Batch, GrpcRoute, HttpRoute, Kind, MethodMatch, Mirror, Object, ObjectKey, ObjectName, SessionPersistence,
};
use crate::status::Condition;

fn to(backend_name: &str, matches: Vec<HttpRouteMatch>) -> HttpRouteRule {
    HttpRouteRule { matches, ..rule(vec![backend(backend_name)]) }
}

/// The condition of a route's first parent.
fn said(world: &Translated, kind: Kind, route: &str, of: &str) -> Option<Condition> {
    condition(&world.status_of_kind(kind, route), of)
}

fn with_regex(service: Option<&str>, method: Option<&str>) -> HttpRouteMatch {
    let part = |text: Option<&str>| text.map(str::to_owned);
    path(PathMatch::Call(MethodMatch { service: part(service), method: part(method), regex: true }))
}

#[test]
fn a_call_is_a_path_where_it_can_be_one() {
    let exact = |text: &str| PathKind::Exact(text.to_owned());
    let parts = |service, method| PathKind::Call(v1::CallMatch { service, method });
    let regex = |text: &str| Some(CallService::ServiceRegex(text.to_owned()));
    for (row, condition, expected) in [
        ("both", call("pkg.Echo", "Say"), exact("/pkg.Echo/Say")),
        ("a service", call("pkg.Echo", ""), PathKind::Prefix("/pkg.Echo".to_owned())),
        ("a method", call("", "Say"), parts(None, Some(Method::ExactMethod("Say".to_owned())))),
        (
            "expressions",
            with_regex(Some("pkg.*"), Some("S|T")),
            parts(regex("pkg.*"), Some(Method::MethodRegex("S|T".to_owned()))),
        ),
        ("a service's expression", with_regex(Some("a|b"), None), parts(regex("a|b"), None)),
    ] {
        let wire = wire_match(&condition).unwrap().1;
        assert_eq!(wire.path.unwrap().kind.unwrap(), expected, "{row}");
    }
}

#[test]
fn a_call_that_cannot_be_evaluated_costs_its_rule_only() {
    for bad in [
        call("a/b", "C"),
        call("a", "b/c"),
        call("a?", ""),
        with_regex(Some("("), None),
        with_regex(None, Some("a)(b")),
    ] {
        let rules = vec![to("shop/reviews", vec![call("a", "")]), to("shop/reviews", vec![bad.clone()])];
        let world = world(upserts![reviews(), grpc_route("shop/g", vec![parent("reviews")], rules)]);
        assert_eq!(port_80(&world).rules.len(), 1, "{bad:?}");
        let partial = said(&world, Kind::GrpcRoute, "shop/g", "PartiallyInvalid").unwrap();
        assert!(partial.message.starts_with("Dropped Rule 1: "), "{bad:?}: {}", partial.message);
    }
}

#[test]
fn calls_are_tried_in_the_order_of_the_specification() {
    let with = |headers: usize, condition: HttpRouteMatch| HttpRouteMatch {
        headers: (0..headers).map(|n| header(&format!("h{n}"), "v")).collect(),
        ..condition
    };
    let any = HttpRouteMatch { method: Some("POST".to_owned()), ..prefix("/") };
    // Each is tried before the next, however they are written down.
    let ranked = vec![
        call("pkg.Longest", "A"),
        call("pkg.Longest", ""),
        with_regex(Some("pkg.Lo+ng"), Some("Say")),
        call("pkg.Long", "Say"),
        with(2, call("pkg.Long", "Sa")),
        with(1, call("pkg.Long", "Sb")),
        call("pkg.Long", "Sc"),
        with(3, call("pkg.Long", "")),
        call("pkg.Long", ""),
        call("", "Shout"),
        with(1, call("", "Say")),
        call("", "Say"),
        with(1, any.clone()),
        any,
    ];
    for (name, written) in [("in order", ranked.clone()), ("reversed", ranked.iter().rev().cloned().collect())] {
        let many = to("shop/reviews", written);
        let port = port_80(&world(upserts![reviews(), grpc_route("shop/g", vec![parent("reviews")], vec![many])]));
        let tried: Vec<_> = port.entries.iter().map(|entry| entry.r#match.clone().unwrap()).collect();
        let expected: Vec<_> = ranked.iter().map(|condition| wire_match(condition).unwrap().1).collect();
        assert_eq!(tried, expected, "{name}");
    }
}

#[test]
fn what_declares_nothing_speaks_grpc_and_what_declares_something_that() {
    let declaring = |protocol, of: Service| Service { ports: vec![ServicePort { protocol, ..port(80) }], ..of };
    let v2 = || service("shop/v2", "10.96.0.2");
    for (row, front, back, expected) in [
        ("nothing", reviews(), v2(), (Protocol::Grpc, Protocol::Grpc)),
        ("the front", declaring(Protocol::Http, reviews()), v2(), (Protocol::Http, Protocol::Grpc)),
        ("the backend", reviews(), declaring(Protocol::Http, v2()), (Protocol::Grpc, Protocol::Http)),
        ("h2c", reviews(), declaring(Protocol::Http2, v2()), (Protocol::Grpc, Protocol::Http2)),
    ] {
        let route = grpc_route("shop/g", vec![parent("reviews")], vec![to("shop/v2", vec![call("a", "")])]);
        let port = port_80(&world(upserts![front, back, route]));
        let Some(Target::Backend(backend)) = &port.rules[0].targets[0].target else { panic!("{row}") };
        assert_eq!((port.protocol(), backend.protocol()), expected, "{row}");
        assert_eq!((&*port.rules[0].route, port.routed), ("GRPCRoute/shop/g", true), "{row}");
    }
}

#[test]
fn what_is_not_valid_is_unavailable_and_status_says_so() {
    let bad = BackendRef { weight: 10, ..backend("shop/gone") };
    let unsupported = HttpRouteRule {
        filters: vec![HttpRouteFilter::Unsupported("ExternalAuth".to_owned())],
        ..to("shop/reviews", vec![call("b", "")])
    };
    let split = HttpRouteRule { matches: vec![call("a", "")], ..rule(vec![backend("shop/reviews"), bad]) };
    let world = world(upserts![reviews(), grpc_route("shop/g", vec![parent("reviews")], vec![split, unsupported])]);
    assert_eq!(shares(&port_80(&world).rules[0]), ["1 shop/reviews:80", "10 500"], "to a call that is UNAVAILABLE");
    assert_eq!(shares(&port_80(&world).rules[1]), ["1 500"]);
    let refs = said(&world, Kind::GrpcRoute, "shop/g", "ResolvedRefs").unwrap();
    assert_eq!((refs.status, &*refs.reason), (false, "BackendNotFound"));
    let partial = said(&world, Kind::GrpcRoute, "shop/g", "PartiallyInvalid").unwrap();
    for message in [&refs.message, &partial.message] {
        assert!(message.contains("UNAVAILABLE") && !message.contains("500"), "{message}");
    }
}

#[test]
fn a_grpc_routes_mirror_speaks_grpc_and_its_session_is_in_a_header() {
    let mirror = Mirror { backend: backend("shop/v2"), numerator: 1, denominator: 1 };
    let session =
        SessionPersistence { name: Some("x-session".to_owned()), header: true, ..SessionPersistence::default() };
    let copied = HttpRouteRule {
        filters: vec![HttpRouteFilter::Mirror(Box::new(mirror))],
        session: Some(session),
        ..to("shop/reviews", vec![call("a", "")])
    };
    let route = grpc_route("shop/g", vec![parent("reviews")], vec![copied]);
    let world = world(upserts![reviews(), service("shop/v2", "10.96.0.2"), route]);
    let rule = port_80(&world).rules[0].clone();
    let Some(v1::filter::Kind::Mirror(mirror)) = &rule.filters[0].kind else { panic!("{rule:?}") };
    let to = mirror.backend.as_ref().unwrap();
    assert_eq!((to.protocol(), &*to.service), (Protocol::Grpc, "shop/v2"));
    assert!(rule.session.is_some_and(|session| session.header && session.name == "x-session"));
}

#[test]
fn a_port_that_is_not_grpc_is_told_how_to_say_so() {
    let tcp = Service { ports: vec![ServicePort { protocol: Protocol::Tcp, ..port(80) }], ..reviews() };
    let rules = vec![to("shop/reviews", vec![call("a", "")])];
    let world = world(upserts![tcp, grpc_route("shop/g", vec![parent("reviews")], rules)]);
    for (of, reason) in [("Accepted", "NoMatchingParent"), ("ResolvedRefs", "UnsupportedProtocol")] {
        let refused = said(&world, Kind::GrpcRoute, "shop/g", of).unwrap();
        assert_eq!((refused.status, &*refused.reason), (false, reason));
        assert!(refused.message.contains("appProtocol to grpc"), "{}", refused.message);
    }
}

fn http(name: &str, parents: Vec<ParentRef>) -> HttpRoute {
    route(name, parents, vec![rule(vec![backend("shop/reviews")])])
}

fn grpc(name: &str, parents: Vec<ParentRef>) -> GrpcRoute {
    grpc_route(name, parents, vec![to("shop/reviews", vec![call("a", "")])])
}

/// The routes whose rules a client sees on each port.
fn acting(world: &Translated, client: &str) -> Vec<String> {
    let ports = world.service_for(client, "shop/reviews").ports;
    ports.iter().map(|port| port.rules.iter().map(|rule| &*rule.route).collect::<Vec<_>>().join("+")).collect()
}

#[test]
fn a_grpcroute_goes_before_an_httproute_whoever_was_first() {
    for (row, grpc_age, http_age) in [("the GRPCRoute is older", 1, 2), ("the HTTPRoute is older", 2, 1)] {
        let (mut grpc, mut http) = (grpc("shop/g", vec![parent("reviews")]), http("shop/h", vec![parent("reviews")]));
        (grpc.meta, http.meta) = (aged(grpc.meta, grpc_age), aged(http.meta, http_age));
        for first_is_grpc in [true, false] {
            let mut translator = Translator::new(MeshConfig::default());
            translator.apply(upserts![reviews()]);
            let (grpc, http) = (Object::from(grpc.clone()), Object::from(http.clone()));
            let order = if first_is_grpc { [grpc, http] } else { [http, grpc] };
            for object in order {
                translator.apply(Batch { upserts: vec![object], ..Batch::default() });
            }
            let world = translator.translated();
            assert_eq!(acting(&world, "shop"), ["GRPCRoute/shop/g"], "{row}");
            assert_eq!(port_80(&world).protocol(), Protocol::Grpc, "{row}");
            assert!(said(&world, Kind::GrpcRoute, "shop/g", "Accepted").unwrap().status, "{row}");
            let refused = said(&world, Kind::HttpRoute, "shop/h", "Accepted").unwrap();
            assert_eq!((refused.status, &*refused.reason), (false, "RouteReasonConflicted"), "{row}");
            assert!(refused.message.contains("port 80 has GRPCRoute shop/g"), "{}", refused.message);
            assert!(said(&world, Kind::HttpRoute, "shop/h", "ResolvedRefs").unwrap().status, "{row}");
        }
    }
}

#[test]
fn a_port_goes_to_the_httproute_when_the_last_grpcroute_leaves_it() {
    let mut translator = Translator::new(MeshConfig::default());
    let on = |name: &str| grpc(name, vec![parent("reviews")]);
    translator.apply(upserts![reviews(), on("shop/g"), on("shop/f"), http("shop/h", vec![parent("reviews")])]);
    let key = |kind, name: &str| ObjectKey { kind, name: ObjectName::new("shop", name) };
    let gone = |name: &str| Batch { removes: vec![key(Kind::GrpcRoute, name)], ..Batch::default() };
    let (world, touched) = translator.apply(gone("f"));
    assert_eq!(acting(&world, "shop"), ["GRPCRoute/shop/g"]);
    assert!(touched.statuses.contains(&key(Kind::HttpRoute, "h")), "another route is in its way");
    let (world, touched) = translator.apply(gone("g"));
    assert_eq!(acting(&world, "shop"), ["HTTPRoute/shop/h"]);
    assert_eq!(port_80(&world).protocol(), Protocol::Http);
    assert!(touched.statuses.contains(&key(Kind::HttpRoute, "h")));
    assert!(said(&world, Kind::HttpRoute, "shop/h", "Accepted").unwrap().status);

    // One that is not in effect is in nobody's way.
    let useless = HttpRouteRule {
        filters: vec![HttpRouteFilter::Unsupported("ExternalAuth".to_owned())],
        ..to("shop/reviews", vec![call("a", "")])
    };
    let (world, _) = translator.apply(upserts![grpc_route("shop/g", vec![parent("reviews")], vec![useless])]);
    assert_eq!(acting(&world, "shop"), ["HTTPRoute/shop/h"]);
}

#[test]
fn kinds_share_a_service_by_port_and_status_names_what_is_left_out() {
    let two = Service { ports: vec![port(80), port(81)], ..reviews() };
    let on_81 = ParentRef { port: Some(81), ..parent("reviews") };
    let world = world(upserts![two, http("shop/h", vec![parent("reviews")]), grpc("shop/g", vec![on_81])]);
    assert_eq!(acting(&world, "shop"), ["HTTPRoute/shop/h", "GRPCRoute/shop/g"]);
    let accepted = said(&world, Kind::HttpRoute, "shop/h", "Accepted").unwrap();
    assert!(accepted.status && accepted.message.contains("port 81 has GRPCRoute shop/g"), "{}", accepted.message);
}

#[test]
fn producers_and_consumers_of_different_kinds_do_not_meet() {
    let to_shop = || ParentRef { namespace: Some("shop".to_owned()), ..parent("reviews") };
    let objects = upserts![
        reviews(),
        grpc("shop/g", vec![parent("reviews")]),
        http("web/h", vec![to_shop()]),
        grpc("both/g", vec![to_shop()]),
        http("both/h", vec![to_shop()]),
    ];
    let world = world(objects);
    for (client, expected) in [
        ("shop", "GRPCRoute/shop/g"),
        ("elsewhere", "GRPCRoute/shop/g"),
        ("web", "HTTPRoute/web/h"),
        ("both", "GRPCRoute/both/g"),
    ] {
        assert_eq!(acting(&world, client), [expected], "{client}");
    }
    assert!(said(&world, Kind::HttpRoute, "web/h", "Accepted").unwrap().status);
    assert_eq!(said(&world, Kind::HttpRoute, "both/h", "Accepted").unwrap().reason, "RouteReasonConflicted");
}
