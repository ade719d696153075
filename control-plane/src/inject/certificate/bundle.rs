//! `caBundle` in every webhook of the configuration: compared whenever the configuration or the CA changes, patched by the leader
//! where it differs, and by any replica whose own certificate it does not trust, which cannot wait for an election: pods would
//! be refused meanwhile. Others leave what differs to the leader, so that one that sees a step of a renewal late takes
//! nothing back.

use std::time::Duration;

use base64::Engine as _;
use futures_util::{Stream, StreamExt as _};
use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation, TestOperation};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::api::PatchParams;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::Instant;

use super::content::Content;

/// As whom we write to the API server.
pub(super) const FIELD_MANAGER: &str = "weft-control-plane";
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LAST_BACKOFF: Duration = Duration::from_secs(10);
/// One request.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// What is to be trusted, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trust {
    /// All CAs.
    bundle: String,
    /// The one whose leaf this replica serves with.
    signer: String,
}

impl Trust {
    pub(super) fn of(content: &Content) -> Self {
        Self { bundle: content.bundle(), signer: content.current.certificate_pem() }
    }
}

/// Keeps the configuration of that name trusting what it should, while `leader` says so, and says whether it does. Never ends.
pub(super) async fn keep(
    client: &Client,
    name: &str,
    mut trust: watch::Receiver<Trust>,
    mut leader: watch::Receiver<bool>,
    trusted: &watch::Sender<bool>,
) {
    let all = Api::<MutatingWebhookConfiguration>::all(client.clone());
    let named = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut changes = std::pin::pin!(watcher(all.clone(), named).default_backoff());
    let mut seen = Configuration::Unknown;
    let (mut backoff, mut retry_at) = (FIRST_BACKOFF, None);
    loop {
        let (leads, wanted) = (*leader.borrow_and_update(), trust.borrow_and_update().clone());
        if let Configuration::There(configuration) = &seen
            && retry_at.is_none()
            && (leads || !trusts(configuration, &wanted.signer))
            && let Some(patch) = plan(configuration, &wanted.bundle)
        {
            let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
            let patch = kube::api::Patch::Json::<()>(patch);
            let written = tokio::time::timeout(TIME_LIMIT, all.patch(name, &params, &patch)).await;
            match written {
                Ok(Ok(configuration)) => {
                    tracing::info!(configuration = name, "the API server trusts the webhook's certificate");
                    seen = Configuration::There(Box::new(configuration));
                    backoff = FIRST_BACKOFF;
                }
                // Changed meanwhile, most likely, and then the watch says how; or else it is tried again.
                failed => {
                    tracing::warn!(configuration = name, ?failed, "cannot write caBundle; trying again");
                    retry_at = Some(Instant::now() + backoff);
                    backoff = (backoff * 2).min(LAST_BACKOFF);
                }
            }
        }
        let trusts = match &seen {
            Configuration::Unknown => false,
            Configuration::Absent => true,
            Configuration::There(configuration) => trusts(configuration, &wanted.signer),
        };
        trusted.send_if_modified(|held| std::mem::replace(held, trusts) != trusts);
        tokio::select! {
            Some(event) = changes.next() => match event {
                Ok(watcher::Event::InitApply(configuration) | watcher::Event::Apply(configuration)) => {
                    seen = Configuration::There(Box::new(configuration));
                }
                Ok(watcher::Event::Delete(_)) => seen = Configuration::Absent,
                Ok(watcher::Event::Init) => {}
                Ok(watcher::Event::InitDone) => {
                    if matches!(seen, Configuration::Unknown) {
                        seen = Configuration::Absent;
                    }
                }
                Err(error) => tracing::debug!(%error, configuration = name, "cannot watch the webhook's configuration"),
            },
            () = altered(&mut trust) => {}
            () = altered(&mut leader) => {}
            () = async { match retry_at { Some(at) => tokio::time::sleep_until(at).await, None => std::future::pending().await } } => {
                retry_at = None;
            }
        }
    }
}

/// The configuration, as far as known.
enum Configuration {
    Unknown,
    Absent,
    There(Box<MutatingWebhookConfiguration>),
}

/// What makes every webhook trust `bundle`; none where all do. It fails where a webhook is no longer at its place.
fn plan(configuration: &MutatingWebhookConfiguration, bundle: &str) -> Option<Patch> {
    let encoded = base64::engine::general_purpose::STANDARD.encode(bundle);
    let webhooks = configuration.webhooks.iter().flatten().enumerate();
    let differing = webhooks.filter(|(_, webhook)| {
        webhook.client_config.ca_bundle.as_ref().is_none_or(|ByteString(held)| held != bundle.as_bytes())
    });
    let operations: Vec<_> = differing
        .flat_map(|(index, webhook)| {
            let index = index.to_string();
            let at = |more: &[&str]| PointerBuf::from_tokens([&["webhooks", index.as_str()], more].concat());
            let (name, place) = (at(&["name"]), at(&["clientConfig", "caBundle"]));
            [
                PatchOperation::Test(TestOperation { path: name, value: webhook.name.as_str().into() }),
                PatchOperation::Add(AddOperation { path: place, value: encoded.as_str().into() }),
            ]
        })
        .collect();
    (!operations.is_empty()).then_some(Patch(operations))
}

/// Whether every webhook trusts `signer`.
fn trusts(configuration: &MutatingWebhookConfiguration, signer: &str) -> bool {
    configuration.webhooks.iter().flatten().all(|webhook| {
        let held = webhook.client_config.ca_bundle.as_ref().map(|ByteString(held)| String::from_utf8_lossy(held));
        held.is_some_and(|held| held.contains(signer))
    })
}

/// Waits until a watch says anything but that it failed, which is tried again after its own back-off.
pub(super) async fn stirred<K>(changes: &mut (impl Stream<Item = watcher::Result<watcher::Event<K>>> + Unpin)) {
    loop {
        match changes.next().await {
            Some(Ok(watcher::Event::Apply(_) | watcher::Event::Delete(_) | watcher::Event::InitDone)) => return,
            Some(Ok(watcher::Event::Init | watcher::Event::InitApply(_))) => {}
            Some(Err(error)) => tracing::debug!(%error, "the watch on the Secret of the webhook's CA"),
            None => std::future::pending().await,
        }
    }
}

/// Waits for another value. One whose sender is gone changes no more.
pub(super) async fn altered<T>(fact: &mut watch::Receiver<T>) {
    if fact.changed().await.is_err() {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_webhook_that_differs_is_patched_at_its_name() {
        let webhook = |name: &str, bundle: Option<&str>| {
            let mut webhook = json!({
                "name": name, "admissionReviewVersions": ["v1"], "sideEffects": "None",
                "clientConfig": { "service": { "name": "weft-control-plane", "namespace": "weft-system", "path": "/inject" } },
            });
            if let Some(bundle) = bundle {
                webhook["clientConfig"]["caBundle"] = base64::engine::general_purpose::STANDARD.encode(bundle).into();
            }
            webhook
        };
        let rows = [
            (vec![webhook("a", None), webhook("b", None)], vec![0, 1], false),
            (vec![webhook("a", Some("AB")), webhook("b", Some("A"))], vec![1], true),
            (vec![webhook("a", Some("AB")), webhook("b", Some("AB"))], vec![], true),
            (vec![webhook("a", Some("B"))], vec![0], false),
            (vec![], vec![], true),
        ];
        for (webhooks, places, trusted) in rows {
            let mut value = json!({ "metadata": { "name": "weft-injector" }, "webhooks": webhooks });
            let configuration: MutatingWebhookConfiguration = serde_json::from_value(value.clone()).unwrap();
            assert_eq!(trusts(&configuration, "A"), trusted, "{value}");
            let patch = plan(&configuration, "AB");
            assert_eq!(patch.as_ref().map_or(0, |patch| patch.0.len()), places.len() * 2, "{value}");
            let Some(patch) = patch else { continue };
            json_patch::patch(&mut value, &patch).unwrap();
            let after: MutatingWebhookConfiguration = serde_json::from_value(value.clone()).unwrap();
            assert!(plan(&after, "AB").is_none() && trusts(&after, "A"), "{value}");
            // Somebody put another webhook there meanwhile.
            value["webhooks"].as_array_mut().unwrap().insert(0, webhook("new", None));
            assert!(json_patch::patch(&mut value, &patch).is_err());
        }
    }
}
