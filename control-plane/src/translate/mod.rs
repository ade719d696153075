//! Objects in, resources and conditions out: what the control plane *decides*.
//!
//! Everything here is a pure function of the objects in the [`Model`](crate::model::Model) and the [`MeshConfig`]: no
//! clock, no I/O, no randomness. That is what makes two replicas agree on every version and lets a property test hold
//! "incremental = from scratch" (`incremental/tests.rs`).
//!
//! | module | decides |
//! |---|---|
//! | `backend_policy` | how a Service's endpoints are called: the Service's own fields and its BackendPolicy (§3) |
//! | `kubernetes/` | `Service`, `Endpoints` and `Workload` from Kubernetes objects (SEMANTICS.md §1 "Service semantics") |
//! | `gateway_api/` | which routes attach where, in which order their matches are tried, and their conditions (§2) |
//! | `peer_authentication` | the mTLS mode of a port of a pod (§2 Istio objects), hence who speaks mesh TLS (§1) |
//! | `backend_tls` | what servers outside the mesh must prove, and the conditions of BackendTLSPolicies (§2) |
//! | `traffic_policy` | retries and sessions of a Service, and the conditions of XBackendTrafficPolicies (§2) |
//! | `own` | whether objects of Weft's own kinds do all that they say (§2 "Status") |
//! | `settings` | `MeshSettings` |
//! | `incremental` | [`Translator`]: what a change touches, and nothing else, is computed again |
//! | `translated` | [`Translated`]: the immutable outcome that `discovery/` and `status/` read |
//!
//! Not here: where objects come from (`source/`), who is told what (`discovery/`), how conditions are written (`status/`).
//! Bound: the outcome is proportional to the objects; a Service has one more form per namespace with consumer routes.

mod backend_policy;
mod backend_tls;
#[cfg(test)]
mod fixtures;
mod gateway_api;
mod incremental;
mod kubernetes;
mod own;
mod peer_authentication;
mod settings;
mod shards;
mod traffic_policy;
mod translated;

use ipnet::IpNet;
use weft_proto::v1::OutboundPolicy;

pub use incremental::{Touched, Translator, trust_bundle_version};
pub use own::{OWN_KINDS, refused};
pub use translated::{Lookup, Resource, ServiceVersions, Translated, WorkloadIdentity};

/// Which proxies see which form of a resource. All proxies of one namespace see the same.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct View {
    /// The client's namespace: short host names and consumer routes are meant for it.
    pub namespace: String,
}

/// What an operator decides for the whole mesh.
#[derive(Clone, Debug, PartialEq)]
pub struct MeshConfig {
    /// SPIFFE trust domain. Default `cluster.local`.
    pub trust_domain: String,
    /// The suffix of the cluster's DNS names. Default `cluster.local`.
    pub cluster_domain: String,
    /// Policies in this namespace are for the whole mesh. Default `weft-system`.
    pub root_namespace: String,
    /// Ranges in which proxies ask about unknown destinations (ServiceCIDR, podCIDRs). Default none.
    pub cluster_cidrs: Vec<IpNet>,
    /// Add the surroundings of every known VIP and pod address to `cluster_cidrs`: for the files source, where nobody
    /// says what the cluster's ranges are. Default on; see `settings` for what "surroundings" means.
    pub derive_cidrs: bool,
    /// What happens to a destination that is none of ours. Default: it passes.
    pub outbound_policy: OutboundPolicy,
    /// Parts of 10,000 of the requests that start a sampled trace. Default 100 (1 %).
    pub tracing_sample_per_10000: u32,
    /// Ports taken as opaque where nothing declares their protocol: protocols whose server speaks first.
    /// Default 25, 110, 143, 587, 3306, 4222 (SEMANTICS.md §1).
    pub opaque_ports: Vec<u16>,
}

impl Default for MeshConfig {
    fn default() -> Self {
        Self {
            trust_domain: "cluster.local".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            root_namespace: "weft-system".to_owned(),
            cluster_cidrs: Vec::new(),
            derive_cidrs: true,
            outbound_policy: OutboundPolicy::AllowAny,
            tracing_sample_per_10000: 100,
            opaque_ports: vec![25, 110, 143, 587, 3306, 4222],
        }
    }
}
