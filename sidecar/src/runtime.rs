//! Threads and wiring. The only place that starts things.
//!
//! ```text
//! main thread: config client, identity, admin (15000), metrics (15020), signals
//! worker 0..n: one current-thread runtime each; connections live and die on one worker
//!   worker 0 also accepts (15001, 15006) and answers probes (15021), so that a probe vouches for the data plane
//! ```
//!
//! Each accepted connection goes to the worker with the fewest open ones: `SO_REUSEPORT` would put few long connections
//! on one worker and reset its queue on close. Bound: [`HANDOVER`] connections on their way to one worker.
//!
//! How it ends is in `ending.rs`.

mod app;
mod ending;
mod files;
mod logging;
mod redirected;
mod view;
mod worker;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use weft_proto::ports;

use self::redirected::Redirected;
use crate::admin::probe::Probes;
use crate::admin::{self, Surface};
use crate::config::{Config, ConfigSettings};
use crate::dns::Dns;
use crate::http::server::ServerSettings;
use crate::identity::{ControlPlane, IdentityManager, IdentitySettings, InvalidAddress, TcpDial};
use crate::inbound::Inbound;
use crate::listen::drain;
use crate::outbound::{Mirrors, Outbound, Upstreams};
use crate::settings::Settings;
use crate::telemetry::spans::{self, ExportError};
use crate::telemetry::{AccessLog, Local, Metrics, Parts, Telemetry};

pub(crate) use ending::Drains;
pub use logging::LogError;
pub use worker::HANDOVER;

/// How long what telemetry still holds may take to go out at the end, spans and then logs: within the 2 s that
/// `--drain-seconds` leaves.
const FLUSH: Duration = Duration::from_secs(1);
/// How often pools of endpoints that are gone are looked for.
const PRUNE_EVERY: Duration = Duration::from_secs(1);

/// How often series of metrics that are idle are looked for.
const EXPIRE_EVERY: Duration = Duration::from_secs(60);

/// Why the sidecar cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A runtime, thread, listener or signal handler could not be had.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The control plane's address.
    #[error(transparent)]
    ControlPlane(#[from] InvalidAddress),
    /// Spans.
    #[error(transparent)]
    Spans(#[from] ExportError),
    /// Logging.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A task of the control thread is gone.
    #[error("the {0} task ended: please report it")]
    Task(&'static str),
    /// A worker thread is gone.
    #[error("worker {0} ended: please report it")]
    Worker(usize),
}

/// Runs the sidecar until it is told to stop.
///
/// # Errors
/// When it cannot start. Once running, it ends only by a signal or `/quitquitquit`.
pub fn run(settings: Settings) -> Result<(), RunError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(start(settings))
}

/// Both directions of traffic, wired to each other, and what drains them.
pub(crate) fn directions(
    settings: &Arc<Settings>,
    config: &Config,
    identity: &IdentityManager,
    telemetry: &Telemetry,
) -> (Arc<Inbound>, Arc<Outbound>, Drains) {
    let (inbound_drain, inbound_watch) = drain::new();
    let (outbound_drain, outbound_watch) = drain::new();
    let inbound = Arc::new(Inbound::new(
        Arc::clone(settings),
        config.clone(),
        identity.clone(),
        telemetry.clone(),
        inbound_watch,
    ));
    let outbound = Arc::new(Outbound {
        settings: Arc::clone(settings),
        config: config.clone(),
        upstreams: Upstreams::new(identity.clone(), settings.timeouts, Arc::clone(&telemetry.metrics)),
        inbound: Arc::clone(&inbound),
        telemetry: telemetry.clone(),
        server: ServerSettings { explain: true, ping_after: None, ..ServerSettings::default() },
        drain: outbound_watch,
        mirrors: Mirrors::default(),
    });
    (inbound, outbound, Drains::new(inbound_drain, outbound_drain))
}

async fn start(settings: Settings) -> Result<(), RunError> {
    let settings = Arc::new(settings);
    let args = &settings.args;
    let exporter = match &args.otlp_endpoint {
        Some(endpoint) => Some(spans::exporter(endpoint, &args.service_account, &args.pod)?),
        None => None,
    };
    let metrics = Arc::new(Metrics::default());
    let (log, flush) = logging::start(&args.log_level, exporter.as_ref(), metrics.diagnostics_dropped.clone())?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), identity = %settings.identity, address = %args.pod_address, "weft-sidecar starts");
    files::raise_limit();

    let access_log = match args.access_log.is_on() {
        true => Some(AccessLog::start(std::io::stdout(), metrics.log_dropped.clone())?),
        false => None,
    };
    let local = Arc::new(Local {
        namespace: args.namespace.as_str().into(),
        pod: args.pod.as_str().into(),
        workload: args.service_account.as_str().into(),
        identity: settings.identity.clone(),
    });
    let telemetry = Telemetry::from(Parts { metrics, access_log, spans: exporter.is_some(), local });

    let dns = Dns::system();
    let identity = IdentityManager::new(IdentitySettings {
        identity: settings.identity.clone(),
        ca_roots: args.ca_roots.clone(),
        join_token: args.join_token.clone(),
    });
    let config = Config::new(
        ConfigSettings {
            pod_address: args.pod_address.to_string(),
            node: args.node.clone(),
            cluster_cidrs: args.cluster_cidr.clone(),
            ..ConfigSettings::default()
        },
        identity.clone(),
        dns.clone(),
    );
    view::register(&telemetry.metrics, &config);
    tokio::spawn(follow_owner(config.clone(), Arc::clone(&telemetry.local)));
    let control_plane = ControlPlane::new(&args.control_plane, dns.clone(), Arc::new(TcpDial), identity.clone())?;

    let (inbound, outbound, drains) = directions(&settings, &config, &identity, &telemetry);
    outbound.register_metrics();

    let (quit, mut quitting) = watch::channel(false);
    let drains = Arc::new(drains);
    let redirected = Redirected::new(args.require_redirect.is_on());
    // Hooks hold up the end, as what the app sends does.
    let probes = Probes::new(settings.probes.clone(), args.pod_address, dns, drains.outbound.watch());
    let view: Arc<dyn admin::View> = Arc::new(view::Proxy {
        config: config.clone(),
        outbound: Arc::clone(&outbound),
        identity: identity.clone(),
        telemetry: telemetry.clone(),
        drains: Arc::clone(&drains),
        redirected: redirected.clone(),
        probes,
        quit,
        log,
    });

    let workers = worker::start(settings.workers, Arc::clone(&inbound), Arc::clone(&outbound), Arc::clone(&view))?;
    for listener in admin::bind_loopback(ports::ADMIN).await? {
        tokio::spawn(admin::serve(listener, Surface::Admin, Arc::clone(&view)));
    }
    let metrics_listener = admin::bind_any(ports::METRICS)?;
    tokio::spawn(admin::serve(metrics_listener, Surface::Metrics, Arc::clone(&view)));
    tokio::spawn(async move { redirected.find_out().await });

    let identity_task = {
        let (identity, control_plane) = (identity.clone(), control_plane.clone());
        tokio::spawn(async move { identity.run(&control_plane).await })
    };
    let config_task = {
        let config = config.clone();
        tokio::spawn(async move { config.run(&control_plane).await })
    };
    tokio::spawn(follow_certificate(identity.clone(), Arc::clone(&telemetry.metrics)));
    {
        let outbound = Arc::clone(&outbound);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(PRUNE_EVERY).await;
                outbound.upstreams.prune();
            }
        });
    }
    {
        let (config, metrics) = (config.clone(), Arc::clone(&telemetry.metrics));
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(EXPIRE_EVERY).await;
                let known: HashSet<_> = config.backends().iter().map(|backend| backend.name.to_string()).collect();
                metrics.expire(tokio::time::Instant::now().into_std(), |backend| known.contains(backend));
            }
        });
    }

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: draining"),
        _ = interrupt.recv() => tracing::info!("SIGINT: draining"),
        _ = quitting.wait_for(|quit| *quit) => tracing::info!("/quitquitquit: draining"),
        gone = workers.gone() => return Err(RunError::Worker(gone)),
        // Neither ever ends by itself. A proxy that no longer hears of endpoints, or lets its certificate expire, looks
        // healthy until it is not: it is better started again.
        _ = identity_task => return Err(RunError::Task("identity")),
        _ = config_task => return Err(RunError::Task("config")),
    }
    tokio::select! {
        () = drains.finish(args.mode, Duration::from_secs(args.drain_seconds), &workers) => {}
        _ = terminate.recv() => tracing::warn!("second SIGTERM: connections are cut"),
        _ = interrupt.recv() => tracing::warn!("second SIGINT: connections are cut"),
    }
    if let Some(exporter) = exporter {
        // Blocks while it sends what is left, so it must not sit on the runtime it needs.
        let _ = tokio::task::spawn_blocking(move || exporter.shutdown_with_timeout(FLUSH)).await;
    }
    if let Some(log) = &telemetry.access_log {
        log.finish(FLUSH / 2);
    }
    tracing::info!("weft-sidecar ends");
    flush.finish(FLUSH / 2);
    Ok(())
}

/// Labels our metrics with what this pod belongs to: pods come and go, and a label for each would grow without end.
pub(crate) async fn follow_owner(config: Config, local: Arc<Local>) {
    let mut changes = config.changes();
    loop {
        if let Some(own) = config.own() {
            let owner = if own.owner.is_empty() { &own.name } else { &own.owner };
            if local.workload.get().as_str() != &**owner {
                local.workload.set((&**owner).into());
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

async fn follow_certificate(identity: IdentityManager, metrics: Arc<Metrics>) {
    let mut svids = identity.watch();
    loop {
        let expiry = svids
            .borrow_and_update()
            .as_ref()
            .and_then(|svid| svid.not_after().duration_since(std::time::UNIX_EPOCH).ok().map(|since| since.as_secs()));
        if let Some(expiry) = expiry {
            metrics.certificate_expiry.set(i64::try_from(expiry).unwrap_or(i64::MAX));
        }
        if svids.changed().await.is_err() {
            return;
        }
    }
}
