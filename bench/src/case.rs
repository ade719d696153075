//! What is measured: each case as data. `README.md` says the same in words.
//!
//! A case is a way through the pods ([`Way`]), what the application speaks at both ends, a load, and who takes part.

use crate::metric::Unit;
use crate::subject::{ENVOY, Family, NO_PROXY, Subject, Variant, WEFT};

/// A case. Names as in `docs/PERFORMANCE.md`; `--cases` takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Case {
    /// HTTP/1.1 keep-alive through the client's sidecar.
    H1,
    /// The same with two workers beside one: two have both cores, which they share with the load.
    Workers,
    /// HTTP/2 without TLS through the client's sidecar.
    H2,
    /// HTTP/2 from the client, HTTP/1.1 to the server: a Service that speaks h2c, whose route leads to one that says `http`.
    H2ToH1,
    /// HTTP/1.1 from the client, HTTP/2 to the server.
    H1ToH2,
    /// Two sidecars, mutual TLS and HTTP/2 between them, an application that speaks HTTP/1.1.
    Mesh,
    /// The same application, each mesh as it comes: HTTP/1.1 between two Envoys, as Istio sets them up.
    MeshH1App,
    /// Long gRPC streams through two sidecars: one message, its echo, the next.
    GrpcStream,
    /// 99 gRPC streams of one connection, through two sidecars, that one more does not hold up which nobody reads.
    HeadOfLine,
    /// TCP connections through the client's sidecar: opened, used once, closed.
    TcpConn,
    /// TCP in bulk through the client's sidecar, one connection each way.
    TcpBulk,
    /// Full handshakes with the server's sidecar, X25519.
    MtlsHandshake,
    /// TCP connections through two sidecars, one mutual TLS connection each.
    MeshConn,
    /// TCP in bulk through two sidecars with mutual TLS.
    MeshBulk,
    /// Latency at 2,000 requests a second, as `h1`.
    LatencyH1,
    /// Latency at 2,000 requests a second, as `mesh`.
    LatencyMesh,
    /// Latency at 100 requests a second, as `h1`.
    LatencyLow,
    /// Resident memory of the client's sidecar.
    Memory,
}

/// Which proxies a connection passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// The client's sidecar; the server has none and is sent plain text.
    ClientSidecar,
    /// Both.
    Mesh,
    /// The server's sidecar; the client is the load generator itself, with a certificate of the mesh.
    ServerSidecar,
}

/// What the application speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum App {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// gRPC.
    Grpc,
    /// Something the mesh is told nothing about.
    Tcp,
}

/// What is done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// `wrk -t1 -c64`.
    Wrk,
    /// `h2load -t1 -c16 -m32`.
    H2load,
    /// So many requests a second, whatever comes back.
    OpenLoop(u32),
    /// 4 connections of 8 streams each.
    Streams,
    /// One connection of 99 streams, a message of each every 20 ms, in turns; at half time one more, which stalls.
    Stalled,
    /// 16 at a time.
    Connections,
    /// One connection that sends, one that receives.
    Bulk,
    /// 8 at a time.
    Handshakes,
    /// Idle connections and many services.
    Memory,
}

/// A case, spelled out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) way: Way,
    /// What the client speaks.
    pub(crate) client: App,
    /// What the server speaks.
    pub(crate) server: App,
    pub(crate) load: Load,
    pub(crate) unit: Unit,
    pub(crate) subjects: &'static [Subject],
}

const HAPROXY: Subject = Subject::usual(Family::Haproxy);
const NGINX: Subject = Subject::usual(Family::Nginx);

const THREE: &[Subject] = &[NO_PROXY, WEFT, ENVOY];
const WITH_HAPROXY: &[Subject] = &[NO_PROXY, WEFT, ENVOY, HAPROXY];
const ALL: &[Subject] = &[NO_PROXY, WEFT, ENVOY, HAPROXY, NGINX];
const HANDSHAKE: &[Subject] = &[
    NO_PROXY,
    WEFT,
    ENVOY,
    Subject::with(Family::Weft, Variant::Hybrid),
    Subject::with(Family::Envoy, Variant::Hybrid),
    Subject::with(Family::Envoy, Variant::Resumed),
];
const WORKERS: &[Subject] = &[
    NO_PROXY,
    WEFT,
    ENVOY,
    Subject::with(Family::Weft, Variant::TwoWorkers),
    Subject::with(Family::Envoy, Variant::TwoWorkers),
];
const MESH_CONN: &[Subject] = &[
    NO_PROXY,
    WEFT,
    ENVOY,
    Subject::with(Family::Envoy, Variant::X25519),
    Subject::with(Family::Envoy, Variant::Resumed),
];

const ASLEEP: Subject = Subject::with(Family::Weft, Variant::Asleep);
const LATENCY: &[Subject] = &[NO_PROXY, WEFT, ENVOY, HAPROXY, NGINX, ASLEEP];
const LATENCY_MESH: &[Subject] = &[NO_PROXY, WEFT, ENVOY, ASLEEP];

/// Not Envoy: with its windows as they come, the live streams get nothing at all once one stalls. Why was not found, so it
/// may be our doing, and is not held against it.
const STALLED: &[Subject] = &[NO_PROXY, WEFT];

/// Without a proxy there is no memory to measure.
const MEMORY: &[Subject] = &[WEFT, ENVOY];

impl Case {
    /// As `--cases` and `results.json` name it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::H1 => "h1",
            Self::Workers => "workers",
            Self::H2 => "h2",
            Self::H2ToH1 => "h2-to-h1",
            Self::H1ToH2 => "h1-to-h2",
            Self::Mesh => "mesh",
            Self::MeshH1App => "mesh-h1-app",
            Self::GrpcStream => "grpc-stream",
            Self::HeadOfLine => "head-of-line",
            Self::TcpConn => "tcp-conn",
            Self::TcpBulk => "tcp-bulk",
            Self::MtlsHandshake => "mtls-handshake",
            Self::MeshConn => "mesh-conn",
            Self::MeshBulk => "mesh-bulk",
            Self::LatencyH1 => "latency-h1",
            Self::LatencyMesh => "latency-mesh",
            Self::LatencyLow => "latency-low",
            Self::Memory => "memory",
        }
    }

    /// What it consists of.
    pub(crate) const fn plan(self) -> Plan {
        use App::{Grpc, Http1, Http2, Tcp};
        use Way::{ClientSidecar, Mesh, ServerSidecar};
        let (way, client, server, load, unit, subjects) = match self {
            Self::H1 => (ClientSidecar, Http1, Http1, Load::Wrk, Unit::Request, ALL),
            Self::Workers => (ClientSidecar, Http1, Http1, Load::Wrk, Unit::Request, WORKERS),
            Self::H2 => (ClientSidecar, Http2, Http2, Load::H2load, Unit::Request, WITH_HAPROXY),
            Self::H2ToH1 => (ClientSidecar, Http2, Http1, Load::H2load, Unit::Request, ALL),
            Self::H1ToH2 => (ClientSidecar, Http1, Http2, Load::Wrk, Unit::Request, WITH_HAPROXY),
            Self::Mesh | Self::MeshH1App => (Mesh, Http1, Http1, Load::Wrk, Unit::Request, THREE),
            Self::GrpcStream => (Mesh, Grpc, Grpc, Load::Streams, Unit::Message, THREE),
            Self::HeadOfLine => (Mesh, Grpc, Grpc, Load::Stalled, Unit::Message, STALLED),
            Self::TcpConn => (ClientSidecar, Tcp, Tcp, Load::Connections, Unit::Connection, WITH_HAPROXY),
            Self::TcpBulk => (ClientSidecar, Tcp, Tcp, Load::Bulk, Unit::Connection, WITH_HAPROXY),
            Self::MtlsHandshake => (ServerSidecar, Http1, Http1, Load::Handshakes, Unit::Handshake, HANDSHAKE),
            Self::MeshConn => (Mesh, Tcp, Tcp, Load::Connections, Unit::Connection, MESH_CONN),
            Self::MeshBulk => (Mesh, Tcp, Tcp, Load::Bulk, Unit::Connection, THREE),
            Self::LatencyH1 => (ClientSidecar, Http1, Http1, Load::OpenLoop(2_000), Unit::Request, LATENCY),
            Self::LatencyMesh => (Mesh, Http1, Http1, Load::OpenLoop(2_000), Unit::Request, LATENCY_MESH),
            Self::LatencyLow => (ClientSidecar, Http1, Http1, Load::OpenLoop(100), Unit::Request, LATENCY),
            Self::Memory => (ClientSidecar, Http1, Http1, Load::Memory, Unit::Connection, MEMORY),
        };
        Plan { way, client, server, load, unit, subjects }
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn the_command_line_and_the_results_name_cases_alike() {
        for case in Case::value_variants() {
            assert_eq!(case.to_possible_value().unwrap().get_name(), case.name());
        }
    }

    #[test]
    fn every_ratio_has_an_envoy_to_refer_to_and_every_load_a_run_without_a_proxy() {
        for case in Case::value_variants() {
            let plan = case.plan();
            // Its goal is held against the same subject before the stall.
            for subject in plan.subjects.iter().filter(|_| *case != Case::HeadOfLine) {
                assert!(plan.subjects.contains(&subject.reference()), "{} {subject}", case.name());
            }
            assert!(*case == Case::Memory || plan.subjects[0] == NO_PROXY, "{}", case.name());
        }
    }
}
