//! The parts of a control plane in a cluster: objects from the API server, a root in a Secret, service-account tokens,
//! status written by the leader, and the webhook.
//!
//! Everything here goes on without the API server and comes back with it; only a start waits for it, for [`PATIENCE`], because a
//! control plane without a root can do nothing. Which replica leads is decided by a Lease; the others do all but what
//! needs doing once. Bound: that of the rooms.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use kube::Client;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use weft_proto::SpiffeId;

use super::{RunError, Shared, listen};
use crate::identity::{self, AUDIENCE, Authenticator, Authority, SecretAuthority, Times, TokenReviewer, distribute};
use crate::leader::{self, Election};
use crate::settings::{KubernetesSettings, Settings, of_revision};
use crate::source::{Edit, kubernetes};
use crate::status::StatusSink;

/// How long a start waits for the API server.
const PATIENCE: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(500);

/// A cluster that was reached.
pub(super) struct Cluster {
    config: kube::Config,
    client: Client,
    authority: Arc<SecretAuthority>,
    settings: KubernetesSettings,
    trust_domain: String,
    identity: SpiffeId,
}

impl Cluster {
    /// Finds the API server by the pod's service account (or a kubeconfig, outside a pod), and the root in its Secret.
    ///
    /// # Errors
    /// When there is no configuration, the API server does not answer in [`PATIENCE`], or the root is not usable.
    pub(super) async fn open(
        settings: &Settings,
        kubernetes: &KubernetesSettings,
        now: SystemTime,
    ) -> Result<(Self, Authenticator), RunError> {
        let config = kube::Config::infer().await.map_err(|error| RunError::Configuration(Box::new(error)))?;
        let client = Client::try_from(config.clone()).map_err(RunError::Client)?;
        let trust_domain = settings.mesh.trust_domain.clone();
        let times = Times::new(settings.certificate_ttl);
        let authority = root(&client, &kubernetes.namespace, &trust_domain, times, now).await?;
        let own = SpiffeId::new(&trust_domain, &kubernetes.namespace, &kubernetes.service_account);
        let mut reserved = vec![settings.identity.clone()];
        reserved.extend(own.ok().filter(|own| *own != settings.identity));
        let reviewer = TokenReviewer::new(client.clone(), &trust_domain, reserved);
        let cluster = Self {
            config,
            client,
            authority: Arc::new(authority),
            settings: kubernetes.clone(),
            trust_domain,
            identity: settings.identity.clone(),
        };
        Ok((cluster, Authenticator::ServiceAccounts(reviewer)))
    }

    pub(super) fn authority(&self) -> Arc<dyn Authority> {
        Arc::clone(&self.authority) as Arc<dyn Authority>
    }
}

/// The authority, waiting for an API server that does not answer.
async fn root(
    client: &Client,
    namespace: &str,
    trust_domain: &str,
    times: Times,
    now: SystemTime,
) -> Result<SecretAuthority, RunError> {
    let began = Instant::now();
    loop {
        match SecretAuthority::open(client.clone(), namespace, trust_domain, times, now).await {
            Err(error @ identity::Error::Kubernetes { .. }) if began.elapsed() < PATIENCE => {
                tracing::warn!(%error, "waiting for the API server");
                tokio::time::sleep(AGAIN).await;
            }
            other => return Ok(other?),
        }
    }
}
