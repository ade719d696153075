//! `weft-control-plane cleanup`: what the control plane made in the cluster goes with it. Helm deletes only what it rendered; the
//! root, the trust bundles and the Leases were made while running.
//!
//! It runs twice around an uninstall: **before**, to take the webhook away while somebody still answers it, so that no new
//! pod is refused; **after** the control plane is gone, to take away what it would have made again. Of several revisions
//! of one mesh only the last takes along what they share. What is gone already is no error, and what cannot be deleted
//! does not keep the rest. Bound: one request at a time.

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client};

use crate::identity::{SECRET, remove_roots};
use crate::leader::LEASE;
use crate::settings::{CleanupSettings, of_revision};

/// The webhook's authority.
pub const WEBHOOK_SECRET: &str = "weft-webhook";
/// The configuration of the webhook, and the label by which those of all revisions are found.
pub const WEBHOOK_CONFIGURATION: &str = "weft-injector";
const OURS: &str = "app.kubernetes.io/part-of=weft";

/// Deletes; says what it deleted on standard output.
///
/// # Errors
/// What could not be deleted, one line each.
pub async fn run(client: Client, settings: &CleanupSettings) -> Result<(), String> {
    let mut cleanup = Cleanup { client, settings, failed: Vec::new() };
    cleanup.webhook().await;
    if !settings.webhook_only {
        cleanup.rest().await;
    }
    if cleanup.failed.is_empty() { Ok(()) } else { Err(cleanup.failed.join("\n")) }
}

struct Cleanup<'a> {
    client: Client,
    settings: &'a CleanupSettings,
    failed: Vec<String>,
}

impl Cleanup<'_> {
    async fn webhook(&mut self) {
        let name = of_revision(WEBHOOK_CONFIGURATION, &self.settings.revision);
        let api: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        self.delete(api, "MutatingWebhookConfiguration", &name).await;
    }

    async fn rest(&mut self) {
        let (namespace, revision) = (&self.settings.namespace, &self.settings.revision);
        let lease = of_revision(LEASE, revision);
        self.delete(Api::<Lease>::namespaced(self.client.clone(), namespace), "Lease", &lease).await;
        let client = self.client.clone();
        let secrets = || Api::<Secret>::namespaced(client.clone(), namespace);
        // The webhook's authority is this revision's own.
        self.delete(secrets(), "Secret", &of_revision(WEBHOOK_SECRET, revision)).await;
        match self.others().await {
            Ok(0) => {}
            Ok(others) => {
                println!("kept: the mesh's root, which {others} other revision(s) of the control plane use");
                return;
            }
            Err(error) => {
                self.failed.push(format!("cannot tell whether other revisions are left, so the root is kept: {error}"));
                return;
            }
        }
        match remove_roots(self.client.clone()).await {
            Ok(removed) => println!("deleted: the trust bundle in {removed} namespace(s)"),
            Err(error) => self.failed.push(format!("cannot delete ConfigMaps weft-ca-roots: {error}")),
        }
        self.delete(secrets(), "Secret", SECRET).await;
    }

    /// Control planes of other revisions, which have a webhook each.
    async fn others(&self) -> Result<usize, kube::Error> {
        let api: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let all = api.list_metadata(&ListParams::default().labels(OURS)).await?;
        let ours = of_revision(WEBHOOK_CONFIGURATION, &self.settings.revision);
        Ok(all.items.iter().filter(|found| found.metadata.name.as_ref() != Some(&ours)).count())
    }

    async fn delete<K>(&mut self, api: Api<K>, kind: &str, name: &str)
    where
        K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    {
        match api.delete(name, &DeleteParams::default()).await {
            Ok(_) => println!("deleted: {kind} {name}"),
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            // kube quotes no body here, so no key either.
            Err(error) => self.failed.push(format!("cannot delete {kind} {name}: {error}")),
        }
    }
}
