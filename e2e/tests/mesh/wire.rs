//! What somebody who listens between the pods learns: nothing.

use std::time::Duration;

use weft_e2e::apps::tcp::Heard;
use weft_e2e::capture::{Capture, Spoke, TLS_1_3, X25519_MLKEM768};
use weft_e2e::manifest::{self, Port, labels};
use weft_e2e::{Mesh, PodSpec, stats};

use crate::shop::Shop;

const MARKER: &str = "a-secret-that-the-app-sends-5d1c";

#[test]
fn between_pods_there_is_tls_1_3_with_the_hybrid_key_exchange_and_no_marker() {
    // The capture has to see each connection's beginning: so the world is made by hand, not warmed up.
    let mesh = Mesh::new("wire").unwrap();
    mesh.manifests().write("namespace", &manifest::namespace("demo")).unwrap();
    let ports = [Port::new("http", 80, 8080), Port::new("mystery", 9000, 9000)];
    let service = mesh.service("demo", "reviews", &ports, labels([("app", "reviews")])).unwrap();
    mesh.start_control_plane().unwrap();
    let capture = Capture::start(&mesh, "wire").unwrap();
    let client = mesh.pod(PodSpec::meshed("client", "client")).unwrap();
    let mut shop = Shop { client, servers: Vec::new(), service, mesh };
    shop.add(PodSpec::meshed("reviews-0", "reviews"));
    let (server, _) = &shop.servers[0];
    let _tcp = server.app("tcp", &["tcp-server", "--greeting", MARKER]).unwrap();
    server.wait_listening(9000).unwrap();
    shop.wait_until_answered();

    let path = format!("/{MARKER}");
    assert_eq!(shop.get(&path).unwrap().status, 200);
    let request = format!(
        "POST /echo HTTP/1.1\r\nHost: reviews\r\nX-Secret: {MARKER}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{MARKER}",
        MARKER.len()
    );
    assert!(shop.raw(request.as_bytes()).ends_with(MARKER), "the marker came back, so it was sent");
    let mut opaque = shop.client.app("opaque", &["tcp-client", "--address", "reviews:9000"]).unwrap();
    opaque.success(Duration::from_secs(10)).unwrap();
    let heard: Vec<Heard> = stats::lines(opaque.log());
    assert_eq!(heard[0].received, MARKER);

    let traffic = capture.finish().unwrap();
    let servers = [shop.servers[0].0.v4(), shop.servers[0].0.v6()];
    let mut ports = Vec::new();
    for connection in traffic.to(&servers, |port| port == 8080 || port == 9000) {
        let expected = Spoke::MeshTls { version: TLS_1_3, group: X25519_MLKEM768 };
        assert_eq!(connection.spoke(), expected, "{} to {}", connection.client, connection.server);
        ports.push(connection.server.port());
    }
    assert!(ports.contains(&8080) && ports.contains(&9000), "{ports:?}");
    assert_eq!(traffic.with(MARKER.as_bytes()), 0);
}
