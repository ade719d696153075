//! Envoy, in the role it has in Istio: a virtual listener on 15001 that takes what is redirected and hands it to the
//! listener of the original destination's port; one on 15006 for what arrives.
//!
//! Equal to Weft: no route timeout, retries of what provably did nothing, outlier detection, limits, statistics, mutual TLS
//! with the peer's SPIFFE ID compared, keep-alive on both sides, no access log, no tracing. Left out although Istio has it,
//! because Weft does not do it: request identifiers, TLS inspection before the filter chain is chosen, Istio's own filters
//! for metadata exchange and statistics. All of that would make Envoy slower.

use std::net::{Ipv4Addr, SocketAddrV4};

use serde_json::{Value, json};
use weft_proto::ports;

/// What travels over a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Bytes.
    Tcp,
}

impl Wire {
    const fn alpn(self) -> &'static [&'static str] {
        match self {
            Self::Http1 => &["http/1.1"],
            Self::Http2 => &["h2"],
            Self::Tcp => &[],
        }
    }
}

/// Mutual TLS.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    /// Our chain and key, as the pod sees the file.
    pub(crate) identity: String,
    /// The root, likewise.
    pub(crate) roots: String,
    /// The one key exchange group, in BoringSSL's words.
    pub(crate) group: &'static str,
    /// Whether sessions are resumed. Otherwise no tickets are sent either, as Weft sends none.
    pub(crate) resume: bool,
}

/// A cluster: a name and where it is.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    pub(crate) name: String,
    pub(crate) endpoints: Vec<SocketAddrV4>,
    /// The Service address it is known by; `None`: whatever nobody else is known by.
    pub(crate) vip: Option<Ipv4Addr>,
}

/// The client's sidecar.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) clusters: Vec<Cluster>,
    /// The Services' port.
    pub(crate) port: u16,
    /// Towards the clusters.
    pub(crate) wire: Wire,
    /// Towards the clusters: the TLS, and who must be there.
    pub(crate) tls: Option<(Tls, String)>,
}

/// The server's sidecar.
#[derive(Debug)]
pub(crate) struct Inbound {
    /// The app.
    pub(crate) app: SocketAddrV4,
    /// Towards the app.
    pub(crate) wire: Wire,
    /// What everybody must speak.
    pub(crate) tls: Tls,
    /// The trust domain that everybody must be of.
    pub(crate) trust_domain: &'static str,
}

impl Outbound {
    /// The whole configuration.
    pub(crate) fn json(&self) -> Value {
        let clusters: Vec<_> = self
            .clusters
            .iter()
            .map(|cluster| {
                let mut value = upstream(&cluster.name, &cluster.endpoints, self.wire);
                if let Some((tls, expected)) = &self.tls {
                    value["transport_socket"] = client_tls(tls, expected, self.wire);
                }
                value
            })
            .collect();
        let hosts = self.clusters.iter().map(|cluster| {
            let domains = match cluster.vip {
                Some(vip) => vec![vip.to_string(), format!("{vip}:{}", self.port)],
                None => vec!["*".to_owned()],
            };
            virtual_host(&cluster.name, domains)
        });
        let filter = match (self.wire, self.clusters.first()) {
            (Wire::Tcp, Some(first)) => tcp_proxy("outbound", &first.name),
            _ => http_manager("outbound", &hosts.collect::<Vec<_>>()),
        };
        let take = json!({
            "name": "redirected",
            "address": address(Ipv4Addr::UNSPECIFIED, ports::OUTBOUND),
            "use_original_dst": true,
            // What nobody has a listener for goes nowhere: in this world that is a mistake.
            "filter_chains": [{ "filters": [tcp_proxy("nowhere", "nowhere")] }],
        });
        let by_port = json!({
            "name": "outbound",
            "address": address(Ipv4Addr::UNSPECIFIED, self.port),
            "bind_to_port": false,
            "filter_chains": [{ "filters": [filter] }],
        });
        whole(&[take, by_port], clusters)
    }
}

impl Inbound {
    /// The whole configuration.
    pub(crate) fn json(&self) -> Value {
        let filter = match self.wire {
            Wire::Tcp => tcp_proxy("inbound", "app"),
            _ => http_manager("inbound", &[virtual_host("app", vec!["*".to_owned()])]),
        };
        let listener = json!({
            "name": "inbound",
            "address": address(Ipv4Addr::UNSPECIFIED, ports::INBOUND),
            "listener_filters": [typed("envoy.filters.listener.original_dst",
                "envoy.extensions.filters.listener.original_dst.v3.OriginalDst", json!({}))],
            "filter_chains": [{
                "filter_chain_match": { "destination_port": self.app.port() },
                "filters": [filter],
                "transport_socket": server_tls(&self.tls, self.trust_domain),
            }],
        });
        whole(&[listener], vec![upstream("app", &[self.app], self.wire)])
    }
}

fn whole(listeners: &[Value], mut clusters: Vec<Value>) -> Value {
    clusters.push(json!({ "name": "nowhere", "type": "STATIC", "load_assignment": { "cluster_name": "nowhere" } }));
    json!({
        "admin": { "address": address(Ipv4Addr::LOCALHOST, ports::ADMIN) },
        "static_resources": { "listeners": listeners, "clusters": clusters },
    })
}

fn upstream(name: &str, endpoints: &[SocketAddrV4], wire: Wire) -> Value {
    let endpoints: Vec<_> =
        endpoints.iter().map(|to| json!({ "endpoint": { "address": address(*to.ip(), to.port()) } })).collect();
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "2s",
        "lb_policy": "LEAST_REQUEST",
        "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": endpoints }] },
        "circuit_breakers": { "thresholds": [{
            "max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000, "max_retries": 100_000,
        }] },
        "outlier_detection": { "consecutive_5xx": 5, "base_ejection_time": "1s", "max_ejection_time": "60s" },
    });
    let protocol = match wire {
        Wire::Http1 => "http_protocol_options",
        Wire::Http2 => "http2_protocol_options",
        Wire::Tcp => return cluster,
    };
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    cluster["typed_extension_protocol_options"] = json!({
        options: { "@type": type_url(options), "explicit_http_config": { protocol: {} } }
    });
    cluster
}

fn virtual_host(cluster: &str, domains: Vec<String>) -> Value {
    json!({
        "name": cluster,
        "domains": domains,
        "routes": [{
            "match": { "prefix": "/" },
            "route": {
                "cluster": cluster,
                // None, as Istio sets it and as Weft has none.
                "timeout": "0s",
                "retry_policy": { "retry_on": "connect-failure,refused-stream,reset-before-request", "num_retries": 2 },
            },
        }],
    })
}

fn http_manager(name: &str, hosts: &[Value]) -> Value {
    let router = typed("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router", json!({}));
    typed(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        json!({
            "stat_prefix": name,
            "codec_type": "AUTO",
            "generate_request_id": false,
            "route_config": { "name": name, "virtual_hosts": hosts },
            "http_filters": [router],
        }),
    )
}

fn tcp_proxy(name: &str, cluster: &str) -> Value {
    typed(
        "envoy.filters.network.tcp_proxy",
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        json!({ "stat_prefix": name, "cluster": cluster }),
    )
}

fn client_tls(tls: &Tls, expected: &str, wire: Wire) -> Value {
    let mut config = json!({ "common_tls_context": common_tls(tls, &json!({ "exact": expected }), wire.alpn()) });
    // A TLS 1.3 ticket is good for one connection, so there have to be some for those under way at once; Envoy keeps one
    // unless told.
    config["max_session_keys"] = json!(if tls.resume { 64 } else { 0 });
    let kind = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
    typed("envoy.transport_sockets.tls", kind, config)
}

fn server_tls(tls: &Tls, trust_domain: &str) -> Value {
    let anybody = json!({ "prefix": format!("spiffe://{trust_domain}/") });
    let config = json!({
        "common_tls_context": common_tls(tls, &anybody, &["h2", "http/1.1"]),
        "require_client_certificate": true,
        "disable_stateless_session_resumption": !tls.resume,
        "disable_stateful_session_resumption": !tls.resume,
    });
    let kind = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
    typed("envoy.transport_sockets.tls", kind, config)
}

fn common_tls(tls: &Tls, uri: &Value, alpn: &[&str]) -> Value {
    let file = |path: &str| json!({ "filename": path });
    json!({
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_3",
            "tls_maximum_protocol_version": "TLSv1_3",
            "ecdh_curves": [tls.group],
        },
        "tls_certificates": [{ "certificate_chain": file(&tls.identity), "private_key": file(&tls.identity) }],
        "validation_context": {
            "trusted_ca": file(&tls.roots),
            "match_typed_subject_alt_names": [{ "san_type": "URI", "matcher": uri }],
        },
        "alpn_protocols": alpn,
    })
}

fn typed(name: &str, kind: &str, mut config: Value) -> Value {
    config["@type"] = type_url(kind);
    json!({ "name": name, "typed_config": config })
}

fn type_url(kind: &str) -> Value {
    json!(format!("type.googleapis.com/{kind}"))
}

fn address(ip: Ipv4Addr, port: u16) -> Value {
    json!({ "socket_address": { "address": ip.to_string(), "port_value": port } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls(resume: bool) -> Tls {
        Tls { identity: "/id.pem".to_owned(), roots: "/roots.pem".to_owned(), group: "X25519", resume }
    }

    #[test]
    fn both_ends_of_a_mesh_prove_who_they_are() {
        let app = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8080);
        let clusters = vec![Cluster { name: "app".to_owned(), endpoints: vec![app], vip: None }];
        let peer = "spiffe://cluster.local/ns/demo/sa/server".to_owned();
        let outbound = Outbound { clusters, port: 80, wire: Wire::Http2, tls: Some((tls(false), peer.clone())) }.json();
        let inbound = Inbound { app, wire: Wire::Http1, tls: tls(false), trust_domain: "cluster.local" }.json();
        let client = &outbound["static_resources"]["clusters"][0]["transport_socket"]["typed_config"];
        let server =
            &inbound["static_resources"]["listeners"][0]["filter_chains"][0]["transport_socket"]["typed_config"];
        let names = |context: &Value| {
            context["common_tls_context"]["validation_context"]["match_typed_subject_alt_names"][0]["matcher"].clone()
        };
        assert_eq!(names(client), json!({ "exact": peer }));
        assert_eq!(names(server), json!({ "prefix": "spiffe://cluster.local/" }));
        assert_eq!(server["require_client_certificate"], json!(true));
        assert_eq!(client["max_session_keys"], json!(0));
        assert_eq!(server["disable_stateless_session_resumption"], json!(true));
    }
}
