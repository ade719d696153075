//! What would become of a request of the app's: `POST /explain` on the admin port, for `weft explain`.
//!
//! Asks the very tables and functions that a request meets, in its order: the pod's resolver, `Config::destination` (which
//! subscribes to what was never asked for, and waits, as for a request), the protocol, `request::find`, the filters. What is
//! left to chance there (the share, the endpoint) is told whole. Nothing is sent, picked or counted.
//!
//! | file | what |
//! |---|---|
//! | `question.rs` | the question → the request that a client would send (pure) |
//! | `rule.rs` | rule, filters, shares and endpoints |
//!
//! Bound: one question at a time per admin connection; what is asked of the control plane is what requests may ask.

mod question;
mod rule;

use std::net::SocketAddr;

use weft_proto::explain::{Asked, Client, Destination as To, Explanation, Question, Verdict};

use self::question::{Asking, Speaks};
use self::rule::Now;
use super::Outbound;
use super::request::refusal;
use crate::answer::OwnAnswer;
use crate::config::{Destination, Protocol};
use crate::http::host;
use crate::settings::is_own_port;

impl Outbound {
    /// Explains.
    ///
    /// # Errors
    /// What is wrong with the question, or that its host has no address.
    ///
    /// # Cancel safety
    /// Yes: what is asked of the control plane stays asked.
    pub async fn explain(&self, question: &Question) -> Result<Explanation, String> {
        let Asking { speaks, host, mut port, port_given, request } = question::read(question)?;
        let addresses = self.config.resolve(&host).await.map_err(|error| {
            format!("{error}, says this pod's resolver: are the Service's name and namespace right (NAME.NAMESPACE)?")
        })?;
        let address = *addresses.first().ok_or_else(|| format!("{host} has no address"))?;
        let mut told = Explanation { client: self.client_view(), ..Explanation::default() };
        if addresses.len() > 1 {
            told.notes.push(format!("{host} has {} addresses; this is about the first of them", addresses.len()));
        }
        let mut found = self.config.destination(SocketAddr::new(address, port)).await;
        if let Destination::NoPort(service) = &found
            && let (false, Speaks::Grpc, Some(only)) = (port_given, speaks, only(service.ports.keys()))
        {
            told.notes.push(format!("port {only}, which is the only one of Service {}", service.name));
            port = only;
            found = self.config.destination(SocketAddr::new(address, port)).await;
        }
        let addr = SocketAddr::new(address, port);
        let mut by = format!("address {address}");
        let asked_for = match speaks {
            Speaks::Tls => Some(&*host),
            _ => host::of_request(&request.method, &request.uri, request.version, &request.headers),
        };
        let named = self.named(&found, asked_for, port).await;
        let by_host = named.is_some();
        if let (Some(named), Some(asked_for)) = (named, asked_for) {
            (found, by) = (named, format!("host {asked_for}"));
        }
        told.request = asked(question, speaks, &request, addr);
        told.destination = To { kind: "none".to_owned(), port, by, ..To::default() };
        let now = Now {
            now: tokio::time::Instant::now().into_std(),
            is_grpc: speaks == Speaks::Grpc,
            retries: self.settings.args.retries.is_on(),
        };
        if is_own_port(port) && (address.is_loopback() || self.is_own(addr)) {
            told.notes.push(format!("{addr} is a listener of the sidecar's own: connections there are closed"));
        }
        let opaque_port = !by_host && self.config.settings().opaque_ports.contains(&port);
        let opaque = |protocol: Protocol| speaks == Speaks::Tls || protocol.is_opaque(opaque_port);
        match &found {
            Destination::Service { port } => {
                let name = port.service.to_string();
                told.destination = of(&told.destination, "service", name, port.protocol, port.routes.is_some());
                if opaque(port.spoken()) {
                    told.notes.push(opaquely(speaks, port.routes.is_some()));
                    told.backends = vec![rule::alone(&port.backend, now)];
                } else {
                    rule::explain(port, request, now, &mut told);
                }
            }
            Destination::Workload(workload) => {
                let (name, protocol) = (format!("{}/{}", workload.namespace, workload.name), workload.protocol(port));
                told.destination = of(&told.destination, "workload", name, protocol, false);
                told.notes.push("a pod that is called by its own address: no route acts".to_owned());
                if opaque(protocol) {
                    told.notes.push(opaquely(speaks, false));
                }
                told.backends = vec![rule::alone(&self.config.direct(workload, addr), now)];
            }
            Destination::Outside => {
                told.destination.kind = "outside".to_owned();
                told.notes.push(format!("passed on to {addr} as it is, without mesh TLS of ours"));
            }
            Destination::NoPort(service) => {
                let mut ports: Vec<_> = service.ports.keys().collect();
                ports.sort_unstable();
                let ports: Vec<_> = ports.into_iter().map(ToString::to_string).collect();
                let own = refusal(&found, addr);
                let detail = format!("{}; it has {}", own.detail, ports.join(", "));
                told.answer = Some(now.told(&OwnAnswer { detail: detail.into(), ..own }));
                told.notes.push("the connection is reset: there is no HTTP answer".to_owned());
            }
            Destination::Refused(_) | Destination::Unavailable => told.answer = Some(now.told(&refusal(&found, addr))),
        }
        told.policy = verdict(&found, &told);
        if told
            .backends
            .iter()
            .flat_map(|share| &share.endpoints)
            .any(|it| it.address.parse().is_ok_and(|it| self.is_own(it)))
        {
            told.notes.push("one of the endpoints is this very pod: that share never leaves it".to_owned());
        }
        Ok(told)
    }

    /// Lookup 3: where the host leads, if the address leads nowhere and the mesh knows the host.
    async fn named(&self, found: &Destination, host: Option<&str>, port: u16) -> Option<Destination> {
        let nowhere = matches!(found, Destination::Outside | Destination::Refused(_));
        if !nowhere || !self.config.knows_hosts() {
            return None;
        }
        self.config.host(host?, port).await
    }

    fn client_view(&self) -> Client {
        let local = &self.telemetry.local;
        Client { pod: format!("{}/{}", local.namespace, local.pod), identity: local.identity.to_string() }
    }
}

fn of(to: &To, kind: &str, name: String, protocol: Protocol, routed: bool) -> To {
    let protocol = format!("{protocol:?}").to_ascii_lowercase();
    To { kind: kind.to_owned(), name, protocol, routed, ..to.clone() }
}

fn only<'a>(mut ports: impl Iterator<Item = &'a u16>) -> Option<u16> {
    ports.next().copied().filter(|_| ports.next().is_none())
}

fn asked(question: &Question, speaks: Speaks, request: &http::request::Parts, addr: SocketAddr) -> Asked {
    let (method, protocol) = match speaks {
        Speaks::Http => (request.method.to_string(), "HTTP/1.1"),
        Speaks::Grpc => (request.method.to_string(), "gRPC"),
        Speaks::Tls => (String::new(), "TLS"),
    };
    let url = question.url.split(['?', '#']).next().unwrap_or_default().to_owned();
    Asked { method, url, protocol: protocol.to_owned(), address: addr.to_string() }
}

fn opaquely(speaks: Speaks, routed: bool) -> String {
    let why = if speaks == Speaks::Tls {
        "the client speaks TLS itself"
    } else {
        "the port is declared so, or listed as opaque"
    };
    let routes = if routed { ", so its routes do not act on it" } else { "" };
    format!("carried as opaque bytes{routes}: {why}")
}

/// What this sidecar decides. Who may connect is each server's to say.
fn verdict(found: &Destination, told: &Explanation) -> Verdict {
    let (allowed, why) = match found {
        Destination::Service { .. } | Destination::Workload(_) => {
            let endpoints: Vec<_> = told.backends.iter().flat_map(|share| &share.endpoints).collect();
            let meshed = endpoints.iter().filter(|endpoint| endpoint.identity.is_some()).count();
            let why = format!(
                "known to the mesh; {meshed} of {} endpoints are asked by mesh TLS as {}, and their sidecars decide by \
                 PeerAuthentication; this version enforces no AuthorizationPolicy",
                endpoints.len(),
                told.client.identity
            );
            (true, why)
        }
        Destination::Outside => (true, "not known to the mesh; outbound policy ALLOW_ANY lets it pass".to_owned()),
        Destination::Refused(_) => (false, "not known to the mesh, and outbound policy is REGISTRY_ONLY".to_owned()),
        Destination::NoPort(service) => (false, format!("Service {} has no such port", service.name)),
        Destination::Unavailable => {
            (false, "it may be of the mesh, and nobody can say now: never passed through".to_owned())
        }
    };
    Verdict { allowed, why }
}
