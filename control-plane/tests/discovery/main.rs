//! The control plane as a proxy meets it: a real process's worth of it on loopback ports, a directory of manifests, and a
//! client that speaks TLS, gRPC and delta xDS.

mod harness;
mod process;
mod requests;
mod scale;

use std::time::Duration;

use harness::{DELTA, Mesh, PERMISSION_DENIED, Proxy, RESERVED_NOT_FOR_ANYBODY, roots, text_of};
use tonic::Code;
use weft_e2e::wire::Svid;
use weft_proto::type_url::{ENDPOINTS, INBOUND_POLICY, MESH_SETTINGS, SERVICE, TRUST_BUNDLE, WORKLOAD};
use weft_proto::v1::{self, weighted_target::Target};

const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/client";
const REVIEWS: &str = "spiffe://cluster.local/ns/shop/sa/reviews";

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_certified_gets_what_it_asks_for_and_then_what_changes() {
    let mesh = Mesh::start().await;
    let svid = mesh.certify(CLIENT).await.unwrap();
    let mut proxy = mesh.connect(&svid, "10.1.0.1").await;

    proxy.subscribe(WORKLOAD, &["self"]).await;
    let own: v1::Workload = proxy.one(WORKLOAD, "self").await;
    assert_eq!((&*own.namespace, &*own.name, &*own.identity), ("shop", "client", CLIENT));
    proxy.subscribe(INBOUND_POLICY, &["self"]).await;
    let _: v1::InboundPolicy = proxy.one(INBOUND_POLICY, "self").await;
    proxy.subscribe(MESH_SETTINGS, &["mesh"]).await;
    let _: v1::MeshSettings = proxy.one(MESH_SETTINGS, "mesh").await;
    proxy.subscribe(TRUST_BUNDLE, &["cluster.local"]).await;
    let bundle: v1::TrustBundle = proxy.one(TRUST_BUNDLE, "cluster.local").await;
    assert_eq!(bundle.roots, roots(&svid));

    // By VIP, as a first connection asks; the answer carries every name.
    proxy.subscribe(SERVICE, &["10.96.0.7"]).await;
    let (service, aliases) = proxy.named::<v1::Service>(SERVICE, "shop/reviews").await;
    assert_eq!(service.vips, ["10.96.0.7"]);
    for alias in ["10.96.0.7", "reviews.shop.svc.cluster.local", "reviews.shop", "reviews"] {
        assert!(aliases.iter().any(|known| known == alias), "{alias} is not among {aliases:?}");
    }
    assert_eq!(weights(&service), [90, 10]);
    proxy.subscribe(ENDPOINTS, &["shop/reviews-v1:80"]).await;
    let endpoints: v1::Endpoints = proxy.one(ENDPOINTS, "shop/reviews-v1:80").await;
    let found: Vec<_> = endpoints.endpoints.iter().map(|e| (&*e.address, e.port, &*e.identity, e.mesh_tls)).collect();
    assert_eq!(found, [("10.1.0.2", 8080, REVIEWS, true)]);
    proxy.subscribe(SERVICE, &["10.96.0.99"]).await;
    assert_eq!(text_of(&proxy.next().await.unwrap()), "-10.96.0.99");

    // An edit arrives, and only what it touches.
    mesh.write("route.yaml", &harness::route(0, 100));
    let (service, _) = proxy.named::<v1::Service>(SERVICE, "shop/reviews").await;
    assert_eq!(weights(&service), [0, 100]);

    let shown = mesh.get("/debug/proxies").await;
    for part in ["\"pod\": \"shop/client\"", CLIENT, "\"10.1.0.1\"", "\"nacks\": 0"] {
        assert!(shown.1.contains(part), "{part} is not in {}", shown.1);
    }
    mesh.stop().await;
    assert_eq!(proxy.next().await.map_err(|status| status.code()), Err(Code::Ok), "the stream ends gracefully");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_told_where_it_is_where_those_like_it_are_and_where_endpoints_are() {
    let mesh = Mesh::start().await;
    let svid = mesh.certify(CLIENT).await.unwrap();
    let mut proxy = mesh.connect(&svid, "10.1.0.1").await;
    let callers =
        |own: &v1::Workload| -> Vec<_> { own.callers.iter().map(|one| (one.zone.clone(), one.callers)).collect() };
    let pair = |zone: &str, count| (zone.to_owned(), count);
    proxy.subscribe(WORKLOAD, &["self"]).await;
    let own: v1::Workload = proxy.one(WORKLOAD, "self").await;
    assert_eq!((&*own.zone, callers(&own)), ("", vec![]), "nobody says");

    let nodes = [("n1", "a"), ("n2", "b")].map(|(name, zone)| harness::node(name, zone));
    mesh.write("nodes.yaml", &nodes.join("---\n"));
    let client = |name: &str, address: &str, node: &str| {
        let owner = "  ownerReferences: [{apiVersion: v1, kind: X, name: web, uid: u, controller: true}]\n";
        harness::pod(name, "client", "client", address)
            .replace("metadata:\n", &format!("metadata:\n{owner}"))
            .replace("spec:\n", &format!("spec:\n  nodeName: {node}\n"))
    };
    let (before, after) = (harness::pod("client", "client", "client", "10.1.0.1"), client("client", "10.1.0.1", "n1"));
    mesh.write("mesh.yaml", &harness::manifests_of_the_mesh().replace(&before, &after));
    let others =
        |second: &str| [client("client-2", "10.1.0.12", second), client("client-3", "10.1.0.13", "n2")].join("---\n");
    mesh.write("clients.yaml", &others("n1"));
    let own = loop {
        let own: v1::Workload = proxy.one(WORKLOAD, "self").await;
        if own.callers.len() == 2 {
            break own;
        }
    };
    assert_eq!((&*own.zone, &*own.node, callers(&own)), ("a", "n1", vec![pair("a", 2), pair("b", 1)]));

    // What others see of it says nothing of that, and is not sent again when that changes.
    proxy.subscribe(WORKLOAD, &["10.1.0.1"]).await;
    let by_address: v1::Workload = proxy.one(WORKLOAD, "10.1.0.1").await;
    assert_eq!((&*by_address.zone, callers(&by_address)), ("a", vec![]));
    let had = proxy.has(WORKLOAD);
    mesh.write("clients.yaml", &others("n2"));
    let own: v1::Workload = proxy.one(WORKLOAD, "self").await;
    assert_eq!(callers(&own), [pair("a", 1), pair("b", 2)]);
    let has = proxy.has(WORKLOAD);
    assert_eq!(has["10.1.0.1"], had["10.1.0.1"]);
    assert_ne!(has["self"], had["self"]);

    // Endpoints: the node's zone, the slice's own, and whom they are meant for.
    proxy.subscribe(ENDPOINTS, &["shop/reviews-v2:80"]).await;
    let endpoints: v1::Endpoints = proxy.one(ENDPOINTS, "shop/reviews-v2:80").await;
    assert_eq!(endpoints.endpoints[0].zone, "");
    mesh.write(
        "slice.yaml",
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, \
         metadata: {name: s, namespace: shop, labels: {kubernetes.io/service-name: reviews-v2}}, \
         ports: [{name: http, port: 8080}], endpoints: [\
         {addresses: [192.0.2.1], nodeName: n2, hints: {forZones: [{name: b}], forNodes: [{name: n2}]}}, \
         {addresses: [192.0.2.2], nodeName: n2, zone: c}]}",
    );
    let endpoints: v1::Endpoints = proxy.one(ENDPOINTS, "shop/reviews-v2:80").await;
    let found: Vec<_> =
        endpoints.endpoints.into_iter().map(|one| (one.address, one.zone, one.hint_zones, one.hint_nodes)).collect();
    let text = |text: &str| text.to_owned();
    assert_eq!(
        found,
        [
            (text("192.0.2.1"), text("b"), vec![text("b")], vec![text("n2")]),
            (text("192.0.2.2"), text("c"), vec![], vec![]),
        ]
    );
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_what_a_proxy_has_is_not_sent_again() {
    let mut mesh = Mesh::start().await;
    let svid = mesh.certify(CLIENT).await.unwrap();
    let mut proxy = mesh.connect(&svid, "10.1.0.1").await;
    let wanted: &[(&str, &[&str])] = &[
        (TRUST_BUNDLE, &["cluster.local"]),
        (MESH_SETTINGS, &["mesh"]),
        (WORKLOAD, &["self", "10.1.0.2"]),
        (INBOUND_POLICY, &["self"]),
        (SERVICE, &["10.96.0.7", "shop/reviews-v1"]),
        (ENDPOINTS, &["shop/reviews-v1:80", "shop/reviews-v2:80"]),
    ];
    for (type_url, names) in wanted {
        proxy.subscribe(type_url, names).await;
        while proxy.has(type_url).len() < names.len() {
            proxy.next().await.unwrap();
        }
    }
    assert_eq!(sum(&mesh.metrics().await, "weft_discovery_resources_sent_total"), 9);

    mesh.restart().await;
    let mut again = mesh.connect(&svid, "10.1.0.1").await; // The SVID of before: the root is the same.
    for (type_url, names) in wanted {
        again.reconnect(type_url, names, proxy.has(type_url)).await;
    }
    // The first thing to be said is the answer to a new question.
    again.subscribe(SERVICE, &["shop/reviews-v2"]).await;
    assert_eq!(text_of(&again.next().await.unwrap()).split('@').next(), Some("shop/reviews-v2"));
    let metrics = mesh.metrics().await;
    assert_eq!(sum(&metrics, "weft_discovery_resources_sent_total"), 1, "{metrics}");
    assert_eq!(sum(&metrics, "weft_discovery_resources_skipped_total"), 9, "{metrics}");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_for_the_pod_its_certificate_names() {
    let mesh = Mesh::start().await;
    let client = mesh.certify(CLIENT).await.unwrap();
    let rows = [
        ("somebody else's pod", "10.1.0.2", PERMISSION_DENIED),
        ("no pod", "10.1.0.77", PERMISSION_DENIED),
        ("no address", "client", PERMISSION_DENIED),
        ("nothing", "", PERMISSION_DENIED),
    ];
    for (row, node, expected) in rows {
        let mut proxy = mesh.connect(&client, node).await;
        proxy.subscribe(WORKLOAD, &["self"]).await;
        let status = proxy.next().await.unwrap_err();
        assert_eq!(status.code(), expected, "{row}: {status}");
    }
    let status = mesh.anonymous_stream().await;
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    let status = mesh.state_of_the_world(&client).await;
    assert_eq!(status.code(), Code::Unimplemented, "{status}");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_read_who_may_not_ask() {
    let mesh = Mesh::start().await;
    let client = mesh.certify(CLIENT).await.unwrap();
    let progress = "/weft.v1.Replicas/Progress";
    let rows = [
        ("nobody asks a replica", None, progress, PERMISSION_DENIED),
        ("a workload asks a replica", Some(&client), progress, PERMISSION_DENIED),
        ("nobody asks for configuration", None, DELTA, Code::Unauthenticated),
        ("nobody asks for what there is not", None, "/x.Y/Z", Code::Unimplemented),
    ];
    for (row, svid, path, expected) in rows {
        assert_eq!(mesh.unfinished(svid, path).await, expected, "{row}");
    }
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_keeps_connections_without_a_certificate_loses_its_oldest() {
    let mesh = Mesh::start().await;
    let mut open = mesh.anonymous_connections(258).await;
    harness::until_closed(&mut open[0]).await;
    // They are as many as one address may have, and still it gets what it needs.
    assert!(mesh.certify(CLIENT).await.is_ok());
    let metrics = mesh.metrics().await;
    assert!(sum(&metrics, "weft_discovery_no_room_total") >= 2, "{metrics}");
    drop(open);
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_may_come_a_little_after_its_proxy() {
    let mesh = Mesh::start().await;
    let late = mesh.certify("spiffe://cluster.local/ns/shop/sa/late").await.unwrap();
    let mut proxy = mesh.connect(&late, "10.1.0.9").await;
    proxy.subscribe(WORKLOAD, &["self"]).await;
    mesh.write("late.yaml", &harness::pod("late", "late", "late", "10.1.0.9"));
    let own: v1::Workload = proxy.one(WORKLOAD, "self").await;
    assert_eq!(own.name, "late");

    // Its address becomes another's: the stream is not that pod's.
    mesh.write("late.yaml", &harness::pod("other", "other", "other", "10.1.0.9"));
    let status = loop {
        match proxy.next().await {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certify_refuses_whom_it_does_not_know() {
    let mesh = Mesh::start().await;
    let token = mesh.token(CLIENT);
    let rows = [
        ("no token", None, CLIENT, Code::Unauthenticated),
        ("a made-up token", Some("a.b".to_owned()), CLIENT, Code::Unauthenticated),
        ("a token for someone else", Some(token.clone()), REVIEWS, Code::PermissionDenied),
        ("the control plane's identity", Some(token), RESERVED_NOT_FOR_ANYBODY, Code::PermissionDenied),
    ];
    for (row, token, name, expected) in rows {
        let status = mesh.certify_with(token, name).await.err().map(|status| status.code());
        assert_eq!(status, Some(expected), "{row}");
    }
    let metrics = mesh.metrics().await;
    assert_eq!(sum(&metrics, "weft_identity_refused_total"), 4, "{metrics}");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_1_3_and_hybrid_and_a_bad_peer_costs_only_itself() {
    let mesh = Mesh::start().await;
    let svid = mesh.certify(CLIENT).await.unwrap();
    assert_eq!(mesh.handshake(Some(&svid)).await, Ok("TLSv1_3 X25519MLKEM768 h2".to_owned()));
    let stranger = Mesh::start().await;
    let foreign = stranger.certify(CLIENT).await.unwrap();
    stranger.stop().await;
    // The same name under another mesh's root.
    assert!(mesh.handshake(Some(&Svid { roots: svid.roots.clone(), ..foreign.clone() })).await.is_err());
    mesh.send_garbage().await;
    assert!(mesh.handshake(None).await.is_ok());
    let mut proxy = mesh.connect(&svid, "10.1.0.1").await;
    proxy.subscribe(MESH_SETTINGS, &["mesh"]).await;
    let _: v1::MeshSettings = proxy.one(MESH_SETTINGS, "mesh").await;
    let metrics = mesh.metrics().await;
    assert!(sum(&metrics, "weft_discovery_handshakes_failed_total") >= 2, "{metrics}");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_does_not_outlive_its_certificate() {
    let mesh = Mesh::start().await;
    let svid = mesh.short_svid(CLIENT, Duration::from_secs(2));
    let mut proxy = mesh.connect(&svid, "10.1.0.1").await;
    proxy.subscribe(MESH_SETTINGS, &["mesh"]).await;
    let _: v1::MeshSettings = proxy.one(MESH_SETTINGS, "mesh").await;
    assert_eq!(proxy.next().await.map_err(|status| status.code()), Err(Code::Ok));
    // Nor may a new connection use it, once the second it is named by is over.
    while mesh.handshake(Some(&svid)).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nack_is_shown_and_the_version_is_not_sent_again() {
    let mesh = Mesh::start().await;
    let svid = mesh.certify(CLIENT).await.unwrap();
    let mut proxy: Proxy = mesh.connect(&svid, "10.1.0.1").await;
    proxy.nack_next("shop/reviews: its regex does not compile");
    proxy.subscribe(SERVICE, &["shop/reviews"]).await;
    proxy.next().await.unwrap();
    proxy.subscribe(SERVICE, &["shop/none"]).await;
    assert_eq!(text_of(&proxy.next().await.unwrap()), "-shop/none");
    let (_, shown) = mesh.get("/debug/proxies").await;
    for part in ["\"nacks\": 1", "its regex does not compile", "\"nacked\": 1"] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    assert_eq!(sum(&mesh.metrics().await, "weft_discovery_nacks_total"), 1);
    mesh.write("route.yaml", &harness::route(50, 50));
    let (service, _) = proxy.named::<v1::Service>(SERVICE, "shop/reviews").await;
    assert_eq!(weights(&service), [50, 50]);
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_port_says_what_there_is() {
    let mesh = Mesh::start().await;
    assert_eq!(mesh.get("/ready").await, (200, "ready\n".to_owned()));
    assert_eq!(mesh.get("/live").await.0, 200);
    let (status, paths) = mesh.get("/").await;
    assert_eq!((status, paths.contains("/debug/proxies")), (404, true));
    let (status, shown) = mesh.get("/debug/resources?type=Service&name=10.96.0.7&namespace=shop").await;
    assert_eq!((status, shown.contains("\"name\": \"shop/reviews\"")), (200, true), "{shown}");
    assert_eq!(mesh.get("/debug/resources?type=Service&name=none").await.0, 404);
    assert_eq!(mesh.get("/debug/resources?type=Nothing").await.0, 400);
    mesh.write("bad.yaml", "apiVersion: v1\nkind: Service\nmetadata:\n  name: bad\nspec:\n  ports: 7\n");
    let shown = mesh.until("/debug/problems", "bad.yaml").await;
    assert!(shown.contains("\"line\": 6"), "{shown}");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_says_what_became_of_an_object() {
    let mesh = Mesh::start().await;
    let text = mesh.status_until("HTTPRoute.shop.canary.yaml", "type: ResolvedRefs").await;
    for part in ["type: Accepted", "controllerName: weft.dev/mesh-controller", "name: reviews"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(!text.contains("False"), "{text}");
    mesh.write("route.yaml", &harness::route(1, 1).replace("name: reviews-v2", "name: reviews-v9"));
    mesh.status_until("HTTPRoute.shop.canary.yaml", "reason: BackendNotFound").await;
    // A kind that goes before it has the port, and gives it back.
    mesh.write("grpc.yaml", &harness::route(1, 1).replace("kind: HTTPRoute", "kind: GRPCRoute"));
    mesh.status_until("GRPCRoute.shop.canary.yaml", "reason: Accepted").await;
    mesh.status_until("HTTPRoute.shop.canary.yaml", "reason: RouteReasonConflicted").await;
    mesh.remove("grpc.yaml");
    mesh.status_until("HTTPRoute.shop.canary.yaml", "reason: Accepted").await;
    mesh.write("bad.yaml", "apiVersion: v1\nkind: Service\nmetadata:\n  name: bad\nspec:\n  ports: 7\n");
    mesh.status_until("problems.txt", "error: bad.yaml:6").await;
    mesh.remove("bad.yaml");
    mesh.until("/metrics", "weft_source_errors 0").await;
    mesh.stop().await;
}

fn weights(service: &v1::Service) -> Vec<u32> {
    let rules = service.ports.iter().flat_map(|port| &port.rules);
    let targets = rules.flat_map(|rule| &rule.targets);
    targets.filter(|target| matches!(target.target, Some(Target::Backend(_)))).map(|target| target.weight).collect()
}

/// The sum of a metric over its labels.
fn sum(metrics: &str, name: &str) -> u64 {
    let lines = metrics.lines().filter_map(|line| line.strip_prefix(name));
    lines.filter_map(|rest| rest.rsplit_once(' ')).filter_map(|(_, value)| value.parse::<u64>().ok()).sum()
}
