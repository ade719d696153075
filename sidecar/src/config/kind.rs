//! The types of resources that the control plane sends.

use weft_proto::type_url;

/// The types of resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `MeshSettings`
    MeshSettings,
    /// `TrustBundle`
    TrustBundle,
    /// `InboundPolicy`
    InboundPolicy,
    /// `Workload`
    Workload,
    /// `Service`
    Service,
    /// `Endpoints`
    Endpoints,
}

impl Kind {
    /// In the order they are asked for on a new stream: what decides about everything else comes first.
    pub const ALL: [Self; 6] =
        [Self::MeshSettings, Self::TrustBundle, Self::InboundPolicy, Self::Workload, Self::Service, Self::Endpoints];

    /// Its type URL.
    pub const fn type_url(self) -> &'static str {
        match self {
            Self::MeshSettings => type_url::MESH_SETTINGS,
            Self::TrustBundle => type_url::TRUST_BUNDLE,
            Self::InboundPolicy => type_url::INBOUND_POLICY,
            Self::Workload => type_url::WORKLOAD,
            Self::Service => type_url::SERVICE,
            Self::Endpoints => type_url::ENDPOINTS,
        }
    }

    /// The kind a type URL stands for.
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }
}
