//! What operators see: metrics, the access log, trace context and spans (SEMANTICS.md §5).
//!
//! Nothing here may stall traffic: metrics are counters in memory, the log is a bounded queue that drops (and counts),
//! spans are made only for sampled requests. Bounds: [`metrics::MAX_SERIES`] per family, [`access_log::QUEUE`] lines.

pub mod access_log;
pub mod label;
pub mod metrics;
pub mod record;
pub mod series;
pub mod spans;
pub(crate) mod told;
pub mod trace;

use std::sync::Arc;

use weft_proto::SpiffeId;

pub use access_log::AccessLog;
pub use label::{Label, SharedLabel};
pub use metrics::Metrics;

/// All of telemetry, shared by everything that forwards. One pointer: every request's record holds it.
#[derive(Clone)]
pub struct Telemetry(Arc<Parts>);

/// What [`Telemetry`] is made of.
pub struct Parts {
    /// Counters and histograms.
    pub metrics: Arc<Metrics>,
    /// The access log; `None` when it is off.
    pub access_log: Option<AccessLog>,
    /// Whether spans are exported.
    pub spans: bool,
    /// Who we are, for labels.
    pub local: Arc<Local>,
}

impl From<Parts> for Telemetry {
    fn from(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }
}

impl std::ops::Deref for Telemetry {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// Labels that are the same on everything this proxy reports.
#[derive(Debug)]
pub struct Local {
    /// `kubernetes_namespace`
    pub namespace: Label,
    /// `kubernetes_pod_name`
    pub pod: Label,
    /// `source_workload`: what this pod belongs to. The service account until the control plane has said.
    pub workload: SharedLabel,
    /// Our identity.
    pub identity: SpiffeId,
}
