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
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::watch;
use weft_proto::{SpiffeId, ports};

use super::injection::Injection;
use super::{Opened, RunError, Shared, ended};
use crate::identity::{self, Acked, Authenticator, Authority, SecretAuthority, Times, TokenReviewer, distribute};
use crate::inject;
use crate::leader::{self, Election, LEASE};
use crate::replicas::{self, Place, Progresses, Replicas};
use crate::settings::{KubernetesSettings, Settings, of_revision};
use crate::source::kubernetes::{self, WatchSettings};
use crate::status::{self, KubernetesStatus};

const ELECTION: &str = "the election of a leader";
/// The Service in front of the replicas.
const SERVICE: &str = "weft-control-plane";
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
    leaving: Duration,
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
            leaving: settings.ages.leaving,
        };
        Ok((cluster, Authenticator::ServiceAccounts(reviewer)))
    }

    pub(super) fn authority(&self) -> Arc<dyn Authority> {
        Arc::clone(&self.authority) as Arc<dyn Authority>
    }

    /// Begins to watch, and all that goes on beside it, until `end`.
    ///
    /// # Errors
    /// What cannot be opened.
    pub(super) async fn begin(self, shared: &mut Shared<'_>, end: watch::Receiver<bool>) -> Result<Opened, RunError> {
        let KubernetesSettings { namespace, revision, .. } = &self.settings;
        let leader = self.stand(shared, end.clone());
        let metrics = kubernetes::Metrics::default();
        metrics.register(shared.registry);
        let never_injected = BTreeSet::from([namespace.clone(), inject::settings::NEVER.to_owned()]);
        let watch = kubernetes::watch(self.config.clone(), WatchSettings { never_injected }, metrics)?;

        let place = Place {
            namespace: namespace.clone(),
            service: of_revision(SERVICE, revision),
            pod: self.settings.pod_name.clone(),
            port: ports::DISCOVERY,
        };
        let tls = replicas::client_config(&*self.authority, Arc::clone(shared.svid), self.identity.clone())?;
        let replicas = Replicas::begin(self.client.clone(), place, Arc::clone(shared.proxies), tls);
        *shared.replicas = Arc::clone(&replicas) as Arc<dyn Progresses>;

        let (client, bundle) = (self.client.clone(), self.authority.bundle());
        let (wanted, leads) = (watch.opted_in, leader.clone());
        shared.tasks.spawn(async move {
            distribute(client, wanted, bundle, leads).await;
            "the distribution of the trust bundle"
        });

        let (sender, all_acked) = watch::channel(Acked::default());
        let unacked = Gauge::default();
        shared.registry.register(
            "weft_identity_trust_unacked",
            "Connected proxies that have not acknowledged the trust bundle in force, as the leader knows it",
            unacked.clone(),
        );
        let asked: Arc<dyn Progresses> = Arc::clone(&replicas) as Arc<dyn Progresses>;
        let (bundle, leads) = (self.authority.bundle(), leader.clone());
        let acked = replicas::all_acked(asked, self.trust_domain, bundle, leads, sender, unacked);
        shared.tasks.spawn(async move {
            acked.await;
            "the count of proxies that know the trust bundle"
        });
        let (authority, leads) = (Arc::clone(&self.authority), leader.clone());
        shared.tasks.spawn(async move {
            authority.run(leads, all_acked).await;
            "the watch on the mesh's root"
        });

        let metrics = status::Metrics::default();
        metrics.register(shared.registry);
        let (status, writer) = KubernetesStatus::new(self.client.clone(), replicas, metrics);
        let leads = leader.clone();
        shared.tasks.spawn(async move {
            writer.run(leads).await;
            "the writing of status"
        });
        if let Some(path) = &self.settings.injection {
            let injection = Injection {
                client: self.client.clone(),
                path,
                settings: &self.settings,
                oldest_kubelet: watch.oldest_kubelet,
                unenforced: watch.unenforced,
                leader,
                leaving: self.leaving,
            };
            injection.begin(shared, end).await?;
        }
        Ok((watch.edits, Some(Box::new(status))))
    }

    /// Stands for leader until `end`, and then gives the Lease up.
    fn stand(&self, shared: &mut Shared<'_>, end: watch::Receiver<bool>) -> watch::Receiver<bool> {
        let metrics = leader::Metrics::default();
        metrics.register(shared.registry);
        let KubernetesSettings { namespace, pod_name, revision, .. } = &self.settings;
        let lease = of_revision(LEASE, revision);
        let times = leader::Times::default();
        let election = Election::begin(self.client.clone(), namespace, &lease, pod_name, times, metrics);
        let leads = election.leads();
        shared.tasks.spawn(async move {
            ended(end).await;
            election.resign().await;
            ELECTION
        });
        shared.graceful.insert(ELECTION);
        leads
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
