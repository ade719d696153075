//! TLSRoute and TCPRoute: what they make of a port, which ports they attach to, and who acts beside whom.

use super::super::super::fixtures::{call, grpc_route, tcp_route, tls_route};
use super::super::super::{MeshConfig, Translator};
use super::*;
use crate::model::{Batch, Kind, Object, ObjectKey, ObjectName, TcpRoute, TlsRoute};
use crate::status::Condition;

fn said(world: &Translated, kind: Kind, route: &str, of: &str) -> Option<Condition> {
    condition(&world.status_of_kind(kind, route), of)
}

fn tcp(name: &str, backends: Vec<BackendRef>) -> TcpRoute {
    tcp_route(name, vec![parent("reviews")], backends)
}

fn tls(name: &str, hostnames: &[&str], backend_name: &str) -> TlsRoute {
    tls_route(name, vec![parent("reviews")], hostnames, vec![backend(backend_name)])
}

/// `route: names -> shares` of port 80.
fn rules(port: &v1::ServicePort) -> Vec<String> {
    let rules = port.connections.iter().flat_map(|connections| &connections.rules);
    let text = |rule: &v1::ConnectionRule| {
        let shares = shares(&v1::RouteRule { targets: rule.targets.clone(), ..v1::RouteRule::default() });
        format!("{}: {} -> {}", rule.route, rule.hosts.join(","), shares.join(","))
    };
    rules.map(text).collect()
}

fn reviews_declared(protocol: Protocol) -> Service {
    Service { ports: vec![ServicePort { protocol, ..port(80) }], ..reviews() }
}

#[test]
fn a_tcproute_shares_connections_and_what_is_not_valid_keeps_its_share() {
    let weighted = |name: &str, weight| BackendRef { weight, ..backend(name) };
    let backends = vec![weighted("shop/v1", 3), weighted("shop/gone", 1), weighted("shop/reviews", 0)];
    let world = world(upserts![reviews(), service("shop/v1", "10.96.0.2"), tcp("shop/t", backends)]);
    let port = port_80(&world);
    assert_eq!(rules(&port), ["TCPRoute/shop/t:  -> 3 shop/v1:80,1 500,0 shop/reviews:80"]);
    assert_eq!((port.protocol(), port.routed, port.rules.len()), (Protocol::Tcp, false, 0));
    let accepted = said(&world, Kind::TcpRoute, "shop/t", "Accepted").unwrap();
    assert!(accepted.status && accepted.message == "attached to Service shop/reviews, port 80", "{accepted:?}");
    let refs = said(&world, Kind::TcpRoute, "shop/t", "ResolvedRefs").unwrap();
    assert_eq!((refs.status, &*refs.reason), (false, "BackendNotFound"));
    assert_eq!(
        refs.message, "there is no Service shop/gone (their share of connections gets a reset)",
        "it says what becomes of them"
    );
}

#[test]
fn of_several_tcproutes_the_oldest_acts_and_all_are_accepted() {
    let mut objects = Vec::new();
    for (name, age) in [("shop/c", 2), ("shop/b", 1), ("shop/a", 1)] {
        let mut route = tcp(name, vec![backend("shop/reviews")]);
        route.meta = aged(route.meta, age);
        objects.push(Object::from(route));
    }
    objects.push(reviews().into());
    let world = world(Batch { upserts: objects, ..Batch::default() });
    assert_eq!(rules(&port_80(&world)), ["TCPRoute/shop/a:  -> 1 shop/reviews:80"], "ties go by name");
    for name in ["shop/a", "shop/b", "shop/c"] {
        assert!(said(&world, Kind::TcpRoute, name, "Accepted").unwrap().status, "{name}");
    }
}

#[test]
fn a_server_name_is_the_oldest_routes_that_lists_it() {
    let (mut old, mut young) = (
        tls("shop/z", &["*.example.com", "db.example.com"], "shop/reviews"),
        tls("shop/a", &["db.example.com", "other.org"], "shop/v1"),
    );
    (old.meta, young.meta) = (aged(old.meta, 1), aged(young.meta, 2));
    let useless = tls("shop/q", &["other.org"], "shop/v1");
    let useless = TlsRoute { meta: aged(useless.meta, 3), ..useless };
    let world = world(upserts![reviews(), service("shop/v1", "10.96.0.2"), old, young, useless]);
    let port = port_80(&world);
    let expected = [
        "TLSRoute/shop/z: *.example.com,db.example.com -> 1 shop/reviews:80",
        "TLSRoute/shop/a: other.org -> 1 shop/v1:80",
    ];
    assert_eq!(rules(&port), expected, "one left without a name is no rule for everything");
    assert_eq!(port.protocol(), Protocol::Tls);
}

/// (row, the port's declaration, its number, whether the parentRef names it, TLSRoute attaches, TCPRoute attaches)
#[test]
fn a_route_attaches_to_ports_that_can_carry_what_it_speaks() {
    for (row, declared, number, named, by_tls, by_tcp) in [
        ("nothing is declared", Protocol::Auto, 80, false, true, true),
        ("on the opaque list", Protocol::Auto, 3306, false, false, true),
        ("on the opaque list, named", Protocol::Auto, 3306, true, true, true),
        ("declared TLS", Protocol::Tls, 80, false, true, true),
        ("declared TCP", Protocol::Tcp, 80, false, false, true),
        ("declared TCP, named", Protocol::Tcp, 80, true, true, true),
        ("declared HTTP", Protocol::Http, 80, false, false, false),
        ("declared HTTP, named", Protocol::Http, 80, true, false, true),
        ("declared gRPC", Protocol::Grpc, 80, false, false, false),
    ] {
        let service = Service { ports: vec![ServicePort { protocol: declared, ..port(number) }], ..reviews() };
        let parents = vec![ParentRef { port: named.then_some(number), ..parent("reviews") }];
        let backends = || vec![BackendRef { port: Some(number), ..backend("shop/reviews") }];
        let world = world(upserts![
            service,
            tls_route("shop/s", parents.clone(), &["a.b"], backends()),
            tcp_route("shop/t", parents, backends()),
        ]);
        let accepted = |kind, name| said(&world, kind, name, "Accepted").unwrap();
        let (tls, tcp) = (accepted(Kind::TlsRoute, "shop/s"), accepted(Kind::TcpRoute, "shop/t"));
        assert_eq!(tls.status, by_tls, "{row}: {}", tls.message);
        // A TLSRoute goes before it, which is no matter of what the port carries.
        assert_eq!(tcp.reason != "NoMatchingParent", by_tcp, "{row}: {}", tcp.message);
    }
}

#[test]
fn a_refusal_says_what_to_do() {
    let tls = tls("shop/s", &["a.b"], "shop/reviews");
    let tcp = tcp("shop/t", vec![backend("shop/reviews")]);
    let world = world(upserts![reviews_declared(Protocol::Http), tls, tcp]);
    let refused = said(&world, Kind::TlsRoute, "shop/s", "Accepted").unwrap();
    assert!(refused.message.ends_with("set its appProtocol to tls if it does carry TLS"), "{}", refused.message);
    let refs = said(&world, Kind::TlsRoute, "shop/s", "ResolvedRefs").unwrap();
    assert_eq!(&*refs.reason, "UnsupportedProtocol", "{}", refs.message);
    let refused = said(&world, Kind::TcpRoute, "shop/t", "Accepted").unwrap();
    assert!(refused.message.ends_with("name the port in the parentRef if it does carry TCP"), "{}", refused.message);
    assert!(said(&world, Kind::TcpRoute, "shop/t", "ResolvedRefs").unwrap().status, "everything is bytes");
}

#[test]
fn grpc_goes_before_http_before_tls_before_tcp_whoever_was_first() {
    let all: [(Kind, Object); 4] = [
        (Kind::TcpRoute, tcp("shop/r", vec![backend("shop/reviews")]).into()),
        (Kind::TlsRoute, tls("shop/r", &["a.b"], "shop/reviews").into()),
        (Kind::HttpRoute, route("shop/r", vec![parent("reviews")], vec![rule(vec![backend("shop/reviews")])]).into()),
        (
            Kind::GrpcRoute,
            grpc_route(
                "shop/r",
                vec![parent("reviews")],
                vec![HttpRouteRule { matches: vec![call("a", "")], ..rule(vec![backend("shop/reviews")]) }],
            )
            .into(),
        ),
    ];
    let mut translator = Translator::new(MeshConfig::default());
    translator.apply(upserts![reviews()]);
    let act = |world: &Translated| {
        let acting = |kind: &Kind| said(world, *kind, "shop/r", "Accepted").is_some_and(|it| it.status);
        all.iter().map(|(kind, _)| *kind).filter(acting).collect::<Vec<_>>()
    };
    for (kind, object) in &all {
        translator.apply(Batch { upserts: vec![object.clone()], ..Batch::default() });
        assert_eq!(act(&translator.translated()), [*kind], "the last that came goes before all others");
    }
    let world = translator.translated();
    let refused = said(&world, Kind::TcpRoute, "shop/r", "Accepted").unwrap();
    assert_eq!((refused.status, &*refused.reason), (false, "RouteReasonConflicted"));
    assert!(refused.message.contains("port 80 has GRPCRoute shop/r"), "{}", refused.message);
    assert!(refused.message.contains("a GRPCRoute goes before a TCPRoute"), "{}", refused.message);
    for (kind, _) in all.iter().rev() {
        assert_eq!(act(&translator.translated()), [*kind]);
        let key = ObjectKey { kind: *kind, name: ObjectName::new("shop", "r") };
        translator.apply(Batch { removes: vec![key], ..Batch::default() });
    }
    let port = port_80(&translator.translated());
    assert!(port.connections.is_none() && !port.routed, "without routes it is as before");
}

#[test]
fn a_consumer_route_is_for_its_namespace_alone() {
    let to_shop = ParentRef { namespace: Some("shop".to_owned()), ..parent("reviews") };
    let consumer = tcp_route("web/t", vec![to_shop], vec![backend("web/own")]);
    let world = world(upserts![
        reviews(),
        service("web/own", "10.96.0.2"),
        tcp("shop/t", vec![backend("shop/reviews")]),
        consumer
    ]);
    for (client, expected) in
        [("web", "TCPRoute/web/t:  -> 1 web/own:80"), ("x", "TCPRoute/shop/t:  -> 1 shop/reviews:80")]
    {
        let port = world.service_for(client, "shop/reviews").ports.remove(0);
        assert_eq!(rules(&port), [expected], "{client}");
    }
}
