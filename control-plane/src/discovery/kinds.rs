//! The types of resources we serve, in the order a stream with something to say about several says it: what a proxy
//! needs to trust and to be, then endpoints, then services. An order of preference only: each type has its own
//! outstanding response, so endpoints never wait for services.

use weft_proto::type_url;

/// A type of resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceKind {
    /// weft.v1.TrustBundle
    TrustBundle,
    /// weft.v1.MeshSettings
    MeshSettings,
    /// weft.v1.Workload
    Workload,
    /// weft.v1.InboundPolicy
    InboundPolicy,
    /// weft.v1.Endpoints
    Endpoints,
    /// weft.v1.Service
    Service,
}

impl ResourceKind {
    /// All of them, first to last.
    pub const ALL: [Self; 6] =
        [Self::TrustBundle, Self::MeshSettings, Self::Workload, Self::InboundPolicy, Self::Endpoints, Self::Service];

    /// By its type URL.
    pub fn of(type_url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == type_url)
    }

    /// Its type URL.
    pub fn type_url(self) -> &'static str {
        match self {
            Self::TrustBundle => type_url::TRUST_BUNDLE,
            Self::MeshSettings => type_url::MESH_SETTINGS,
            Self::Workload => type_url::WORKLOAD,
            Self::InboundPolicy => type_url::INBOUND_POLICY,
            Self::Endpoints => type_url::ENDPOINTS,
            Self::Service => type_url::SERVICE,
        }
    }

    /// Its name in metrics and debug pages.
    pub fn label(self) -> &'static str {
        match self {
            Self::TrustBundle => "TrustBundle",
            Self::MeshSettings => "MeshSettings",
            Self::Workload => "Workload",
            Self::InboundPolicy => "InboundPolicy",
            Self::Endpoints => "Endpoints",
            Self::Service => "Service",
        }
    }
}
