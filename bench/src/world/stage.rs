//! One subject's pods: a client, a server, and the sidecars that the case puts into them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use nix::unistd::Pid;
use weft_e2e::manifest::{self, Port, labels};
use weft_e2e::{APP_UID, Pod, PodSpec, Process, probe};

use super::peers::{self, Pair};
use super::{APP_PORT, Answers, BIN, NAMESPACE, SERVICE_PORT, World, many};
use crate::case::{App, Case, Plan, Way};
use crate::cpu;
use crate::error::{Error, Result};
use crate::subject::{Family, Subject, Variant};

/// The number of connections a case opens in a minute is far above the ports that wait a minute for stragglers. CUBIC is what
/// Linux comes with: a machine that was set to BBR would pace every write by a timer. Where namespaces may not choose it, its
/// forerunner does as well: nothing is lost here. Same for every pod of every subject.
const TUNING: &str = "
set_() { [ ! -e /proc/sys/net/$1 ] || echo \"$2\" > /proc/sys/net/$1; }
set_ ipv4/tcp_congestion_control cubic 2>/dev/null || set_ ipv4/tcp_congestion_control reno
set_ ipv4/tcp_tw_reuse 1
set_ ipv4/ip_local_port_range '20000 65000'
set_ core/somaxconn 4096
set_ netfilter/nf_conntrack_tcp_timeout_time_wait 1
set_ netfilter/nf_conntrack_tcp_timeout_close 1
";

/// A subject, and which services its sidecar knows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StageSpec {
    pub(crate) subject: Subject,
    /// Also the many of `memory`.
    pub(crate) many: bool,
}

/// Everybody who takes part in a case. `memory` needs each subject twice: what its proxy knows must not weigh on what it
/// weighs idle.
pub(super) fn specs(case: Case, subjects: &[Subject]) -> Vec<StageSpec> {
    let wanted = |many| subjects.iter().map(move |subject| StageSpec { subject: *subject, many });
    if case == Case::Memory { wanted(false).chain(wanted(true)).collect() } else { wanted(false).collect() }
}

/// One subject's pods, answering.
pub(crate) struct Stage {
    pub(crate) spec: StageSpec,
    pub(crate) subject: Subject,
    pub(crate) plan: Plan,
    pub(crate) client: Pod,
    pub(crate) server: Pod,
    /// What the client dials.
    pub(crate) target: SocketAddrV4,
    /// The sidecars measured.
    pub(crate) proxies: Vec<Pid>,
    /// For our own TLS client: identity and roots, as the pod sees the files.
    pub(crate) tls: Option<(String, String)>,
    _processes: Vec<Process>,
}

impl Stage {
    /// Starts the pods, the server in one and the sidecars, and waits for an answer.
    ///
    /// # Errors
    /// When anything of that fails.
    pub(super) fn start(world: &World, spec: StageSpec, answers: Answers) -> Result<Self> {
        let plan = world.case.plan();
        let subject = spec.subject;
        let name = if spec.many { format!("{subject}-many") } else { subject.to_string() };
        let vip = service(world, &name, plan.client, plan.server)?;
        let client = world.mesh.pod(pod(&name, "client", subject, plan.way != Way::ServerSidecar))?;
        let server = world.mesh.pod(pod(&name, "server", subject, plan.way != Way::ClientSidecar))?;
        for pod in [&client, &server] {
            pod.sh(TUNING)?;
        }
        if spec.many {
            let IpAddr::V4(own) = server.v4() else { return Err(no_v4(&server)) };
            server.sh(&format!("ip route add local {} dev lo", many::ENDPOINTS_CIDR))?;
            client.sh(&format!("ip route add {} via {own}", many::ENDPOINTS_CIDR))?;
        }

        // Without a proxy there is nobody to translate: the server speaks what the client does.
        let spoken = if subject.family == Family::NoProxy { plan.client } else { plan.server };
        let kind = match spoken {
            App::Http1 => "http1",
            App::Http2 => "http2",
            App::Grpc => "grpc",
            App::Tcp => "tcp",
        };
        let mut processes =
            vec![server.spawn("app", APP_UID, &[&format!("{BIN}/weft-bench"), "app", "backend", "--kind", kind])?];
        let mut proxies: Vec<_> = [client.sidecar_pid(), server.sidecar_pid()].into_iter().flatten().collect();
        let started = peers::start(&Pair {
            world,
            plan,
            subject,
            many: spec.many,
            name: &name,
            client: &client,
            server: &server,
        })?;
        proxies.extend(started.iter().map(Process::pid));
        processes.extend(started);
        for proxy in &proxies {
            cpu::pin(*proxy, subject.variant.cores())?;
        }

        let IpAddr::V4(server_v4) = server.v4() else { return Err(no_v4(&server)) };
        let direct = subject.family == Family::NoProxy || plan.way == Way::ServerSidecar;
        let target = if direct { SocketAddrV4::new(server_v4, APP_PORT) } else { SocketAddrV4::new(vip, SERVICE_PORT) };
        let tls = match plan.way {
            Way::ServerSidecar if subject.family != Family::NoProxy => Some(peers::identity(world, &client, &name)?),
            _ => None,
        };
        let stage = Self { spec, subject, plan, client, server, target, proxies, tls, _processes: processes };
        stage.wait_until_answered(world, answers)?;
        Ok(stage)
    }

    fn wait_until_answered(&self, world: &World, answers: Answers) -> Result<()> {
        let what = format!("{}, {}: an answer through all of it", world.case.name(), self.subject);
        let mut last = String::new();
        probe::wait_until(&what, Duration::from_secs(15), || match answers(self) {
            Ok(()) => true,
            Err(error) => {
                last = error.to_string();
                false
            }
        })
        .map_err(|error| {
            world.not_as_meant(
                self.subject,
                format!("{error}; the last try: {last}; see {}/logs", world.mesh.folder().display()),
            )
        })
    }

    /// What the proxies keep in memory, in KiB.
    pub(crate) fn rss_kib(&self) -> u64 {
        self.proxies.iter().map(|proxy| cpu::rss_kib(*proxy)).sum()
    }

    /// Whether there is TLS between the pods.
    pub(crate) fn is_mesh(&self) -> bool {
        self.plan.way != Way::ClientSidecar && self.subject.family != Family::NoProxy
    }

    /// What the client dials, as the tools want it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.target)
    }

    /// The server as the network knows it.
    pub(crate) fn server_address(&self) -> SocketAddr {
        SocketAddr::new(self.server.v4(), APP_PORT)
    }
}

fn pod(name: &str, role: &str, subject: Subject, sidecar: bool) -> PodSpec {
    let name = format!("{name}-{role}");
    let spec = match subject.family {
        // As shipped but for the number of workers: the same for everybody.
        Family::Weft if sidecar => {
            let spec = PodSpec::meshed(&name, &name).env("WEFT_WORKERS", &subject.variant.workers().to_string());
            if subject.variant == Variant::Asleep { spec.env("WEFT_BUSY_POLL", "off") } else { spec }
        }
        _ => PodSpec::plain(&name, &name),
    };
    PodSpec { namespace: NAMESPACE.to_owned(), ..spec }
}

/// A Service for the server, with a route where there is something to route; its address. A server that cannot speak what
/// the client does has a Service of its own, to which the route leads.
fn service(world: &World, name: &str, client: App, server: App) -> Result<Ipv4Addr> {
    let declare = |service: &str, app: App| {
        let declared = match app {
            App::Http1 => "http",
            App::Http2 => "kubernetes.io/h2c",
            App::Grpc => "grpc",
            App::Tcp => "tcp",
        };
        let port = Port::new("app", SERVICE_PORT, APP_PORT).speaking(declared);
        world.mesh.service(NAMESPACE, service, &[port], labels([("app", &*format!("{name}-server"))]))
    };
    let apart = client == App::Http2 && server == App::Http1;
    let called = declare(name, if apart { client } else { server })?;
    let behind = if apart { format!("{name}-behind") } else { name.to_owned() };
    if apart {
        declare(&behind, server)?;
    }
    if server != App::Tcp {
        let route = manifest::split(NAMESPACE, name, name, SERVICE_PORT, &[(&behind, 100)]);
        world.mesh.manifests().write(&format!("route-{name}"), &route)?;
    }
    Ok(called.vips.0)
}

fn no_v4(pod: &Pod) -> Error {
    Error::Machine(format!("pod {} has no IPv4 address", pod.name()))
}
