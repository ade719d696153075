use weft_proto::v1::{Health, Protocol};
use weft_proto::{MESH_TLS_LABEL, type_url, v1};

use super::super::fixtures::{
    aged, decode, endpoint, found, ip, map, node, peer_authentication, pod, port, service, slice, upserts, view, world,
};
use super::super::{Lookup, Translated};
use crate::model::{
    ContainerPort, Hints, MtlsMode, Pod, Service, ServiceKind, ServicePort, SliceEndpoint, SlicePort, TargetPort,
    TrafficDistribution,
};

fn meshless(mut pod: Pod) -> Pod {
    pod.meta.labels.remove(MESH_TLS_LABEL);
    pod
}

fn names(world: &Translated, client: &str, name: &str) -> Option<String> {
    match world.lookup(type_url::SERVICE, name, &view(client)) {
        Lookup::Found(resource) => Some(resource.name.clone()),
        Lookup::Held | Lookup::Absent => None,
    }
}

// ---- Service

#[test]
fn a_service_answers_to_its_hosts_and_vips_and_to_its_short_name_at_home() {
    let mut reviews = service("shop/reviews", "10.96.0.1");
    reviews.vips.push(ip("fd00::1"));
    let world = world(upserts![reviews]);
    for (name, at_home, elsewhere) in [
        ("shop/reviews", true, true),
        ("10.96.0.1", true, true),
        ("fd00::1", true, true),
        ("reviews.shop.svc.cluster.local", true, true),
        ("reviews.shop.svc", true, true),
        ("reviews.shop", true, true),
        ("reviews", true, false),
        ("fd00:0::1", false, false),
        ("10.96.0.2", false, false),
        ("reviews.other", false, false),
        ("reviews.shop.svc.example.com", false, false),
        ("reviews.shop.cluster.local", false, false),
        ("", false, false),
    ] {
        let expected = |found: bool| found.then(|| "shop/reviews".to_owned());
        assert_eq!(names(&world, "shop", name), expected(at_home), "{name} in shop");
        assert_eq!(names(&world, "web", name), expected(elsewhere), "{name} in web");
    }
    for client in ["shop", "web"] {
        let resource = found(world.lookup(type_url::SERVICE, "shop/reviews", &view(client)));
        for alias in &resource.aliases {
            assert_eq!(names(&world, client, alias).as_deref(), Some("shop/reviews"), "{alias} in {client}");
        }
        assert_eq!(resource.aliases.len(), if client == "shop" { 6 } else { 5 }, "{:?}", resource.aliases);
        let message = world.service_for(client, "shop/reviews");
        assert_eq!(message.hosts.len() + message.vips.len(), resource.aliases.len());
    }
}

#[test]
fn a_vip_that_two_services_list_is_the_oldest_ones_alone() {
    let younger = service("shop/a", "10.96.0.1");
    let younger = Service { meta: aged(younger.meta.clone(), 9), ..younger };
    let world = world(upserts![younger, service("shop/b", "10.96.0.1")]);
    assert_eq!(names(&world, "web", "10.96.0.1").as_deref(), Some("shop/b"));
    assert_eq!(world.service_for("web", "shop/b").vips, ["10.96.0.1"]);
    assert_eq!(world.service_for("web", "shop/a").vips, Vec::<String>::new());
}

#[test]
fn headless_and_external_name_services_have_no_vip() {
    let headless = Service { kind: ServiceKind::Headless, ..service("shop/db", "10.96.0.1") };
    let external =
        Service { kind: ServiceKind::ExternalName("example.com".to_owned()), ..service("shop/ext", "10.96.0.2") };
    let world = world(upserts![headless, external]);
    let db = world.service_for("shop", "db");
    assert_eq!((db.vips.len(), db.hosts.len(), db.ports.len()), (0, 4, 1));
    let ext = world.service_for("shop", "ext");
    assert_eq!((ext.vips.len(), ext.hosts.len(), ext.ports.len()), (0, 4, 1));
    assert_eq!(names(&world, "shop", "10.96.0.1"), None);
    assert_eq!(world.endpoints_of("shop/db:80"), []);
}

/// SEMANTICS.md §1, outbound lookup 3.
#[test]
fn an_external_name_is_known_by_its_hosts_and_its_endpoint_is_the_name() {
    let hosts = ["ext.shop", "ext.shop.svc", "ext.shop.svc.cluster.local"];
    let rows: [(&str, &[u16], &str, &[&str]); 6] = [
        ("a name outside", &[80, 443], "example.com", &hosts),
        ("no ports: nothing to say about it", &[], "example.com", &[]),
        ("a Service of the cluster: the app is led to its VIP", &[80], "reviews.shop.svc.cluster.local", &[]),
        ("the same, absolute", &[80], "Reviews.shop.svc.Cluster.Local.", &[]),
        ("the same, short", &[80], "reviews.shop.svc", &[]),
        ("a name that only sounds like it", &[80], "shop-svc.cluster.local.example.com", &hosts),
    ];
    for (row, ports, external, known) in rows {
        let service = Service {
            kind: ServiceKind::ExternalName(external.to_owned()),
            ports: ports.iter().map(|number| port(*number)).collect(),
            ..service("shop/ext", "10.96.0.2")
        };
        let world = world(upserts![service]);
        let settings: v1::MeshSettings =
            decode(world.lookup(type_url::MESH_SETTINGS, weft_proto::MESH_SETTINGS, &view("web")));
        assert_eq!(settings.known_hosts, known, "{row}");
        for number in ports {
            let name = format!("shop/ext:{number}");
            if known.is_empty() {
                assert_eq!(world.lookup(type_url::ENDPOINTS, &name, &view("web")), Lookup::Absent, "{row}");
            } else {
                let endpoint = v1::Endpoint {
                    address: external.to_owned(),
                    port: (*number).into(),
                    health: v1::Health::Ready.into(),
                    ..v1::Endpoint::default()
                };
                assert_eq!(world.endpoints_of(&name), [endpoint], "{row}");
            }
        }
    }
}

#[test]
fn a_port_speaks_what_it_declares_and_else_what_its_number_suggests() {
    let declared = |number, protocol| ServicePort { protocol, ..port(number) };
    let mut all = service("shop/all", "10.96.0.1");
    all.ports = vec![declared(3306, Protocol::Http), port(6379), port(25), declared(443, Protocol::Tls)];
    let ports = world(upserts![all]).service_for("shop", "all").ports;
    let protocols: Vec<_> = ports.iter().map(|port| (port.port, port.protocol())).collect();
    assert_eq!(
        protocols,
        [(25, Protocol::Tcp), (443, Protocol::Tls), (3306, Protocol::Http), (6379, Protocol::Auto)],
        "sorted by port"
    );
}

// ---- Endpoints

#[test]
fn an_endpoint_has_its_pods_identity_labels_and_place() {
    let mut at = endpoint("a", "10.0.0.1");
    at.zone = "z9".to_owned();
    let world = world(upserts![
        node("n1", "z1"),
        service("shop/reviews", "10.96.0.1"),
        pod("shop/a", "reviews", "10.0.0.1"),
        pod("shop/b", "reviews", "10.0.0.2"),
        meshless(pod("shop/c", "reviews", "10.0.0.3")),
        slice(
            "shop/s",
            "reviews",
            vec![endpoint("", "192.168.0.9"), endpoint("c", "10.0.0.3"), endpoint("", "10.0.0.2"), at]
        ),
    ]);
    let found: Vec<_> = world
        .endpoints_of("shop/reviews:80")
        .into_iter()
        .map(|e| (e.address, e.pod, e.identity, e.mesh_tls, e.zone, e.node, e.labels.len()))
        .collect();
    let row = |addr: &str, pod: &str, identity: &str, mesh_tls, zone: &str, node: &str, labels| {
        let text = |text: &str| text.to_owned();
        (text(addr), text(pod), text(identity), mesh_tls, text(zone), text(node), labels)
    };
    let identity = "spiffe://cluster.local/ns/shop/sa/reviews";
    assert_eq!(
        found,
        [
            row("10.0.0.1", "shop/a", identity, true, "z9", "n1", 2),
            row("10.0.0.2", "shop/b", identity, true, "z1", "n1", 2),
            row("10.0.0.3", "shop/c", identity, false, "z1", "n1", 1),
            row("192.168.0.9", "", "", false, "", "", 0),
        ]
    );
}

#[test]
fn hints_travel_with_endpoints_and_what_a_service_prefers_with_its_policy() {
    let hinted = |pod: &str, addr: &str, zones: &[&str], nodes: &[&str]| SliceEndpoint {
        hints: Hints {
            zones: zones.iter().map(|zone| (*zone).to_owned()).collect(),
            nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
        },
        ..endpoint(pod, addr)
    };
    let near =
        Service { traffic_distribution: Some(TrafficDistribution::SameNode), ..service("shop/reviews", "10.96.0.1") };
    let world = world(upserts![
        near,
        service("shop/ratings", "10.96.0.2"),
        // In two slices for a while, which do not say the same: any fixed choice.
        slice(
            "shop/a",
            "reviews",
            vec![hinted("", "10.0.0.1", &["z1"], &["n1"]), hinted("", "10.0.0.2", &["z2"], &[])]
        ),
        slice("shop/b", "reviews", vec![endpoint("", "10.0.0.2"), endpoint("", "10.0.0.3")]),
    ]);
    let endpoints = world.endpoints_of("shop/reviews:80").into_iter();
    let found: Vec<_> = endpoints.map(|one| (one.address, one.hint_zones, one.hint_nodes)).collect();
    let row = |addr: &str, zones: &[&str], nodes: &[&str]| {
        let names = |of: &[&str]| of.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        (addr.to_owned(), names(zones), names(nodes))
    };
    assert_eq!(found, [row("10.0.0.1", &["z1"], &["n1"]), row("10.0.0.2", &[], &[]), row("10.0.0.3", &[], &[])]);
    let policy = |name: &str| world.service_for("web", name).ports[0].policy.clone();
    let balancing = policy("shop/reviews").and_then(|policy| policy.balancing).expect("said");
    assert_eq!(balancing.zone_aware.map(|said| said.preference()), Some(v1::ZonePreference::SameNode));
    assert_eq!(policy("shop/ratings"), None, "the mesh's rule is what absence says");
}

#[test]
fn health_follows_the_conditions_of_slice_and_pod() {
    let with = |ready, serving, terminating| SliceEndpoint { ready, serving, terminating, ..endpoint("a", "10.0.0.1") };
    let alive = || pod("shop/a", "reviews", "10.0.0.1");
    let gone = || Pod { finished: true, ..alive() };
    let deleted = || Pod { terminating: true, ..alive() };
    let (ready, draining, not_ready) = (Some(Health::Ready), Some(Health::Draining), Some(Health::NotReady));
    // The last two: for a Service that does not, and one that does, publish addresses that are not ready.
    for (row, at, pod, plain, published) in [
        ("ready", with(true, true, false), alive(), ready, ready),
        ("not ready", with(false, false, false), alive(), None, not_ready),
        ("terminating, serving", with(false, true, true), alive(), draining, draining),
        ("terminating, not serving", with(false, false, true), alive(), None, not_ready),
        ("deleted, its slice does not say so yet", with(true, true, false), deleted(), draining, draining),
        ("finished", with(true, true, false), gone(), None, None),
        (
            "named and not known",
            SliceEndpoint { pod: Some("z".into()), ..with(true, true, false) },
            alive(),
            None,
            None,
        ),
        (
            "its name is another's by now",
            with(true, true, false),
            Pod { addresses: vec![ip("10.0.0.9")], ..alive() },
            None,
            None,
        ),
        (
            "not known to have an address yet",
            with(true, true, false),
            Pod { addresses: vec![], ..alive() },
            ready,
            ready,
        ),
    ] {
        for (publish_not_ready, expected) in [(false, plain), (true, published)] {
            let service = Service { publish_not_ready, ..service("shop/reviews", "10.96.0.1") };
            let world = world(upserts![service, pod, slice("shop/s", "reviews", vec![at.clone()])]);
            let health: Vec<_> = world.endpoints_of("shop/reviews:80").iter().map(v1::Endpoint::health).collect();
            assert_eq!(health, expected.into_iter().collect::<Vec<_>>(), "{row}, publish {publish_not_ready}");
        }
    }
}

#[test]
fn slices_join_ports_by_name_and_a_target_may_differ_per_pod() {
    let mut reviews = service("shop/reviews", "10.96.0.1");
    let web = ServicePort { name: "web".to_owned(), target: TargetPort::Name("web".to_owned()), ..port(80) };
    reviews.ports = vec![web, ServicePort { name: "admin".to_owned(), ..port(81) }];
    let on = |name: &str, port: u16, addr: &str| {
        let mut slice = slice(name, "reviews", vec![endpoint("", addr)]);
        slice.ports = vec![SlicePort { name: "web".to_owned(), port }, SlicePort { name: "other".to_owned(), port: 1 }];
        slice
    };
    let world = world(upserts![reviews, on("shop/s1", 8080, "10.0.0.1"), on("shop/s2", 9090, "10.0.0.2")]);
    let at: Vec<_> =
        world.endpoints_of("shop/reviews:80").iter().map(|e| format!("{}:{}", e.address, e.port)).collect();
    assert_eq!(at, ["10.0.0.1:8080", "10.0.0.2:9090"]);
    assert_eq!(world.endpoints_of("shop/reviews:81"), []);
    assert_eq!(world.lookup(type_url::ENDPOINTS, "shop/reviews:82", &view("shop")), Lookup::Absent);
}

#[test]
fn an_endpoint_in_two_slices_is_one_and_the_healthier_counts() {
    let draining = SliceEndpoint { terminating: true, ..endpoint("", "10.0.0.1") };
    let world = world(upserts![
        service("shop/reviews", "10.96.0.1"),
        slice("shop/s1", "reviews", vec![draining.clone(), endpoint("", "10.0.0.2")]),
        slice("shop/s2", "reviews", vec![endpoint("", "10.0.0.1"), draining]),
        slice("web/s3", "reviews", vec![endpoint("", "10.0.0.3")]),
    ]);
    let found: Vec<_> = world.endpoints_of("shop/reviews:80").iter().map(|e| (e.address.clone(), e.health())).collect();
    assert_eq!(found, [("10.0.0.1".to_owned(), Health::Ready), ("10.0.0.2".to_owned(), Health::Ready)]);
}

#[test]
fn a_dual_stack_pod_is_one_endpoint_in_the_family_of_the_services_first_vip() {
    let both = |name: &str, v4: &str, v6: &str| {
        let mut pod = pod(name, "reviews", v4);
        pod.addresses.push(ip(v6));
        pod
    };
    for (vips, want) in [
        (["10.96.0.1", "fd00:96::1"], ["10.0.0.1", "10.0.0.2", "fd00::3"]),
        (["fd00:96::1", "10.96.0.1"], ["10.0.0.2", "fd00::1", "fd00::3"]),
    ] {
        let mut reviews = service("shop/reviews", vips[0]);
        reviews.vips.push(ip(vips[1]));
        let world = world(upserts![
            reviews,
            both("shop/a", "10.0.0.1", "fd00::1"),
            pod("shop/b", "reviews", "10.0.0.2"),
            pod("shop/c", "reviews", "fd00::3"),
            slice("shop/s4", "reviews", vec![endpoint("a", "10.0.0.1"), endpoint("b", "10.0.0.2")]),
            slice("shop/s6", "reviews", vec![endpoint("a", "fd00::1"), endpoint("c", "fd00::3")]),
        ]);
        let found: Vec<_> = world.endpoints_of("shop/reviews:80").into_iter().map(|e| e.address).collect();
        assert_eq!(found, want, "{vips:?}");
    }
}

#[test]
fn mesh_tls_is_decided_by_the_target_port() {
    let mut excluding = pod("shop/a", "reviews", "10.0.0.1");
    excluding.meta.annotations = map(&[("weft.dev/exclude-inbound-ports", "8080")]);
    let mut disabled = peer_authentication("shop/p", MtlsMode::Unset);
    disabled.selector = map(&[("app", "reviews")]);
    disabled.ports = [(9090, MtlsMode::Disable)].into();
    let mut reviews = service("shop/reviews", "10.96.0.1");
    reviews.ports = [80, 8080, 9090].map(|number| ServicePort { name: number.to_string(), ..port(number) }).to_vec();
    let mut all = slice("shop/s", "reviews", vec![endpoint("a", "10.0.0.1")]);
    // The Service's port 80 leads to 8080 in the pod, and 8080 to 80: the pod's port is what counts.
    all.ports = [("80", 8080), ("8080", 80), ("9090", 9090)]
        .map(|(name, port)| SlicePort { name: name.to_owned(), port })
        .to_vec();
    let world = world(upserts![excluding, disabled, reviews, all]);
    let speaks = |port: u16| world.endpoints_of(&format!("shop/reviews:{port}"))[0].mesh_tls;
    assert_eq!([speaks(80), speaks(8080), speaks(9090)], [false, true, false]);
}

#[test]
fn an_endpoint_whose_identity_cannot_be_written_is_left_out() {
    let strange = Pod { service_account: "no such/account".to_owned(), ..pod("shop/a", "reviews", "10.0.0.1") };
    let all = slice("shop/s", "reviews", vec![endpoint("a", "10.0.0.1")]);
    let reviews = service("shop/reviews", "10.96.0.1");
    assert_eq!(world(upserts![reviews, strange, all]).endpoints_of("shop/reviews:80"), []);
    assert_eq!(world(upserts![reviews, meshless(strange), all]).endpoints_of("shop/reviews:80").len(), 1);
}

// ---- Workload

#[test]
fn a_pod_is_told_who_it_is() {
    let mut both = pod("shop/a", "reviews", "10.0.0.1");
    both.addresses.push(ip("fd00::a"));
    let world = world(upserts![node("n1", "z1"), both]);
    let own = world.workload("fd00::a");
    assert_eq!(own, world.workload("10.0.0.1"));
    assert_eq!(
        (&*own.identity, &*own.owner, &*own.zone),
        ("spiffe://cluster.local/ns/shop/sa/reviews", "reviews", "z1")
    );
    assert_eq!(own.addresses, ["10.0.0.1", "fd00::a"]);
    let by_address = found(world.lookup(type_url::WORKLOAD, "10.0.0.1", &view("web")));
    let by_self = found(world.own(type_url::WORKLOAD, ip("10.0.0.1")));
    assert_eq!((&*by_address.name, &*by_self.name), ("10.0.0.1", "self"));
    // Where those like it are is told to itself alone: others are not to hear of each scaling.
    let others = decode::<v1::Workload>(world.lookup(type_url::WORKLOAD, "10.0.0.1", &view("web")));
    assert_eq!((own.callers.len(), others.callers.len()), (1, 0));
    assert_eq!(others, v1::Workload { callers: Vec::new(), ..own.clone() });
    let bound = world.workload_by_address(ip("10.0.0.1")).unwrap();
    assert_eq!((&*bound.namespace, &*bound.name, &*bound.service_account), ("shop", "a", "reviews"));
    assert_eq!(bound.identity.as_ref().map(|id| id.as_str()), Some(&*own.identity));
}

#[test]
fn an_address_is_the_living_pods_and_a_nodes_address_is_nobodys() {
    let old = pod("shop/old", "reviews", "10.0.0.1");
    let new = pod("shop/new", "reviews", "10.0.0.1");
    let new = Pod { meta: aged(new.meta.clone(), 9), ..new };
    let holder = |a: &Pod, b: &Pod| world(upserts![a, b]).workload_by_address(ip("10.0.0.1")).map(|w| w.name.clone());
    for (row, old, new, expected) in [
        ("the younger", old.clone(), new.clone(), Some("new")),
        ("not a finished one", old.clone(), Pod { finished: true, ..new.clone() }, Some("old")),
        ("rather not a terminating one", old.clone(), Pod { terminating: true, ..new.clone() }, Some("old")),
        ("on its node's network", Pod { finished: true, ..old }, Pod { host_network: true, ..new }, None),
    ] {
        assert_eq!(holder(&old, &new).as_deref(), expected, "{row}");
    }
}

#[test]
fn a_workload_lists_every_port_that_something_says_something_about() {
    let mut web = pod("shop/a", "web", "10.0.0.1");
    web.ports = [("web", 8080), ("", 25)].map(|(name, port)| ContainerPort { name: name.to_owned(), port }).to_vec();
    web.meta.annotations = map(&[("weft.dev/exclude-inbound-ports", "7000")]);
    let to = |name: &str, number, target, protocol| {
        let mut service = service(name, "10.96.0.1");
        service.selector = map(&[("app", "web")]);
        service.ports = vec![ServicePort { target, protocol, ..port(number) }];
        service
    };
    let number = TargetPort::Number;
    let world = world(upserts![
        web,
        to("shop/named", 80, TargetPort::Name("web".to_owned()), Protocol::Http),
        to("shop/undeclared", 80, number(8080), Protocol::Auto),
        to("shop/db", 80, number(3306), Protocol::Auto),
        to("shop/one", 80, number(9000), Protocol::Grpc),
        to("shop/other", 80, number(9000), Protocol::Tcp),
        to("shop/no-such-name", 80, TargetPort::Name("nope".to_owned()), Protocol::Http),
        to("other/elsewhere", 80, number(1234), Protocol::Http),
        service("shop/unrelated", "10.96.0.9"),
    ]);
    let ports: Vec<_> =
        world.workload("10.0.0.1").ports.iter().map(|port| (port.port, port.protocol(), port.mesh_tls)).collect();
    assert_eq!(
        ports,
        [
            (25, Protocol::Tcp, true),
            (3306, Protocol::Tcp, true),
            (7000, Protocol::Auto, false),
            (8080, Protocol::Http, true),
            (9000, Protocol::Auto, true),
        ]
    );
}
