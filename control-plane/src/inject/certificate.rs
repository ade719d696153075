//! The webhook's serving certificate, and the `caBundle` by which API servers trust it.
//!
//! A CA of the webhook's own lives in Secret `weft-webhook`, made once however many replicas start at once; each replica issues
//! itself a leaf from it, whose key stays in memory, and issues another at two thirds of its life or when the CA changes. The
//! mesh's CA is another one: what it signs are identities, and this is only for API servers.
//!
//! The CA is renewed while everything runs, by the leader: the next one is trusted first and signs [`Times::settle`] later; the one
//! before is trusted until the last of its leaves is gone. A Secret that is deleted, damaged or past its end is simply made
//! anew, by whichever replica sees it: nobody but the API server, to whom we say it, counts on it.
//!
//! `caBundle` is patched into every webhook of MutatingWebhookConfiguration `weft-injector` whenever it is not what it should be,
//! by the leader, or by any replica that the API server would not trust, with a JSON patch that tests each webhook's name: we
//! own no other field, and a chart that is applied again, which has no `caBundle`, is mended as soon as the watch says so.
//!
//! | file | what it does |
//! |---|---|
//! | `content.rs` | the CA, the Secret's keys, and which step follows when (pure) |
//! | `secret.rs` | reads and writes the Secret |
//! | `serving.rs` | the leaf |
//! | `bundle.rs` | `caBundle` |
//!
//! Bound: one Secret, one configuration, two watches, three certificates.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::Secret;
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use rand::Rng as _;
use rustls::ServerConfig;
use tokio::sync::watch;

mod bundle;
mod content;
mod secret;
mod serving;

use bundle::Trust;
pub use content::Times;
use content::{Content, Step};
use secret::{Place, Seen};
use serving::Serving;

/// The Secret, the Service and the configuration of the default revision.
const NAMES: [&str; 3] = ["weft-webhook", "weft-control-plane", "weft-injector"];
/// What [`Times::settle`] relies on.
const REREAD: Duration = Duration::from_secs(60);
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const LAST_BACKOFF: Duration = Duration::from_secs(30);

/// What everything is called, by namespace and revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// The control plane's own namespace.
    pub namespace: String,
    /// Secret `weft-webhook`.
    pub secret: String,
    /// Service `weft-control-plane`.
    pub service: String,
    /// MutatingWebhookConfiguration `weft-injector`.
    pub configuration: String,
}

impl Names {
    /// With the revision as a suffix, if there is one.
    pub fn new(namespace: &str, revision: &str) -> Self {
        let named = |name: &str| if revision.is_empty() { name.to_owned() } else { format!("{name}-{revision}") };
        let [secret, service, configuration] = NAMES.map(named);
        Self { namespace: namespace.to_owned(), secret, service, configuration }
    }

    /// By what the API server calls us, and what a person in the namespace might.
    fn dns(&self) -> Vec<String> {
        let (service, namespace) = (&self.service, &self.namespace);
        vec![format!("{service}.{namespace}.svc"), format!("{service}.{namespace}")]
    }
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The API server did not do what we asked.
    #[error("cannot {what}: {why}")]
    Kubernetes {
        /// What we asked.
        what: String,
        /// What it said.
        why: String,
    },
    /// Making a certificate failed.
    #[error("making the webhook's certificate failed: {0}")]
    Certificate(#[from] rcgen::Error),
    /// rustls does not take what we made.
    #[error("TLS cannot use the webhook's certificate: {0}")]
    Tls(String),
}

/// The webhook's certificate, kept good.
pub struct Certificate {
    client: Client,
    names: Names,
    times: Times,
    serving: Arc<Serving>,
    trust: watch::Sender<Trust>,
    trusted: watch::Sender<bool>,
}

impl Certificate {
    /// Reads the CA from the Secret, making both if there is none, and issues the first leaf.
    ///
    /// # Errors
    /// When the API server cannot be asked.
    pub async fn open(client: Client, names: Names, times: Times, now: SystemTime) -> Result<Self, CertificateError> {
        let seen = Place { client: &client, names: &names }.read_or_make(&times, now).await?;
        let serving = Arc::new(Serving::issue(&seen.content.current, &names.dns(), &times, now)?);
        let trust = watch::Sender::new(Trust::of(&seen.content));
        Ok(Self { client, names, times, serving, trust, trusted: watch::Sender::new(false) })
    }

    /// What the webhook serves with; the leaf in it follows.
    ///
    /// # Errors
    /// When rustls does not take it.
    pub fn server_config(&self) -> Result<ServerConfig, CertificateError> {
        serving::server_config(Arc::clone(&self.serving))
    }

    /// Whether every webhook of the configuration trusts what this replica serves with, or there is no such configuration. A
    /// replica that is not trusted is not ready: the API server would refuse pods, or start them unmeshed.
    pub fn trusted(&self) -> watch::Receiver<bool> {
        self.trusted.subscribe()
    }

    /// Keeps all of it true; takes the steps of a renewal while `leader` says so. Never ends; drop it to stop.
    pub async fn keep(&self, leader: watch::Receiver<bool>) {
        let bundle = bundle::keep(
            &self.client,
            &self.names.configuration,
            self.trust.subscribe(),
            leader.clone(),
            &self.trusted,
        );
        tokio::join!(self.follow(leader), bundle);
    }

    /// Follows the Secret.
    async fn follow(&self, mut leader: watch::Receiver<bool>) {
        let secrets = Api::<PartialObjectMeta<Secret>>::namespaced(self.client.clone(), &self.names.namespace);
        let named = watcher::Config::default().fields(&format!("metadata.name={}", self.names.secret));
        let mut changes = std::pin::pin!(watcher(secrets, named).default_backoff());
        let mut backoff = None;
        loop {
            let leads = *leader.borrow_and_update();
            let wait = match self.look(leads).await {
                Ok(wait) => {
                    backoff = None;
                    wait.min(REREAD)
                }
                Err(error) => {
                    let wait = backoff.map_or(FIRST_BACKOFF, |last: Duration| (last * 2).min(LAST_BACKOFF));
                    backoff = Some(wait);
                    tracing::warn!(%error, ?wait, "the webhook's certificate; going on with what is there");
                    wait * rand::rng().random_range(500..=1000_u32) / 1000
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = bundle::stirred(&mut changes) => {}
                () = bundle::altered(&mut leader) => {}
            }
        }
    }

    /// Reads the Secret, takes the steps that are due, and says when to look again.
    async fn look(&self, leads: bool) -> Result<Duration, CertificateError> {
        let place = Place { client: &self.client, names: &self.names };
        let mut seen = place.read_or_make(&self.times, SystemTime::now()).await?;
        loop {
            let now = SystemTime::now();
            let leaf_due = self.take(&seen.content, now)?;
            let left = |due: SystemTime| due.duration_since(now).unwrap_or_default();
            match seen.content.next(now, &self.times) {
                Step::Wait(due) => return Ok(left(due).min(left(leaf_due))),
                // Another's to take.
                _ if !leads => return Ok(left(leaf_due)),
                step => {
                    let after = seen.content.after(step, &self.times, now)?;
                    match place.replace(&seen.secret, &after).await? {
                        Some(secret) => {
                            tracing::info!(?step, "the webhook's CA");
                            seen = Seen { secret, content: after };
                        }
                        // Somebody was faster; what they wrote decides.
                        None => seen = place.read_or_make(&self.times, now).await?,
                    }
                }
            }
        }
    }

    /// Trusts and serves as `content` says, and says when the leaf is due.
    fn take(&self, content: &Content, now: SystemTime) -> Result<SystemTime, CertificateError> {
        let due = self.serving.renew(&content.current, &self.names.dns(), &self.times, now)?;
        let trust = Trust::of(content);
        self.trust.send_if_modified(|held| {
            let differs = *held != trust;
            if differs {
                *held = trust;
            }
            differs
        });
        Ok(due)
    }
}
