//! The outcome of translation: every resource in every form, and the conditions of routes. Immutable; a copy shares
//! everything with the one before but for what changed (`shards`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use weft_proto::{EndpointsName, MESH_SETTINGS, SELF, ServiceName, SpiffeId, type_url};

use super::shards::Shards;
use super::{MeshConfig, View};
use crate::model::{ObjectKey, ObjectName};
use crate::status::{Condition, RouteStatus};

/// One translated resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its type (`weft_proto::type_url`).
    pub type_url: &'static str,
    /// The canonical name.
    pub name: String,
    /// Every other name it answers to in this view, sorted: all VIPs and hosts of a Service, none for other types.
    pub aliases: Vec<String>,
    /// Hex of xxh3-128 over `body`: equal on all replicas that see the same objects.
    pub version: String,
    /// The encoded message.
    pub body: Bytes,
}

impl Resource {
    /// Encodes `message`. Deterministic: our messages have no maps, and repeated fields come sorted.
    pub(super) fn new<M: prost::Message>(
        type_url: &'static str,
        name: String,
        aliases: Vec<String>,
        message: &M,
    ) -> Self {
        let body = Bytes::from(message.encode_to_vec());
        let version = version(&body);
        Self { type_url, name, aliases, version, body }
    }

    /// The same content under another name.
    fn renamed(&self, name: &str) -> Self {
        Self { name: name.to_owned(), aliases: Vec::new(), ..self.clone() }
    }

    /// The same with fields added, which are encoded and come after all that it has: as if it had been made with them.
    fn with(self, fields: &Bytes) -> Self {
        let body = Bytes::from([&self.body[..], &fields[..]].concat());
        let version = version(&body);
        Self { body, version, ..self }
    }
}

fn version(body: &[u8]) -> String {
    format!("{:032x}", xxhash_rust::xxh3::xxh3_128(body))
}

/// The answer to "what is this name, for that proxy?".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// This.
    Found(Arc<Resource>),
    /// It cannot be said now: a proxy keeps what it has (SEMANTICS.md §4). So it is for everything until the first
    /// batch is applied, and for the trust bundle until there are roots.
    Held,
    /// There is no such thing.
    Absent,
}

/// The pod at an address: what a proxy that claims to run there must prove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadIdentity {
    /// The pod's namespace: the proxy's [`View`].
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// Its service account.
    pub service_account: String,
    /// Its identity; `None` only where a name holds what a SPIFFE ID may not.
    pub identity: Option<SpiffeId>,
    /// The pod's labels.
    pub labels: BTreeMap<String, String>,
}

/// The versions of a Service's forms, for asking who has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceVersions {
    /// For clients in namespaces without a form of their own.
    pub default: String,
    /// By client namespace.
    pub by_namespace: Vec<(String, String)>,
}

/// A Service in the forms its clients see. The default form is for clients of other namespaces without consumer routes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ServiceForms {
    pub(super) default: Arc<Resource>,
    /// By client namespace: the Service's own (it also answers to its short name), and those with consumer routes.
    pub(super) by_namespace: BTreeMap<String, Arc<Resource>>,
}

impl ServiceForms {
    pub(super) fn for_view(&self, view: &View) -> &Arc<Resource> {
        self.by_namespace.get(&view.namespace).unwrap_or(&self.default)
    }

    /// Every form.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.by_namespace.values().chain([&self.default])
    }
}

/// A pod that has an address of its own.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct WorkloadEntry {
    pub(super) identity: Arc<WorkloadIdentity>,
    /// Whose it is: a key of [`Translated::callers`].
    pub(super) owner: ObjectName,
    /// Named by the address.
    pub(super) workload: Arc<Resource>,
    /// Named `self`.
    pub(super) inbound: Arc<Resource>,
}

/// All that is served. Immutable; cloning shares the content.
#[derive(Clone, Debug)]
pub struct Translated {
    /// False until the first batch was applied: nothing is known to be absent before.
    pub(super) synced: bool,
    /// `.svc.CLUSTER-DOMAIN`
    pub(super) host_suffix: Arc<str>,
    pub(super) services: Shards<ServiceName, Arc<ServiceForms>>,
    /// Which Service answers at a VIP.
    pub(super) vips: Shards<IpAddr, ServiceName>,
    pub(super) endpoints: Shards<EndpointsName, Arc<Resource>>,
    pub(super) workloads: Shards<IpAddr, Arc<WorkloadEntry>>,
    /// By owner: [`Workload::callers`](weft_proto::v1::Workload), encoded, of its proxies' `self`; none where there are none.
    pub(super) callers: Shards<ObjectName, Bytes>,
    pub(super) settings: Arc<Resource>,
    pub(super) trust_domain: Arc<str>,
    pub(super) trust: Option<Arc<Resource>>,
    pub(super) statuses: Shards<ObjectKey, Arc<RouteStatus>>,
    /// Accepted of Weft's own kinds.
    pub(super) own: Shards<ObjectKey, Arc<Condition>>,
}

impl Translated {
    /// Before the first batch.
    pub(super) fn empty(config: &MeshConfig) -> Self {
        Self {
            synced: false,
            host_suffix: format!(".svc.{}", config.cluster_domain).into(),
            services: Shards::default(),
            vips: Shards::default(),
            endpoints: Shards::default(),
            workloads: Shards::default(),
            callers: Shards::default(),
            settings: Arc::new(super::settings::resource(config, &[], &super::settings::KnownHosts::default())),
            trust_domain: (&*config.trust_domain).into(),
            trust: None,
            statuses: Shards::default(),
            own: Shards::default(),
        }
    }

    /// What `name`, canonical or an alias (VIP or host), means for a proxy with this view.
    /// An unknown type is [`Lookup::Absent`]. `self` is [`Translated::own`]'s.
    pub fn lookup(&self, type_url: &str, name: &str, view: &View) -> Lookup {
        if !self.synced {
            return Lookup::Held;
        }
        let found = match type_url {
            type_url::SERVICE => self.service(name, view),
            type_url::ENDPOINTS => name.parse().ok().and_then(|name: EndpointsName| self.endpoints.get(&name)).cloned(),
            type_url::WORKLOAD => address(name).and_then(|addr| self.workloads.get(&addr)).map(|w| w.workload.clone()),
            type_url::MESH_SETTINGS if name == MESH_SETTINGS => Some(self.settings.clone()),
            type_url::TRUST_BUNDLE if *name == *self.trust_domain => match &self.trust {
                Some(bundle) => Some(bundle.clone()),
                None => return Lookup::Held,
            },
            _ => None,
        };
        found.map_or(Lookup::Absent, Lookup::Found)
    }

    /// The `self` resources ([`Workload`](weft_proto::v1::Workload), [`InboundPolicy`](weft_proto::v1::InboundPolicy)) of
    /// the pod at this address. Absent where no pod has it to itself.
    pub fn own(&self, type_url: &str, pod_addr: IpAddr) -> Lookup {
        if !self.synced {
            return Lookup::Held;
        }
        match (type_url, self.workloads.get(&pod_addr)) {
            (type_url::WORKLOAD, Some(entry)) => {
                let own = entry.workload.renamed(SELF);
                let callers = self.callers.get(&entry.owner);
                Lookup::Found(Arc::new(match callers {
                    Some(callers) => own.with(callers),
                    None => own,
                }))
            }
            (type_url::INBOUND_POLICY, Some(entry)) => Lookup::Found(entry.inbound.clone()),
            _ => Lookup::Absent,
        }
    }

    /// The pod at this address, for binding a proxy to it. `None` where no pod has the address to itself: it is unknown,
    /// finished, or on its node's network.
    pub fn workload_by_address(&self, addr: IpAddr) -> Option<&Arc<WorkloadIdentity>> {
        self.workloads.get(&addr).map(|entry| &entry.identity)
    }

    /// The conditions of every route that has a parent of ours, and of every policy that has a target of ours, in no particular
    /// order.
    pub fn route_statuses(&self) -> impl Iterator<Item = (&ObjectKey, &Arc<RouteStatus>)> {
        self.statuses.iter()
    }

    /// The conditions of one route, or policy; `None` when it is gone or has no parent of ours.
    pub fn route_status(&self, route: &ObjectKey) -> Option<&Arc<RouteStatus>> {
        self.statuses.get(route)
    }

    /// Accepted of every object of a kind of Weft's own ([`OWN_KINDS`](super::OWN_KINDS)) that the source takes, in no particular order.
    pub fn own_conditions(&self) -> impl Iterator<Item = (&ObjectKey, &Arc<Condition>)> {
        self.own.iter()
    }

    /// Accepted of one of these; `None` where there is none.
    pub fn own_condition(&self, object: &ObjectKey) -> Option<&Arc<Condition>> {
        self.own.get(object)
    }

    /// The versions of a Service's forms; `None` when there is no such Service.
    pub fn service_versions(&self, service: &ServiceName) -> Option<ServiceVersions> {
        let forms = self.services.get(service)?;
        let by_namespace = forms.by_namespace.iter().map(|(namespace, form)| (namespace.clone(), form.version.clone()));
        Some(ServiceVersions { default: forms.default.version.clone(), by_namespace: by_namespace.collect() })
    }

    fn service(&self, name: &str, view: &View) -> Option<Arc<Resource>> {
        let canonical = if let Ok(canonical) = name.parse::<ServiceName>() {
            canonical
        } else if let Some(addr) = address(name) {
            self.vips.get(&addr)?.clone()
        } else {
            self.host(name, view)?
        };
        self.services.get(&canonical).map(|forms| forms.for_view(view).clone())
    }

    /// Hosts follow from names, so they need no index: `name`, `name.ns`, `name.ns.svc`, `name.ns.svc.CLUSTER-DOMAIN`.
    fn host(&self, host: &str, view: &View) -> Option<ServiceName> {
        let Some((name, rest)) = host.split_once('.') else {
            return Some(ServiceName::new(&*view.namespace, host));
        };
        let namespace = rest.strip_suffix(&*self.host_suffix).or_else(|| rest.strip_suffix(".svc")).unwrap_or(rest);
        (!namespace.contains('.')).then(|| ServiceName::new(namespace, name))
    }
}

/// An address in its one canonical text form: an alias that is not listed in the reply would be gone at once.
fn address(text: &str) -> Option<IpAddr> {
    text.parse().ok().filter(|addr: &IpAddr| addr.to_string() == text)
}
