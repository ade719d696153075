//! Who speaks, who may, and what (SEMANTICS.md §1 "protocol", "inbound detection", "mesh TLS", "redirect", "calls to
//! self").

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use weft_proto::{ports, v1};

use super::wire::{App, End, Wire, ok};
use super::{Pair, REVIEWS, Sidecar, VIP, plain, routed, rule};
use crate::config::Kind;
use crate::identity::MeshProtocol;
use crate::identity::testing::TestCa;

use v1::{MtlsMode, Protocol};

/// Speaks first, as mail and database servers do, then echoes lines.
pub(super) async fn banner_app() -> App {
    App::raw(|mut wire, _| async move {
        wire.send("220 ready\r\n").await;
        while wire.more().await.is_ok() {
            let read = wire.read.split();
            wire.send(&read).await;
        }
    })
    .await
}

/// Logs the first bytes, however they come, then answers `seen`.
pub(super) async fn first_bytes_app(count: usize) -> App {
    App::raw(move |mut wire, log| async move {
        let body = wire.take(count).await;
        log.requests.lock().push(super::wire::Message { body, ..Default::default() });
        wire.send("seen").await;
        let _ = wire.more().await;
    })
    .await
}

fn auto(port: &mut v1::ServicePort) {
    port.protocol = Protocol::Auto.into();
}

/// A real ClientHello, larger than one segment.
pub(super) fn client_hello(sni: &'static str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut client = rustls::ClientConnection::new(Arc::new(config), sni.try_into().unwrap()).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_through_both_sidecars() {
    let pair = Pair::new(banner_app().await).await;
    pair.web.service(auto);
    let mut client = pair.connect().await;
    assert_eq!(client.take(11).await, "220 ready\r\n");
    client.send("EHLO me\r\n").await;
    assert_eq!(client.take(9).await, "EHLO me\r\n");
    assert_eq!(pair.web.metric("weft_connections_total", "protocol=\"tcp\",mtls=\"true\""), 1);
    assert_eq!(pair.reviews.metric("weft_connections_total", "protocol=\"tcp\",mtls=\"true\""), 1);
}

#[tokio::test]
async fn opaque_bytes_go_through_as_they_are() {
    let bytes = b"\0\0\0\x08\x04\xd2\x16\x2f and more";
    let pair = Pair::new(first_bytes_app(bytes.len()).await).await;
    pair.web.service(auto);
    let mut client = pair.connect().await;
    client.send(bytes).await;
    assert_eq!(client.take(4).await, "seen");
    assert_eq!(pair.app.only().body, &bytes[..]);
}

#[tokio::test]
async fn a_silent_http_client_keeps_its_routing() {
    let pair = Pair::new(App::says("v1").await).await;
    pair.web.service(auto);
    let mut undeclared = pair.connect().await;
    pair.web.service(|port| {
        auto(port);
        routed(port, rule(&[("shop/reviews", 1)]));
        let path = v1::PathMatch { kind: Some(v1::path_match::Kind::Exact("/known".into())) };
        port.entries[0].r#match = Some(v1::HttpMatch { path: Some(path), ..v1::HttpMatch::default() });
    });
    let mut declared = pair.connect().await;
    // Long past the 10 ms after which an endpoint is dialled.
    tokio::time::sleep(Duration::from_millis(60)).await;
    for (row, client) in [("undeclared when it came", &mut undeclared), ("routed", &mut declared)] {
        assert_eq!(client.get("/known").await.text(), "v1", "{row}");
        assert_eq!(client.get("/other").await.head.status(), 404, "{row}");
    }
    assert!(pair.app.requests()[0].head.get("x-forwarded-client-cert").is_some(), "it came as a request, not as bytes");
}

#[tokio::test]
async fn a_head_that_dribbles_in_is_http_all_the_same() {
    let pair = Pair::new(App::says("v1").await).await;
    pair.web.service(auto);
    let mut client = pair.connect().await;
    for piece in ["G", "ET /x HT", "TP/1.1\r\nhost: rev", "iews\r\n\r\n"] {
        client.send(piece).await;
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    assert_eq!(client.response().await.text(), "v1");
    assert_eq!(pair.app.only().head.start, "GET /x HTTP/1.1");
}

#[tokio::test]
async fn the_apps_own_tls_passes_through_weft_tcp() {
    let hello = client_hello("db.example.com");
    for protocol in [Protocol::Tls, Protocol::Auto] {
        let pair = Pair::new(first_bytes_app(hello.len()).await).await;
        pair.web.service(|port| port.protocol = protocol.into());
        let mut client = pair.connect().await;
        client.send(&hello[..100]).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        client.send(&hello[100..]).await;
        assert_eq!(client.take(4).await, "seen", "{protocol:?}");
        assert_eq!(pair.app.only().body, hello, "{protocol:?}");
        assert_eq!(pair.reviews.metric("weft_connections_total", "protocol=\"tcp\",mtls=\"true\""), 1, "{protocol:?}");
    }
}

#[tokio::test]
async fn modes_admit_what_they_say() {
    let hello = client_hello("db.example.com");
    // What comes, and which modes let it in.
    let rows: [(&str, &[u8], [bool; 3]); 3] = [
        ("plain HTTP", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", [false, true, true]),
        ("the app's own TLS", &hello, [false, true, true]),
        ("opaque bytes", b"\0\0\0\x08\x04\xd2\x16\x2f", [false, true, true]),
    ];
    for (row, bytes, admitted) in rows {
        for (mode, admitted) in [MtlsMode::Strict, MtlsMode::Permissive, MtlsMode::Disable].into_iter().zip(admitted) {
            let reviews = Sidecar::new(&TestCa::new("weft.local"), "reviews");
            let app = App::raw(|mut wire, _| async move {
                wire.more().await.unwrap();
                wire.send(ok("in")).await;
            })
            .await;
            reviews.own_port(app.addr.port(), Protocol::Auto, mode);
            let mut client = reviews.connect_inbound(app.addr).await;
            client.send(bytes).await;
            if admitted {
                assert_eq!(client.head().await.status(), 200, "{row}, {mode:?}");
            } else {
                assert_eq!(client.end().await, End::Reset, "{row}, {mode:?}");
                assert_eq!(app.connections(), 0, "{row}, {mode:?}");
                assert_eq!(reviews.metric("weft_refused_total", "mtls-required"), 1, "{row}, {mode:?}");
            }
        }
    }
}

#[tokio::test]
async fn peers_are_admitted_by_strict_and_by_permissive() {
    for mode in [MtlsMode::Strict, MtlsMode::Permissive] {
        let pair = Pair::new(App::says("in").await).await;
        pair.reviews.own_port(pair.app.addr.port(), Protocol::Http, mode);
        assert_eq!(pair.connect().await.get("/").await.text(), "in", "{mode:?}");
    }
}

#[tokio::test]
async fn strict_never_dials_the_app_for_a_silent_stranger() {
    let reviews = Sidecar::new(&TestCa::new("weft.local"), "reviews");
    let app = banner_app().await;
    reviews.own_port(app.addr.port(), Protocol::Auto, MtlsMode::Strict);
    let mut stranger = reviews.connect_inbound(app.addr).await;
    assert!(tokio::time::timeout(Duration::from_millis(60), stranger.more()).await.is_err());
    assert_eq!(app.connections(), 0);
    reviews.own_port(app.addr.port(), Protocol::Auto, MtlsMode::Permissive);
    assert_eq!(reviews.connect_inbound(app.addr).await.take(11).await, "220 ready\r\n");
}

#[tokio::test]
async fn without_a_policy_nobody_comes_in() {
    let ca = TestCa::new("weft.local");
    let reviews = Sidecar::alone(&ca, "reviews");
    let app = App::says("in").await;
    let mut stranger = reviews.connect_inbound(app.addr).await;
    assert_eq!(stranger.end().await, End::Reset);
    let web = Sidecar::new(&ca, "web");
    web.service(|_| {});
    web.endpoints(REVIEWS, &[reviews.meshed(app.addr).await]);
    let response = web.connect(VIP).await.get("/").await;
    assert_eq!((response.head.status(), response.head.get("x-weft-reason")), (503, Some("connect-failed")));
    assert_eq!(app.connections(), 0);
}

#[tokio::test]
async fn a_server_of_another_identity_gets_not_one_byte_in_plain_text() {
    let ca = TestCa::new("weft.local");
    let (web, ratings, reviews) =
        (Sidecar::new(&ca, "web"), Sidecar::new(&ca, "ratings"), Sidecar::new(&ca, "reviews"));
    let (wrong, right) = (App::says("wrong").await, App::says("right").await);
    let impostor = v1::Endpoint { identity: reviews.identity.clone(), ..ratings.meshed(wrong.addr).await };
    web.service(|_| {});
    web.endpoints(REVIEWS, std::slice::from_ref(&impostor));
    let mut client = web.connect(VIP).await;
    let response = client.post("/", "secret").await;
    assert_eq!((response.head.status(), response.head.get("x-weft-reason")), (503, Some("connect-failed")));
    assert!(response.text().contains("ratings"), "it says who answered: {}", response.text());
    // A listener that is no sidecar at all sees a ClientHello and nothing else.
    let spy = App::raw(|mut wire, log| async move {
        while wire.more().await.is_ok() {}
        let body = wire.read.split().freeze();
        log.requests.lock().push(super::wire::Message { body, ..Default::default() });
    })
    .await;
    let unknown = v1::Endpoint { mesh_tls: true, identity: reviews.identity.clone(), ..plain(spy.addr) };
    web.endpoints(REVIEWS, &[impostor, unknown, reviews.meshed(right.addr).await]);
    let stop = tokio::time::Instant::now() + Duration::from_millis(300);
    while tokio::time::Instant::now() < stop {
        let ask = tokio::time::timeout(Duration::from_millis(300), client.post("/", "secret"));
        let Ok(response) = ask.await else { break };
        assert_eq!(response.text(), "right", "its failures are retried elsewhere");
    }
    assert_eq!((wrong.count(), wrong.connections()), (0, 0));
    for seen in spy.requests() {
        assert!(seen.body.starts_with(&[0x16, 3]), "a TLS record");
        assert!(!seen.body.windows(6).any(|bytes| bytes == b"secret"));
    }
}

#[tokio::test]
async fn an_endpoint_of_another_identity_is_ejected_like_one_that_cannot_be_reached() {
    let ca = TestCa::new("weft.local");
    let (web, ratings, reviews) =
        (Sidecar::new(&ca, "web"), Sidecar::new(&ca, "ratings"), Sidecar::new(&ca, "reviews"));
    let (wrong, right) = (App::says("wrong").await, App::says("right").await);
    let impostor = v1::Endpoint { identity: reviews.identity.clone(), ..ratings.meshed(wrong.addr).await };
    web.service(|_| {});
    web.endpoints(REVIEWS, &[impostor, reviews.meshed(right.addr).await]);
    let mut client = web.connect(VIP).await;
    for _ in 0..1000 {
        assert_eq!(client.post("/", "x").await.text(), "right");
        if web.metric("weft_ejections_total", REVIEWS) == 1 {
            break;
        }
        // A failing endpoint is offered a request every 50 ms.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(web.metric("weft_ejections_total", REVIEWS), 1);
    assert_eq!(wrong.connections(), 0);
}

#[tokio::test]
async fn a_peer_that_is_slow_to_begin_is_still_a_peer() {
    let ca = TestCa::new("weft.local");
    let reviews = Sidecar::new(&ca, "reviews");
    let app = App::says("in").await;
    reviews.own_port(app.addr.port(), Protocol::Auto, MtlsMode::Permissive);
    let stream = TcpStream::connect(reviews.listen_for(app.addr).await).await.unwrap();
    // The app has been dialled by then, and has said nothing.
    tokio::time::sleep(Duration::from_millis(40)).await;
    let expected = ca.id("shop", "reviews");
    ca.manager("shop", "web").connect(stream, &expected, MeshProtocol::H2).await.unwrap();
    assert_eq!(app.connections(), 1);
}

#[tokio::test]
async fn our_own_listeners_are_never_a_destination() {
    let web = Sidecar::new(&TestCa::new("weft.local"), "web");
    let pod = web.outbound.settings.args.pod_address;
    let ours = [ports::OUTBOUND, ports::INBOUND, ports::ADMIN, ports::METRICS, ports::HEALTH];
    for (number, port) in ours.into_iter().enumerate() {
        for address in ["127.0.0.1".parse().unwrap(), pod] {
            let mut client = web.connect(&std::net::SocketAddr::new(address, port).to_string()).await;
            assert_eq!(client.end().await, End::Reset, "outbound to {address}:{port}");
        }
        let mut client = web.connect_inbound((pod, port).into()).await;
        assert_eq!(client.end().await, End::Reset, "inbound to {port}");
        let count = number as u64 + 1;
        assert_eq!(web.metric("weft_refused_total{direction=\"outbound\"", "own-listener"), 2 * count);
        assert_eq!(web.metric("weft_refused_total{direction=\"inbound\"", "own-listener"), count);
    }
}

#[tokio::test]
async fn a_call_to_this_very_pod_is_handed_over_in_process() {
    let web = Sidecar::new(&TestCa::new("weft.local"), "web");
    let pod = web.outbound.settings.args.pod_address;
    let app = App::at((pod, 0).into(), |mut wire, log| async move {
        while let Some(request) = wire.request().await {
            let upgrade = request.head.get("upgrade").is_some();
            log.requests.lock().push(request);
            if upgrade {
                wire.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nhi").await;
                return;
            }
            wire.send(ok("me")).await;
        }
    })
    .await;
    web.service(|_| {});
    web.endpoints(REVIEWS, &[v1::Endpoint { mesh_tls: true, identity: web.identity.clone(), ..plain(app.addr) }]);
    for version in ["1.1", "1.0"] {
        let response = web.connect(VIP).await.ask(format!("GET / HTTP/{version}\r\nhost: reviews\r\n\r\n")).await;
        assert_eq!((response.head.status(), response.text()), (200, "me"), "HTTP/{version}");
    }
    let mut client = web.connect(VIP).await;
    client.send("GET / HTTP/1.1\r\nhost: reviews\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 101);
    assert_eq!(client.take(2).await, "hi");
    assert_eq!(web.metric("weft_connections_total{direction=\"inbound\"", ""), 0);
    assert_eq!(app.count(), 3);
}

/// SEMANTICS.md §1: "ALPN is a hint".
#[tokio::test]
async fn http_inside_weft_tcp_is_treated_as_http() {
    let ca = TestCa::new("weft.local");
    let reviews = Sidecar::new(&ca, "reviews");
    let app = App::says("in").await;
    for protocol in [Protocol::Http, Protocol::Auto] {
        reviews.own_port(app.addr.port(), protocol, MtlsMode::Strict);
        let stream = TcpStream::connect(reviews.listen_for(app.addr).await).await.unwrap();
        let web = ca.manager("shop", "web");
        let expected = ca.id("shop", "reviews");
        let (mut tls, _) = web.connect(stream, &expected, MeshProtocol::Tcp).await.unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (ours, theirs) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let mut theirs = theirs.unwrap().0;
        tokio::spawn(async move { tokio::io::copy_bidirectional(&mut theirs, &mut tls).await });
        assert_eq!(Wire::new(ours.unwrap()).get("/").await.text(), "in", "{protocol:?}");
        let cert = app.requests().pop().unwrap().head.get("x-forwarded-client-cert").map(str::to_owned);
        assert!(cert.is_some_and(|cert| cert.ends_with("/sa/web")), "{protocol:?}");
    }
}

#[tokio::test]
async fn a_port_a_vip_does_not_have_is_reset() {
    let pair = Pair::new(App::says("").await).await;
    let mut client = pair.web.connect("10.96.0.1:81").await;
    client.send("GET / HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
    assert_eq!(client.end().await, End::Reset);
    assert_eq!(pair.web.metric("weft_refused_total", "no-port"), 1);
}

#[tokio::test]
async fn registry_only_refuses_what_nobody_declared() {
    let outside = App::says("outside").await;
    let web = Sidecar::new(&TestCa::new("weft.local"), "web");
    let destination = outside.addr.to_string();
    assert_eq!(web.connect(&destination).await.get("/").await.text(), "outside");
    let settings = v1::MeshSettings {
        outbound_policy: v1::OutboundPolicy::RegistryOnly.into(),
        cluster_cidrs: vec!["10.0.0.0/8".into()],
        ..v1::MeshSettings::default()
    };
    web.set(Kind::MeshSettings, "mesh", &[], &settings);
    let response = web.connect(&destination).await.get("/").await;
    assert_eq!((response.head.status(), response.head.get("x-weft-reason")), (502, Some("registry-only")));
    assert_eq!(web.connect(&destination).await.end().await, End::Reset);
    assert_eq!(outside.connections(), 1);
}

/// SEMANTICS.md §1 "outbound lookup" 2: traffic to a pod itself takes no route rules, and mesh TLS all the same.
#[tokio::test]
async fn a_pods_own_address_leads_to_it_over_mesh_tls() {
    let pair = Pair::new(App::says("direct").await).await;
    let settings = v1::MeshSettings { cluster_cidrs: vec!["127.0.0.0/8".into()], ..v1::MeshSettings::default() };
    pair.web.set(Kind::MeshSettings, "mesh", &[], &settings);
    pair.web.service(|port| port.routed = true);
    let listener = pair.reviews.listen_for(pair.app.addr).await;
    let workload = v1::Workload {
        namespace: "shop".into(),
        name: "reviews-1".into(),
        identity: pair.reviews.identity.clone(),
        addresses: vec![listener.ip().to_string()],
        mesh_tls: true,
        ..v1::Workload::default()
    };
    pair.web.set(Kind::Workload, "127.0.0.1", &[], &workload);
    let mut client = pair.web.connect(&listener.to_string()).await;
    assert_eq!(client.get("/").await.text(), "direct");
    assert_eq!(pair.web.metric("weft_requests_total", "mtls=\"true\""), 1);
    assert_eq!(pair.connect().await.get("/").await.head.status(), 404, "by way of its Service there is no such rule");
}
