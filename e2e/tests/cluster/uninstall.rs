//! What stays behind: nothing but the kinds the chart keeps, and what was there before.

use std::collections::BTreeSet;
use std::time::Duration;

use weft_e2e::Result;
use weft_e2e::cluster::{Cluster, SYSTEM, Weft};

pub(crate) fn nothing_stays_but_kinds() {
    let Weft { cluster } = Weft::installed().unwrap();
    let ours_before = ours(&cluster).unwrap();
    for one in
        ["mutatingwebhookconfiguration", "validatingadmissionpolicy", "clusterrole", "configmap", "lease", "secret"]
    {
        assert!(ours_before.iter().any(|name| name.contains(one)), "the search finds no {one}: {ours_before:#?}");
    }
    cluster.helm(&["-n", SYSTEM, "uninstall", "weft", "--wait", "--timeout=90s"]).unwrap();
    let mut left = BTreeSet::new();
    let gone = cluster.wait_for("the end of what is ours", Duration::from_secs(30), || {
        left = ours(&cluster)?;
        Ok(left.is_empty().then_some(()))
    });
    assert!(gone.is_ok(), "left behind: {left:#?}");

    // A namespace that is still labelled is no harm: its pods start, without sidecars.
    cluster.fresh_namespace("afterwards", &[("weft.dev/inject", "enabled")]).unwrap();
    cluster.records("afterwards").unwrap();
    let pod = weft_e2e::cluster::Workload::idle("afterwards", "client").deployment();
    cluster.deploy(&[pod]).unwrap();
    cluster.remove_namespace("afterwards").unwrap();
    cluster.kubectl(&["delete", "namespace", SYSTEM, "--timeout=60s"]).unwrap();
}

/// Everything in the cluster, of whatever kind, that is called like ours, is in our namespace, or belongs to our group; but
/// the kinds we keep (with their APIService), and what Kubernetes itself puts into every namespace.
fn ours(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let kinds = cluster.kubectl(&["api-resources", "--verbs=list,delete", "-o", "name"])?;
    let skipped = ["events", "events.events.k8s.io", "pods.metrics.k8s.io"];
    let kinds: Vec<&str> = kinds.lines().filter(|kind| !skipped.contains(kind)).collect();
    let format = "-o=jsonpath={range .items[*]}{.kind} {.metadata.namespace} {.metadata.name}{\"\\n\"}{end}";
    let all = cluster.kubectl(&["get", &kinds.join(","), "-A", "--ignore-not-found", format])?;
    let ours = |line: &&str| {
        let mut parts = line.split(' ');
        let (Some(kind), Some(namespace), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
            return false;
        };
        // Kubernetes itself makes an APIService for the group of kinds that are kept.
        let kept = ["CustomResourceDefinition", "APIService", "Namespace"].contains(&kind);
        let kubernetes_own = name == "kube-root-ca.crt" || (kind == "ServiceAccount" && name == "default");
        !kept && !kubernetes_own && (namespace == SYSTEM || name.contains("weft"))
    };
    Ok(all.lines().filter(ours).map(str::to_lowercase).collect())
}
