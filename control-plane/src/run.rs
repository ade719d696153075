//! Wires the rooms together: source ► translate ► discovery and status, beside the CA and the admin port.
//!
//! Translation and the writing of status have a thread each, because one computes and the other waits for a disk: neither
//! may keep a stream, a handshake or a probe waiting.
//!
//! Bound: the channels between the rooms are bounded by their makers, and a source that is ahead gathers edits.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::admin::{Admin, Gate};
use crate::discovery::{self, Discovery, Feed, Proxies, Server};
use crate::identity::{self, Certifier, OwnSvid, server_config};
use crate::inject::certificate::CertificateError;
use crate::inject::follow::FollowError;
use crate::line_limit::Lines;
use crate::replicas::{Answers, Progresses};
use crate::settings::{FilesSettings, Settings, SourceSettings};
use crate::source::Edit;
use crate::source::files::FilesError;
use crate::source::kubernetes::KubernetesError;
use crate::status::counts::Counting;
use crate::status::{StatusError, StatusSink};
use crate::translate::Translator;

mod files;
mod injection;
mod kubernetes;
mod reporting;
mod translation;

use kubernetes::Cluster;
use translation::Translation;

const DISCOVERY: &str = "port 15012";
/// What a graceful stop may take beyond the connections' own.
const STOP_MARGIN: Duration = Duration::from_secs(5);

/// Why the control plane does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The CA.
    #[error(transparent)]
    Identity(#[from] identity::Error),
    /// The manifests.
    #[error(transparent)]
    Source(#[from] FilesError),
    /// Neither a pod's service account nor a kubeconfig.
    #[error("--source kubernetes: no way to the API server, neither a pod's service account nor a kubeconfig: {0}")]
    Configuration(Box<kube::config::InferConfigError>),
    /// The way to the API server is not usable.
    #[error("--source kubernetes: cannot make a client for the API server: {0}")]
    Client(#[source] kube::Error),
    /// The watch on the API server.
    #[error(transparent)]
    Watch(#[from] KubernetesError),
    /// `injection.yaml`.
    #[error(transparent)]
    Injection(#[from] FollowError),
    /// The webhook's certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A port.
    #[error("cannot listen on {address} ({flag}): {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The setting.
        flag: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The status directory.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// No thread for translation or status.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// Something that runs for ever has ended.
    #[error("{0} ended by itself; its log says why")]
    Ended(&'static str),
}

/// What differs between sources, opened.
enum Source<'a> {
    Files(&'a FilesSettings),
    Cluster(Box<Cluster>),
}

/// What a source gives: edits, and who tells users what became of them.
type Opened = (mpsc::Receiver<Edit>, Option<Box<dyn StatusSink>>);

/// What the parts of a source share with the rest.
struct Shared<'a> {
    proxies: &'a Arc<Proxies>,
    svid: &'a Arc<OwnSvid>,
    registry: &'a mut Registry,
    tasks: &'a mut JoinSet<&'static str>,
    graceful: &'a mut BTreeSet<&'static str>,
    gates: &'a mut Vec<Gate>,
    /// Who is asked how far proxies are; this replica alone, unless there are others.
    replicas: &'a mut Arc<dyn Progresses>,
}

/// A running control plane. Dropping it ends it at once; [`ControlPlane::stop`] does so gracefully.
#[derive(Debug)]
pub struct ControlPlane {
    /// Where discovery and certificates are served.
    pub discovery_address: SocketAddr,
    /// Where the admin port is.
    pub admin_address: SocketAddr,
    ending: watch::Sender<bool>,
    draining: Arc<AtomicBool>,
    drain: Duration,
    tasks: JoinSet<&'static str>,
    /// Those of `tasks` that the end of `ending` ends.
    graceful: BTreeSet<&'static str>,
}

impl ControlPlane {
    /// Opens everything and begins to serve. What can go wrong at a start goes wrong here.
    ///
    /// # Errors
    /// The first thing that cannot be opened.
    pub async fn start(settings: &Settings) -> Result<Self, RunError> {
        let now = SystemTime::now();
        let trust_domain = settings.mesh.trust_domain.clone();
        let (source, authority, authenticator) = match &settings.source {
            SourceSettings::Files(files) => {
                let (authority, authenticator) = files::identity(settings, files, now)?;
                (Source::Files(files), authority, authenticator)
            }
            SourceSettings::Kubernetes(kubernetes) => {
                let (cluster, authenticator) = Cluster::open(settings, kubernetes, now).await?;
                let authority = cluster.authority();
                (Source::Cluster(Box::new(cluster)), authority, authenticator)
            }
        };
        let svid = OwnSvid::issue(&*authority, settings.identity.clone(), settings.certificate_ttl, now)?;
        let svid = Arc::new(svid);
        let tls = server_config(&*authority, Arc::clone(&svid))?;

        let discovery_listener = listen(settings.discovery_address, "--discovery-address").await?;
        let admin_listener = listen(settings.admin_address, "--admin-address").await?;
        let bound = |listener: &TcpListener, asked: SocketAddr| listener.local_addr().unwrap_or(asked);
        let discovery_address = bound(&discovery_listener, settings.discovery_address);
        let admin_address = bound(&admin_listener, settings.admin_address);

        let mut registry = Registry::default();
        let (discovery_metrics, identity_metrics) = (discovery::Metrics::default(), identity::Metrics::default());
        discovery_metrics.register(&mut registry);
        identity_metrics.register(&mut registry);
        let metrics = translation::Metrics::register(&mut registry);

        let mut translator = Translator::new(settings.mesh.clone());
        translator.set_trust_roots(authority.roots().iter().map(|root| root.to_vec()).collect());
        let feed = Arc::new(Feed::new(translator.translated()));
        let proxies = Arc::new(Proxies::default());
        let problems = Arc::new(Mutex::new(Vec::new()));

        let (ending, end) = watch::channel(false);
        let draining = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        let mut graceful = BTreeSet::from([DISCOVERY]);
        let mut gates = Vec::new();
        let mut replicas: Arc<dyn Progresses> = Arc::new(Answers::new(Arc::clone(&proxies), &trust_domain));
        let mut shared = Shared {
            proxies: &proxies,
            svid: &svid,
            registry: &mut registry,
            tasks: &mut tasks,
            graceful: &mut graceful,
            gates: &mut gates,
            replicas: &mut replicas,
        };
        let (edits, status) = match source {
            Source::Files(files) => files::begin(files)?,
            Source::Cluster(cluster) => cluster.begin(&mut shared, end.clone()).await?,
        };
        let translation =
            Translation { translator, feed: Arc::clone(&feed), problems: Arc::clone(&problems), status, metrics };
        let translation = translation.begin(edits, authority.bundle()).map_err(RunError::Thread)?;

        let lines = Lines::default();
        let discovery = Discovery {
            feed: Arc::clone(&feed),
            proxies: Arc::clone(&proxies),
            metrics: discovery_metrics,
            lines: lines.clone(),
            pod_appears: settings.ages.pod_appears,
        };
        let certifier = Certifier {
            authority: Arc::clone(&authority),
            authenticator,
            trust_domain,
            ttl: settings.certificate_ttl,
            metrics: identity_metrics,
            lines,
        };
        let server = Server::new(discovery, certifier, tls, settings.ages);
        let shutdown = ended(end);
        tasks.spawn(async move {
            server.run(discovery_listener, shutdown).await;
            DISCOVERY
        });
        let admin = Admin {
            registry,
            feed,
            proxies,
            problems,
            gates,
            counting: Counting::new(replicas),
            debug_from_anywhere: settings.debug_from_anywhere,
            draining: Arc::clone(&draining),
        };
        tasks.spawn(async move {
            // Serves to the very end: a probe must see "draining".
            admin.run(admin_listener, std::future::pending()).await;
            "the admin port"
        });
        tasks.spawn(async move {
            svid.keep(authority).await;
            "the renewal of the control plane's own SVID"
        });
        tasks.spawn(async move {
            // An error says that the thread is gone, which is what is waited for.
            let _ = translation.await;
            "translation"
        });
        tracing::info!(%discovery_address, %admin_address, "serving");
        Ok(Self { discovery_address, admin_address, ending, draining, drain: settings.ages.stop(), tasks, graceful })
    }

    /// Waits for something to end that should not. Cancel safe.
    pub async fn failed(&mut self) -> RunError {
        match self.tasks.join_next().await {
            Some(Ok(what)) => RunError::Ended(what),
            Some(Err(_)) | None => RunError::Ended("a task"),
        }
    }

    /// Ends gracefully: not ready, no new connections, streams told to end, then gone.
    pub async fn stop(mut self) {
        self.draining.store(true, Ordering::Relaxed);
        self.ending.send_replace(true);
        let drained = async {
            while let Some(ended) = self.tasks.join_next().await {
                if let Ok(ended) = ended {
                    self.graceful.remove(ended);
                }
                if self.graceful.is_empty() {
                    return;
                }
            }
        };
        if tokio::time::timeout(self.drain + STOP_MARGIN, drained).await.is_err() {
            tracing::warn!("connections did not drain in time");
        }
        self.tasks.abort_all();
    }
}

async fn ended(mut end: watch::Receiver<bool>) {
    // An error says that the control plane was dropped.
    let _ = end.wait_for(|end| *end).await;
}

async fn listen(address: SocketAddr, flag: &'static str) -> Result<TcpListener, RunError> {
    TcpListener::bind(address).await.map_err(|source| RunError::Listen { address, flag, source })
}
