//! Which of several replicas acts for all of them: an election by a `coordination.k8s.io/v1` Lease.
//!
//! What the leader does, the others need not repeat: it writes status, ConfigMaps, and the steps of a root's rotation. All of
//! that is guarded by the API server as well (a write names the version it changes), so that two leaders for a
//! moment cost a request, no harm.
//!
//! ```text
//!            renews every 2 s, each time naming the version it replaces
//! leader  ──┬──┬──┬──┬───── ✕ killed
//! other     ·  ·  ·  ·──────── 9 s without a change seen here ────────► leads
//! ```
//!
//! No two clocks are compared: a candidate takes over when *it* has seen no change for the Lease's duration, by its own clock. A
//! leader whose renewals fail stops 6 s after the last good one began, 3 s before anybody may take over. One that stops
//! gracefully gives the Lease up, and the watch lets the next lead at once; a watch that hangs delays that by 2 s.
//!
//! Ours, because the crates that do this compare clocks, or lag kube by years. The decision is in `candidate.rs` (pure).
//! Bound: one watch, one request at a time, at most one a second while they fail.

use std::future::Future;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

mod candidate;

use candidate::{Candidate, Next};

use crate::identity::FIELD_MANAGER;

/// The Lease's name, in the control plane's namespace.
pub const LEASE: &str = "weft-control-plane";

/// The times of an election.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Without a change for so long, a Lease is anybody's. Whole seconds. Default 9 s.
    pub lease: Duration,
    /// From the last good renewal until a leader stops by itself; well below `lease`. Default 6 s.
    pub deadline: Duration,
    /// Between renewals. Default 2 s.
    pub renew: Duration,
    /// Between looks of those who do not lead, should the watch be silent. Default 2 s.
    pub look: Duration,
    /// After a failed request. Default 1 s.
    pub retry: Duration,
    /// One request. Default 2 s.
    pub request: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(9),
            deadline: Duration::from_secs(6),
            renew: Duration::from_secs(2),
            look: Duration::from_secs(2),
            retry: Duration::from_secs(1),
            request: Duration::from_secs(2),
        }
    }
}

/// `weft_leader`: 1 on the replica that leads.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    leads: Gauge,
    failures: Counter,
}

impl Metrics {
    /// Makes them visible.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("weft_leader", "1 while this replica leads", self.leads.clone());
        registry.register(
            "weft_leader_request_failures",
            "Requests about the Lease that failed; a leader that cannot renew stops leading",
            self.failures.clone(),
        );
    }
}

/// This replica's part in an election. Dropped, it stops at once and the Lease runs out; [`Election::resign`] gives it up.
#[derive(Debug)]
pub struct Election {
    leads: watch::Receiver<bool>,
    stop: oneshot::Sender<()>,
    task: JoinSet<()>,
}

impl Election {
    /// Stands for the Lease `lease` in `namespace`, as `holder`: a name that no other replica has, such as the pod's.
    pub fn begin(client: Client, namespace: &str, lease: &str, holder: &str, times: Times, metrics: Metrics) -> Self {
        let (sender, leads) = watch::channel(false);
        let (stop, stopped) = oneshot::channel();
        let elector = Elector {
            leases: Api::namespaced(client.clone(), namespace),
            metadata: Api::namespaced(client, namespace),
            lease: lease.to_owned(),
            holder: holder.to_owned(),
            candidate: Candidate::new(lease, holder, times),
            times,
            leads: Leads { sender, gauge: metrics.leads.clone() },
            failures: metrics.failures,
        };
        let mut task = JoinSet::new();
        task.spawn(elector.run(stopped));
        Self { leads, stop, task }
    }

    /// Whether this replica leads, now and whenever that changes; false once the election is over.
    pub fn leads(&self) -> watch::Receiver<bool> {
        self.leads.clone()
    }

    /// Gives the Lease up, if it is ours, so that another leads within a second. Takes no longer than one request may.
    pub async fn resign(mut self) {
        // An error says that the task is gone, which is what is wanted.
        let _ = self.stop.send(());
        self.task.join_next().await;
    }
}

/// Says false at its end, whatever ends it.
struct Leads {
    sender: watch::Sender<bool>,
    gauge: Gauge,
}

impl Leads {
    /// Whether that is news.
    fn set(&self, leads: bool) -> bool {
        self.gauge.set(leads.into());
        self.sender.send_if_modified(|now| std::mem::replace(now, leads) != leads)
    }
}

impl Drop for Leads {
    fn drop(&mut self) {
        self.set(false);
    }
}

struct Elector {
    leases: Api<Lease>,
    metadata: Api<PartialObjectMeta<Lease>>,
    lease: String,
    holder: String,
    candidate: Candidate,
    times: Times,
    leads: Leads,
    failures: Counter,
}

impl Elector {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let named = watcher::Config::default().fields(&format!("metadata.name={}", self.lease));
        let mut changes = std::pin::pin!(watcher(self.metadata.clone(), named).default_backoff());
        loop {
            self.say(Instant::now());
            let wait = match self.candidate.next(Instant::now(), Timestamp::now()) {
                Next::Wait(until) => until,
                // What is under way is not waited for: a leader that stops must say so in time.
                Next::Look | Next::Write(_) if stopped.try_recv().is_ok() => break,
                Next::Look => {
                    self.look().await;
                    continue;
                }
                Next::Write(lease) => {
                    self.write(&lease).await;
                    continue;
                }
            };
            tokio::select! {
                () = tokio::time::sleep_until(wait) => {}
                () = changed(&mut changes) => self.candidate.on_change(Instant::now()),
                _ = &mut stopped => break,
            }
        }
        self.give_up().await;
    }

    async fn look(&mut self) {
        let asked = self.ask(self.leases.get_opt(&self.lease)).await;
        let now = Instant::now();
        match asked {
            Ok(lease) => self.candidate.on_seen(lease, now),
            Err(error) => self.failed("read", &error, now),
        }
    }

    async fn write(&mut self, lease: &Lease) {
        let began = Instant::now();
        let params = params();
        let written = if lease.metadata.resource_version.is_some() {
            self.ask(self.leases.replace(&self.lease, &params, lease)).await
        } else {
            self.ask(self.leases.create(&params, lease)).await
        };
        let now = Instant::now();
        match written {
            Ok(lease) => self.candidate.on_written(lease, began, now),
            Err(Failed::Said(404 | 409)) => self.candidate.on_conflict(),
            Err(error) => self.failed("write", &error, now),
        }
    }

    /// Gives the Lease up, first of all to ourselves.
    async fn give_up(self) {
        let lease = self.candidate.release(Instant::now(), Timestamp::now());
        self.leads.set(false);
        let Some(lease) = lease else { return };
        match self.ask(self.leases.replace(&self.lease, &params(), &lease)).await {
            Ok(_) => tracing::info!(lease = self.lease, "gave the lead up"),
            Err(error) => tracing::warn!(lease = self.lease, %error, "cannot give the lead up; the Lease will run out"),
        }
    }

    /// One request. While it is under way, a lead that runs out ends in time.
    async fn ask<T>(&self, request: impl Future<Output = kube::Result<T>>) -> Result<T, Failed> {
        let limited = tokio::time::timeout(self.times.request, request);
        let mut limited = std::pin::pin!(limited);
        let answer = match self.candidate.leads_until() {
            Some(until) => tokio::select! {
                answer = &mut limited => answer,
                () = tokio::time::sleep_until(until) => {
                    self.say(Instant::now());
                    limited.await
                }
            },
            None => limited.await,
        };
        match answer {
            Ok(answer) => answer.map_err(|error| match error {
                kube::Error::Api(status) if matches!(status.code, 404 | 409) => Failed::Said(status.code),
                error => Failed::Error(error.to_string()),
            }),
            Err(_) => Err(Failed::Late(self.times.request)),
        }
    }

    fn failed(&mut self, what: &str, error: &Failed, now: Instant) {
        self.failures.inc();
        tracing::warn!(lease = self.lease, %error, "cannot {what} the Lease of the election");
        self.candidate.on_failure(now);
    }

    fn say(&self, now: Instant) {
        let leads = self.candidate.leads(now);
        if self.leads.set(leads) {
            let holder = self.candidate.holder();
            tracing::info!(lease = self.lease, leads, me = self.holder, holder, "election");
        }
    }
}

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("the API server answered {0}")]
    Said(u16),
    #[error("{0}")]
    Error(String),
    #[error("no answer within {0:?}")]
    Late(Duration),
}

fn params() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() }
}

/// Waits until the watch says anything but that it failed, which it tries again by itself.
async fn changed<K>(changes: &mut (impl Stream<Item = watcher::Result<watcher::Event<K>>> + Unpin)) {
    loop {
        match changes.next().await {
            Some(Ok(watcher::Event::Apply(_) | watcher::Event::Delete(_) | watcher::Event::InitDone)) => return,
            Some(Ok(watcher::Event::Init | watcher::Event::InitApply(_))) => {}
            Some(Err(error)) => tracing::debug!(%error, "the watch on the Lease of the election"),
            None => std::future::pending().await,
        }
    }
}
