//! From nothing to sidecars: what a user does first.

use std::time::{Duration, Instant};

use serde_json::Value;
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

/// The chart's own test, as a user runs it.
pub(crate) fn helm_test_makes_one_mesh_tls_call() {
    let weft = Weft::installed().unwrap();
    let began = Instant::now();
    weft.cluster.helm(&["-n", SYSTEM, "test", "weft", "--timeout=90s"]).unwrap();
    assert!(began.elapsed() < Duration::from_secs(90));
}
