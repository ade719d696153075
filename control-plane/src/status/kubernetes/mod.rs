//! Status in a cluster: the elected leader keeps the `status.parents[]` of routes as translation has them, within a second.
//!
//! The leader, and only the leader, watches the routes itself, for what translation has no use for: their status. So it
//! compares before it writes, a new leader writes only what differs, and an entry that somebody else overwrites or that
//! stayed behind is put right. A write is a merge patch of the list that names the resourceVersion it was made from:
//! the API server refuses it when anybody wrote since (server-side apply would not do: the list has no keys, so it would
//! be all ours or all theirs).
//!
//! ```text
//! translation ─► on_state, on_problems ─┐
//! watch of routes (leader only) ────────┼─► due ─► plan (pure) ─► pace (pure) ─► patch .../status
//! replicas ─► programmed (pure) ────────┘
//! ```
//!
//! What one object costs is its own: a failure is counted, logged, and tried again by `pace`'s back-off. A verdict on
//! `weft.dev/Programmed` that comes within [`TOGETHER`] is written with the rest.
//!
//! | file | what it decides |
//! |---|---|
//! | `plan.rs` | what the list should be (pure) |
//! | `pace.rs` | how fast it is written (pure) |
//! | `leading.rs` | what is due, while this replica leads |
//! | `kinds.rs` | which kinds of routes and policies there are, and how they are watched |
//! | `mesh.rs` | what an XMesh is told of this mesh |
//! | `own.rs` | Accepted of the kinds that are Weft's own |
//!
//! Bound: per route its parentRefs and status entries, on the leader; [`MAX_WRITES`] requests under way; one question to the
//! replicas at a time.

mod kinds;
mod leading;
mod mesh;
mod own;
mod pace;
mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::{Notify, watch};

use crate::model::ObjectKey;
use crate::replicas::Progresses;
use crate::source::Problem;
use crate::status::StatusSink;
use crate::translate::{OWN_KINDS, Translated};

/// Writes under way at once.
const MAX_WRITES: usize = 8;
/// One write.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// How long a new generation's conditions wait for its verdict, to be written together.
const TOGETHER: Duration = Duration::from_millis(200);
/// How long an object that the source refuses must be unchanged before that is written: the refusal may be of the one before.
const SETTLED: Duration = Duration::from_millis(300);

/// What status counts.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    writes: Family<Outcome, Counter>,
    waiting: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

impl Metrics {
    /// Makes them visible.
    pub fn register(&self, registry: &mut Registry) {
        for outcome in ["written", "conflict", "failed"] {
            drop(self.writes.get_or_create(&Outcome { outcome }));
        }
        registry.register("weft_status_writes", "Writes of an object's status, by outcome", self.writes.clone());
        registry.register(
            "weft_status_waiting",
            "Objects whose status is to be looked at or written",
            self.waiting.clone(),
        );
    }

    fn on_write(&self, outcome: &'static str) {
        self.writes.get_or_create(&Outcome { outcome }).inc();
    }
}

/// Takes in what translation says. Its calls never wait.
#[derive(Clone)]
pub struct KubernetesStatus(Arc<Shared>);

/// Writes while this replica leads.
pub struct Writer {
    client: Client,
    shared: Arc<Shared>,
    replicas: Arc<dyn Progresses>,
    metrics: Metrics,
}

#[derive(Default)]
struct Shared {
    news: Mutex<News>,
    changed: Notify,
    /// Something changed of Weft's own kinds.
    own_changed: Notify,
}

/// The latest of everything, and, while somebody wants to know, what changed.
#[derive(Default)]
struct News {
    state: Option<Arc<Translated>>,
    /// Why the source does not take an object.
    refused: Arc<BTreeMap<ObjectKey, String>>,
    leads: bool,
    changed: BTreeSet<ObjectKey>,
    /// Of Weft's own kinds.
    own_changed: BTreeSet<ObjectKey>,
}

impl KubernetesStatus {
    /// The two ends. Spawn [`Writer::run`]; without it nothing is written, and what is said costs nothing.
    pub fn new(client: Client, replicas: Arc<dyn Progresses>, metrics: Metrics) -> (Self, Writer) {
        let shared = Arc::new(Shared::default());
        (Self(Arc::clone(&shared)), Writer { client, shared, replicas, metrics })
    }
}

impl StatusSink for KubernetesStatus {
    // Nothing is swept the first time: a leader compares all there is anyway.
    fn on_state(&self, state: Arc<Translated>, routes: BTreeSet<ObjectKey>, _first: bool) {
        let mut news = self.0.news.lock();
        news.state = Some(state);
        if news.leads {
            let (own, routes) = routes.into_iter().partition::<BTreeSet<_>, _>(|key| OWN_KINDS.contains(&key.kind));
            news.changed.extend(routes);
            news.own_changed.extend(own);
        }
        drop(news);
        self.0.changed.notify_one();
        self.0.own_changed.notify_one();
    }

    fn on_problems(&self, _problems: Vec<Problem>, mut refused: BTreeMap<ObjectKey, String>) {
        refused.retain(|key, _| kinds::is_route(key.kind));
        let mut news = self.0.news.lock();
        if *news.refused == refused {
            return;
        }
        let before = std::mem::replace(&mut news.refused, Arc::new(refused));
        if news.leads {
            let now = Arc::clone(&news.refused);
            let differs = |key: &&ObjectKey| before.get(*key) != now.get(*key);
            news.changed.extend(before.keys().chain(now.keys()).filter(differs).cloned());
        }
        drop(news);
        self.0.changed.notify_one();
    }
}

impl Writer {
    /// Writes while `leader` says so. Never ends; drop it to stop.
    pub async fn run(self, mut leader: watch::Receiver<bool>) {
        loop {
            // An error says that the election is over.
            if leader.wait_for(|leads| *leads).await.is_err() {
                return std::future::pending().await;
            }
            self.shared.lead(true);
            tokio::select! {
                () = leading::lead(&self) => {}
                never = mesh::lead(&self.client) => match never {},
                () = own::lead(&self) => {}
                // Only an end of it ends the lead: what is under way then is cut off.
                _ = leader.wait_for(|leads| !*leads) => {}
            }
            self.shared.lead(false);
            self.metrics.waiting.set(0);
        }
    }
}

impl Shared {
    fn lead(&self, leads: bool) {
        let mut news = self.news.lock();
        news.leads = leads;
        news.changed.clear();
        news.own_changed.clear();
    }
}
