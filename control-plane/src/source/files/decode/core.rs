//! Service, Pod and EndpointSlice: the fields Weft uses, with the API server's defaults and limits. All other fields
//! have been checked by `schema.rs`. Ports of UDP and SCTP are left out: a mesh of TCP does not carry them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::{Origin, TERMINATING_ANNOTATION, string_map};
use crate::model::{
    ContainerPort, EndpointSlice, Hints, Meta, Pod, Service, ServiceKind, ServicePort, SliceEndpoint, SlicePort,
    TargetPort, TrafficDistribution,
};
use crate::source::files::field::Field;
use crate::source::files::tree::Value;
use crate::source::files::values;
use crate::source::protocol;

/// Label of a slice that names its Service.
pub(in crate::source::files) const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// `sessionAffinityConfig.clientIP.timeoutSeconds` where not given: 3 h, the API server's default.
const AFFINITY_TIMEOUT: i64 = 10_800;

pub(super) fn service(meta: Meta, document: &Field<'_>) -> Option<Service> {
    let spec = document.require("spec").filter(Field::is_mapping)?;
    let kind = match spec.get("type") {
        Some(field) => field.one_of(&["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"])?,
        None => "ClusterIP",
    };
    let mut service = Service {
        meta,
        kind: ServiceKind::ClusterIp,
        vips: Vec::new(),
        ports: Vec::new(),
        selector: string_map(&spec, "selector", true)?,
        publish_not_ready: spec.get("publishNotReadyAddresses").and_then(|f| f.bool()).unwrap_or(false),
        client_ip_affinity: None,
        node_local: match spec.get("internalTrafficPolicy") {
            Some(field) => field.one_of(&["Cluster", "Local"])? == "Local",
            None => false,
        },
        traffic_distribution: spec.get("trafficDistribution").and_then(|field| traffic_distribution(&field)),
    };
    if is_topology_aware(&service.meta) {
        service.traffic_distribution = None;
    }
    if kind == "ExternalName" {
        let name = spec.require("externalName")?;
        service.kind = ServiceKind::ExternalName(values::dns_subdomain(&name)?.trim_end_matches('.').to_owned());
    } else {
        addresses(&mut service, &spec, document);
    }
    if let Some(field) = spec.get("sessionAffinity")
        && field.one_of(&["None", "ClientIP"]) == Some("ClientIP")
    {
        let timeout = spec
            .get("sessionAffinityConfig")
            .and_then(|config| config.get("clientIP"))
            .and_then(|client_ip| client_ip.get("timeoutSeconds"));
        let seconds = timeout.map_or(Some(AFFINITY_TIMEOUT), |field| field.int_in(1, 86_400))?;
        service.client_ip_affinity = Some(Duration::from_secs(seconds.unsigned_abs()));
    }
    service.ports = service_ports(&spec, &service.kind);
    Some(service)
}

/// A value that this version does not know is one of a later Kubernetes: a preference, which nothing depends on.
fn traffic_distribution(field: &Field<'_>) -> Option<TrafficDistribution> {
    match field.text()? {
        "PreferClose" | "PreferSameZone" => Some(TrafficDistribution::SameZone),
        "PreferSameNode" => Some(TrafficDistribution::SameNode),
        other => {
            field.warn(format_args!("{other:?} is not known: PreferSameZone, PreferSameNode or PreferClose"));
            None
        }
    }
}

/// Whether Kubernetes' controller gives zones to endpoints in proportion to their CPUs: then it does not look at
/// `trafficDistribution`, and its hints are all there is. It asks for the deprecated annotation first.
fn is_topology_aware(meta: &Meta) -> bool {
    let said = ["service.kubernetes.io/topology-aware-hints", "service.kubernetes.io/topology-mode"];
    said.iter().find_map(|name| meta.annotations.get(*name)).is_some_and(|mode| matches!(&**mode, "Auto" | "auto"))
}

/// Cluster, external and load-balancer IPs, or that it is headless.
fn addresses(service: &mut Service, spec: &Field<'_>, document: &Field<'_>) {
    let one = spec.get("clusterIP");
    for field in one.into_iter().chain(spec.list("clusterIPs")) {
        match field.text() {
            Some("None") => service.kind = ServiceKind::Headless,
            // A manifest before the API server has assigned one.
            Some("") | None => {}
            Some(_) => add(&mut service.vips, values::ip(&field)),
        }
    }
    if service.kind == ServiceKind::Headless && !service.vips.is_empty() {
        spec.missing("clusterIP", "cannot be None and an address at once");
    }
    for field in spec.list("externalIPs") {
        add(&mut service.vips, values::ip(&field));
    }
    let load_balancer = document.get("status").and_then(|status| status.get("loadBalancer"));
    for ingress in load_balancer.map(|field| field.list("ingress")).unwrap_or_default() {
        if let Some(field) = ingress.get("ip") {
            add(&mut service.vips, values::ip(&field));
        }
    }
}

fn add(list: &mut Vec<IpAddr>, ip: Option<IpAddr>) {
    if let Some(ip) = ip
        && !list.contains(&ip)
    {
        list.push(ip);
    }
}

fn service_ports(spec: &Field<'_>, kind: &ServiceKind) -> Vec<ServicePort> {
    let fields = spec.list("ports");
    if fields.is_empty() && *kind == ServiceKind::ClusterIp {
        spec.missing("ports", "is required: a Service with a cluster IP needs at least one port");
    }
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    let mut ports = Vec::new();
    for field in &fields {
        if !field.is_mapping() {
            continue;
        }
        let name = match field.get("name") {
            Some(name) => values::dns_label(&name).unwrap_or_default(),
            None if fields.len() > 1 => {
                field.missing("name", "is required where a Service has several ports");
                ""
            }
            None => "",
        };
        if !name.is_empty()
            && !names.insert(name)
            && let Some(field) = field.get("name")
        {
            field.error(format_args!("duplicate port name {name:?}"));
        }
        let transport = transport(field);
        let Some(number_field) = field.require("port") else { continue };
        let Some(port) = number_field.port() else { continue };
        if !numbers.insert((port, transport)) {
            number_field.error(format_args!("duplicate port {port}"));
        }
        let target = match field.get("targetPort") {
            None => Some(TargetPort::Number(port)),
            Some(target) => target_port(&target),
        };
        let app_protocol = field.get("appProtocol").and_then(|field| field.text());
        if let (Some("TCP"), Some(target)) = (transport, target) {
            let protocol = protocol::declared(app_protocol, name);
            ports.push(ServicePort { name: name.to_owned(), port, target, protocol });
        }
    }
    ports
}

/// A port's `protocol`; `None` is said to be wrong already.
fn transport(port: &Field<'_>) -> Option<&'static str> {
    match port.get("protocol") {
        Some(field) => field.one_of(&["TCP", "UDP", "SCTP"]),
        None => Some("TCP"),
    }
}

fn target_port(field: &Field<'_>) -> Option<TargetPort> {
    match &field.node().value {
        // A number in quotes is a name to Kubernetes, and one that no port can have.
        Value::Int(_) => field.port().map(TargetPort::Number),
        _ => values::port_name(field).map(|name| TargetPort::Name(name.to_owned())),
    }
}

pub(super) fn pod(meta: Meta, document: &Field<'_>, origin: Origin) -> Option<Pod> {
    let spec = document.require("spec").filter(Field::is_mapping)?;
    let metadata = document.get("metadata")?;
    let by_hand = origin == Origin::Manifest;
    let terminating = metadata.get("deletionTimestamp").is_some()
        || by_hand && meta.annotations.get(TERMINATING_ANNOTATION).is_some_and(|value| value == "true");
    let owner = owner(&metadata, &meta);
    let mut pod = Pod {
        addresses: Vec::new(),
        service_account: match spec.get("serviceAccountName").or_else(|| spec.get("serviceAccount")) {
            Some(field) if field.text() != Some("") => values::dns_subdomain(&field)?.to_owned(),
            _ => "default".to_owned(),
        },
        host_network: spec.get("hostNetwork").and_then(|f| f.bool()).unwrap_or(false),
        node: spec.get("nodeName").and_then(|f| f.text()).unwrap_or_default().to_owned(),
        ports: container_ports(&spec),
        finished: false,
        // A manifest written by hand has no conditions: such a pod is taken to be ready. A cluster's is not, yet.
        ready: by_hand,
        terminating,
        owner,
        meta,
    };
    if let Some(status) = document.get("status").filter(Field::is_mapping) {
        let ips = status.list("podIPs");
        let one = status.get("podIP").filter(|field| field.text() != Some(""));
        for field in one.into_iter().chain(ips.iter().filter_map(|ip| ip.get("ip"))) {
            add(&mut pod.addresses, values::ip(&field));
        }
        if let Some(phase) = status.get("phase") {
            let phase = phase.one_of(&["Pending", "Running", "Succeeded", "Failed", "Unknown"])?;
            pod.finished = matches!(phase, "Succeeded" | "Failed");
        }
        if let Some(conditions) = status.get("conditions") {
            pod.ready = conditions.items().iter().any(|condition| {
                condition.node().text("type") == Some("Ready") && condition.node().text("status") == Some("True")
            });
        }
    }
    Some(pod)
}

/// Ports of containers and of sidecars (init containers that keep running). Two containers may use one name: the first
/// is what a `targetPort` of that name means.
fn container_ports(spec: &Field<'_>) -> Vec<ContainerPort> {
    let sidecars = spec.list("initContainers").into_iter().filter(|c| c.node().text("restartPolicy") == Some("Always"));
    let mut ports = Vec::new();
    for container in spec.list("containers").into_iter().chain(sidecars) {
        let mut names = BTreeSet::new();
        for field in container.list("ports") {
            let transport = transport(&field);
            let name = field.get("name").map_or(Some(""), |name| values::port_name(&name));
            let port = field.require("containerPort").and_then(|port| port.port());
            let (Some("TCP"), Some(name), Some(port)) = (transport, name, port) else { continue };
            if !name.is_empty()
                && !names.insert(name)
                && let Some(field) = field.get("name")
            {
                field.error(format_args!("duplicate port name {name:?} in this container"));
            }
            ports.push(ContainerPort { name: name.to_owned(), port });
        }
    }
    ports
}

/// The Deployment behind a ReplicaSet (whose name ends in the pod's template hash), else the controller, else the pod.
fn owner(metadata: &Field<'_>, meta: &Meta) -> String {
    let owners = metadata.list("ownerReferences");
    let controller = owners.iter().find(|owner| owner.get("controller").is_some_and(|f| f.bool() == Some(true)));
    let Some(name) = controller.and_then(|owner| owner.node().text("name")) else {
        return meta.name.name.clone();
    };
    let is_replica_set = controller.is_some_and(|owner| owner.node().text("kind") == Some("ReplicaSet"));
    let deployment = meta
        .labels
        .get("pod-template-hash")
        .filter(|_| is_replica_set)
        .and_then(|hash| name.strip_suffix(hash.as_str()))
        .and_then(|name| name.strip_suffix('-'))
        .filter(|name| !name.is_empty());
    deployment.unwrap_or(name).to_owned()
}

pub(super) fn endpoint_slice(meta: Meta, document: &Field<'_>) -> Option<EndpointSlice> {
    let family = document.require("addressType")?;
    let is_v4 = match family.one_of(&["IPv4", "IPv6", "FQDN"])? {
        "FQDN" => {
            family.warn("FQDN is not read: proxies dial addresses");
            return None;
        }
        family => family == "IPv4",
    };
    let Some(service) = meta.labels.get(SERVICE_NAME_LABEL).cloned() else {
        if let Some(metadata) = document.get("metadata") {
            metadata.warn(format_args!("without the label {SERVICE_NAME_LABEL} this slice belongs to no Service"));
        }
        return None;
    };
    let ports = slice_ports(document);
    let endpoints = document
        .get("endpoints")
        .map(|field| field.items_up_to(1_000))
        .unwrap_or_default()
        .iter()
        .filter_map(|field| endpoint(field, is_v4))
        .collect();
    Some(EndpointSlice { meta, service, ports, endpoints })
}

fn slice_ports(document: &Field<'_>) -> Vec<SlicePort> {
    let mut seen = BTreeSet::new();
    let mut ports = Vec::new();
    for field in document.get("ports").map(|field| field.items_up_to(100)).unwrap_or_default() {
        let name = match field.get("name").filter(|name| name.text() != Some("")) {
            Some(name) => values::dns_label(&name).unwrap_or_default(),
            None => "",
        };
        let transport = transport(&field);
        if !seen.insert((name, transport)) {
            field.missing("name", format_args!("duplicate port name {name:?}"));
        }
        match field.get("port") {
            Some(number) => {
                if let (Some("TCP"), Some(port)) = (transport, number.port()) {
                    ports.push(SlicePort { name: name.to_owned(), port });
                }
            }
            None => field.warn("a port without a number stands for all ports and is not read"),
        }
    }
    ports
}

fn endpoint(field: &Field<'_>, is_v4: bool) -> Option<SliceEndpoint> {
    let mut addresses = Vec::new();
    for address in field.require("addresses")?.items_up_to(100) {
        let ip = values::ip(&address)?;
        if ip.is_ipv4() != is_v4 {
            address.error("must be of the slice's addressType");
        }
        addresses.push(ip);
    }
    if addresses.is_empty() {
        field.missing("addresses", "must hold at least one address");
    }
    let conditions = field.get("conditions");
    let condition = |name: &str| conditions.as_ref().and_then(|c| c.get(name)).and_then(|f| f.bool());
    let ready = condition("ready").unwrap_or(true);
    let text = |name: &str| field.get(name).and_then(|f| f.text()).unwrap_or_default().to_owned();
    let target = field.get("targetRef").filter(|target| target.node().text("kind") == Some("Pod"));
    Some(SliceEndpoint {
        addresses,
        pod: target.and_then(|target| target.node().text("name").map(str::to_owned)),
        ready,
        serving: condition("serving").unwrap_or(ready),
        terminating: condition("terminating").unwrap_or(false),
        node: text("nodeName"),
        zone: text("zone"),
        hints: hints(field),
    })
}

/// Whose clients an endpoint is meant for: 8 zones and 8 nodes at most, as the API server has it.
fn hints(endpoint: &Field<'_>) -> Hints {
    let Some(field) = endpoint.get("hints") else { return Hints::default() };
    let names = |key: &str| {
        let items = field.get(key).map(|field| field.items_up_to(8)).unwrap_or_default();
        let names = items.iter().filter_map(|item| item.node().text("name"));
        names.filter(|name| !name.is_empty()).map(str::to_owned).collect::<BTreeSet<_>>().into_iter().collect()
    };
    Hints { zones: names("forZones"), nodes: names("forNodes") }
}
