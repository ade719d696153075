//! The Kubernetes source: watches the API server and yields the same [`Edit`]s as the files source.
//!
//! | file | what it does |
//! |---|---|
//! | `kinds` | which kinds are watched, in which groups and versions |
//! | `seen` | one object of a watch: decoded while its JSON is read (`source/files/served.rs`), never kept raw |
//! | `state` | **pure**: events of all kinds in, edits out; a list is taken in one stroke |
//! | `course` | **pure**: what a failure means, what to tell the operator, when and how to go on |
//! | `follow` | one kind's watch, for ever |
//! | `config_maps` | ConfigMaps that policies name, asked for by name |
//! | `gather` | events into edits, as fast as whoever takes them |
//! | `metrics` | what is counted |
//!
//! Nothing is removed while a watch is down: an object goes when the API server says so, by an event or by its absence from
//! a complete list. A kind whose CRD is not installed is asked for again and again (`course.rs`): its own list is the only
//! answer that says whether it is *served*, in which version, and it needs no permission to read CRDs.
//!
//! Bound: the names and digests of what is watched, the objects of a list while it comes in, [`EVENTS`] decoded events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::files::served::{self, Form};
use super::{Edit, Severity};
use crate::model::Kind;

mod config_maps;
mod course;
mod follow;
mod follow_all;
mod gather;
mod kinds;
mod metrics;
mod seen;
mod state;

pub use metrics::Metrics;

/// Events that may wait to be gathered: a list that comes in waits for them to be.
const EVENTS: usize = 256;
/// Silence on a connection before it is taken for dead. The API server ends every watch after [`WATCH`], so there is none
/// this long on one that lives.
const SILENCE: Duration = Duration::from_secs(45);
/// How long a watch lasts before it is taken up again where it was. Short, so that a connection that died without a word
/// is noticed as soon as other clients' pings would.
const WATCH: Duration = Duration::from_secs(30);
/// Short, since where packets are dropped the kernel asks again ever less often, and a new connection asks at once.
const CONNECT: Duration = Duration::from_secs(2);

/// What is watched.
#[derive(Debug, Clone, Default)]
pub struct WatchSettings {
    /// Namespaces that are never opted in, whatever their labels say: kube-system and the control plane's own.
    pub never_injected: BTreeSet<String>,
}

/// A running watch. It ends when `edits` is dropped; the other receivers then say no more.
#[derive(Debug)]
pub struct Watch {
    /// What changed. The first is all there is, and comes when every kind has been listed.
    pub edits: mpsc::Receiver<Edit>,
    /// The oldest kubelet of all Nodes, as (major, minor); `None` before the first edit and where there is no Node.
    pub oldest_kubelet: watch::Receiver<Option<(u32, u32)>>,
    /// Namespaces whose pods need the trust bundle: labelled for injection, or with an injected pod.
    pub opted_in: watch::Receiver<BTreeSet<String>>,
    /// Objects that would restrict traffic if this version enforced their kind, by namespace: `AuthorizationPolicy deny-all`.
    pub unenforced: watch::Receiver<Arc<BTreeMap<String, Vec<String>>>>,
}

/// Why watching could not begin.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// The configuration makes no client.
    #[error("cannot make a client for the API server from its configuration: {0}")]
    Client(#[source] kube::Error),
}

/// What makes an object, as an API server hands it out, one that cannot be used; nothing where it can.
pub(crate) fn errors_in(kind: Kind, object: &serde_json::Value) -> Vec<String> {
    match served::read(kind, object) {
        Ok(read) if read.form != Form::Bad => Vec::new(),
        Ok(read) => {
            let errors = read.problems.iter().filter(|problem| problem.severity == Severity::Error);
            errors.map(|problem| format!("{}: {}", problem.field, problem.message)).collect()
        }
        Err(error) => vec![error.to_string()],
    }
}

/// Begins to watch, in tasks of the current runtime. An API server that does not answer is waited for: the log says so.
///
/// Takes the configuration rather than a client, because timeouts and retries must be ours: kube's own retries wait
/// for longer than a proxy may have stale endpoints, and without a read timeout a dead connection looks like a quiet one.
///
/// # Errors
/// Where `config` is not usable.
pub fn watch(mut config: kube::Config, settings: WatchSettings, metrics: Metrics) -> Result<Watch, KubernetesError> {
    config.default_retry = false;
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(SILENCE);
    config.reset_reader_on_write = true;
    let client = kube::Client::try_from(config).map_err(KubernetesError::Client)?;
    let (events, gathered) = mpsc::channel(EVENTS);
    let mut followers = JoinSet::new();
    follow_all::follow_all(&client, &events, &metrics, &mut followers);
    let (named, named_out) = watch::channel(BTreeSet::new());
    followers.spawn(config_maps::follow(client, named_out, events));
    let (gather, watch) = gather::Gather::new(settings, metrics, gathered, named, followers);
    tokio::spawn(gather.run());
    Ok(watch)
}
