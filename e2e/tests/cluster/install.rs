//! From nothing to sidecars: what a user does first.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft_e2e::cluster::{Cluster, SYSTEM, Weft, Workload, figure_within, service};

use crate::world::{Mode, World, in_mode, text};

/// `helm install` on a cluster that has nothing of Weft; then a labelled namespace's Deployments come up with sidecars of
/// either mode, and say so.
pub(crate) fn from_an_empty_cluster_it_is_ready_within_20_s() {
    let cluster = Cluster::of_environment().unwrap();
    cluster.gateway_api().unwrap();
    if cluster.attempt("helm", &["-n", SYSTEM, "status", "weft"], "").unwrap().success {
        cluster.helm(&["-n", SYSTEM, "uninstall", "weft", "--wait", "--timeout=60s"]).unwrap();
    }
    let (weft, took) = cluster.install().unwrap();
    figure_within("install/helm-install-to-ready", took.as_secs_f64(), 20.0, "s");

    let replicas = weft.control_plane().unwrap();
    assert_eq!(replicas.len(), 2, "two replicas by default");
    for pod in &replicas {
        assert_eq!(text(pod, "/status/phase"), "Running");
    }
    // The control plane gives the API server the authority of its own webhook.
    let hook = cluster.get(&["mutatingwebhookconfiguration", "weft-injector"]).unwrap();
    for webhook in hook["webhooks"].as_array().unwrap() {
        assert!(!text(webhook, "/clientConfig/caBundle").is_empty(), "no caBundle: {webhook}");
    }

    for mode in [Mode::Native, Mode::Classic] {
        sidecars_come_up(mode);
    }
}

fn sidecars_come_up(mode: Mode) {
    let world = World::meshed(&format!("install-{}", mode.name()));
    let began = Instant::now();
    let server = in_mode(Workload::server(&world.namespace, "web").replicas(2), mode);
    let client = in_mode(Workload::idle(&world.namespace, "client"), mode);
    let web = service(&world.namespace, "web", "web", &[("http", 80, "http")]);
    world.deploy(&[server.deployment(), client.deployment(), web]);
    figure_within(&format!("install/pods-with-{}-sidecars", mode.name()), began.elapsed().as_secs_f64(), 30.0, "s");

    for pod in world.pods("web").iter().chain(&world.pods("client")) {
        let named = |list: &str| -> Option<Value> {
            let all = pod.pointer(list)?.as_array()?;
            all.iter().find(|container| text(container, "/name") == "weft-sidecar").cloned()
        };
        let (init, container) = (named("/spec/initContainers"), named("/spec/containers"));
        match mode {
            Mode::Native => {
                let init = init.unwrap_or_else(|| panic!("no native sidecar in {pod}"));
                assert_eq!(text(&init, "/restartPolicy"), "Always");
                assert!(container.is_none());
            }
            Mode::Classic => assert!(container.is_some() && init.is_none(), "no classic sidecar in {pod}"),
        }
        assert_eq!(text(pod, "/metadata/labels/weft.dev~1mesh-tls"), "1");
        assert!(!text(pod, "/metadata/annotations/weft.dev~1injected").is_empty());
    }
    world.until_answered("http://web/");
    world.remove();
}

/// By its account all of its webhook's configuration but `caBundle` is refused, which RBAC would let pass, and `caBundle` it writes: the
/// leader does again when somebody spoils it.
pub(crate) fn the_control_plane_may_change_only_the_certificate_of_its_webhook() {
    let cluster = Cluster::of_environment().unwrap();
    let account = "--as=system:serviceaccount:weft-system:weft-control-plane";
    let patch = |more: &[&str], operations: Value| {
        let begin = ["patch", "mutatingwebhookconfiguration", "weft-injector", "--type=json", "-p"];
        cluster.attempt("kubectl", &[&begin[..], &[&operations.to_string()], more].concat(), "").unwrap()
    };
    let replace = |path: &str, value: Value| json!([{"op": "add", "path": path, "value": value}]);
    let only = "may change nothing of its webhooks but clientConfig.caBundle";
    let elsewhere = json!({"url": "https://elsewhere.example/inject"});
    let service = "/webhooks/0/clientConfig/service";
    for (row, operations, says) in [
        ("another Service", replace(&format!("{service}/name"), json!("other")), only),
        ("another namespace", replace(&format!("{service}/namespace"), json!("default")), only),
        ("another path", replace(&format!("{service}/path"), json!("/other")), only),
        ("a server outside", replace("/webhooks/0/clientConfig", elsewhere), only),
        ("more pods", replace("/webhooks/0/objectSelector", json!({})), only),
        ("more namespaces", replace("/webhooks/0/namespaceSelector", json!({})), only),
        ("other objects", replace("/webhooks/0/rules/0/resources", json!(["secrets"])), only),
        ("pods without sidecars", replace("/webhooks/0/failurePolicy", json!("Ignore")), only),
        ("more time", replace("/webhooks/0/timeoutSeconds", json!(30)), only),
        ("a condition", replace("/webhooks/0/matchConditions", json!([{"name": "a", "expression": "false"}])), only),
        (
            "one webhook less",
            json!([{"op": "remove", "path": "/webhooks/0"}]),
            "may not add, remove or rename webhooks",
        ),
        ("another name", replace("/webhooks/0/name", json!("x.weft.dev")), "may not add, remove or rename webhooks"),
        ("a label", replace("/metadata/labels/a", json!("b")), "nothing of its webhooks' metadata"),
    ] {
        // The API server hears of a new policy within seconds.
        let mut said = String::new();
        let refused = cluster.wait_for(row, Duration::from_secs(20), || {
            let outcome = patch(&[account, "--dry-run=server"], operations.clone());
            said = outcome.stderr;
            Ok((!outcome.success && said.contains(says)).then_some(()))
        });
        assert!(refused.is_ok(), "{row} is not refused as it should be: {said:?}");
        // Helm and people may.
        let outcome = patch(&["--dry-run=server"], operations);
        assert!(outcome.success, "{row}: {}", outcome.stderr);
    }

    let bundles = || {
        let hook = cluster.get(&["mutatingwebhookconfiguration", "weft-injector"])?;
        let webhooks = hook["webhooks"].as_array().cloned().unwrap_or_default();
        Ok(webhooks.iter().map(|webhook| text(webhook, "/clientConfig/caBundle").to_owned()).collect::<Vec<_>>())
    };
    let before = bundles().unwrap();
    let spoilt = (0..before.len())
        .map(|index| json!({"op": "remove", "path": format!("/webhooks/{index}/clientConfig/caBundle")}));
    let outcome = patch(&[account], spoilt.collect());
    assert!(outcome.success, "the account may write caBundle: {}", outcome.stderr);
    let mended = || Ok((bundles()? == before).then_some(()));
    cluster.wait_for("the leader to write caBundle again", Duration::from_secs(20), mended).unwrap();
}

/// The chart's own test, as a user runs it.
pub(crate) fn helm_test_makes_one_mesh_tls_call() {
    let weft = Weft::installed().unwrap();
    let began = Instant::now();
    weft.cluster.helm(&["-n", SYSTEM, "test", "weft", "--timeout=90s"]).unwrap();
    assert!(began.elapsed() < Duration::from_secs(90));
}
