//! The tables requests read: what `compile.rs` makes of wire resources. A value of these types cannot be wrong; no
//! request asks again whether a weight sums to zero or an address parses.
//!
//! [`Backend`]s and what they know of their endpoints outlive every update: a new policy makes a new `Backend` around
//! the same latency, ejections, budget and counts.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tokio::sync::watch;
use weft_proto::{EndpointsName, ServiceName, SpiffeId};

use super::subscriptions::LastUse;
use crate::backend_tls::BackendTls;
use crate::balance::{BalancePolicy, Balancer, EndpointKey, EndpointSpec, Health, Place, Reach, Room};
use crate::resilience::{Budget, BudgetPolicy, Limiter, Limits, RateLimit, RecentPolicy, RetryPolicy};
use crate::route::{ConnectionTable, HashBy, RouteTable, Session};

/// How the bytes on a port are to be understood (SEMANTICS.md §1 "protocol").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Not declared: whoever speaks first decides.
    Auto,
    /// HTTP/1.x or HTTP/2, by its preface.
    Http,
    /// HTTP/2 with prior knowledge towards the app.
    Http2,
    /// gRPC.
    Grpc,
    /// The app's own TLS, passed through.
    Tls,
    /// Opaque bytes.
    Tcp,
}

/// Anything callable with hosts and ports.
#[derive(Debug)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// Lower case, no trailing dot.
    pub hosts: Vec<Box<str>>,
    /// The addresses it answers on.
    pub vips: Vec<IpAddr>,
    /// By port.
    pub ports: foldhash::HashMap<u16, Arc<ServicePort>>,
    pub(super) used: Arc<LastUse>,
}

/// One port of a service.
#[derive(Debug)]
pub struct ServicePort {
    /// The service's name.
    pub service: ServiceName,
    /// The same as metrics and logs have it.
    pub label: Arc<str>,
    /// The service's port.
    pub port: u16,
    /// Declared or not.
    pub protocol: Protocol,
    /// Its own endpoints, used when no route chooses.
    pub backend: Arc<Backend>,
    /// `None`: plain balancing. `Some`: what no entry matches is answered 404, of gRPC UNIMPLEMENTED.
    pub routes: Option<RouteTable<Arc<Backend>>>,
    /// `Some`: whole connections go by it (TCPRoute, TLSRoute), and there are no `routes`.
    pub connections: Option<ConnectionTable<Arc<Backend>>>,
    /// Every backend the rules name, for waiting and for `/config`; without `backend`.
    pub(super) routed: Vec<Arc<Backend>>,
    /// What `/config` shows of the rules.
    pub(super) rules: Vec<RuleView>,
}

/// A rule, readable.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RuleView {
    pub(super) route: String,
    pub(super) rule: String,
    /// One text per match, in the order they are tried among all rules: `entry: conditions`.
    pub(super) matches: Vec<String>,
    /// What is done to requests and responses, one text per filter.
    pub(super) filters: Vec<String>,
    /// What is counted of its requests, in the order in which they are asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) rate_limits: Vec<RateLimit>,
    pub(super) targets: Vec<TargetView>,
}

/// A target, readable; in `/config` as `weight: backend or answer; its own filters`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TargetView {
    pub(super) weight: u32,
    pub(super) to: String,
    pub(super) filters: Vec<String>,
}

impl RuleView {
    /// The conditions of this entry of the port's; `None` where it is another rule's.
    pub fn conditions(&self, entry: usize) -> Option<&str> {
        let prefix = format!("{entry}: ");
        self.matches.iter().find_map(|matched| matched.strip_prefix(&*prefix))
    }

    /// The filters of the rule, one text each.
    pub fn filters(&self) -> &[String] {
        &self.filters
    }

    /// The own filters of each target that gets requests, in the order listed.
    pub fn target_filters(&self) -> impl Iterator<Item = &[String]> {
        self.targets.iter().filter(|target| target.weight > 0).map(|target| &*target.filters)
    }
}

impl std::fmt::Display for TargetView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.weight, self.to)?;
        self.filters.iter().try_for_each(|filter| write!(f, "; {filter}"))
    }
}

impl serde::Serialize for TargetView {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl ServicePort {
    /// Every backend a connection to this port may need.
    pub fn backends(&self) -> impl Iterator<Item = &Arc<Backend>> {
        // With routes attached, the port's own endpoints serve only what is not HTTP.
        std::iter::once(&self.backend).chain(&self.routed)
    }

    /// A rule of the port's routes, readable, by its place among them.
    pub fn rule_view(&self, index: usize) -> Option<&RuleView> {
        self.rules.get(index)
    }

    /// How the port is spoken to: one that says nothing carries HTTP where routes are attached.
    pub fn spoken(&self) -> Protocol {
        if self.routes.is_some() && self.protocol == Protocol::Auto { Protocol::Http } else { self.protocol }
    }
}

impl Protocol {
    /// Whether connections are relayed as they are, whatever they carry. `opaque_port`: the mesh's settings list the port.
    pub fn is_opaque(self, opaque_port: bool) -> bool {
        match self {
            Self::Tcp | Self::Tls => true,
            Self::Auto => opaque_port,
            Self::Http | Self::Http2 | Self::Grpc => false,
        }
    }
}

/// What a backend learns while it is used. Interned by name: it survives route, policy and endpoint updates.
#[derive(Debug)]
pub(super) struct BackendState {
    balancer: Arc<Balancer>,
    budget: Budget,
    limits: Limiter,
    known: watch::Sender<bool>,
    /// The same, for every request to ask without a lock.
    is_known: AtomicBool,
}

/// A service's port as a target: its endpoints and the policy for calling them.
#[derive(Debug)]
pub struct Backend {
    /// Whose endpoints.
    pub name: EndpointsName,
    /// The same as metrics and logs have it.
    pub label: Arc<str>,
    /// How they are spoken to.
    pub protocol: Protocol,
    /// Chooses among them.
    pub balancer: Arc<Balancer>,
    /// What of a request ring hash and Maglev go by; `None`: they take any endpoint.
    pub hash_by: Option<HashBy>,
    /// Bounds retries. Shared by all workers.
    pub budget: Budget,
    /// Caps. Shared by all workers.
    pub limits: Limiter,
    /// When requests are tried again, unless a route says otherwise.
    pub retry: RetryPolicy,
    /// One TCP connection attempt.
    pub connect_timeout: Duration,
    /// How long connections last that carry nothing.
    pub idle: IdleTimeouts,
    /// How endpoints without mesh TLS are spoken to; `None`: in plain text.
    pub tls: Option<Arc<BackendTls>>,
    /// How sessions are kept with one of its endpoints, where a rule says nothing of them; `None`: there are none.
    pub session: Option<Arc<Session>>,
    pub(super) state: Arc<BackendState>,
    pub(super) balance: BalancePolicy,
}

/// How long connections to a backend's endpoints last that carry nothing, where a policy says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct IdleTimeouts {
    /// An HTTP connection without a request, at least 100 ms; `None`: what [`Timeouts`](crate::settings::Timeouts) says.
    pub http: Option<Duration>,
    /// Opaque bytes, and what a request was upgraded to, without a byte either way, at least 1 ms; `None`: for ever.
    pub tcp: Option<Duration>,
}

/// A backend's policy, compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) balance: BalancePolicy,
    pub(super) hash_by: Option<HashBy>,
    pub(super) limits: Limits,
    pub(super) retry: RetryPolicy,
    pub(super) connect_timeout: Duration,
    pub(super) idle: IdleTimeouts,
    pub(super) tls: Option<Arc<BackendTls>>,
    /// `None`: the default budget.
    pub(super) budget: Option<RecentPolicy>,
    pub(super) session: Option<Arc<Session>>,
}

/// One TCP connection attempt (SEMANTICS.md §3).
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

impl Default for Policy {
    fn default() -> Self {
        Self {
            balance: BalancePolicy::default(),
            hash_by: None,
            limits: Limits::default(),
            retry: RetryPolicy::default(),
            connect_timeout: CONNECT_TIMEOUT,
            idle: IdleTimeouts::default(),
            tls: None,
            budget: None,
            session: None,
        }
    }
}

impl BackendState {
    /// With room of its own for tables: for a backend that has none.
    pub(super) fn new(policy: &Policy) -> Arc<Self> {
        Self::sharing(policy, &Arc::default())
    }

    pub(super) fn sharing(policy: &Policy, room: &Arc<Room>) -> Arc<Self> {
        Arc::new(Self {
            balancer: Arc::new(Balancer::sharing(policy.balance.clone(), Arc::clone(room))),
            budget: Budget::new(BudgetPolicy::default()),
            limits: Limiter::new(policy.limits),
            known: watch::Sender::new(false),
            is_known: AtomicBool::new(false),
        })
    }

    pub(super) fn is_known(&self) -> bool {
        self.is_known.load(Ordering::Acquire)
    }

    pub(super) fn balancer(&self) -> &Balancer {
        &self.balancer
    }

    pub(super) fn set_place(&self, place: &Arc<Place>) {
        self.balancer.set_place(place);
    }

    pub(super) fn set_endpoints(&self, endpoints: Vec<EndpointSpec>, now: Instant) {
        self.balancer.update(endpoints, now);
        self.is_known.store(true, Ordering::Release);
        self.known.send_replace(true);
    }
}

impl Backend {
    pub(super) fn new(name: EndpointsName, protocol: Protocol, policy: Policy, state: Arc<BackendState>) -> Self {
        Self {
            label: name.to_string().into(),
            name,
            protocol,
            balancer: Arc::clone(&state.balancer),
            hash_by: policy.hash_by,
            budget: policy.budget.map_or_else(|| state.budget.clone(), |policy| state.budget.with_recent(policy)),
            limits: state.limits.with_limits(policy.limits),
            retry: policy.retry,
            connect_timeout: policy.connect_timeout,
            idle: policy.idle,
            tls: policy.tls,
            session: policy.session,
            balance: policy.balance,
            state,
        }
    }

    /// Whether it was made of the same.
    pub(super) fn says(&self, protocol: Protocol, policy: &Policy) -> bool {
        self.protocol == protocol
            && self.balance == policy.balance
            && self.hash_by == policy.hash_by
            && self.limits.limits() == policy.limits
            && self.retry == policy.retry
            && self.connect_timeout == policy.connect_timeout
            && self.idle == policy.idle
            && self.tls == policy.tls
            && self.budget.recent() == policy.budget.as_ref()
            && self.session == policy.session
    }

    /// Whether the control plane has said which endpoints there are (possibly none).
    pub fn is_known(&self) -> bool {
        self.state.is_known()
    }

    /// Waits until the endpoints are known, at most this long. Says whether they are.
    ///
    /// # Cancel safety
    /// Yes.
    pub async fn endpoints_known(&self, at_most: Duration) -> bool {
        if self.is_known() {
            return true;
        }
        let mut known = self.state.known.subscribe();
        // The sender lives in `state`: only the time can run out.
        tokio::time::timeout(at_most, known.wait_for(|known| *known)).await.is_ok()
    }
}

/// A pod or machine that has an identity, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Its namespace.
    pub namespace: Box<str>,
    /// Its name.
    pub name: Box<str>,
    /// Its service account.
    pub service_account: Box<str>,
    /// What it proves, when it is in the mesh.
    pub identity: Option<SpiffeId>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Declared ports.
    pub ports: HashMap<u16, WorkloadPort>,
    /// Whether ports that are not declared speak mesh TLS. Never without an identity.
    pub mesh_tls: bool,
    /// Zone, or empty.
    pub zone: Box<str>,
    /// Node, or empty.
    pub node: Box<str>,
    /// Sorted by name.
    pub labels: Vec<(Box<str>, Box<str>)>,
    /// The owning workload's name, for metrics.
    pub owner: Box<str>,
    /// Whether it takes requests.
    pub health: Health,
    /// Of this workload itself: in what proportion its owner's pods are in which zone.
    pub callers: Box<[(Box<str>, u32)]>,
}

/// A declared port of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct WorkloadPort {
    /// How it is spoken to.
    pub protocol: Protocol,
    /// Whether it speaks mesh TLS.
    pub mesh_tls: bool,
}

impl Workload {
    /// How `port` is spoken to.
    pub fn protocol(&self, port: u16) -> Protocol {
        self.ports.get(&port).map_or(Protocol::Auto, |port| port.protocol)
    }

    /// How `port` is reached: never in plain text where it speaks mesh TLS.
    pub fn reach(&self, port: u16) -> Reach {
        let meshed = self.ports.get(&port).map_or(self.mesh_tls, |port| port.mesh_tls);
        match &self.identity {
            Some(identity) if meshed => Reach::Mesh(identity.clone()),
            _ => Reach::Plain,
        }
    }

    /// The only endpoint of traffic to this workload itself.
    pub(super) fn endpoint(&self, addr: SocketAddr) -> EndpointSpec {
        EndpointSpec {
            key: EndpointKey { addr, reach: self.reach(addr.port()) },
            pod: format!("{}/{}", self.namespace, self.name).into(),
            health: Health::Ready,
            weight: 1,
            zone: self.zone.clone(),
            node: self.node.clone(),
            priority: 0,
            hints: None,
        }
    }

    /// Where it is, and where those like it are.
    pub(super) fn place(&self) -> Place {
        Place { zone: self.zone.clone(), node: self.node.clone(), callers: self.callers.clone() }
    }
}

/// What inbound connections on a port have to be (SEMANTICS.md §1 "inbound detection").
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MtlsMode {
    /// Mesh TLS or anything else.
    Permissive,
    /// Mesh TLS only.
    Strict,
    /// Never mesh TLS: the port is the app's own.
    Disable,
    /// Nothing is let in: the policy never compiled, and a security object fails closed (SEMANTICS.md §4).
    Refuse,
}

/// Who may connect to this workload, and how often ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboundPolicy {
    /// For ports not listed.
    pub mode: MtlsMode,
    /// By port.
    pub ports: HashMap<u16, MtlsMode>,
    /// In the order in which they are asked.
    pub rate_limits: Box<[RateLimit]>,
}

impl InboundPolicy {
    /// What stands in for a policy that never compiled.
    pub fn refuse_all() -> Self {
        Self { mode: MtlsMode::Refuse, ports: HashMap::new(), rate_limits: Box::default() }
    }

    /// The mode of a port.
    pub fn mode(&self, port: u16) -> MtlsMode {
        self.ports.get(&port).copied().unwrap_or(self.mode)
    }
}

/// What becomes of destinations nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub enum OutboundPolicy {
    /// They are passed through.
    #[serde(rename = "ALLOW_ANY")]
    AllowAny,
    /// They are refused.
    #[serde(rename = "REGISTRY_ONLY")]
    RegistryOnly,
}

/// Settings of the whole mesh.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct MeshSettings {
    /// For unknown destinations.
    pub outbound_policy: OutboundPolicy,
    /// Addresses that are asked about; `None` when neither the control plane nor a local setting says which.
    pub cluster_cidrs: Option<Vec<IpNet>>,
    /// Sorted, lower case. An entry may start with `*.`.
    pub known_hosts: Vec<Box<str>>,
    /// Parts of 10,000 of requests that start a sampled trace.
    pub tracing_sample_per_10000: u32,
    /// Sorted: opaque whatever they carry.
    pub opaque_ports: Vec<u16>,
}

/// Until the control plane has spoken (SEMANTICS.md §1 "protocol", §5 "tracing").
impl Default for MeshSettings {
    fn default() -> Self {
        Self {
            outbound_policy: OutboundPolicy::AllowAny,
            cluster_cidrs: None,
            known_hosts: Vec::new(),
            tracing_sample_per_10000: 100,
            opaque_ports: vec![25, 110, 143, 587, 3306, 4222],
        }
    }
}

impl MeshSettings {
    /// Whether an unknown destination there is asked about; anything else is decided by policy at once.
    ///
    /// As long as nobody has said which ranges are the cluster's, every private address counts: passing through to one
    /// might be plain text to a meshed workload. Loopback and link-local addresses (169.254.169.254) never count.
    pub fn in_cluster(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        match &self.cluster_cidrs {
            Some(cidrs) => cidrs.iter().any(|cidr| cidr.contains(&address)),
            None => match address {
                // 100.64.0.0/10 (RFC 6598) is what some providers number pods with.
                IpAddr::V4(v4) => v4.is_private() || (v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64),
                IpAddr::V6(v6) => v6.is_unique_local(),
            },
        }
    }

    /// Whether a resource outside the cluster is known by this host (lower case, no port).
    pub fn knows_host(&self, host: &str) -> bool {
        let known = |name: &str| self.known_hosts.binary_search_by(|known| (**known).cmp(name)).is_ok();
        known(host) || wildcards(host).any(|wildcard| known(&wildcard))
    }
}

/// `a.b.c` → `*.b.c`, `*.c`
pub(super) fn wildcards(host: &str) -> impl Iterator<Item = String> {
    host.match_indices('.').map(|(dot, _)| format!("*{}", &host[dot..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_addresses_are_asked_about() {
        let unknown = MeshSettings::default();
        let told = MeshSettings {
            cluster_cidrs: Some(vec!["10.96.0.0/12".parse().unwrap(), "fd00:1::/64".parse().unwrap()]),
            ..MeshSettings::default()
        };
        for (address, before, after) in [
            ("10.96.4.7", true, true),
            ("::ffff:10.96.4.7", true, true),
            ("10.1.0.1", true, false),
            ("172.16.0.1", true, false),
            ("192.168.1.1", true, false),
            ("100.64.0.1", true, false),
            ("100.128.0.1", false, false),
            ("fd00:1::1", true, true),
            ("fd00:2::1", true, false),
            ("169.254.169.254", false, false),
            ("127.0.0.1", false, false),
            ("::1", false, false),
            ("fe80::1", false, false),
            ("8.8.8.8", false, false),
            ("2001:db8::1", false, false),
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(unknown.in_cluster(address), before, "{address}, nobody said");
            assert_eq!(told.in_cluster(address), after, "{address}, told");
        }
    }

    #[test]
    fn a_host_is_known_by_its_name_or_a_wildcard_above_it() {
        let settings = MeshSettings {
            known_hosts: vec!["*.example.com".into(), "api.other.org".into()],
            ..MeshSettings::default()
        };
        for (host, known) in [
            ("api.other.org", true),
            ("other.org", false),
            ("a.example.com", true),
            ("a.b.example.com", true),
            ("example.com", false),
            ("", false),
        ] {
            assert_eq!(settings.knows_host(host), known, "{host}");
        }
    }
}
