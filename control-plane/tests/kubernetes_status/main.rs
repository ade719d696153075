//! Election and status against a real API server. Ignored unless asked for: `WEFT_TEST_KUBECONFIG` names the kubeconfig of an
//! administrator of a cluster made for tests, with the Gateway API's kinds in it. It needs no node. Each test has its own
//! namespace.

mod acks;
mod cluster;
mod election;
mod own;
mod replica;
mod schemas;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use weft_control_plane::model::{Kind, ObjectKey, ObjectName};
use weft_control_plane::status::{CONTROLLER_NAME, PROGRAMMED, StatusSink as _};

use cluster::{Cluster, entries, eventually, ours, route, until};
use replica::Replica;

const OTHER: &str = "example.com/other";

fn of_another(parent: &str, round: usize) -> Value {
    json!({
        "controllerName": OTHER,
        "parentRef": {"group": "", "kind": "Service", "name": parent},
        "conditions": [{
            "type": "Accepted", "status": "False", "reason": "Other", "message": format!("round {round}"), "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }],
    })
}

/// Another controller, which does as one must: reads, changes its own entry, and replaces what it read.
async fn another_writes(routes: &Api<DynamicObject>, name: &str, round: usize) {
    loop {
        let mut route = routes.get(name).await.unwrap();
        let mut parents = route.data["status"]["parents"].as_array().cloned().unwrap_or_default();
        parents.retain(|entry| entry["controllerName"] != OTHER);
        parents.push(of_another("reviews", round));
        route.data["status"] = json!({"parents": parents});
        match routes.replace_status(name, &PostParams::default(), &route).await {
            Ok(_) => return,
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs WEFT_TEST_KUBECONFIG"]
async fn status_is_there_within_a_second_and_goes_with_its_parent() {
    let cluster = Cluster::new("status").await;
    let (routes, params) = (cluster.routes(), PostParams::default());
    let mut replica = Replica::new(&cluster, true);
    let created = routes.create(&params, &route("canary", &["reviews"])).await.unwrap();
    replica.see(&[created]);
    let took = until("the first status", &routes, "canary", &[ours("reviews", true, 1)]).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    let written = routes.get("canary").await.unwrap();
    let entry = &written.data["status"]["parents"][0];
    assert_eq!(entry["parentRef"], written.data["spec"]["parentRefs"][0], "verbatim");
    let since = entry["conditions"][0]["lastTransitionTime"].clone();

    // A second controller writes beside us, and a second parent comes.
    another_writes(&routes, "canary", 1).await;
    let foreign = format!("{OTHER} reviews: Accepted=False(1)");
    let more = json!({"spec": {"parentRefs": [
        {"group": "", "kind": "Service", "name": "reviews"}, {"group": "", "kind": "Service", "name": "ratings"},
    ]}});
    tokio::time::sleep(Duration::from_millis(1100)).await; // A transition time has seconds.
    let changed = routes.patch("canary", &PatchParams::default(), &Patch::Merge(&more)).await.unwrap();
    replica.see(&[changed]);
    let expected = [ours("reviews", true, 2), foreign.clone(), ours("ratings", true, 2)];
    let took = until("a second parent", &routes, "canary", &expected).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    let parents = routes.get("canary").await.unwrap().data["status"]["parents"].clone();
    assert_eq!(parents[0]["conditions"][0]["lastTransitionTime"], since, "it was true all the time");
    assert_eq!(parents[1], of_another("reviews", 1), "untouched");

    // The first parentRef goes, then the last.
    for (parents, expected) in [
        (json!([{"group": "", "kind": "Service", "name": "ratings"}]), vec![foreign.clone(), ours("ratings", true, 3)]),
        (json!([{"name": "a-gateway"}]), vec![foreign.clone()]),
    ] {
        let less = json!({"spec": {"parentRefs": parents}});
        let changed = routes.patch("canary", &PatchParams::default(), &Patch::Merge(&less)).await.unwrap();
        replica.see(&[changed]);
        until("a parentRef went", &routes, "canary", &expected).await;
    }
    assert_eq!(replica.writes("failed"), 0);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs WEFT_TEST_KUBECONFIG"]
async fn two_controllers_that_write_at_once_lose_nothing_of_each_other() {
    let cluster = Cluster::new("both").await;
    let routes = cluster.routes();
    let mut replica = Replica::new(&cluster, true);
    let created = routes.create(&PostParams::default(), &route("canary", &["reviews"])).await.unwrap();
    replica.see(&[created]);
    let theirs = async {
        for round in 0..200 {
            another_writes(&routes, "canary", round).await;
        }
    };
    let us = async {
        for round in 0..30 {
            let path =
                json!({"spec": {"rules": [{"matches": [{"path": {"type": "Exact", "value": format!("/{round}")}}]}]}});
            let changed = routes.patch("canary", &PatchParams::default(), &Patch::Merge(&path)).await.unwrap();
            replica.see(&[changed]);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::join!(theirs, us);
    let generation = routes.get("canary").await.unwrap().metadata.generation.unwrap();
    let sorted = async || {
        let mut entries = entries(&routes.get("canary").await.unwrap());
        entries.sort();
        let expected = [format!("{OTHER} reviews: Accepted=False(1)"), ours("reviews", true, generation)];
        (entries == expected).then_some(())
    };
    let (_, took) = eventually("both have their say", sorted).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    println!("{} writes, {} conflicts", replica.writes("written"), replica.writes("conflict"));
    assert_eq!(replica.writes("failed"), 0, "a conflict is none");
    let parents = routes.get("canary").await.unwrap().data["status"]["parents"].clone();
    let theirs = parents.as_array().unwrap().iter().find(|entry| entry["controllerName"] == OTHER);
    assert_eq!(theirs, Some(&of_another("reviews", 199)), "the last they said");

    // Who throws our entry away is put right, too.
    let wiped = json!({"status": {"parents": [of_another("reviews", 0)]}});
    routes.patch_status("canary", &PatchParams::default(), &Patch::Merge(&wiped)).await.unwrap();
    eventually("our entry is back", sorted_again(&routes, generation)).await;
    cluster.end().await;
}

fn sorted_again(routes: &Api<DynamicObject>, generation: i64) -> impl FnMut() -> BoxFuture<'static, Option<()>> {
    let routes = routes.clone();
    move || {
        let routes = routes.clone();
        Box::pin(async move {
            // What was said of the proxies is said again: nobody asks them a second time.
            let entries = entries(&routes.get("canary").await.unwrap());
            entries.contains(&ours("reviews", true, generation)).then_some(())
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs WEFT_TEST_KUBECONFIG"]
async fn three_hundred_routes_are_written_once_and_a_new_leader_writes_nothing() {
    const ROUTES: usize = 300;
    let cluster = Cluster::new("many").await;
    let routes = cluster.routes();
    let mut made = Vec::new();
    for index in 0..ROUTES {
        made.push(routes.create(&PostParams::default(), &route(&format!("r{index}"), &["reviews"])).await.unwrap());
    }
    let (mut first, mut second) = (Replica::new(&cluster, false), Replica::new(&cluster, false));
    first.see(&made);
    second.see(&made);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(first.writes("written"), 0, "it does not lead");
    first.leads.send_replace(true);
    let began = Instant::now();
    let all = async || (first.writes("written") >= ROUTES as u64).then_some(());
    eventually("300 routes", all).await;
    println!("300 routes in {:?}, {} conflicts", began.elapsed(), first.writes("conflict"));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let list = routes.list(&Default::default()).await.unwrap();
    assert!(list.items.iter().all(|route| entries(route) == [ours("reviews", true, 1)]));
    assert_eq!(first.writes("written"), ROUTES as u64, "each once");

    first.leads.send_replace(false);
    second.leads.send_replace(true);
    let changed = json!({"spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "ratings"}]}});
    let changed = routes.patch("r7", &PatchParams::default(), &Patch::Merge(&changed)).await.unwrap();
    first.see(std::slice::from_ref(&changed));
    second.see(&[changed]);
    until("by the new leader", &routes, "r7", &[ours("ratings", true, 2)]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((first.writes("written"), second.writes("written")), (ROUTES as u64, 1), "only what differs");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs WEFT_TEST_KUBECONFIG"]
async fn an_object_that_cannot_be_taken_says_so_until_it_can() {
    let cluster = Cluster::new("refused").await;
    let routes = cluster.routes();
    let mut replica = Replica::new(&cluster, true);
    let created = routes.create(&PostParams::default(), &route("canary", &["reviews"])).await.unwrap();
    replica.see(&[created]);
    until("good", &routes, "canary", &[ours("reviews", true, 1)]).await;
    let path = |value: &str| json!({"spec": {"rules": [{"matches": [{"path": {"type": "Exact", "value": value}}]}]}});
    routes.patch("canary", &PatchParams::default(), &Patch::Merge(&path("/a"))).await.unwrap();
    let key = ObjectKey { kind: Kind::HttpRoute, name: ObjectName::new(&*cluster.namespace, "canary") };
    replica.status.on_problems(vec![], BTreeMap::from([(key, "spec.rules[0]: is beyond us".to_owned())]));
    let refused = format!("{CONTROLLER_NAME} reviews: Accepted=False(2)");
    let took = until("refused", &routes, "canary", &[refused]).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    let condition = routes.get("canary").await.unwrap().data["status"]["parents"][0]["conditions"][0].clone();
    assert_eq!(condition["message"], "spec.rules[0]: is beyond us; generation 1 stays in effect");
    let mended = routes.patch("canary", &PatchParams::default(), &Patch::Merge(&path("/b"))).await.unwrap();
    replica.see(&[mended]);
    replica.status.on_problems(vec![], BTreeMap::new());
    until("mended", &routes, "canary", &[ours("reviews", true, 3)]).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs WEFT_TEST_KUBECONFIG"]
async fn programmed_waits_for_the_proxies_and_is_written_when_it_changes() {
    let cluster = Cluster::new("programmed").await;
    let routes = cluster.routes();
    let mut replica = Replica::new(&cluster, true);
    replica.proxies.are(3, 2, &["shop/slow-1"]);
    let created = routes.create(&PostParams::default(), &route("canary", &["reviews"])).await.unwrap();
    replica.see(&[created]);
    let base = format!("{CONTROLLER_NAME} reviews: Accepted=True(1) ResolvedRefs=True(1)");
    let took = until("accepted, whatever proxies do", &routes, "canary", std::slice::from_ref(&base)).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    let took = until("too late", &routes, "canary", &[format!("{base} {PROGRAMMED}=False(1)")]).await;
    assert!((8.5..11.0).contains(&took.as_secs_f64()), "{took:?}");
    let programmed = async || {
        let route = routes.get("canary").await.unwrap();
        let conditions = route.data["status"]["parents"][0]["conditions"].as_array().unwrap().clone();
        conditions.into_iter().find(|condition| condition["type"] == PROGRAMMED).unwrap()
    };
    assert_eq!(programmed().await["message"], "2 of 3 proxies have it; waiting for shop/slow-1");
    replica.proxies.are(3, 3, &[]);
    until("after all", &routes, "canary", &[ours("reviews", true, 1)]).await;
    assert_eq!(
        programmed().await["message"],
        format!("all 3 proxies that use Service {}/reviews have it", cluster.namespace)
    );
    let writes = replica.writes("written");
    replica.proxies.are(3, 0, &["shop/slow-1"]);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!((writes, replica.writes("written")), (3, 3), "it is not taken back");
    let names: BTreeSet<_> = entries(&routes.get("canary").await.unwrap()).into_iter().collect();
    assert_eq!(names.len(), 1);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs WEFT_TEST_KUBECONFIG"]
async fn routes_that_are_deleted_meanwhile_cost_nothing() {
    const ROUTES: usize = 100;
    let cluster = Cluster::new("gone").await;
    let routes = cluster.routes();
    let mut replica = Replica::new(&cluster, true);
    let mut made = Vec::new();
    for index in 0..ROUTES {
        made.push(routes.create(&PostParams::default(), &route(&format!("r{index}"), &["reviews"])).await.unwrap());
    }
    // Half of them go before the writer hears of them, and half while it writes.
    for index in (0..ROUTES).step_by(2) {
        routes.delete(&format!("r{index}"), &DeleteParams::default()).await.unwrap();
    }
    replica.see(&made);
    for index in (1..ROUTES).step_by(2) {
        routes.delete(&format!("r{index}"), &DeleteParams::default()).await.unwrap();
    }
    let created = routes.create(&PostParams::default(), &route("canary", &["reviews"])).await.unwrap();
    replica.see(&[created]);
    let took = until("the one that is left", &routes, "canary", &[ours("reviews", true, 1)]).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    // And made again under a name that was there: it is another object, from its first generation on.
    let again = routes.create(&PostParams::default(), &route("r1", &["reviews"])).await.unwrap();
    replica.see(&[again]);
    until("made again", &routes, "r1", &[ours("reviews", true, 1)]).await;
    assert_eq!(replica.writes("failed"), 0);
    println!("{} writes, {} conflicts", replica.writes("written"), replica.writes("conflict"));
    cluster.end().await;
}
