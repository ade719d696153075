//! Starts the peers' sidecars where Weft's would be, as the user whose traffic is not redirected.

use std::net::{IpAddr, SocketAddrV4};

use weft_e2e::{Pod, Process, TRUST_DOMAIN, tools};
use weft_proto::SIDECAR_UID;

use super::{APP_PORT, BIN, SERVICE_PORT, World, many};
use crate::apps::handshakes::Group;
use crate::case::{App, Case, Plan, Way};
use crate::config::envoy::{Cluster, Inbound, Outbound, Tls, Wire};
use crate::config::{haproxy, nginx};
use crate::error::{Error, Result};
use crate::subject::{Family, Subject, Variant};

/// Both pods and how they are to be joined: what a peer's configuration is made from.
pub(super) struct Pair<'a> {
    pub(super) world: &'a World,
    pub(super) plan: Plan,
    pub(super) subject: Subject,
    /// Whether its client knows the many services of `memory`.
    pub(super) many: bool,
    pub(super) name: &'a str,
    pub(super) client: &'a Pod,
    pub(super) server: &'a Pod,
}

/// Starts what the subject has; nothing for Weft, whose sidecars came with their pods, and for no proxy.
///
/// # Errors
/// When a program is missing or cannot be started.
pub(super) fn start(pair: &Pair<'_>) -> Result<Vec<Process>> {
    match pair.subject.family {
        Family::NoProxy | Family::Weft => Ok(Vec::new()),
        Family::Envoy => start_envoy(pair),
        Family::Haproxy => {
            let text = haproxy::text(app(pair)?, wire(pair.plan.client), wire(pair.plan.server));
            let file = pair.world.config(&format!("{}.cfg", pair.name), &text)?;
            let program = installed("haproxy")?;
            Ok(vec![sidecar(pair.client, Variant::Usual, &[&program, "-db", "-f", &file])?])
        }
        Family::Nginx => {
            let text = nginx::text(app(pair)?, wire(pair.plan.client), "/run/weft/tmp");
            let file = pair.world.config(&format!("{}.conf", pair.name), &text)?;
            let program = installed("nginx")?;
            Ok(vec![sidecar(
                pair.client,
                Variant::Usual,
                &[&program, "-e", "stderr", "-p", "/run/weft/tmp", "-c", &file],
            )?])
        }
    }
}

fn start_envoy(pair: &Pair<'_>) -> Result<Vec<Process>> {
    if pair.world.envoy.is_none() {
        return Err(Error::Machine("Envoy is not installed: run bench/setup/peers.sh target".to_owned()));
    }
    let plan = pair.plan;
    let between = match plan.way {
        Way::Mesh if plan.client == App::Tcp => Wire::Tcp,
        // What Istio does with an application that speaks HTTP/1.1, unless told to upgrade it.
        Way::Mesh if pair.world.case == Case::MeshH1App => Wire::Http1,
        Way::Mesh => Wire::Http2,
        Way::ClientSidecar | Way::ServerSidecar => wire(plan.server),
    };
    let mut started = Vec::new();
    if plan.way != Way::ClientSidecar {
        let tls = tls(pair, pair.server)?;
        let config = Inbound { app: app(pair)?, wire: wire(plan.server), tls, trust_domain: TRUST_DOMAIN }.json();
        started.push(envoy(pair, pair.server, "inbound", &config)?);
    }
    if plan.way != Way::ServerSidecar {
        let tls = match plan.way {
            Way::Mesh => Some((tls(pair, pair.client)?, pair.server.identity())),
            _ => None,
        };
        let mut clusters = vec![Cluster { name: "app".to_owned(), endpoints: vec![app(pair)?], vip: None }];
        if pair.many {
            clusters.extend((0..many::SERVICES).map(|service| Cluster {
                name: format!("many-{service}"),
                endpoints: many::endpoints(service).map(|ip| SocketAddrV4::new(ip, APP_PORT)).collect(),
                vip: Some(many::vip(service)),
            }));
        }
        let config = Outbound { clusters, port: SERVICE_PORT, wire: between, tls }.json();
        started.push(envoy(pair, pair.client, "outbound", &config)?);
    }
    Ok(started)
}

fn envoy(pair: &Pair<'_>, pod: &Pod, role: &str, config: &serde_json::Value) -> Result<Process> {
    let file = pair.world.config(&format!("{}-{role}.json", pair.name), &format!("{config:#}"))?;
    let program = format!("{BIN}/envoy");
    let variant = pair.subject.variant;
    let workers = variant.workers().to_string();
    let command = [&*program, "--concurrency", &workers, "--disable-hot-restart", "--log-level", "warn", "-c", &file];
    sidecar(pod, variant, &command)
}

fn sidecar(pod: &Pod, variant: Variant, command: &[&str]) -> Result<Process> {
    pod.redirect()?;
    let cores: Vec<_> = variant.cores().iter().map(ToString::to_string).collect();
    let cores = cores.join(",");
    // From its first instruction: some count the cores they may use.
    let mut pinned = vec!["taskset", "-c", &cores];
    pinned.extend_from_slice(command);
    Ok(pod.spawn("sidecar", SIDECAR_UID, &pinned)?)
}

fn tls(pair: &Pair<'_>, pod: &Pod) -> Result<Tls> {
    let (identity, roots) = identity(pair.world, pod, pod.name())?;
    let group = match group(pair.plan.way, pair.subject.variant) {
        Group::X25519 => "X25519",
        Group::Hybrid => "X25519MLKEM768",
    };
    Ok(Tls { identity, roots, group, resume: pair.subject.variant == Variant::Resumed })
}

/// A certificate of the mesh for a pod that Weft's control plane gives none: identity and roots, as the pod sees them.
///
/// # Errors
/// When it cannot be made.
pub(super) fn identity(world: &World, pod: &Pod, name: &str) -> Result<(String, String)> {
    let folder = world.mesh.folder().join("peers");
    let file = world.authority.issue(&folder, name, &pod.identity())?;
    let roots = std::fs::read_to_string(world.mesh.folder().join("state/roots.pem"));
    let roots = roots.map_err(|error| Error::Io { what: "reading state/roots.pem".to_owned(), error })?;
    Ok((world.inside(&file), world.config("roots.pem", &roots)?))
}

fn app(pair: &Pair<'_>) -> Result<SocketAddrV4> {
    match pair.server.v4() {
        IpAddr::V4(ip) => Ok(SocketAddrV4::new(ip, APP_PORT)),
        IpAddr::V6(_) => Err(Error::Machine(format!("pod {} has no IPv4 address", pair.server.name()))),
    }
}

const fn wire(app: App) -> Wire {
    match app {
        App::Http1 => Wire::Http1,
        App::Http2 | App::Grpc => Wire::Http2,
        App::Tcp => Wire::Tcp,
    }
}

fn installed(program: &str) -> Result<String> {
    let found = tools::find(program).map(|path| path.display().to_string());
    found.ok_or_else(|| Error::Machine(format!("{program} is not installed: run bench/setup/peers.sh target")))
}

/// The key exchange of a row, where the two sidecars could agree on either. Between Weft's it is always the hybrid one, so
/// that is what Envoy gets in the chief row of a mesh.
pub(crate) fn group(way: Way, variant: Variant) -> Group {
    match (variant, way) {
        (Variant::Hybrid, _) => Group::Hybrid,
        (Variant::X25519, _) | (_, Way::ServerSidecar) => Group::X25519,
        _ => Group::Hybrid,
    }
}
