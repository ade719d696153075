//! Without a control plane, without an API server, without a leader: traffic goes on, and afterwards nothing is stale.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft_e2e::apps::now_ms;
use weft_e2e::cluster::{Cluster, PATIENCE, SYSTEM, Weft, Workload, figure, figure_within, service};

use crate::world::{World, flawless, text};

/// How long after `/readyz` an endpoint may still be stale.
const STALE_S: f64 = 2.0;
/// How long routes may be without anybody who writes their status: the lease's length, and a look.
const LEADERLESS_S: f64 = 20.0;

/// Puts the control plane back when a test fails without one: the others need it.
struct Back<'a>(&'a Weft);

impl Drop for Back<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.0.scale(2);
            let _ = self.0.upgrade(&[]);
        }
    }
}

/// Three servers, and load on them.
fn under_load(name: &str) -> World {
    let world = World::meshed(name);
    world.deploy(&[
        Workload::server(name, "web").replicas(3).deployment(),
        service(name, "web", "web", &[("http", 80, "http")]),
        Workload::idle(name, "client").deployment(),
    ]);
    world.until_answered("http://web/");
    world.deploy(&[Workload::load(name, "load", "web:80", 50).args(&["--mix"]).deployment()]);
    std::thread::sleep(Duration::from_secs(2));
    world
}

/// Ends the load when it has sent enough, each of whose requests has to have been answered; how many there were.
fn all_answered(world: &World, at_least: usize) -> usize {
    let enough = || Ok((world.records.sent().len() >= at_least).then_some(()));
    world.cluster().wait_for(&format!("{at_least} requests"), PATIENCE, enough).unwrap();
    world.kubectl(&["scale", "deployment/load", "--replicas=0"]);
    world.until_pods("load", 0);
    flawless(&world.records, at_least, |at_ms| format!("{} s ago", (now_ms() - at_ms) / 1000)).sent
}

/// Existing pods go on, and learn by themselves which endpoint is gone. New pods are refused with a message that says why,
/// or start unmeshed where the value says so.
pub(crate) fn a_minute_without_a_control_plane_is_not_noticed() {
    let world = under_load("no-control-plane");
    let _back = Back(&world.weft);
    world.weft.scale(0).unwrap();
    let began = Instant::now();

    // A server goes. Nobody can tell its clients; they find out.
    let client = world.pod("load");
    let ejections = || world.weft.sidecar_metric(&client, "weft_ejections_total", &[]).unwrap();
    let before = ejections();
    let going = text(&world.pod("web"), "/metadata/name").to_owned();
    world.kubectl(&["delete", "pod", &going, "--wait=false"]);
    world
        .cluster()
        .wait_for("the ejection of the endpoint", PATIENCE, || Ok((ejections() > before).then_some(())))
        .unwrap();
    figure(
        "faults/ejected-without-a-control-plane",
        format!("{:.1} s after kubectl delete", began.elapsed().as_secs_f64()),
    );

    refused(&world);
    std::thread::sleep(Duration::from_secs(60).saturating_sub(began.elapsed()));
    world.weft.scale(2).unwrap();
    // The one that was refused a minute long comes by itself, though its controller has become slow to try again.
    world.kubectl(&["rollout", "restart", "deployment/web"]);
    world.cluster().rolled_out(&world.namespace, "deployment/web", PATIENCE).unwrap();
    let sent = all_answered(&world, 50 * 60);
    figure("faults/requests-in-a-minute-without-a-control-plane", format!("{sent} sent, 0 failed"));

    ignored(&world);
    world.remove();
}

/// `failurePolicy: Fail`, the default.
fn refused(world: &World) {
    let pod = Workload::idle(&world.namespace, "late").pod().to_string();
    let outcome = world.cluster().attempt("kubectl", &["apply", "-f", "-"], &pod).unwrap();
    assert!(!outcome.success, "a pod of an opted-in namespace was started without a sidecar");
    println!("  refused: {}", outcome.stderr.trim());
    assert!(outcome.stderr.contains("weft"), "who refuses it? {}", outcome.stderr);
    // The Deployment's owner finds the same in its events.
    let events = || {
        let list = world.cluster().get(&["-n", &world.namespace, "events", "--field-selector=reason=FailedCreate"])?;
        let list = list["items"].as_array().cloned().unwrap_or_default();
        Ok(list.iter().any(|event| text(event, "/message").contains("weft")).then_some(()))
    };
    world.cluster().wait_for("an event that says why there is no pod", Duration::from_secs(20), events).unwrap();
    // Who is not opted in does not notice.
    let outside = World::plain("no-control-plane-outside");
    outside.deploy(&[Workload::idle(&outside.namespace, "client").deployment()]);
    outside.remove();
}

/// `failurePolicy: Ignore`.
fn ignored(world: &World) {
    world.weft.upgrade(&["injection.failurePolicy=Ignore"]).unwrap();
    world.weft.scale(0).unwrap();
    world.deploy(&[Workload::idle(&world.namespace, "unmeshed").deployment()]);
    let pod = world.pod("unmeshed");
    assert_eq!(pod.pointer("/spec/containers").and_then(Value::as_array).map(Vec::len), Some(1), "{pod}");
    assert_eq!(text(&pod, "/metadata/labels/weft.dev~1mesh-tls"), "");
    world.weft.scale(2).unwrap();
    world.weft.upgrade(&[]).unwrap();
}

/// The API server is away; meanwhile an endpoint goes, behind everybody's back, and etcd forgets the past, so that no watch
/// can go on from where it was. Back again, another endpoint goes at once.
pub(crate) fn nothing_is_stale_after_the_api_server_was_away() {
    let world = under_load("no-api-server");
    let cluster = world.cluster();
    let mut slices = Slices::new(&world);
    slices.converge(&world.weft, PATIENCE);

    // Compaction alone, first.
    cluster.compact_etcd().unwrap();
    slices.remove("one", |name| cluster.kubectl(&["-n", "no-api-server", "delete", "endpointslice", name]).map(drop));
    figure_within("faults/fresh-after-compaction", slices.converge(&world.weft, PATIENCE), STALE_S, "s");

    cluster.hold("kube-apiserver").unwrap();
    std::thread::sleep(Duration::from_secs(5));
    slices.remove("two", |name| cluster.remove_from_etcd(&format!("/registry/endpointslices/no-api-server/{name}")));
    cluster.compact_etcd().unwrap();
    cluster.release("kube-apiserver");
    cluster.api_server_ready(Duration::from_secs(60)).unwrap();
    let ready = Instant::now();
    slices.remove("three", |name| cluster.kubectl(&["-n", "no-api-server", "delete", "endpointslice", name]).map(drop));
    slices.converge(&world.weft, PATIENCE);
    figure_within("faults/fresh-after-readyz", ready.elapsed().as_secs_f64(), STALE_S, "s");

    // And all else goes on as before.
    world.kubectl(&["rollout", "restart", "deployment/web"]);
    cluster.rolled_out(&world.namespace, "deployment/web", PATIENCE).unwrap();
    let sent = all_answered(&world, 1_000);
    figure("faults/requests-without-an-api-server", format!("{sent} sent, 0 failed"));
    world.remove();
}

/// The leader writes statuses; another one takes over.
pub(crate) fn another_replica_leads_when_the_leader_is_killed() {
    let world = under_load("no-leader");
    let cluster = world.cluster();
    let mut slices = Slices::new(&world);
    slices.converge(&world.weft, PATIENCE);
    let holder = || {
        let lease = cluster.get(&["-n", SYSTEM, "lease", "weft-control-plane"])?;
        Ok(text(&lease, "/spec/holderIdentity").to_owned())
    };
    let leader =
        cluster.wait_for("a leader", PATIENCE, || Ok(Some(holder()?).filter(|name| !name.is_empty()))).unwrap();
    let pods = world.weft.control_plane().unwrap();
    let name = pods.iter().map(|pod| text(pod, "/metadata/name")).find(|name| leader.starts_with(name));
    let name = name.unwrap_or_else(|| panic!("the leader {leader} is none of the control plane's pods"));

    // Killed, not asked to go: the lease stays as it was.
    cluster.kubectl(&["-n", SYSTEM, "delete", "pod", name, "--grace-period=0", "--force"]).unwrap();
    let killed = Instant::now();
    slices.remove("one", |name| cluster.kubectl(&["-n", "no-leader", "delete", "endpointslice", name]).map(drop));
    slices.converge(&world.weft, PATIENCE);
    figure_within("faults/fresh-without-a-leader", killed.elapsed().as_secs_f64(), STALE_S, "s");

    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "web", "namespace": "no-leader"},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "web"}],
            "rules": [{"backendRefs": [{"name": "web", "port": 80}]}],
        },
    });
    cluster.apply_all(&[route]).unwrap();
    let accepted = || {
        let route = cluster.get(&["-n", "no-leader", "httproute", "web"])?;
        let conditions = route.pointer("/status/parents/0/conditions").and_then(Value::as_array).cloned();
        let yes = |one: &Value| one["type"] == "Accepted" && one["status"] == "True";
        Ok(conditions.unwrap_or_default().iter().any(yes).then_some(()))
    };
    cluster.wait_for("a status by the next leader", PATIENCE, accepted).unwrap();
    figure_within("faults/status-after-the-leader-was-killed", killed.elapsed().as_secs_f64(), LEADERLESS_S, "s");
    assert_ne!(holder().unwrap(), leader);
    let sent = all_answered(&world, 200);
    figure("faults/requests-without-a-leader", format!("{sent} sent, 0 failed"));
    world.remove();
}

/// A Service without pods, whose endpoints are in slices of one each: what the control plane makes of it is seen on its
/// debug page.
struct Slices {
    namespace: String,
    left: Vec<(String, IpAddr)>,
}

impl Slices {
    fn new(world: &World) -> Self {
        let namespace = world.namespace.clone();
        let names = ["one", "two", "three", "four"];
        let left: Vec<_> =
            names.iter().zip(1..).map(|(name, n)| (format!("manual-{name}"), IpAddr::from([10, 249, 0, n]))).collect();
        let mut objects = vec![json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "manual", "namespace": namespace},
            "spec": {"ports": [{"name": "http", "port": 80}]},
        })];
        objects.extend(left.iter().map(|(name, address)| {
            json!({
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": name, "namespace": namespace, "labels": {"kubernetes.io/service-name": "manual"},
                },
                "addressType": "IPv4",
                "ports": [{"name": "http", "port": 8080}],
                "endpoints": [{"addresses": [address.to_string()], "conditions": {"ready": true}}],
            })
        }));
        world.cluster().apply_all(&objects).unwrap();
        Self { namespace, left }
    }

    fn remove(&mut self, name: &str, by: impl FnOnce(&str) -> weft_e2e::Result<()>) {
        let name = format!("manual-{name}");
        by(&name).unwrap();
        self.left.retain(|(found, _)| *found != name);
    }

    /// Waits until every replica of the control plane has exactly what is left; seconds it took.
    fn converge(&self, weft: &Weft, within: Duration) -> f64 {
        let began = Instant::now();
        let page = format!("/debug/resources?type=Endpoints&name={}/manual:80", self.namespace);
        // Its content is a string, in which quotes are escaped.
        let has = |page: &str, address: &IpAddr| page.contains(&format!("\"{address}\\\""));
        let gone =
            (1..=4).map(|n| IpAddr::from([10, 249, 0, n])).filter(|all| self.left.iter().all(|(_, one)| one != all));
        let gone: Vec<_> = gone.collect();
        let fresh = || {
            let pages = weft.admin(&page)?;
            let right = |page: &String| {
                self.left.iter().all(|(_, address)| has(page, address))
                    && !gone.iter().any(|address| has(page, address))
            };
            Ok((!pages.is_empty() && pages.iter().all(right)).then_some(()))
        };
        Cluster::wait_for(&weft.cluster, "the control plane to know its endpoints", within, fresh).unwrap();
        began.elapsed().as_secs_f64()
    }
}
