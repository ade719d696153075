//! The webhook of a control plane in a cluster: port 15017, the certificate it serves with, the settings it injects by.
//!
//! A replica whose certificate the API server would not trust, or that does not know the cluster's versions, is not ready:
//! it would have pods refused, or started unmeshed, or given the wrong kind of sidecar.
//!
//! Bound: that of `inject`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use kube::Client;
use tokio::sync::watch;

use super::{RunError, Shared, ended, listen};
use crate::admin::Gate;
use crate::inject::certificate::{Certificate, Names, Times};
use crate::inject::follow::Following;
use crate::inject::webhook::{Metrics, Webhook};
use crate::inject::{ClusterFacts, cluster};
use crate::settings::KubernetesSettings;

const WEBHOOK: &str = "port 15017";

/// What the webhook is made of.
pub(super) struct Injection<'a> {
    pub(super) client: Client,
    /// `injection.yaml`
    pub(super) path: &'a Path,
    pub(super) settings: &'a KubernetesSettings,
    pub(super) oldest_kubelet: watch::Receiver<Option<(u32, u32)>>,
    pub(super) unenforced: watch::Receiver<Arc<BTreeMap<String, Vec<String>>>>,
    pub(super) leader: watch::Receiver<bool>,
}

impl Injection<'_> {
    /// Begins to serve it until `end`.
    ///
    /// # Errors
    /// When `injection.yaml` is wrong, the port is taken, or the certificate's Secret cannot be read or made.
    pub(super) async fn begin(self, shared: &mut Shared<'_>, end: watch::Receiver<bool>) -> Result<(), RunError> {
        let KubernetesSettings { namespace, revision, webhook_address, .. } = self.settings;
        let following = Following::open(self.path, namespace, revision)?;
        let listener = listen(*webhook_address, "--webhook-address").await?;
        let names = Names::new(namespace, revision);
        let certificate = Certificate::open(self.client.clone(), names, Times::default(), SystemTime::now()).await?;
        let tls = certificate.server_config()?;
        let metrics = Metrics::default();
        metrics.register(shared.registry, following.rejected());

        let (facts, cluster) = watch::channel(ClusterFacts::default());
        let webhook = Webhook {
            namespaces: self.client.clone(),
            settings: following.settings(),
            cluster: cluster.clone(),
            unenforced: self.unenforced,
            metrics,
        };
        shared.gates.push(Gate {
            open: certificate.trusted(),
            otherwise: "the API server does not trust the webhook's certificate yet (the leader writes its caBundle)",
        });
        let known = known(cluster, shared);
        shared.gates.push(Gate { open: known, otherwise: "the API server's version is not known yet" });
        shared.tasks.spawn(async move {
            webhook.run(tls, listener, ended(end)).await;
            WEBHOOK
        });
        shared.graceful.insert(WEBHOOK);
        shared.tasks.spawn(async move {
            following.run().await;
            "the reading of injection.yaml"
        });
        let leader = self.leader;
        shared.tasks.spawn(async move {
            certificate.keep(leader).await;
            "the renewal of the webhook's certificate"
        });
        let (client, kubelets) = (self.client, self.oldest_kubelet);
        shared.tasks.spawn(async move {
            cluster::watch(client, kubelets, facts).await;
            "the watch on the cluster's versions"
        });
        Ok(())
    }
}

/// Whether the API server's version has become known.
fn known(mut cluster: watch::Receiver<ClusterFacts>, shared: &mut Shared<'_>) -> watch::Receiver<bool> {
    let (sender, known) = watch::channel(false);
    shared.tasks.spawn(async move {
        // An error says that the watch on the versions has ended, which is said elsewhere.
        if cluster.wait_for(|facts| facts.server.is_some()).await.is_ok() {
            sender.send_replace(true);
        }
        std::future::pending::<&'static str>().await
    });
    known
}
