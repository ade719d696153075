//! Whether pods that ask for a sidecar get one: the webhook's configuration, and a dry run that asks it. Pure.

use k8s_openapi::api::admissionregistration::v1::MutatingWebhook;

use super::facts::{DryRun, Facts, Health, now};
use super::finding::{Finding, Group, some};
use crate::duration;
use crate::names::{INJECTION_KEY, Mesh};
use crate::roots;
use crate::seen::Seen;

const GROUP: Group = Group::Injection;

/// All checks of injection.
pub(super) fn check(facts: &Facts, health: &Health) -> Vec<Finding> {
    let mut findings = vec![injection(&facts.mesh, &health.injection)];
    findings.extend(webhook(facts));
    findings.push(dry_run(&facts.mesh, &health.dry_run));
    findings
}

fn injection(mesh: &Mesh, injection: &Seen<String>) -> Finding {
    let name = mesh.injection();
    match injection {
        Seen::Found(_) => Finding::ok(GROUP, "settings", format!("ConfigMap {name} says what is injected")),
        Seen::Absent => {
            let what = format!("ConfigMap {name} or its key {INJECTION_KEY} is missing: nothing can be injected");
            Finding::error(GROUP, "settings", what).fix("weft install puts it back")
        }
        Seen::Unknown(why) => Finding::unknown(GROUP, "settings", &format!("ConfigMap {name}"), why),
    }
}

fn webhook(facts: &Facts) -> Vec<Finding> {
    let name = facts.mesh.webhook();
    let webhooks = match &facts.webhooks {
        Seen::Found(webhooks) => webhooks,
        Seen::Absent => return Vec::new(),
        Seen::Unknown(why) => return vec![Finding::unknown(GROUP, "webhook", &format!("webhook {name}"), why)],
    };
    let ours = webhooks.iter().find(|webhook| webhook.metadata.name.as_ref() == Some(&name));
    let Some(webhooks) = ours.and_then(|ours| ours.webhooks.as_ref()).filter(|webhooks| !webhooks.is_empty()) else {
        let what = format!("webhook {name} is missing: new pods get no sidecar");
        return vec![Finding::error(GROUP, "webhook", what).fix("weft install puts it back")];
    };
    let wrong: Vec<String> = webhooks.iter().filter_map(|webhook| wrong(facts, webhook)).collect();
    if !wrong.is_empty() {
        let what = format!("webhook {name} cannot be called: {}", some(&wrong, 3));
        let look = format!("kubectl -n {} logs deployment/{}", facts.mesh.namespace, facts.mesh.control_plane());
        return vec![
            Finding::error(GROUP, "webhook", what)
                .fix(format!("the control plane writes this itself, within seconds of its start; else see {look}")),
        ];
    }
    let fails = webhooks.iter().any(|webhook| webhook.failure_policy.as_deref() != Some("Ignore"));
    let policy = if fails {
        "failurePolicy Fail: pods that want a sidecar are refused while the control plane is away"
    } else {
        "failurePolicy Ignore: pods start without a sidecar while the control plane is away"
    };
    vec![Finding::ok(GROUP, "webhook", format!("webhook {name} is complete ({policy})"))]
}

/// Why the API server could not call it.
fn wrong(facts: &Facts, webhook: &MutatingWebhook) -> Option<String> {
    let client = &webhook.client_config;
    match &client.service {
        Some(service) if service.name != facts.mesh.control_plane() || service.namespace != facts.mesh.namespace => {
            return Some(format!("it points to Service {}/{}", service.namespace, service.name));
        }
        Some(_) => {}
        None => return Some("it points to no Service".to_owned()),
    }
    let bundle = client.ca_bundle.as_ref().map(|bundle| String::from_utf8_lossy(&bundle.0).into_owned());
    let bundle = bundle.unwrap_or_default();
    if bundle.trim().is_empty() {
        return Some("its caBundle is empty".to_owned());
    }
    match roots::read(&bundle) {
        Err(why) => Some(format!("its caBundle: {why}")),
        Ok(roots) if roots.iter().all(|root| root.not_after <= now(facts)) => {
            let ended = roots.iter().map(|root| root.not_after).max().map(duration::day).unwrap_or_default();
            Some(format!("its caBundle ended on {ended}"))
        }
        Ok(_) => None,
    }
}

fn dry_run(mesh: &Mesh, outcome: &DryRun) -> Finding {
    match outcome {
        DryRun::Injected => Finding::ok(GROUP, "dry-run", "a pod that asks for a sidecar gets one (dry run)"),
        DryRun::Untouched => {
            let what = "a pod that asks for a sidecar gets none (dry run): the API server could not call the webhook, or \
                        was not told to";
            Finding::error(GROUP, "dry-run", what).fix(format!(
                "kubectl -n {} logs deployment/{}; is port 443→15017 open from the API server to it?",
                mesh.namespace,
                mesh.control_plane()
            ))
        }
        DryRun::Refused(why) => {
            let fix = if why.contains("failed calling webhook") {
                "the API server must reach port 15017 of the control plane: see the webhook's caBundle, firewalls and \
                 NetworkPolicies"
            } else {
                "what refused it is named there"
            };
            Finding::error(GROUP, "dry-run", format!("a pod that asks for a sidecar is refused (dry run): {why}"))
                .fix(fix)
        }
        DryRun::NotTried(why) => Finding::warning(GROUP, "dry-run", format!("injection was not tried: {why}"))
            .fix("have somebody run `weft check` who may create pods"),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
    use serde_json::json;

    use super::super::finding::Level;
    use super::super::fixtures::{facts, mesh};
    use super::*;
    use crate::roots::tests::root_until;

    fn configuration(name: &str, service: &str, policy: &str, bundle: &str) -> MutatingWebhookConfiguration {
        let mut configuration: MutatingWebhookConfiguration = serde_json::from_value(json!({
            "metadata": {"name": name},
            "webhooks": [{
                "name": "injector.weft.dev", "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": policy,
                "clientConfig": {"service": {"name": service, "namespace": "weft-system"}},
            }],
        }))
        .unwrap();
        for webhook in configuration.webhooks.iter_mut().flatten() {
            webhook.client_config.ca_bundle = Some(ByteString(bundle.as_bytes().to_vec()));
        }
        configuration
    }

    #[test]
    fn a_webhook_that_cannot_be_called_says_why() {
        let good = root_until(20_000);
        let rows = [
            (
                "well",
                configuration("weft-injector", "weft-control-plane", "Fail", &good),
                Level::Ok,
                "are refused while",
            ),
            ("ignoring", configuration("weft-injector", "weft-control-plane", "Ignore", &good), Level::Ok, "Ignore"),
            ("not ours", configuration("other", "weft-control-plane", "Fail", &good), Level::Error, "is missing"),
            (
                "elsewhere",
                configuration("weft-injector", "x", "Fail", &good),
                Level::Error,
                "points to Service weft-system/x",
            ),
            (
                "not patched",
                configuration("weft-injector", "weft-control-plane", "Fail", ""),
                Level::Error,
                "caBundle is empty",
            ),
            (
                "garbage",
                configuration("weft-injector", "weft-control-plane", "Fail", "x"),
                Level::Error,
                "no certificate",
            ),
            (
                "ended",
                configuration("weft-injector", "weft-control-plane", "Fail", &root_until(1)),
                Level::Error,
                "ended on 1970-01-02",
            ),
        ];
        for (row, configuration, level, says) in rows {
            let mut facts = facts();
            facts.webhooks = Seen::Found(vec![configuration]);
            let finding = webhook(&facts).remove(0);
            assert!(finding.level == level && finding.what.contains(says), "{row}: {finding:?}");
        }
    }

    #[test]
    fn the_dry_run_is_the_proof() {
        for (outcome, level) in [
            (DryRun::Injected, Level::Ok),
            (DryRun::Untouched, Level::Error),
            (DryRun::Refused("failed calling webhook: x509".to_owned()), Level::Error),
            (DryRun::NotTried("you may not create pods".to_owned()), Level::Warning),
        ] {
            assert_eq!(dry_run(&mesh(), &outcome).level, level, "{outcome:?}");
        }
    }

    #[test]
    fn without_its_settings_nothing_is_injected() {
        assert_eq!(injection(&mesh(), &Seen::Absent).level, Level::Error);
        assert_eq!(injection(&mesh(), &Seen::Found("namespace: weft-system".to_owned())).level, Level::Ok);
    }
}
