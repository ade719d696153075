//! What users are told about their objects: the conditions of routes and of Weft's own kinds, and the problems of manifests.
//!
//! `translate/` decides the conditions (Gateway API `status.parents[]`); this room holds their plain types and
//! writes them down, and decides the one condition that no object decides: `weft.dev/Programmed`.
//!
//! | file | what it does |
//! |---|---|
//! | `dir.rs` | without a cluster: one file per object in `--status-dir` |
//! | `kubernetes/` | in a cluster: the elected leader writes the objects' `status` |
//! | `programmed.rs` | whether the proxies that a route is for have taken it (pure) |
//! | `questions.rs` | what replicas are asked for that (pure) |
//! | `counts.rs` | how many have it at this moment, for whoever asks |
//!
//! Not here: who leads (`leader.rs`), what proxies ACKed (`replicas/`, `discovery/`).

pub mod counts;
mod dir;
mod kubernetes;
mod programmed;
mod questions;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::{ObjectKey, ParentRef};
use crate::source::Problem;
use crate::translate::Translated;

pub use dir::{StatusDir, StatusError};
pub use kubernetes::{KubernetesStatus, Metrics, Writer};
pub use programmed::{About, At, Known, Programmed};

/// Takes what there is to tell users, at once and without waiting: writing is somebody else's time.
pub trait StatusSink: Send {
    /// `routes`, among them policies and objects of Weft's own kinds, have other conditions in `state`; the `first` time it is said of all there are, so what is not in `state`
    /// is nobody's any more.
    fn on_state(&self, state: Arc<Translated>, routes: BTreeSet<ObjectKey>, first: bool);
    /// This is all that is wrong now, as far as it is listed, and these are all objects that the source does not take, each
    /// with why.
    fn on_problems(&self, problems: Vec<Problem>, refused: BTreeMap<ObjectKey, String>);
}

/// Who wrote a `status.parents[]` entry.
pub const CONTROLLER_NAME: &str = "weft.dev/mesh-controller";

/// The condition that says whether proxies have taken a route.
pub const PROGRAMMED: &str = "weft.dev/Programmed";

/// The status of a route: one entry per parentRef that is ours, in the order of the spec.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RouteStatus {
    /// Entries.
    pub parents: Vec<ParentStatus>,
}

/// What became of a route at one of its parents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentStatus {
    /// Copied verbatim from the spec.
    pub parent_ref: ParentRef,
    /// Conditions, one per type.
    pub conditions: Vec<Condition>,
}

impl ParentStatus {
    /// The generation that this parent accepted; `None` when it did not.
    pub fn accepted(&self) -> Option<i64> {
        let accepted = self.conditions.iter().find(|condition| condition.kind == "Accepted" && condition.status);
        accepted.map(|condition| condition.observed_generation)
    }
}

/// A condition without `lastTransitionTime`: the writer adds that when `status` changes and keeps it otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// `type`: `Accepted`, `ResolvedRefs`, `PartiallyInvalid`, `weft.dev/Programmed`.
    pub kind: &'static str,
    /// `True` or `False`.
    pub status: bool,
    /// CamelCase code.
    pub reason: Cow<'static, str>,
    /// For people.
    pub message: String,
    /// The generation this was decided for.
    pub observed_generation: i64,
}
