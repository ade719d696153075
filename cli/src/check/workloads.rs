//! Whether the pods that should be in the mesh are, by sidecars of the right version that work. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use super::facts::{Facts, Health, NamespaceFacts, now};
use super::finding::{Finding, Group, count, some};
use super::kubernetes::minor;
use super::pods::PodFacts;
use crate::duration;
use crate::names::{INJECT, MESH_TLS, Mesh};
use crate::seen::Seen;

const GROUP: Group = Group::Workloads;
/// A pod may take this long to start before that is worth a line.
const STARTING: Duration = Duration::from_secs(60);
/// Names in one line.
const NAMED: usize = 5;

/// Labels by which other meshes opt a namespace in: the label, the value (any, where empty), the mesh.
const OTHER_MESHES: [(&str, &str, &str); 4] = [
    ("istio-injection", "enabled", "Istio"),
    ("istio.io/rev", "", "Istio"),
    ("linkerd.io/inject", "enabled", "Linkerd"),
    ("kuma.io/sidecar-injection", "enabled", "Kuma"),
];

/// All checks of pods.
pub(super) fn check(facts: &Facts, health: &Health, control_plane: Option<&str>) -> Vec<Finding> {
    let mesh = &facts.mesh;
    if let Seen::Unknown(why) = &health.namespaces {
        return vec![Finding::unknown(GROUP, "namespaces", "namespaces", why)];
    }
    let opted_in = health.opted_in(mesh);
    let mut findings = vec![namespaces(&opted_in, health)];
    findings.extend(other_meshes(&opted_in));
    findings.extend(stuck(&health.stuck));
    let pods = match &health.workloads {
        Seen::Found(pods) => pods.iter().filter(|pod| !pod.over).collect::<Vec<_>>(),
        Seen::Absent => Vec::new(),
        Seen::Unknown(why) => {
            findings.push(Finding::unknown(GROUP, "pods", "pods", why));
            return findings;
        }
    };
    let jobs = facts.nodes.found().is_some_and(|nodes| {
        // In classic mode the pods of Jobs are left alone.
        nodes.iter().all(|node| minor(&node.kubelet).is_none_or(|version| version >= (1, 29)))
    });
    let names: BTreeSet<&str> = opted_in.iter().map(|namespace| &*namespace.name).collect();
    let missing: Vec<&PodFacts> =
        pods.iter().copied().filter(|pod| pod.sidecar.is_none() && wants_sidecar(mesh, &names, pod, jobs)).collect();
    findings.extend(without_sidecar(&missing));
    findings.extend(lying(&pods));
    let meshed: Vec<&PodFacts> = pods.into_iter().filter(|pod| pod.sidecar.is_some()).collect();
    findings.extend(not_ready(&meshed, now(facts)));
    findings.extend(control_plane.and_then(|version| outdated(mesh, &meshed, version)));
    let well = findings.iter().all(|finding| ["namespaces", "other-meshes"].contains(&finding.check));
    if well && !meshed.is_empty() {
        findings.push(Finding::ok(GROUP, "pods", format!("{} in the mesh, all ready", count(meshed.len(), "pod"))));
    }
    findings
}

fn namespaces(opted_in: &[&NamespaceFacts], health: &Health) -> Finding {
    let pods = health.workloads.found().map_or(0, |pods| pods.iter().filter(|pod| pod.sidecar.is_some()).count());
    let names: Vec<String> = opted_in.iter().map(|namespace| namespace.name.clone()).collect();
    match (names.len(), pods) {
        (0, 0) => Finding::warning(GROUP, "namespaces", "no namespace is opted in")
            .fix(format!("kubectl label namespace NAME {INJECT}=enabled, then restart its workloads")),
        (0, _) => Finding::ok(GROUP, "namespaces", "no namespace is opted in, but single pods are"),
        (number, _) => Finding::ok(
            GROUP,
            "namespaces",
            format!("{} opted in: {}", count(number, "namespace"), some(&names, NAMED)),
        ),
    }
}

/// Two sidecars would redirect the same traffic.
fn other_meshes(opted_in: &[&NamespaceFacts]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for namespace in opted_in {
        for (label, value, mesh) in OTHER_MESHES {
            let there = namespace.labels.get(label).is_some_and(|found| value.is_empty() || found == value);
            if there {
                let what =
                    format!("namespace {} is opted in to {mesh} as well: pods would get two sidecars", namespace.name);
                let fix = format!("kubectl label namespace {} {label}-", namespace.name);
                findings.push(Finding::error(GROUP, "other-meshes", what).fix(fix));
            }
        }
    }
    findings
}

fn stuck(stuck: &[(String, String)]) -> Option<Finding> {
    let details: Vec<String> = stuck.iter().take(NAMED).map(|(name, why)| format!("{name}: {why}")).collect();
    (!stuck.is_empty()).then(|| {
        Finding::error(GROUP, "refused-pods", format!("{} cannot create pods", count(stuck.len(), "Deployment")))
            .details(details)
            .fix("what refuses them is named there; is it the webhook, see Injection above")
    })
}

fn wants_sidecar(mesh: &Mesh, opted_in: &BTreeSet<&str>, pod: &PodFacts, jobs: bool) -> bool {
    let asked = mesh.asked_by(&pod.labels).unwrap_or_else(|| opted_in.contains(&*pod.namespace));
    let job = pod.owner.as_ref().is_some_and(|owner| owner.kind == "job");
    asked && !pod.host_network && mesh.may_inject(&pod.namespace) && (jobs || !job)
}

fn without_sidecar(pods: &[&PodFacts]) -> Option<Finding> {
    let names: Vec<String> = pods.iter().map(|pod| pod.full_name()).collect();
    (!pods.is_empty()).then(|| {
        let what = format!("{} opted in without a sidecar: {}", count(pods.len(), "pod"), some(&names, NAMED));
        Finding::warning(GROUP, "no-sidecar", what)
            .fix(format!("they were created before the label, or while injection was off: {}", restart(pods)))
    })
}

/// The label promises mesh TLS to clients, who then speak nothing else.
fn lying(pods: &[&PodFacts]) -> Option<Finding> {
    let names: Vec<String> =
        pods.iter().filter(|pod| pod.sidecar.is_none() && pod.says_mesh_tls()).map(|pod| pod.full_name()).collect();
    (!names.is_empty()).then(|| {
        let what =
            format!("{} labelled {MESH_TLS} without a sidecar: {}", count(names.len(), "pod"), some(&names, NAMED));
        Finding::error(GROUP, "mesh-tls-label", what)
            .fix("no client can talk to them: take the label out of their template; injection sets it")
    })
}

fn not_ready(pods: &[&PodFacts], now: SystemTime) -> Option<Finding> {
    let old = |pod: &PodFacts| pod.created.is_none_or(|created| now >= created + STARTING);
    let broken: Vec<&&PodFacts> =
        pods.iter().filter(|pod| old(pod) && pod.sidecar.as_ref().is_some_and(|sidecar| !sidecar.ready)).collect();
    let first = broken.first()?;
    let details: Vec<String> = broken
        .iter()
        .take(NAMED)
        .map(|pod| {
            let why = pod.sidecar.as_ref().and_then(|sidecar| sidecar.why.as_deref()).unwrap_or("not ready");
            let age = pod.created.map(|created| format!(" (created {})", duration::relative(created, now)));
            format!("{}: {why}{}", pod.full_name(), age.unwrap_or_default())
        })
        .collect();
    Some(
        Finding::error(GROUP, "sidecars", format!("{} not ready", count(broken.len(), "sidecar")))
            .details(details)
            .fix(format!("kubectl -n {} logs {} -c weft-sidecar says what it waits for", first.namespace, first.name)),
    )
}

/// Another revision's sidecars have their own control plane's version.
fn outdated(mesh: &Mesh, pods: &[&PodFacts], control_plane: &str) -> Option<Finding> {
    let mut versions: BTreeMap<&str, Vec<&PodFacts>> = BTreeMap::new();
    for &pod in pods {
        if let Some(sidecar) =
            pod.sidecar.as_ref().filter(|sidecar| sidecar.version != control_plane && sidecar.revision == mesh.revision)
        {
            versions.entry(&sidecar.version).or_default().push(pod);
        }
    }
    let pods: Vec<&PodFacts> = versions.values().flatten().copied().collect();
    (!pods.is_empty()).then(|| {
        let each: Vec<String> = versions.iter().map(|(version, pods)| format!("{} of {version}", pods.len())).collect();
        let what = format!(
            "{} of another version than the control plane's {control_plane}: {}",
            count(pods.len(), "sidecar"),
            each.join(", ")
        );
        Finding::warning(GROUP, "sidecar-version", what).fix(restart(&pods))
    })
}

/// The commands that make these pods anew.
fn restart(pods: &[&PodFacts]) -> String {
    let mut workloads: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut by_hand = BTreeSet::new();
    for pod in pods {
        match &pod.owner {
            Some(owner) if ["deployment", "statefulset", "daemonset"].contains(&&*owner.kind) => {
                workloads.entry(&pod.namespace).or_default().insert(format!("{}/{}", owner.kind, owner.name));
            }
            Some(owner) => drop(by_hand.insert(format!("{} {}/{}", owner.kind, pod.namespace, owner.name))),
            None => drop(by_hand.insert(format!("pod {}", pod.full_name()))),
        }
    }
    let mut parts: Vec<String> = workloads
        .iter()
        .take(NAMED)
        .map(|(namespace, names)| {
            let names = names.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
            format!("kubectl -n {namespace} rollout restart {names}")
        })
        .collect();
    if workloads.len() > NAMED {
        parts.push(format!("and so on in {} more namespaces", workloads.len() - NAMED));
    }
    if !by_hand.is_empty() {
        let names: Vec<String> = by_hand.into_iter().collect();
        parts.push(format!("delete and create again: {}", some(&names, NAMED)));
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::super::fixtures::{at, facts, health, namespace, pod};
    use super::super::pods::Owner;
    use super::*;
    use crate::names::REVISION;

    fn findings(pods: Vec<PodFacts>) -> Vec<Finding> {
        let mut health = health();
        health.namespaces = Seen::Found(vec![
            namespace("shop", &[(INJECT, "enabled")]),
            namespace("bank", &[(REVISION, "next")]),
            namespace("other", &[]),
            namespace("kube-system", &[(INJECT, "enabled")]),
        ]);
        health.workloads = Seen::Found(pods);
        check(&facts(), &health, Some("0.1.0"))
    }

    fn levels(findings: &[Finding]) -> Vec<(&str, Level)> {
        findings.iter().map(|finding| (finding.check, finding.level)).collect()
    }

    fn bare(namespace: &str, labels: &[(&str, &str)]) -> PodFacts {
        let labels = labels.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        PodFacts { sidecar: None, labels, ..pod(namespace, "web-1") }
    }

    #[test]
    fn pods_that_asked_for_a_sidecar_and_have_none_are_named_with_the_restart() {
        let job = Some(Owner { kind: "job".to_owned(), name: "import".to_owned() });
        let rows = [
            ("opted in by its namespace", bare("shop", &[]), true),
            ("opted in by itself", bare("other", &[(INJECT, "enabled")]), true),
            ("opted out by itself", bare("shop", &[(INJECT, "disabled")]), false),
            ("of another revision", bare("shop", &[(REVISION, "next")]), false),
            ("in another revision's namespace", bare("bank", &[]), false),
            ("not opted in", bare("other", &[]), false),
            ("in its node's network", PodFacts { host_network: true, ..bare("shop", &[]) }, false),
            ("done", PodFacts { over: true, ..bare("shop", &[]) }, false),
            ("in kube-system", bare("kube-system", &[(INJECT, "enabled")]), false),
            ("Weft's own", bare("weft-system", &[(INJECT, "enabled")]), false),
            ("of a Job", PodFacts { owner: job, ..bare("shop", &[]) }, true),
        ];
        for (row, pod, expected) in rows {
            let found = findings(vec![pod]);
            let warned = found.iter().any(|f| f.check == "no-sidecar" && f.level == Level::Warning);
            assert_eq!(warned, expected, "{row}: {found:?}");
        }
        let found = findings(vec![bare("shop", &[]), bare("other", &[(INJECT, "enabled")])]);
        let fix = found[1].fix.as_deref().unwrap();
        assert!(
            fix.ends_with(
                "kubectl -n other rollout restart deployment/web; kubectl -n shop rollout restart deployment/web"
            ),
            "{fix}"
        );
    }

    #[test]
    fn a_pod_that_promises_mesh_tls_must_keep_it() {
        let found = findings(vec![bare("other", &[(MESH_TLS, "1")])]);
        assert_eq!(levels(&found), [("namespaces", Level::Ok), ("mesh-tls-label", Level::Error)]);
    }

    #[test]
    fn sidecars_are_of_one_version_and_ready() {
        let with = |version: &str, ready: bool, created: u64| {
            let mut pod = pod("shop", "web-1");
            pod.created = Some(at(created));
            if let Some(sidecar) = &mut pod.sidecar {
                (sidecar.version, sidecar.ready) = (version.to_owned(), ready);
            }
            pod
        };
        let well = ("namespaces", Level::Ok);
        for (row, pod, expected) in [
            ("well", with("0.1.0", true, 0), ("pods", Level::Ok)),
            ("older", with("0.0.9", true, 0), ("sidecar-version", Level::Warning)),
            ("not ready", with("0.1.0", false, 0), ("sidecars", Level::Error)),
            ("only starting", with("0.1.0", false, 90), ("pods", Level::Ok)),
        ] {
            assert_eq!(levels(&findings(vec![pod])), [well, expected], "{row}");
        }
    }

    #[test]
    fn nobody_is_in_two_meshes() {
        let rows: &[(&[(&str, &str)], usize)] = &[
            (&[], 0),
            (&[("istio-injection", "disabled")], 0),
            (&[("istio-injection", "enabled")], 1),
            (&[("istio.io/rev", "canary"), ("linkerd.io/inject", "enabled")], 2),
        ];
        for (labels, errors) in rows {
            let namespace = namespace("shop", labels);
            assert_eq!(other_meshes(&[&namespace]).len(), *errors, "{labels:?}");
        }
    }

    #[test]
    fn an_empty_mesh_is_told_how_to_begin() {
        let mut health = health();
        assert_eq!(levels(&check(&facts(), &health, None)), [("namespaces", Level::Warning)]);
        health.stuck = vec![("shop/web".to_owned(), "refused".to_owned())];
        assert_eq!(levels(&check(&facts(), &health, None))[1], ("refused-pods", Level::Error));
    }
}
