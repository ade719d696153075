//! Every kind of traffic, and what a person does with pods, in both modes of sidecar.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};
use weft_e2e::apps::grpc::GrpcReport;
use weft_e2e::apps::tcp::Heard;
use weft_e2e::cluster::{Workload, service};
use weft_e2e::stats::Got;

use crate::world::{Mode, World, in_mode, text};

pub(crate) fn all_traffic_works_with_native_sidecars() {
    all_traffic_works(Mode::Native, 18080);
}

pub(crate) fn all_traffic_works_with_classic_sidecars() {
    all_traffic_works(Mode::Classic, 18090);
}

/// The pods of both namespaces. `port` and the one after it are free on the node.
fn worlds(mode: Mode, port: u16) -> (World, World) {
    let world = World::meshed(&format!("traffic-{}", mode.name()));
    let outside = World::plain(&format!("outside-{}", mode.name()));
    let (inner, outer) = (&*world.namespace, &*outside.namespace);
    let meshed = |workload: Workload| in_mode(workload, mode);

    let headless = |mut service: Value| {
        service["spec"]["clusterIP"] = "None".into();
        service
    };
    let elsewhere = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "elsewhere", "namespace": inner},
        "spec": {"type": "ExternalName", "externalName": format!("plain.{outer}.svc.cluster.local")},
    });
    let listen = format!("[::]:{port}");
    let on_node = Workload::new(inner, "on-node", &["http-server", "--name", "on-node", "--listen", &listen])
        .edit("/spec", |spec| spec["hostNetwork"] = true.into());
    let grpc = Workload::new(inner, "grpc", &["grpc-server", "--name", "grpc"]).port("grpc", 50051);
    let tcp = Workload::new(inner, "tcp", &["tcp-server"]).port("tcp", 9000);
    let objects = [
        // What is outside comes first: it starts while the API server thinks about the rest.
        Workload::server(outer, "plain").deployment(),
        Workload::idle(outer, "client").deployment(),
        service(outer, "plain", "plain", &[("http", 80, "http")]),
        on_node.deployment(),
        meshed(Workload::server(inner, "web").replicas(2)).deployment(),
        service(inner, "web", "web", &[("http", 80, "http")]),
        meshed(Workload::server(inner, "db").replicas(2)).stateful_set("db"),
        headless(service(inner, "db", "db", &[("http", 8080, "http")])),
        elsewhere,
        meshed(grpc).deployment(),
        service(inner, "grpc", "grpc", &[("grpc", 50051, "grpc")]),
        meshed(tcp).deployment(),
        service(inner, "tcp", "tcp", &[("tcp", 9000, "tcp")]),
        meshed(Workload::idle(inner, "client")).deployment(),
    ];
    world.deploy(&objects);
    (world, outside)
}

fn all_traffic_works(mode: Mode, port: u16) {
    let (world, outside) = worlds(mode, port);
    let (inner, outer) = (&*world.namespace, &*outside.namespace);
    for first in ["web", "db:8080"] {
        world.until_answered(&format!("http://{first}/"));
    }

    let pod = world.pod("web");
    let cluster_ip = world.cluster().get(&["-n", inner, "service", "web"]).unwrap();
    let cluster_ip = text(&cluster_ip, "/spec/clusterIP");
    let node = SocketAddr::from((Ipv4Addr::new(10, 100, 0, 2), port));
    let web = "web-";
    let rows = [
        ("pod to pod", format!("http://{}:8080", text(&pod, "/status/podIP")), web, true),
        ("a Service by its short name", "http://web".to_owned(), web, true),
        ("by name and namespace", format!("http://web.{inner}"), web, true),
        ("by its whole name", format!("http://web.{inner}.svc.cluster.local"), web, true),
        ("by its address", format!("http://{cluster_ip}"), web, true),
        ("a headless Service", "http://db:8080".to_owned(), "db-", true),
        ("one pod of a StatefulSet", "http://db-0.db:8080".to_owned(), "db-0", true),
        ("the other one", format!("http://db-1.db.{inner}.svc.cluster.local:8080"), "db-1", true),
        ("an ExternalName", "http://elsewhere".to_owned(), "plain-", false),
        ("a Service outside of the mesh", format!("http://plain.{outer}"), "plain-", false),
        ("a port of the node", format!("http://{node}"), "on-node", false),
    ];
    for (row, url, server, by_mesh_tls) in &rows {
        for got in world.ask(&[&format!("{url}/headers"), "--repeat", "5"]) {
            assert_eq!(got.status, 200, "{row}: {got:?}");
            assert!(got.server.starts_with(server), "{row}: answered by {}", got.server);
            assert_eq!(proven(&got, inner), *by_mesh_tls, "{row}: mesh TLS in {}", got.body);
        }
    }
    world.until_all_answer("http://web/", 2);

    // From outside: served, as nobody in particular.
    let got = outside.ask_one(&format!("http://web.{inner}/headers"));
    assert!(got.status == 200 && !proven(&got, outer), "{got:?}");

    dns(&world, cluster_ip);
    other_protocols(&world);
    the_host_network_is_left_alone(&world);
    a_person_looks(&world, port + 1);
    world.remove();
    outside.remove();
}

/// Whether the server was told by its sidecar that a pod of `namespace` asks.
fn proven(got: &Got, namespace: &str) -> bool {
    got.body.contains(&format!("URI=spiffe://cluster.local/ns/{namespace}/sa/default"))
}

fn dns(world: &World, cluster_ip: &str) {
    let got = world.ask_one("http://web/");
    assert_eq!(got.address, format!("{cluster_ip}:80"), "the Service's own address");
    let got = world.ask_one("http://no-such-service/");
    assert!(got.status == 0 && got.address.is_empty(), "a name that does not exist: {got:?}");
}

fn other_protocols(world: &World) {
    let exec = |arguments: &[&str]| world.cluster().exec(&world.namespace, "deployment/client", arguments).unwrap();
    let text = exec(&["grpc-client", "--url", "http://grpc:50051", "--count", "20"]);
    let report: GrpcReport = serde_json::from_str(text.trim()).unwrap();
    let all = [report.unary, report.server_stream, report.client_stream, report.bidi];
    assert_eq!((all, report.trailers), ([20; 4], true), "{report:?}");

    // A server that speaks first, and sends back what it is sent.
    let text = exec(&["tcp-client", "--address", "tcp:9000", "--silent-ms", "200", "--send", "hello", "--finish"]);
    let heard: Heard = serde_json::from_str(text.trim()).unwrap();
    assert!(heard.received == "220 ready\r\nhello" && heard.closed, "{heard:?}");
}

fn the_host_network_is_left_alone(world: &World) {
    let pod = world.pod("on-node");
    assert_eq!(pod.pointer("/spec/containers").and_then(Value::as_array).map(Vec::len), Some(1), "{pod}");
    assert_eq!(pod.pointer("/spec/initContainers"), None, "{pod}");
    assert_eq!(text(&pod, "/metadata/labels/weft.dev~1mesh-tls"), "");
}

/// `logs`, `exec`, `port-forward`.
fn a_person_looks(world: &World, port: u16) {
    let said = world.kubectl(&["logs", "deployment/client", "-c", "weft-sidecar", "--tail=100"]);
    assert!(!said.is_empty(), "the sidecar says nothing");
    let said = world.kubectl(&["exec", "deployment/web", "-c", "app", "--", "/weft-e2e", "--help"]);
    assert!(said.contains("Usage:"), "{said}");

    let ports = format!("{port}:8080");
    let arguments = ["-n", &world.namespace, "port-forward", "deployment/web", &ports];
    let _forward = world.cluster().background("kubectl", &arguments).unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let answer = world.cluster().wait_for("an answer through port-forward", Duration::from_secs(15), || {
        world.cluster().get_from_node(address, "/")
    });
    let answer = answer.unwrap();
    assert!(
        answer.status == 200 && answer.header("x-server").is_some_and(|name| name.starts_with("web-")),
        "{answer:?}"
    );
}
