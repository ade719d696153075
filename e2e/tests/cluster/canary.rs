//! A canary as a user does it: an HTTPRoute's weights, edited and applied, under load from a meshed pod; and what the route's
//! status says of each edit, and when.
//!
//! Each edit sets a header of its own on every request, so the servers' records tell by which edit each was routed.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft_e2e::apps::now_ms;
use weft_e2e::cluster::{Watch, Workload, figure, figure_within, service};
use weft_e2e::stats::Served;

use crate::world::{World, flawless, slow};

const RATE: u32 = 250;
/// Requests of each split that are counted.
const REQUESTS: usize = 2_000;
/// How long an edit may take until every request is routed by it, and until the status says so.
const LIMIT_MS: f64 = 1_000.0;
/// How far a split may be off. Shares are dealt evenly: by dice, one run in twenty would be off by more.
const POINTS: f64 = 2.0;
const CONDITIONS: [&str; 3] = ["Accepted", "ResolvedRefs", "weft.dev/Programmed"];

struct Edit {
    weights: (u32, u32),
    /// Before and after `kubectl apply`.
    began_ms: u64,
    ended_ms: u64,
}

impl Edit {
    fn name(&self) -> String {
        format!("{}-{}", self.weights.0, self.weights.1)
    }
}

fn route(weights: (u32, u32)) -> Value {
    let mark = format!("{}-{}", weights.0, weights.1);
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "reviews", "namespace": "canary"},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "reviews", "port": 80}],
            "rules": [{
                "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-edit", "value": mark}]}}],
                "backendRefs": [
                    {"name": "reviews-v1", "port": 80, "weight": weights.0},
                    {"name": "reviews-v2", "port": 80, "weight": weights.1},
                ],
            }],
        },
    })
}

/// 90/10 → 50/50 → 0/100.
pub(crate) fn weights_shift_by_kubectl_apply_without_a_failure() {
    let world = World::meshed("canary");
    let version = |name: &str| Workload::server("canary", name).label("part", "reviews").replicas(2);
    let mut both = service("canary", "reviews", "unused", &[("http", 80, "http")]);
    both["spec"]["selector"] = json!({"part": "reviews"});
    world.deploy(&[
        version("v1").deployment(),
        version("v2").deployment(),
        both,
        service("canary", "reviews-v1", "v1", &[("http", 80, "http")]),
        service("canary", "reviews-v2", "v2", &[("http", 80, "http")]),
        Workload::idle("canary", "client").deployment(),
    ]);
    world.until_answered("http://reviews/");
    world.cluster().apply_all(&[route((90, 10))]).unwrap();
    world.deploy(&[Workload::load("canary", "load", "reviews:80", RATE).args(&["--mix"]).deployment()]);

    let mut edits = vec![Edit { weights: (90, 10), began_ms: now_ms(), ended_ms: now_ms() }];
    let watch = world.cluster().watch(&["-n", "canary", "httproute", "reviews"]).unwrap();
    settle(&watch, 1);
    enough();
    for (weights, generation) in [((50, 50), 2), ((0, 100), 3)] {
        let began_ms = now_ms();
        world.cluster().apply_all(&[route(weights)]).unwrap();
        edits.push(Edit { weights, began_ms, ended_ms: now_ms() });
        figure_within(
            &format!("canary/status-of-{}-{}", weights.0, weights.1),
            settle(&watch, generation),
            LIMIT_MS,
            "ms",
        );
        enough();
    }
    let ended = now_ms();
    world.kubectl(&["scale", "deployment/load", "--replicas=0"]);
    world.until_pods("load", 0);

    let totals = flawless(&world.records, edits.len() * REQUESTS, |_| "under load".to_owned());
    figure(
        "canary/requests",
        format!("{} sent, 0 failed, p50 {} ms, p99 {} ms", totals.sent, totals.p50_ms, totals.p99_ms),
    );
    let served: Vec<Served> = world.records.served().into_iter().filter(|one| !one.id.is_empty()).collect();
    for (n, edit) in edits.iter().enumerate() {
        let until = edits.get(n + 1).map_or(ended, |next| next.began_ms);
        shares(edit, &served, until);
        if n > 0 {
            effect(edit, &edits[..n], &served);
        }
    }
    world.remove();
}

/// Long enough for the requests that are counted, and the second around the edit that is not.
fn enough() {
    let longer = if slow() { 4 } else { 1 };
    let seconds = REQUESTS / usize::try_from(RATE).unwrap() + 2;
    std::thread::sleep(Duration::from_secs(u64::try_from(seconds).unwrap() * longer));
}

/// Waits until the status speaks of this generation; ms from when the API server told of it.
fn settle(watch: &Watch, generation: i64) -> f64 {
    let mut began: Option<Instant> = None;
    let took = watch.until("the route's status", Duration::from_secs(10), |seen| {
        let route = &seen.object;
        if route.pointer("/metadata/generation")?.as_i64()? < generation {
            return None;
        }
        let took = seen.at - *began.get_or_insert(seen.at);
        let parents = route.pointer("/status/parents")?.as_array()?;
        let ours = parents.iter().find(|parent| parent["controllerName"] == "weft.dev/mesh-controller")?;
        assert_eq!(ours["parentRef"], route["spec"]["parentRefs"][0], "the parentRef is copied as it is");
        let conditions = ours["conditions"].as_array()?;
        let said = |name: &str| {
            let is = |one: &Value| {
                one["type"] == *name && one["status"] == "True" && one["observedGeneration"] == generation
            };
            conditions.iter().any(is)
        };
        CONDITIONS.into_iter().all(said).then_some(took)
    });
    took.unwrap().as_secs_f64() * 1000.0
}

/// Of the requests that this edit routed, as many to v2 as it says.
fn shares(edit: &Edit, served: &[Served], until: u64) {
    let marked = |one: &&Served| one.headers.iter().any(|(name, value)| name == "x-edit" && *value == edit.name());
    let ours: Vec<_> = served.iter().filter(marked).filter(|one| one.at_ms < until).collect();
    assert!(ours.len() >= REQUESTS, "{}: only {} requests", edit.name(), ours.len());
    let second = ours.iter().filter(|one| one.server.starts_with("v2-")).count();
    let share = second as f64 * 100.0 / ours.len() as f64;
    figure(&format!("canary/share-of-v2-at-{}", edit.name()), format!("{share:.2} % of {} requests", ours.len()));
    let wanted = f64::from(edit.weights.1);
    assert!((share - wanted).abs() <= POINTS, "{}: {share:.2} % went to v2", edit.name());
}

/// The last request that was still routed by an edit before this one.
fn effect(edit: &Edit, before: &[Edit], served: &[Served]) {
    let mark = |one: &Served| one.headers.iter().find(|(name, _)| name == "x-edit").map(|(_, value)| value.clone());
    let old = |one: &&Served| mark(one).is_none_or(|mark| before.iter().any(|edit| edit.name() == mark));
    let last = served.iter().filter(old).map(|one| one.at_ms).max().unwrap_or(0);
    let (ms, after) = (last.saturating_sub(edit.began_ms), last.saturating_sub(edit.ended_ms));
    let name = format!("canary/effect-of-{}", edit.name());
    figure(&name, format!("{ms} ms from the start of kubectl apply, {after} ms from its end"));
    assert!((after as f64) <= LIMIT_MS, "{}: the last request by the old weights came {after} ms later", edit.name());
}
