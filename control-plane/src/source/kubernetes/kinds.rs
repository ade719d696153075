//! Which kinds are watched. One table: what is asked of the API server here is what the chart's ClusterRole must grant
//! (list and watch), and what a failure names.

use kube::api::ApiResource;

use crate::model::Kind;

/// A kind as the API server knows it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// As users write it.
    pub(super) kind: &'static str,
    pub(super) group: &'static str,
    /// Those that spell the same, best first.
    pub(super) versions: &'static [&'static str],
    pub(super) plural: &'static str,
    /// Whether it comes with a CRD that may not be installed.
    pub(super) optional: bool,
}

impl Row {
    const fn core(kind: &'static str, group: &'static str, plural: &'static str) -> Self {
        Self { kind, group, versions: &["v1"], plural, optional: false }
    }

    const fn custom(kind: &'static str, group: &'static str, plural: &'static str) -> Self {
        Self { kind, group, versions: &["v1", "v1beta1"], plural, optional: true }
    }

    /// With a CRD that was promoted without a v1beta1, or whose older versions spell otherwise.
    const fn promoted(kind: &'static str, group: &'static str, plural: &'static str) -> Self {
        Self { kind, group, versions: &["v1"], plural, optional: true }
    }

    /// One of ours, as the chart brings it.
    const fn ours(kind: &'static str, group: &'static str, plural: &'static str) -> Self {
        Self { kind, group, versions: &["v1alpha1"], plural, optional: true }
    }

    /// One of the Gateway API's experimental channel.
    const fn experimental(kind: &'static str, group: &'static str, plural: &'static str) -> Self {
        Self { kind, group, versions: &["v1alpha1"], plural, optional: true }
    }

    /// The kind in one of its versions.
    pub(super) fn resource(&self, version: &str) -> ApiResource {
        ApiResource {
            group: self.group.to_owned(),
            version: version.to_owned(),
            api_version: if self.group.is_empty() { version.to_owned() } else { format!("{}/{version}", self.group) },
            kind: self.kind.to_owned(),
            plural: self.plural.to_owned(),
        }
    }

    /// `services`, `httproutes.gateway.networking.k8s.io`
    pub(super) fn resource_name(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }
}

/// The kinds that Weft reads, but for ConfigMaps, which are not watched (`config_maps.rs`).
pub(super) const KINDS: [(Kind, Row); 15] = [
    (Kind::Namespace, Row::core("Namespace", "", "namespaces")),
    (Kind::Service, Row::core("Service", "", "services")),
    (Kind::EndpointSlice, Row::core("EndpointSlice", "discovery.k8s.io", "endpointslices")),
    (Kind::Pod, Row::core("Pod", "", "pods")),
    (Kind::Node, Row::core("Node", "", "nodes")),
    (Kind::HttpRoute, Row::custom("HTTPRoute", "gateway.networking.k8s.io", "httproutes")),
    (Kind::PeerAuthentication, Row::custom("PeerAuthentication", "security.istio.io", "peerauthentications")),
    (Kind::GrpcRoute, Row::promoted("GRPCRoute", "gateway.networking.k8s.io", "grpcroutes")),
    (Kind::TlsRoute, Row::promoted("TLSRoute", "gateway.networking.k8s.io", "tlsroutes")),
    (Kind::TcpRoute, Row::promoted("TCPRoute", "gateway.networking.k8s.io", "tcproutes")),
    (Kind::BackendTlsPolicy, Row::promoted("BackendTLSPolicy", "gateway.networking.k8s.io", "backendtlspolicies")),
    (
        Kind::TrafficPolicy,
        Row::experimental("XBackendTrafficPolicy", "gateway.networking.x-k8s.io", "xbackendtrafficpolicies"),
    ),
    (Kind::FaultInjection, Row::ours("FaultInjection", "weft.dev", "faultinjections")),
    (Kind::RateLimit, Row::ours("RateLimit", "weft.dev", "ratelimits")),
    (Kind::BackendPolicy, Row::ours("BackendPolicy", "weft.dev", "backendpolicies")),
];

/// Kinds that restrict traffic and that this version does not enforce: by metadata only, for a warning.
pub(super) const UNENFORCED: [Row; 2] = [
    Row::custom("AuthorizationPolicy", "security.istio.io", "authorizationpolicies"),
    Row::custom("RequestAuthentication", "security.istio.io", "requestauthentications"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::kind_name;

    #[test]
    fn every_kind_is_named_as_users_write_it() {
        for (kind, row) in &KINDS {
            assert_eq!(row.kind, kind_name(*kind));
        }
        for (index, name) in [(5, "httproutes.gateway.networking.k8s.io"), (7, "grpcroutes.gateway.networking.k8s.io")]
        {
            let (_, route) = &KINDS[index];
            assert_eq!(route.resource("v1").api_version, "gateway.networking.k8s.io/v1");
            assert_eq!(route.resource_name(), name);
        }
        assert_eq!(KINDS[0].1.resource("v1").api_version, "v1");
    }
}
