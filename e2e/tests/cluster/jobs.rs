//! What ends by itself: a sidecar must not keep it from that.

use std::time::Duration;

use serde_json::json;
use weft_e2e::cluster::{PATIENCE, Workload, cron_job, service};
use weft_e2e::stats::Got;

use crate::world::{World, text};

/// A Job with a native sidecar talks over the mesh and completes, a CronJob too; a Job in classic mode
/// is started without one, with a warning, and completes.
pub(crate) fn jobs_and_cron_jobs_complete() {
    let world = World::meshed("jobs");
    let namespace = &*world.namespace;
    let task = |name: &str| Workload::new(namespace, name, &["get", "http://web/headers"]);
    world.deploy(&[
        cron_job(&task("every-minute")),
        Workload::server(namespace, "web").deployment(),
        service(namespace, "web", "web", &[("http", 80, "http")]),
    ]);

    world.cluster().apply_all(&[task("once").job()]).unwrap();
    world.kubectl(&["wait", "--for=condition=Complete", "job/once", "--timeout=60s"]);
    // `kubectl logs` of a Job that is over.
    let got = answer(&world.kubectl(&["logs", "job/once", "-c", "app"]));
    assert_eq!(got.status, 200, "{got:?}");
    assert!(got.body.contains("sa/default"), "not by mesh TLS: {}", got.body);
    let pod = world.pod("once");
    assert_eq!(text(&pod, "/status/phase"), "Succeeded");
    for status in pod.pointer("/status/initContainerStatuses").and_then(|all| all.as_array()).unwrap() {
        assert!(status.pointer("/state/terminated").is_some(), "still running: {status}");
    }

    in_classic_mode();

    // The first one may have begun as much as a minute after it was made.
    let completed = || {
        let jobs = world.cluster().get(&["-n", namespace, "jobs"])?;
        let jobs = jobs["items"].as_array().cloned().unwrap_or_default();
        let ours = |name: &str| name.starts_with("every-minute-");
        let done = |job: &serde_json::Value| job.pointer("/status/succeeded").is_some_and(|count| count == 1);
        Ok(jobs.iter().any(|job| ours(text(job, "/metadata/name")) && done(job)).then_some(()))
    };
    let within = Duration::from_secs(60) + PATIENCE;
    world.cluster().wait_for("the CronJob's completion", within, completed).unwrap();
    world.remove();
}

/// Where sidecars are classic, a Job's pod gets none, and who makes the pod is told why.
fn in_classic_mode() {
    let world = World::meshed("jobs-classic");
    world.kubectl(&["annotate", "namespace", "jobs-classic", "weft.dev/sidecar-mode=classic"]);
    let task = |name: &str| Workload::new("jobs-classic", name, &["get", "http://kubernetes.default"]);
    world.cluster().apply_all(&[task("classic").job()]).unwrap();
    world.kubectl(&["wait", "--for=condition=Complete", "job/classic", "--timeout=60s"]);
    let pod = world.pod("classic");
    assert_eq!(pod.pointer("/spec/containers").and_then(|all| all.as_array()).map(Vec::len), Some(1), "{pod}");
    // The Job's controller keeps the warning to itself. Made by hand, it comes to the person.
    let mut by_hand = task("by-hand").pod();
    by_hand["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "batch/v1", "kind": "Job", "name": "classic", "controller": true,
        "uid": world.cluster().get(&["-n", "jobs-classic", "job", "classic"]).unwrap()["metadata"]["uid"],
    }]);
    let arguments = ["create", "--dry-run=server", "-f", "-"];
    let outcome = world.cluster().attempt("kubectl", &arguments, &by_hand.to_string()).unwrap();
    assert!(outcome.stderr.contains("Warning") && outcome.stderr.contains("Job"), "no warning: {}", outcome.stderr);
    world.remove();
}

fn answer(log: &str) -> Got {
    log.lines().find_map(|line| serde_json::from_str(line).ok()).unwrap_or_else(|| panic!("no answer in {log}"))
}
