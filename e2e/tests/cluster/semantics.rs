//! What a Service promises. kube-proxy, whose promises these are, is bypassed: so each is kept here, and shown (SEMANTICS.md
//! §1, "Service semantics").

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use weft_e2e::apps::now_ms;
use weft_e2e::cluster::{Workload, service};

use crate::world::{World, text};

/// How long a change may take until it has effect.
const EFFECT: Duration = Duration::from_secs(1);

/// A world with a client, and what else is given.
fn world(name: &str, more: impl Fn(&str) -> Vec<Value>) -> World {
    let world = World::meshed(name);
    let mut objects = vec![Workload::idle(name, "client").deployment()];
    objects.extend(more(name));
    world.deploy(&objects);
    world
}

/// Who answers, of so many requests, each on a connection of its own.
fn servers(world: &World, url: &str, requests: u32) -> BTreeSet<String> {
    let answers = world.ask(&[url, "--repeat", &requests.to_string()]);
    answers.into_iter().inspect(|got| assert_eq!(got.status, 200, "{got:?}")).map(|got| got.server).collect()
}

/// A pod on its way out gets no new request while another is ready; the last one left still serves.
pub(crate) fn a_terminating_pod_gets_no_new_requests() {
    let world = world("terminating", |namespace| {
        let web = Workload::server(namespace, "web").args(&["--on-term", "serve:12s"]).replicas(2);
        let load = Workload::load(namespace, "load", "web:80", 50);
        vec![web.deployment(), service(namespace, "web", "web", &[("http", 80, "http")]), load.deployment()]
    });
    world.until_all_answer("http://web/", 2);
    // Before, the load may have been there first.
    let began = now_ms();

    let pods = world.pods("web");
    let [going, staying] = [&pods[0], &pods[1]].map(|pod| text(pod, "/metadata/name").to_owned());
    world.kubectl(&["delete", "pod", &going, "--wait=false"]);
    // What Kubernetes takes to tell, which on a busy machine is a while, is not ours to answer for.
    world.until_terminating("web", &going);
    let told = now_ms();
    std::thread::sleep(Duration::from_secs(6));
    let effect = u64::try_from(EFFECT.as_millis()).unwrap();
    let late: Vec<_> = world.records.served_by(&going).into_iter().filter(|one| one.at_ms > told + effect).collect();
    // kubelet's probe goes on; it has no id.
    let late: Vec<_> = late.into_iter().filter(|one| !one.id.is_empty()).collect();
    assert!(late.is_empty(), "{} requests to a terminating pod, such as {:?}", late.len(), late.last());
    assert!(world.records.served_by(&staying).iter().any(|one| one.at_ms > told + effect));

    // Nothing is ready any more, and all that is there is terminating: better than nothing.
    world.kubectl(&["scale", "deployment/web", "--replicas=0"]);
    std::thread::sleep(EFFECT);
    let told = now_ms();
    std::thread::sleep(Duration::from_secs(4));
    let served = world.records.served().into_iter().filter(|one| one.at_ms > told && !one.id.is_empty()).count();
    assert!(served > 0, "nobody serves, though a terminating pod would");
    let failed = world.records.sent().into_iter().find(|one| !one.ok() && (began..told + 4000).contains(&one.at_ms));
    assert!(failed.is_none(), "{failed:?}");
    world.remove();
}

/// `publishNotReadyAddresses`.
pub(crate) fn addresses_that_are_not_ready_are_used_where_a_service_publishes_them() {
    let world = world("not-ready", |namespace| {
        let mut published = service(namespace, "published", "web", &[("http", 80, "http")]);
        published["spec"]["publishNotReadyAddresses"] = true.into();
        let usual = service(namespace, "usual", "web", &[("http", 80, "http")]);
        vec![published, usual]
    });
    // Not waited for: it will never be ready.
    let web = Workload::new("not-ready", "web", &["http-server", "--name", "$(POD)"])
        .port("http", 8080)
        .probe("readinessProbe", json!({"httpGet": {"path": "/status/503", "port": 8080}}));
    world.cluster().apply_all(&[web.deployment()]).unwrap();
    world.until_answered("http://published/");
    let got = world.ask_one("http://usual/");
    assert_eq!(got.status, 503, "{got:?}");
    assert!(got.header("x-weft-reason").is_some_and(|reason| reason.starts_with("no-endpoints")), "{got:?}");
    world.remove();
}

/// `sessionAffinity: ClientIP`.
pub(crate) fn a_client_keeps_its_endpoint_by_session_affinity() {
    let world = world("affinity", |namespace| {
        let mut sticky = service(namespace, "sticky", "web", &[("http", 80, "http")]);
        sticky["spec"]["sessionAffinity"] = "ClientIP".into();
        let usual = service(namespace, "usual", "web", &[("http", 80, "http")]);
        vec![Workload::server(namespace, "web").replicas(3).deployment(), sticky, usual]
    });
    world.until_answered("http://sticky/");
    world.until_all_answer("http://usual/", 3);
    assert_eq!(servers(&world, "http://sticky/", 60).len(), 1, "one keeps the client");
    world.remove();
}

/// `internalTrafficPolicy: Local`. There is one node; an endpoint elsewhere is one whose slice says so.
pub(crate) fn internal_traffic_stays_on_the_node_where_a_service_says_so() {
    let world = world("local", |namespace| {
        let near = Workload::server(namespace, "near").deployment();
        let far = Workload::server(namespace, "far").deployment();
        vec![near, far]
    });
    let slice = |service: &str, app: &str, node: &str| {
        let pod = world.pod(app);
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{service}-{app}"), "namespace": "local",
                "labels": {"kubernetes.io/service-name": service},
            },
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": [{"addresses": [text(&pod, "/status/podIP")], "nodeName": node, "conditions": {"ready": true}}],
        })
    };
    let mut objects = Vec::new();
    for (name, policy) in [("here", "Local"), ("anywhere", "Cluster")] {
        objects.push(json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": "local"},
            "spec": {"internalTrafficPolicy": policy, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
        }));
        objects.extend([slice(name, "near", "node"), slice(name, "far", "another-node")]);
    }
    world.cluster().apply_all(&objects).unwrap();
    world.until_answered("http://here/");
    let here = servers(&world, "http://here/", 40);
    assert!(here.len() == 1 && here.iter().all(|name| name.starts_with("near-")), "{here:?}");
    world.until_all_answer("http://anywhere/", 2);
    world.remove();
}

/// `hints` of endpoints, and `trafficDistribution`. There is one node, and so a node is what they are for.
pub(crate) fn endpoints_that_are_meant_for_this_node_are_preferred() {
    let world = world("hints", |namespace| {
        let near = Workload::server(namespace, "near").deployment();
        let far = Workload::server(namespace, "far").deployment();
        vec![near, far]
    });
    let slice = |service: &str, app: &str, endpoint: Value| {
        let pod = world.pod(app);
        let mut endpoint = endpoint;
        endpoint["addresses"] = json!([text(&pod, "/status/podIP")]);
        endpoint["conditions"] = json!({"ready": true});
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{service}-{app}"), "namespace": "hints",
                "labels": {"kubernetes.io/service-name": service},
            },
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": [endpoint],
        })
    };
    let hinted = |node: &str| json!({"hints": {"forNodes": [{"name": node}], "forZones": [{"name": "z"}]}});
    let service = |name: &str, distribution: Option<&str>| {
        let mut spec = json!({"ports": [{"name": "http", "port": 80, "targetPort": 8080}]});
        if let Some(distribution) = distribution {
            spec["trafficDistribution"] = distribution.into();
        }
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "hints"}, "spec": spec})
    };
    let objects = [
        // As the EndpointSlice controller writes them.
        service("hinted", None),
        slice("hinted", "near", hinted("node")),
        slice("hinted", "far", hinted("another-node")),
        // Slices of somebody who gives none.
        service("asked", Some("PreferSameNode")),
        slice("asked", "near", json!({"nodeName": "node"})),
        slice("asked", "far", json!({"nodeName": "another-node"})),
        // Not all have hints.
        service("half", None),
        slice("half", "near", hinted("node")),
        slice("half", "far", json!({"nodeName": "another-node"})),
    ];
    world.cluster().apply_all(&objects).unwrap();
    world.until_all_answer("http://half/", 2);
    for url in ["http://hinted/", "http://asked/"] {
        world.until_answered(url);
        let near = servers(&world, url, 40);
        assert!(near.len() == 1 && near.iter().all(|name| name.starts_with("near-")), "{url}: {near:?}");
    }
    world.remove();
}

/// `targetPort: http` where one pod calls 8080 so and another 9090.
pub(crate) fn a_named_target_port_may_differ_from_pod_to_pod() {
    let world = world("named-ports", |namespace| {
        let old = Workload::server(namespace, "old").label("part", "web");
        let new = Workload::new(namespace, "new", &["http-server", "--name", "$(POD)", "--listen", "[::]:9090"])
            .label("part", "web")
            .port("http", 9090)
            .probe("readinessProbe", json!({"httpGet": {"path": "/", "port": "http"}}));
        let mut web = service(namespace, "web", "unused", &[("http", 80, "http")]);
        web["spec"]["selector"] = json!({"part": "web"});
        vec![old.deployment(), new.deployment(), web]
    });
    let found = world.until_all_answer("http://web/", 2);
    let kinds: BTreeSet<&str> = found.iter().map(|name| name.split('-').next().unwrap_or_default()).collect();
    assert_eq!(kinds, BTreeSet::from(["new", "old"]), "{found:?}");
    world.remove();
}
