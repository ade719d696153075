//! Whether the control plane runs, all of it in one version, and somebody leads. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Pod, Service};

use super::facts::{Facts, Health, now};
use super::finding::{Finding, Group, Level, count, some};
use super::pods::{image_version, why_not_running};
use crate::duration;
use crate::names::Mesh;
use crate::seen::Seen;

const GROUP: Group = Group::ControlPlane;
/// The ports that sidecars and the API server call.
const PORTS: [i32; 2] = [15012, 443];
/// The API server's Date header has whole seconds, and we may have asked a moment ago.
const SLACK: Duration = Duration::from_secs(3);

/// All checks of the control plane; none of the others means anything when it is not installed.
pub(super) fn check(facts: &Facts, health: &Health) -> Vec<Finding> {
    let mesh = &facts.mesh;
    let deployment = match &facts.deployment {
        Seen::Found(deployment) => deployment,
        Seen::Absent => {
            let what = format!("Weft is not installed in namespace {}", mesh.namespace);
            return vec![
                Finding::error(GROUP, "deployment", what)
                    .fix("weft install --wait (or say with --weft-namespace where it is)"),
            ];
        }
        // The one fact that the whole answer is about: nobody may take this for "nothing is wrong".
        Seen::Unknown(why) => {
            let unknown = Finding::unknown(GROUP, "deployment", "the control plane", why);
            return vec![Finding { level: Level::Error, ..unknown }];
        }
    };
    let pods = health.pods.found().map_or(&[][..], Vec::as_slice);
    vec![
        replicas(mesh, deployment, pods),
        versions(mesh, &facts.own_version, deployment, pods),
        service(mesh, &health.service),
        leads(mesh, &health.lease, pods, now(facts)),
    ]
}

fn replicas(mesh: &Mesh, deployment: &Deployment, pods: &[Pod]) -> Finding {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let status = deployment.status.as_ref();
    let ready = status.and_then(|status| status.ready_replicas).unwrap_or(0);
    let updated = status.and_then(|status| status.updated_replicas).unwrap_or(0);
    let name = mesh.control_plane();
    let trouble: Vec<String> = pods.iter().filter_map(trouble).collect();
    if wanted == 0 {
        let what = format!("{name} is scaled to nothing: nobody signs certificates or injects");
        return Finding::error(GROUP, "deployment", what)
            .fix(format!("kubectl -n {} scale deployment/{name} --replicas=2", mesh.namespace));
    }
    if ready < wanted {
        let what = format!("{ready} of {wanted} replicas of {name} ready");
        return Finding::error(GROUP, "deployment", what).details(trouble).fix(format!(
            "kubectl -n {namespace} describe pods; kubectl -n {namespace} logs deployment/{name}",
            namespace = mesh.namespace
        ));
    }
    if updated < wanted {
        let what = format!("{name} is being rolled out: {updated} of {wanted} replicas are new");
        return Finding::warning(GROUP, "deployment", what)
            .fix(format!("kubectl -n {} rollout status deployment/{name}", mesh.namespace));
    }
    Finding::ok(
        GROUP,
        "deployment",
        format!("{} of {name} ready", count(usize::try_from(ready).unwrap_or(0), "replica")),
    )
}

/// Why a pod is not ready, in a line.
fn trouble(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    let mut failing = containers.filter(|container| !container.ready).filter_map(why_not_running);
    let unscheduled = || {
        let mut conditions = status.conditions.iter().flatten();
        conditions.find(|c| c.type_ == "PodScheduled" && c.status == "False").and_then(|c| c.message.clone())
    };
    failing.next().or_else(unscheduled).map(|why| format!("{name}: {why}"))
}

fn versions(mesh: &Mesh, own: &str, deployment: &Deployment, pods: &[Pod]) -> Finding {
    let name = mesh.control_plane();
    let spec = deployment.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    let wanted = spec.and_then(|spec| image_version(spec.containers.first()?.image.as_deref()?));
    let running = running_versions(pods);
    if running.len() > 1 {
        let each: Vec<String> = running.iter().map(|(version, pods)| format!("{pods} of {version}")).collect();
        let what = format!("replicas of several versions at once: {}", each.join(", "));
        return Finding::warning(GROUP, "version", what)
            .fix(format!("kubectl -n {} rollout status deployment/{name}", mesh.namespace));
    }
    match running.into_keys().next().or(wanted) {
        Some(version) if version == own => Finding::ok(GROUP, "version", format!("version {version}, as this weft")),
        Some(version) => Finding::warning(GROUP, "version", format!("version {version}; this weft is {own}"))
            .fix(format!("weft install upgrades it to {own}; or use weft {version}")),
        None => Finding::warning(GROUP, "version", "its image has no tag, so its version is not known")
            .fix("name the image with a tag"),
    }
}

/// The versions of running pods, and how many of each.
pub(crate) fn running_versions(pods: &[Pod]) -> BTreeMap<String, usize> {
    let mut versions = BTreeMap::new();
    for pod in pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        let image = pod.spec.as_ref().and_then(|spec| spec.containers.first()?.image.clone()).unwrap_or_default();
        *versions.entry(image_version(&image).unwrap_or(image)).or_default() += 1;
    }
    versions
}

fn service(mesh: &Mesh, service: &Seen<Service>) -> Finding {
    let name = mesh.control_plane();
    let service = match service {
        Seen::Found(service) => service,
        Seen::Absent => {
            return Finding::error(
                GROUP,
                "service",
                format!("Service {name} is gone: no sidecar finds the control plane"),
            )
            .fix("weft install puts it back");
        }
        Seen::Unknown(why) => return Finding::unknown(GROUP, "service", "Services", why),
    };
    let ports: Vec<i32> =
        service.spec.iter().flat_map(|spec| spec.ports.iter().flatten()).map(|port| port.port).collect();
    let missing: Vec<String> = PORTS.iter().filter(|port| !ports.contains(port)).map(ToString::to_string).collect();
    if missing.is_empty() {
        Finding::ok(GROUP, "service", format!("Service {name} has its ports"))
    } else {
        Finding::error(GROUP, "service", format!("Service {name} lacks port {}", some(&missing, 5)))
            .fix("weft install puts them back")
    }
}

fn leads(mesh: &Mesh, lease: &Seen<Lease>, pods: &[Pod], now: SystemTime) -> Finding {
    let consequence = "nobody writes the status of routes or trust bundles, or rotates";
    let name = mesh.control_plane();
    let look = format!("kubectl -n {} logs deployment/{name}", mesh.namespace);
    let lease = match lease {
        Seen::Found(lease) => lease,
        Seen::Absent => {
            return Finding::error(GROUP, "leader", format!("nobody has ever led (no Lease {name}): {consequence}"))
                .fix(look);
        }
        Seen::Unknown(why) => return Finding::unknown(GROUP, "leader", "Leases", why),
    };
    let spec = lease.spec.as_ref();
    let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).filter(|holder| !holder.is_empty());
    let renewed: Option<SystemTime> = spec.and_then(|spec| Some(spec.renew_time.as_ref()?.0.into()));
    let length = spec.and_then(|spec| u64::try_from(spec.lease_duration_seconds?).ok()).unwrap_or(15);
    let (Some(holder), Some(renewed)) = (holder, renewed) else {
        return Finding::error(GROUP, "leader", format!("nobody leads: {consequence}")).fix(look);
    };
    if now > renewed + Duration::from_secs(length) + SLACK {
        let ago = duration::relative(renewed, now);
        let what = format!("nobody leads: {holder} last renewed its lease {ago}; {consequence}");
        return Finding::error(GROUP, "leader", what).fix(look);
    }
    let known = pods.is_empty() || pods.iter().any(|pod| pod.metadata.name.as_deref() == Some(holder));
    if known {
        Finding::ok(GROUP, "leader", format!("{holder} leads"))
    } else {
        Finding::warning(GROUP, "leader", format!("{holder}, which is gone, led; another takes over within {length} s"))
            .fix("weft check --wait 60s")
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;
    use serde_json::{Value, json};

    use super::super::fixtures::{at, mesh};
    use super::*;

    fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn deployment(wanted: i32, ready: i32, updated: i32) -> Deployment {
        read(json!({
            "metadata": {"name": "weft-control-plane"},
            "spec": {"replicas": wanted, "selector": {}, "template": {"spec": {"containers": [{"name": "c", "image": "weft.dev/control-plane:0.1.0"}]}}},
            "status": {"readyReplicas": ready, "updatedReplicas": updated},
        }))
    }

    fn pod(name: &str, version: &str, waiting: Option<&str>) -> Pod {
        let state = waiting.map(|reason| json!({"waiting": {"reason": reason}}));
        read(json!({
            "metadata": {"name": name},
            "spec": {"containers": [{"name": "c", "image": format!("weft.dev/control-plane:{version}")}]},
            "status": {"containerStatuses": [{"name": "c", "ready": waiting.is_none(), "image": "", "imageID": "", "restartCount": 0, "state": state}]},
        }))
    }

    #[test]
    fn replicas_that_are_not_ready_say_why() {
        for (wanted, ready, updated, level, says) in [
            (2, 2, 2, Level::Ok, "2 replicas of weft-control-plane ready"),
            (2, 1, 2, Level::Error, "1 of 2 replicas"),
            (2, 2, 1, Level::Warning, "being rolled out: 1 of 2"),
            (0, 0, 0, Level::Error, "scaled to nothing"),
        ] {
            let finding = replicas(&mesh(), &deployment(wanted, ready, updated), &[]);
            assert!(finding.level == level && finding.what.contains(says), "{finding:?}");
        }
        let pods = [pod("a", "0.1.0", None), pod("b", "0.1.0", Some("ImagePullBackOff"))];
        assert_eq!(replicas(&mesh(), &deployment(2, 1, 2), &pods).details, ["b: ImagePullBackOff"]);
    }

    #[test]
    fn versions_are_compared_with_each_other_and_with_ours() {
        for (pods, level, says) in [
            (vec![pod("a", "0.1.0", None), pod("b", "0.1.0", None)], Level::Ok, "version 0.1.0, as this weft"),
            (vec![pod("a", "0.2.0", None)], Level::Warning, "version 0.2.0; this weft is 0.1.0"),
            (vec![pod("a", "0.1.0", None), pod("b", "0.2.0", None)], Level::Warning, "1 of 0.1.0, 1 of 0.2.0"),
            (vec![], Level::Ok, "version 0.1.0"),
        ] {
            let finding = versions(&mesh(), "0.1.0", &deployment(2, 2, 2), &pods);
            assert!(finding.level == level && finding.what.contains(says), "{finding:?}");
        }
    }

    #[test]
    fn a_service_without_a_port_of_ours_is_wrong() {
        for (ports, level) in [(&[15012, 15014, 443][..], Level::Ok), (&[15012], Level::Error), (&[], Level::Error)] {
            let ports: Vec<Value> = ports.iter().map(|port| json!({"port": port})).collect();
            let finding = service(&mesh(), &Seen::Found(read(json!({"metadata": {}, "spec": {"ports": ports}}))));
            assert_eq!(finding.level, level, "{finding:?}");
        }
        assert_eq!(service(&mesh(), &Seen::Absent).level, Level::Error);
    }

    #[test]
    fn a_lease_that_ended_means_that_nobody_leads() {
        let lease = |holder: &str, renewed: u64| {
            let renewed = Timestamp::try_from(at(renewed)).unwrap().to_string();
            read(
                json!({"metadata": {}, "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": renewed}}),
            )
        };
        let pods = [pod("a", "0.1.0", None)];
        for (row, seen, level) in [
            ("held", Seen::Found(lease("a", 95)), Level::Ok),
            ("at its end, within our clock's precision", Seen::Found(lease("a", 83)), Level::Ok),
            ("ended", Seen::Found(lease("a", 80)), Level::Error),
            ("given back", Seen::Found(lease("", 99)), Level::Error),
            ("held by a pod that is gone", Seen::Found(lease("b", 95)), Level::Warning),
            ("never held", Seen::Absent, Level::Error),
        ] {
            assert_eq!(leads(&mesh(), &seen, &pods, at(100)).level, level, "{row}");
        }
    }
}
