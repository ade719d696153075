//! Whether Weft can be installed here: permissions, and what others left or have installed. Pure.

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;

use super::facts::{Facts, Permission};
use super::finding::{Finding, Group};
use crate::seen::Seen;

const GROUP: Group = Group::Installation;

/// What other meshes call their injecting webhooks: the start of the name, and the mesh.
const OTHER_MESHES: [(&str, &str); 5] = [
    ("istio-sidecar-injector", "Istio"),
    ("istio-revision-tag", "Istio"),
    ("linkerd-proxy-injector", "Linkerd"),
    ("consul-connect-injector", "Consul"),
    ("kuma-admission-mutating", "Kuma"),
];

/// All checks before an installation.
pub(super) fn check(facts: &Facts, permissions: &[Permission]) -> Vec<Finding> {
    let mut findings = vec![may(permissions)];
    match &facts.webhooks {
        Seen::Found(webhooks) => {
            findings.extend(left_over(facts, webhooks));
            findings.extend(other_meshes(webhooks));
        }
        Seen::Absent => {}
        Seen::Unknown(why) => findings.push(Finding::unknown(GROUP, "webhooks", "MutatingWebhookConfigurations", why)),
    }
    findings.push(match &facts.deployment {
        Seen::Found(_) => Finding::ok(
            GROUP,
            "installed",
            format!("Weft is installed in namespace {} already: installing upgrades it", facts.mesh.namespace),
        ),
        Seen::Absent => Finding::ok(GROUP, "installed", "nothing of Weft is in the way"),
        Seen::Unknown(why) => Finding::unknown(GROUP, "installed", "Deployments", why),
    });
    findings
}

fn may(permissions: &[Permission]) -> Finding {
    let lacking: Vec<String> = permissions.iter().filter(|p| p.allowed == Ok(false)).map(|p| p.what.clone()).collect();
    if !lacking.is_empty() {
        let what = format!("you lack {} of {} permissions that installing needs", lacking.len(), permissions.len());
        return Finding::error(GROUP, "permissions", what)
            .details(lacking)
            .fix("have an administrator of the cluster install Weft, or give you these");
    }
    if let Some(why) = permissions.iter().find_map(|permission| permission.allowed.as_ref().err()) {
        return Finding::unknown(GROUP, "permissions", "your permissions", why);
    }
    Finding::ok(GROUP, "permissions", format!("you may install Weft ({} permissions)", permissions.len()))
}

/// A webhook without its control plane refuses every pod that it is asked about.
fn left_over(facts: &Facts, webhooks: &[MutatingWebhookConfiguration]) -> Option<Finding> {
    let name = facts.mesh.webhook();
    let there = webhooks.iter().any(|webhook| webhook.metadata.name.as_ref() == Some(&name));
    (there && matches!(facts.deployment, Seen::Absent)).then(|| {
        let what = format!("an earlier installation left webhook {name}, which refuses pods while nobody answers");
        Finding::error(GROUP, "webhooks", what).fix(format!("kubectl delete mutatingwebhookconfiguration {name}"))
    })
}

fn other_meshes(webhooks: &[MutatingWebhookConfiguration]) -> Vec<Finding> {
    let installed = |prefix: &str| {
        let mut names = webhooks.iter().filter_map(|webhook| webhook.metadata.name.as_deref());
        names.find(|name| name.starts_with(prefix)).map(str::to_owned)
    };
    OTHER_MESHES
        .iter()
        .filter_map(|(prefix, mesh)| Some((installed(prefix)?, mesh)))
        .map(|(name, mesh)| {
            let what = format!("{mesh} injects sidecars here, too (webhook {name})");
            Finding::warning(GROUP, "other-meshes", what)
                .fix("that is fine as long as no namespace is opted in to both; `weft check` tells")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::finding::Level;
    use super::super::fixtures::facts;
    use super::*;

    fn webhook(name: &str) -> MutatingWebhookConfiguration {
        serde_json::from_value(json!({"metadata": {"name": name}})).unwrap()
    }

    fn levels(findings: &[Finding]) -> Vec<(&str, Level)> {
        findings.iter().map(|finding| (finding.check, finding.level)).collect()
    }

    #[test]
    fn missing_permissions_are_all_named() {
        let permission = |what: &str, allowed| Permission { what: what.to_owned(), allowed };
        let finding = may(&[
            permission("create a", Ok(true)),
            permission("create b", Ok(false)),
            permission("create c", Ok(false)),
        ]);
        assert_eq!(
            (finding.level, finding.details),
            (Level::Error, vec!["create b".to_owned(), "create c".to_owned()])
        );
        assert_eq!(may(&[permission("create a", Ok(true))]).level, Level::Ok);
        assert_eq!(may(&[permission("create a", Err("no".to_owned()))]).level, Level::Warning);
    }

    #[test]
    fn what_others_left_is_said() {
        let mut facts = facts();
        facts.deployment = Seen::Absent;
        facts.webhooks = Seen::Found(vec![]);
        assert_eq!(levels(&check(&facts, &[])), [("permissions", Level::Ok), ("installed", Level::Ok)]);
        facts.webhooks = Seen::Found(vec![webhook("weft-injector"), webhook("istio-sidecar-injector-canary")]);
        let found = check(&facts, &[]);
        assert_eq!(
            levels(&found)[1..],
            [("webhooks", Level::Error), ("other-meshes", Level::Warning), ("installed", Level::Ok)]
        );
        assert!(found[2].what.contains("istio-sidecar-injector-canary"), "{found:?}");
        // Another revision's webhook has its own control plane.
        facts.mesh.revision = "next".to_owned();
        assert!(levels(&check(&facts, &[])).iter().all(|(_, level)| *level != Level::Error));
    }
}
