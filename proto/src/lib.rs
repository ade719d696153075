//! The wire contract between Weft's proxies and its control plane: the resources (`v1`), certificates (`identity`),
//! the delta xDS transport (`discovery`), and the few types and names both ends must agree on.
//!
//! Both ends depend on this crate and not on each other, so `places` is here too, which is no wire's: what decides whom
//! their listeners take in; and `explain`, which the command line asks a sidecar.

pub mod explain;
mod names;
mod origin;
pub mod places;
mod probe;
mod spiffe;

pub use names::{EndpointsName, InvalidName, MESH_SETTINGS, SELF, ServiceName};
pub use origin::{InvalidOrigin, OriginPattern};
pub use probe::ProbeSecret;
pub use spiffe::{InvalidSpiffeId, SpiffeId};

/// The resources a proxy subscribes to (`weft/v1/resources.proto`), and what replicas of the control plane ask each other
/// (`weft/v1/replicas.proto`).
#[expect(missing_docs, clippy::derive_partial_eq_without_eq, reason = "generated; documented in the .proto file")]
pub mod v1 {
    tonic::include_proto!("weft.v1");
}

/// Certificates for workloads (`weft/identity/v1/identity.proto`).
pub mod identity {
    /// Version 1 of the service.
    #[expect(missing_docs, reason = "generated; documented in the .proto file")]
    pub mod v1 {
        tonic::include_proto!("weft.identity.v1");
    }
}

/// The incremental xDS transport, from Envoy's published messages.
pub mod discovery {
    pub use envoy_types::pb::envoy::config::core::v3::Node;
    pub use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
    pub use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
        AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
    };
    pub use envoy_types::pb::envoy::service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
    };
    pub use envoy_types::pb::google::protobuf::Any;
    pub use envoy_types::pb::google::rpc::Status;
}

/// The type URLs under which resources are subscribed to.
pub mod type_url {
    /// `weft.v1.Service`
    pub const SERVICE: &str = "type.googleapis.com/weft.v1.Service";
    /// `weft.v1.Endpoints`
    pub const ENDPOINTS: &str = "type.googleapis.com/weft.v1.Endpoints";
    /// `weft.v1.Workload`
    pub const WORKLOAD: &str = "type.googleapis.com/weft.v1.Workload";
    /// `weft.v1.InboundPolicy`
    pub const INBOUND_POLICY: &str = "type.googleapis.com/weft.v1.InboundPolicy";
    /// `weft.v1.TrustBundle`
    pub const TRUST_BUNDLE: &str = "type.googleapis.com/weft.v1.TrustBundle";
    /// `weft.v1.MeshSettings`
    pub const MESH_SETTINGS: &str = "type.googleapis.com/weft.v1.MeshSettings";
}

/// ALPN names of mesh TLS (SEMANTICS.md §1).
pub mod alpn {
    /// HTTP of any version, carried as HTTP/2.
    pub const H2: &[u8] = b"weft/h2";
    /// One HTTP/1 exchange that becomes a tunnel: upgrades and CONNECT.
    pub const H1: &[u8] = b"weft/h1";
    /// Opaque bytes.
    pub const TCP: &[u8] = b"weft/tcp";
}

/// Header names that are ours. Stripped from anything that does not come from a verified peer, but for
/// [`headers::DEADLINE`], which is also read from the local app.
pub mod headers {
    /// `1.0` or `1.1`: the HTTP version the client's app spoke, restored for the server's app.
    pub const VERSION: &str = "x-weft-version";
    /// Why a sidecar made an answer itself.
    pub const REASON: &str = "x-weft-reason";
    /// `1` on an answer that vouches that the app saw nothing of the request (on `weft/h1` only).
    pub const NOT_PROCESSED: &str = "x-weft-not-processed";
    /// Milliseconds the client is still willing to wait.
    pub const DEADLINE: &str = "x-weft-deadline-ms";
    /// Set on an answer that a limit caused.
    pub const OVERLOADED: &str = "x-weft-overloaded";

    /// What each of them starts with.
    pub const OURS: &str = "x-weft-";
    /// Framing, and what belongs to one connection (RFC 9110 §7.6.1, RFC 9112 §6).
    const OF_CONNECTIONS: [&str; 9] = [
        "connection",
        "content-length",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];

    /// Whether a route's filter may not touch this header (in lower case): it frames the message, belongs to one connection,
    /// or is ours and believed.
    pub fn is_out_of_bounds(name: &str) -> bool {
        OF_CONNECTIONS.contains(&name) || name.starts_with(OURS)
    }
}

/// Well-known ports (SEMANTICS.md §1).
pub mod ports {
    /// Sidecar: admin, loopback only.
    pub const ADMIN: u16 = 15000;
    /// Sidecar: outbound, loopback only.
    pub const OUTBOUND: u16 = 15001;
    /// Sidecar: nobody listens on it. What the sidecar itself sends there is redirected to [`OUTBOUND`], if anything is.
    pub const REDIRECT_CHECK: u16 = 15002;
    /// Sidecar: inbound.
    pub const INBOUND: u16 = 15006;
    /// Sidecar: metrics.
    pub const METRICS: u16 = 15020;
    /// Sidecar: health, answered by the data plane.
    pub const HEALTH: u16 = 15021;
    /// Control plane: discovery and identity.
    pub const DISCOVERY: u16 = 15012;
    /// Control plane: metrics, readiness and debug.
    pub const CONTROL_PLANE_ADMIN: u16 = 15014;
}

/// The user the sidecar runs as, whose traffic is not redirected.
pub const SIDECAR_UID: u32 = 1337;

/// The label that says a pod's sidecar speaks mesh TLS; its value is `1`.
pub const MESH_TLS_LABEL: &str = "weft.dev/mesh-tls";

/// The identity the control plane proves to proxies, in `trust_domain`.
pub fn control_plane_identity(trust_domain: &str) -> Result<SpiffeId, InvalidSpiffeId> {
    SpiffeId::new(trust_domain, "weft-system", "weft-control-plane")
}
