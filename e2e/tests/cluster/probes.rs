//! kubelet's probes and hooks. Under STRICT, where kubelet itself could not talk to the app: the sidecar asks in its place, and
//! tells the truth, in particular of a TCP probe, which a redirected port would always satisfy.

use std::time::Duration;

use serde_json::{Value, json};
use weft_e2e::cluster::{Workload, service};

use crate::world::{Mode, World, in_mode, text};

const STRICT: &str = r#"
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: probes}
spec: {mtls: {mode: STRICT}}
"#;

pub(crate) fn probes_and_hooks_work_under_strict() {
    let world = World::meshed("probes");
    let outside = World::plain("probes-outside");
    let cluster = world.cluster();
    // A kind that was not there when the control plane began is seen without a restart.
    cluster.apply(include_str!("peer-authentication.yaml")).unwrap();
    let established = "crd/peerauthentications.security.istio.io";
    cluster.kubectl(&["wait", "--for=condition=Established", established, "--timeout=30s"]).unwrap();
    cluster.apply(STRICT).unwrap();

    let mut good = vec![
        Workload::idle(&outside.namespace, "client").deployment(),
        Workload::idle("probes", "client").deployment(),
    ];
    let mut bad = Vec::new();
    for mode in [Mode::Native, Mode::Classic] {
        good.extend(well(mode).iter().map(|workload| in_mode(workload.clone(), mode).deployment()));
        bad.extend(unwell(mode).iter().map(|workload| in_mode(workload.clone(), mode).deployment()));
    }
    good.push(service("probes", "native-http", "native-http", &[("http", 80, "http")]));
    cluster.apply_all(&bad).unwrap();
    world.deploy(&good);

    // STRICT is in force: a peer of the mesh is served, and nobody else.
    world.until_answered("http://native-http/");
    let refused = outside.cluster().wait_for("STRICT", Duration::from_secs(20), || {
        let got = outside.ask_one("http://native-http.probes/");
        Ok((got.status == 0).then_some(()))
    });
    refused.unwrap();
    // With STRICT in force, probes go on: nothing was begun again, and all is ready.
    std::thread::sleep(Duration::from_secs(5));
    for mode in [Mode::Native, Mode::Classic] {
        for workload in well(mode) {
            let name = text(&workload.deployment(), "/metadata/name").to_owned();
            let pod = world.pod(&name);
            assert!(ready(&pod), "{name} is not ready: {}", pod["status"]);
            for status in pod.pointer("/status/containerStatuses").and_then(Value::as_array).unwrap() {
                assert_eq!(status["restartCount"], 0, "{name} was begun again: {status}");
            }
        }
        for workload in unwell(mode) {
            let name = text(&workload.deployment(), "/metadata/name").to_owned();
            assert!(!ready(&world.pod(&name)), "{name} should not be ready");
        }
    }

    // Port 15021 is anybody's to reach, and a hook is kubelet's to run.
    for mode in [Mode::Native, Mode::Classic] {
        let pod = world.pod(&format!("{}-http", mode.name()));
        let address = text(&pod, "/status/podIP");
        assert_eq!(outside.ask_one(&format!("http://{address}:15021/ready")).status, 200);
        for path in ["app/pre-stop", "0123456789abcdef0123456789abcdef.app/pre-stop"] {
            assert_eq!(outside.ask_one(&format!("http://{address}:15021/probe/{path}")).status, 404, "{path}");
        }
    }
    assert!(!world.records.served().iter().any(|one| one.path == "/pre-stop"), "somebody else ran a hook");

    // A hook of an app whose port kubelet cannot reach.
    world.kubectl(&["delete", "pods", "-l", "app in (native-http,classic-http)"]);
    let served = world.records.served();
    for mode in [Mode::Native, Mode::Classic] {
        let server = format!("{}-http-", mode.name());
        let hooked = served.iter().any(|one| one.path == "/pre-stop" && one.server.starts_with(&server));
        assert!(hooked, "{server}: the preStop hook did not reach the app");
    }
    world.remove();
    outside.remove();
}

/// Every kind of probe that succeeds.
fn well(mode: Mode) -> Vec<Workload> {
    let name = |name: &str| format!("{}-{name}", mode.name());
    let http = Workload::server("probes", &name("http"))
        .probe("startupProbe", json!({"tcpSocket": {"port": "http"}}))
        .probe("livenessProbe", json!({"httpGet": {"path": "/live", "port": 8080}}))
        .edit("/spec/containers/0", |container| {
            container["lifecycle"] = json!({"preStop": {"httpGet": {"path": "/pre-stop", "port": "http"}}});
        });
    let grpc = Workload::new("probes", &name("grpc"), &["grpc-server", "--name", "grpc"])
        .port("grpc", 50051)
        .probe("readinessProbe", json!({"grpc": {"port": 50051}}))
        .probe("livenessProbe", json!({"grpc": {"port": 50051, "service": "any"}}));
    let exec = Workload::new("probes", &name("exec"), &["tcp-server"])
        .probe("readinessProbe", json!({"exec": {"command": ["/weft-e2e", "--help"]}, "timeoutSeconds": 5}));
    vec![http, grpc, exec]
}

/// Probes that fail, and must be seen to.
fn unwell(mode: Mode) -> Vec<Workload> {
    let name = |name: &str| format!("{}-{name}", mode.name());
    let http = Workload::new("probes", &name("bad-http"), &["http-server", "--name", "bad"])
        .probe("readinessProbe", json!({"httpGet": {"path": "/status/503", "port": 8080}}));
    // Nobody listens there.
    let tcp = Workload::new("probes", &name("bad-tcp"), &["http-server", "--name", "bad"])
        .probe("readinessProbe", json!({"tcpSocket": {"port": 8081}}));
    vec![http, tcp]
}

fn ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
}
