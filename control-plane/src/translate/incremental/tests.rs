use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;
use weft_proto::v1::{MeshSettings, Protocol};
use weft_proto::{MESH_SETTINGS, MESH_TLS_LABEL, type_url};

use super::super::fixtures::{
    aged, backend, call, decode, endpoint, fault_injection, grpc_route, ip, map, meta, named, node, parent,
    peer_authentication, pod, port, prefix, rate_limit, route, rule, service, slice, tcp_route, tls_route,
    traffic_policy, upserts, view,
};
use super::super::{Lookup, MeshConfig, Translated, WorkloadIdentity};
use super::{Touched, Translator};
use crate::model::{
    BackendPolicy, BackendRef, BackendTlsPolicy, Batch, Certificate, ConfigMap, ConnectionLimits, ExtensionRef,
    FaultInjection, HttpRouteFilter, HttpRouteMatch, HttpRouteRule, Kind, LocalRef, Mirror, MtlsMode, Object,
    ObjectKey, ObjectName, ParentRef, Pod, PolicyTarget, RateLimit, RateTarget, Service, ServiceKind, ServicePort,
    TargetPort, TrafficDistribution, TrafficPolicy,
};
use crate::status::{Condition, RouteStatus};

fn remove(kind: Kind, name: &str) -> Batch {
    Batch { removes: vec![ObjectKey { kind, name: named(name) }], ..Batch::default() }
}

fn names(touched: &Touched, type_url: &str) -> Vec<String> {
    touched.names.get(type_url).into_iter().flatten().cloned().collect()
}

#[test]
fn nothing_is_absent_before_the_first_batch() {
    let mut translator = Translator::new(MeshConfig::default());
    let before = translator.translated();
    assert_eq!(before.lookup(type_url::SERVICE, "shop/a", &view("shop")), Lookup::Held);
    assert_eq!(before.own(type_url::INBOUND_POLICY, ip("10.0.0.1")), Lookup::Held);
    let (after, touched) = translator.apply(Batch::default());
    assert!(touched.everything && !touched.is_empty());
    assert_eq!(after.lookup(type_url::SERVICE, "shop/a", &view("shop")), Lookup::Absent);
    assert_eq!(after.own(type_url::INBOUND_POLICY, ip("10.0.0.1")), Lookup::Absent);
    assert!(translator.apply(Batch::default()).1.is_empty());
}

#[test]
fn a_trust_bundle_is_held_until_there_are_roots() {
    let mut translator = Translator::new(MeshConfig::default());
    let (world, _) = translator.apply(Batch::default());
    assert_eq!(world.lookup(type_url::TRUST_BUNDLE, "cluster.local", &view("shop")), Lookup::Held);
    assert_eq!(world.lookup(type_url::TRUST_BUNDLE, "example.com", &view("shop")), Lookup::Absent);
    let (world, touched) = translator.set_trust_roots(vec![vec![1], vec![2]]);
    assert_eq!(names(&touched, type_url::TRUST_BUNDLE), ["cluster.local"]);
    let bundle: weft_proto::v1::TrustBundle =
        decode(world.lookup(type_url::TRUST_BUNDLE, "cluster.local", &view("shop")));
    assert_eq!(bundle.roots, [[1], [2]]);
    assert!(translator.set_trust_roots(vec![vec![1], vec![2]]).1.is_empty());
}

#[test]
fn a_weight_touches_its_service_and_nothing_else() {
    let split = |weight| {
        let to = rule(vec![BackendRef { weight, ..backend("shop/b") }, backend("shop/a")]);
        route("shop/r", vec![parent("a")], vec![to])
    };
    let mut translator = Translator::new(MeshConfig::default());
    translator.apply(upserts![service("shop/a", "10.96.0.1"), service("shop/b", "10.96.0.2"), split(1)]);
    let (_, touched) = translator.apply(upserts![split(2)]);
    let expected = BTreeMap::from([(type_url::SERVICE, BTreeSet::from(["shop/a".to_owned()]))]);
    assert_eq!(touched, Touched { names: expected, ..Touched::default() });
}

#[test]
fn an_endpoint_touches_no_service() {
    let mut translator = Translator::new(MeshConfig::default());
    translator.apply(upserts![service("shop/a", "10.96.0.1"), pod("shop/p", "a", "10.0.0.1")]);
    let (_, touched) = translator.apply(upserts![slice("shop/s", "a", vec![endpoint("p", "10.0.0.1")])]);
    let expected = BTreeMap::from([(type_url::ENDPOINTS, BTreeSet::from(["shop/a:80".to_owned()]))]);
    assert_eq!(touched, Touched { names: expected, ..Touched::default() });
}

#[test]
fn a_reused_vip_moves_in_one_step() {
    let mut translator = Translator::new(MeshConfig::default());
    translator.apply(upserts![service("shop/a", "10.96.0.1")]);
    let mut batch = upserts![service("shop/b", "10.96.0.1")];
    batch.removes = remove(Kind::Service, "shop/a").removes;
    let (world, touched) = translator.apply(batch);
    assert_eq!(world.service_for("web", "10.96.0.1").name, "b");
    let touched = names(&touched, type_url::SERVICE);
    for name in ["shop/a", "shop/b", "10.96.0.1"] {
        assert!(touched.iter().any(|it| it == name), "{name} in {touched:?}");
    }
}

#[test]
fn proxies_ask_around_every_known_address() {
    let mut translator = Translator::new(MeshConfig::default());
    let (world, touched) = translator.apply(upserts![service("shop/a", "10.96.0.1"), pod("shop/p", "a", "10.0.0.1")]);
    assert_eq!(names(&touched, type_url::MESH_SETTINGS), [MESH_SETTINGS]);
    let settings: MeshSettings = decode(world.lookup(type_url::MESH_SETTINGS, MESH_SETTINGS, &view("shop")));
    assert_eq!(settings.cluster_cidrs, ["10.0.0.0/24", "10.96.0.0/24"]);
    let (_, touched) = translator.apply(upserts![pod("shop/q", "a", "10.0.0.2")]);
    assert_eq!(names(&touched, type_url::MESH_SETTINGS), Vec::<String>::new(), "the range was known");
    let (world, _) = translator.apply(remove(Kind::Service, "shop/a"));
    let settings: MeshSettings = decode(world.lookup(type_url::MESH_SETTINGS, MESH_SETTINGS, &view("shop")));
    assert_eq!(settings.cluster_cidrs, ["10.0.0.0/24"]);
}

// ---- Incremental = from scratch.

const NAMESPACES: [&str; 3] = ["a", "b", "weft-system"];
const NAMES: [&str; 2] = ["x", "y"];

fn name() -> impl Strategy<Value = String> {
    (prop::sample::select(&NAMESPACES[..]), prop::sample::select(&NAMES[..]))
        .prop_map(|(ns, name)| format!("{ns}/{name}"))
}

fn pick(options: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    prop::sample::select(options)
}

fn vip() -> impl Strategy<Value = &'static str> {
    pick(&["10.96.0.1", "10.96.0.2", "10.96.1.1", "203.0.113.1", "10.0.0.1"])
}

fn pod_addr() -> impl Strategy<Value = &'static str> {
    pick(&["10.0.0.1", "10.0.0.2", "10.0.1.1", "fd00::1"])
}

fn mtls_mode() -> impl Strategy<Value = MtlsMode> {
    prop_oneof![Just(MtlsMode::Unset), Just(MtlsMode::Disable), Just(MtlsMode::Permissive), Just(MtlsMode::Strict)]
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![3 => Just(Protocol::Auto), 1 => Just(Protocol::Http), 1 => Just(Protocol::Tcp)]
}

fn a_service() -> impl Strategy<Value = Object> {
    let ports = prop::collection::vec((prop::sample::select(vec![80_u16, 81, 3306]), protocol(), any::<bool>()), 0..3);
    let kind = prop_oneof![
        4 => Just(ServiceKind::ClusterIp),
        1 => Just(ServiceKind::Headless),
        1 => pick(&["example.com", "x.a.svc.cluster.local"]).prop_map(|name| ServiceKind::ExternalName(name.to_owned())),
    ];
    let flags = (any::<bool>(), any::<bool>(), 0..3_i64);
    (name(), prop::collection::vec(vip(), 0..3), ports, kind, pick(&["", "x", "y"]), flags).prop_map(
        |(name, vips, ports, kind, app, (publish_not_ready, node_local, age))| {
            let base = service(&name, "10.96.0.1");
            let port = |(number, protocol, by_name): (u16, Protocol, bool)| ServicePort {
                protocol,
                target: if by_name { TargetPort::Name("web".to_owned()) } else { TargetPort::Number(number) },
                ..port(number)
            };
            Service {
                meta: aged(base.meta.clone(), age),
                kind,
                vips: vips.into_iter().map(ip).collect(),
                ports: ports.into_iter().map(port).collect(),
                selector: if app.is_empty() { map(&[]) } else { map(&[("app", app)]) },
                publish_not_ready,
                node_local,
                traffic_distribution: publish_not_ready.then_some(TrafficDistribution::SameZone),
                ..base
            }
            .into()
        },
    )
}

fn a_pod() -> impl Strategy<Value = Object> {
    let addresses = prop::collection::vec(pod_addr(), 0..3);
    let flags = (any::<bool>(), prop::bool::weighted(0.1), prop::bool::weighted(0.2), prop::bool::weighted(0.2));
    (name(), pick(&NAMES), addresses, pick(&["", "n1", "n2"]), flags, any::<bool>(), 0..3_i64).prop_map(
        |(name, app, addresses, node, (meshed, host_network, finished, terminating), excluding, age)| {
            let mut base = pod(&name, app, "10.0.0.1");
            if !meshed {
                base.meta.labels.remove(MESH_TLS_LABEL);
            }
            if excluding {
                base.meta.annotations = map(&[("weft.dev/exclude-inbound-ports", "80")]);
            }
            Pod {
                meta: aged(base.meta.clone(), age),
                addresses: addresses.into_iter().map(ip).collect(),
                node: node.to_owned(),
                host_network,
                finished,
                terminating,
                ..base
            }
            .into()
        },
    )
}

fn a_slice() -> impl Strategy<Value = Object> {
    let at = (pick(&["", "x", "y"]), pod_addr(), any::<(bool, bool, bool)>(), pick(&["", "n1", "n2"]));
    (name(), pick(&NAMES), prop::collection::vec(at, 0..4)).prop_map(|(name, service, all)| {
        let endpoints = all.into_iter().map(|(pod, addr, (ready, serving, terminating), node)| {
            let mut endpoint = endpoint(pod, addr);
            (endpoint.ready, endpoint.serving, endpoint.terminating) = (ready, serving, terminating);
            endpoint.node = node.to_owned();
            endpoint
        });
        slice(&name, service, endpoints.collect()).into()
    })
}

/// A BackendTLSPolicy, or a ConfigMap that one may name.
fn a_backend_tls_policy() -> impl Strategy<Value = Object> {
    let target = (pick(&NAMES), prop::option::weighted(0.3, pick(&["http", "other"])));
    let lists = (prop::collection::vec(target, 1..3), prop::collection::vec(pick(&NAMES), 0..3));
    (name(), lists, 0..3_i64, prop::option::of(prop::result::maybe_ok(0..3_u8, Just(())))).prop_map(
        |(name, (targets, refs), age, config_map)| {
            if let Some(ca) = config_map {
                let ca = ca.map(|byte| vec![Certificate(vec![byte])]).map_err(|()| "no key".to_owned());
                return ConfigMap { meta: meta(&name), ca }.into();
            }
            let targets = targets.into_iter().map(|(name, section)| PolicyTarget {
                group: String::new(),
                kind: "Service".to_owned(),
                name: name.to_owned(),
                section_name: section.map(str::to_owned),
            });
            let refs = refs.into_iter().map(|name| LocalRef {
                group: String::new(),
                kind: "ConfigMap".to_owned(),
                name: name.to_owned(),
            });
            let policy = BackendTlsPolicy {
                meta: aged(meta(&name), age),
                targets: targets.collect(),
                hostname: "a.b".to_owned(),
                ca_refs: refs.collect(),
                well_known: None,
                names: Vec::new(),
                options: Vec::new(),
            };
            policy.into()
        },
    )
}

fn a_traffic_policy() -> impl Strategy<Value = Object> {
    let targets = prop::collection::vec(name(), 1..3);
    let lists = (prop::option::of(1..3_u32), prop::option::of(pick(&["s", "a b"])));
    (name(), targets, lists, 0..3_i64).prop_map(|(name, targets, (percent, session), age)| {
        let mut policy = traffic_policy(&name);
        policy.targets = targets.iter().flat_map(|target| traffic_policy(target).targets).collect();
        policy.retries = policy.retries.zip(percent).map(|(mut retries, percent)| {
            retries.percent = percent;
            retries
        });
        policy.session = policy.session.filter(|_| session.is_some());
        if let Some(kept) = &mut policy.session {
            kept.name = session.map(str::to_owned);
        }
        TrafficPolicy { meta: aged(policy.meta.clone(), age), ..policy }.into()
    })
}

/// A TLSRoute or a TCPRoute.
fn a_connection_route() -> impl Strategy<Value = Object> {
    let parents = (prop::option::of(pick(&NAMESPACES)), pick(&NAMES), prop::option::weighted(0.3, 80..82_u16));
    let backends = (name(), prop::option::weighted(0.9, 80..82_u16), 0..3_u32);
    let hostnames = prop::collection::vec(pick(&["a.b", "*.b", "c.b"]), 0..3);
    let lists = (prop::collection::vec(parents, 0..3), prop::collection::vec(backends, 0..3), hostnames);
    (name(), lists, 0..3_i64).prop_map(|(name, (parents, backends, hostnames), age)| {
        let parents = parents.into_iter().map(|(namespace, name, port)| ParentRef {
            namespace: namespace.map(str::to_owned),
            port,
            ..parent(name)
        });
        let backends =
            backends.into_iter().map(|(name, port, weight)| BackendRef { port, weight, ..backend(&name) }).collect();
        if hostnames.is_empty() {
            let mut route = tcp_route(&name, parents.collect(), backends);
            route.meta = aged(route.meta, age);
            return route.into();
        }
        let mut route = tls_route(&name, parents.collect(), &hostnames, backends);
        route.meta = aged(route.meta, age);
        route.into()
    })
}

/// An HTTPRoute or a GRPCRoute.
fn a_route() -> impl Strategy<Value = Object> {
    let parents = (prop::option::of(pick(&NAMESPACES)), pick(&NAMES), prop::option::weighted(0.3, 80..82_u16));
    let backends = (name(), prop::option::weighted(0.9, 80..82_u16), 0..3_u32);
    let rules = (
        pick(&["/", "/a", "/a/b", "/b/"]),
        any::<bool>(),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.1),
        prop::collection::vec(backends, 0..3),
        (prop::option::weighted(0.2, (name(), 0..3_u32)), prop::option::weighted(0.2, pick(&NAMES))),
    );
    let kind = (0..3_i64, prop::bool::weighted(0.4));
    (name(), prop::collection::vec(parents, 0..3), prop::collection::vec(rules, 0..3), kind).prop_map(
        |(name, parents, rules, (age, grpc))| {
            let parents = parents.into_iter().map(|(namespace, name, port)| ParentRef {
                namespace: namespace.map(str::to_owned),
                port,
                ..parent(name)
            });
            let rules = rules.into_iter().map(|(path, method, unsupported, bad, backends, (mirror, fault))| {
                let backends = backends
                    .into_iter()
                    .map(|(name, port, weight)| BackendRef { port, weight, ..backend(&name) })
                    .collect();
                let mut rule = rule(backends);
                let method = method.then(|| if bad { "G ET" } else { "GET" }.to_owned());
                rule.matches = vec![HttpRouteMatch { method, ..prefix(path) }];
                if unsupported {
                    rule.filters = vec![HttpRouteFilter::Unsupported("ExternalAuth".to_owned())];
                }
                if let Some((name, numerator)) = mirror {
                    let mirror = Mirror { backend: backend(&name), numerator, denominator: 2 };
                    rule.filters.push(HttpRouteFilter::Mirror(Box::new(mirror)));
                }
                if let Some(fault) = fault {
                    let (group, kind) = ("weft.dev".to_owned(), "FaultInjection".to_owned());
                    let name = ObjectName::new(&*named(&name).namespace, fault);
                    let reference = HttpRouteFilter::Extension(ExtensionRef { group, kind, name });
                    // Of the rule, or of its first backend.
                    match rule.backends.first_mut().filter(|_| unsupported) {
                        Some(backend) => backend.filters.push(reference),
                        None => rule.filters.push(reference),
                    }
                }
                rule
            });
            if grpc {
                let calls = rules.map(|rule| {
                    let matches = rule.matches.iter().map(|found| call("a.B", found.method.as_deref().unwrap_or("")));
                    HttpRouteRule { matches: matches.collect(), ..rule }
                });
                let mut route = grpc_route(&name, parents.collect(), calls.collect());
                route.meta = aged(route.meta, age);
                return route.into();
            }
            let mut route = route(&name, parents.collect(), rules.collect());
            route.meta = aged(route.meta, age);
            route.into()
        },
    )
}

fn a_peer_authentication() -> impl Strategy<Value = Object> {
    let ports = prop::collection::btree_map(80..82_u16, mtls_mode(), 0..2);
    (name(), pick(&["", "x", "y"]), mtls_mode(), ports, 0..3_i64).prop_map(|(name, app, mode, ports, age)| {
        let mut policy = peer_authentication(&name, mode);
        policy.meta = aged(policy.meta, age);
        policy.selector = if app.is_empty() { map(&[]) } else { map(&[("app", app)]) };
        policy.ports = ports;
        policy.into()
    })
}

/// Of Services that come and go.
fn a_backend_policy() -> impl Strategy<Value = Object> {
    let targets = prop::collection::vec(prop::sample::select(&NAMES[..]).prop_map(str::to_owned), 1..3);
    (name(), targets, 1..3_u32, 0..3_i64).prop_map(|(name, targets, connections, age)| {
        let meta = aged(meta(&name), age);
        let limits = ConnectionLimits { connections, ..ConnectionLimits::default() };
        let (load_balancer, outlier_detection) = (None, None);
        Object::BackendPolicy(BackendPolicy {
            meta,
            targets,
            load_balancer,
            outlier_detection,
            limits,
            connect_timeout: None,
            http_idle_timeout: None,
            tcp_idle_timeout: None,
        })
    })
}

fn an_object() -> impl Strategy<Value = Object> {
    prop_oneof![
        4 => a_service(),
        4 => a_pod(),
        3 => a_slice(),
        4 => a_route(),
        2 => a_connection_route(),
        2 => a_backend_tls_policy(),
        2 => a_traffic_policy(),
        2 => a_peer_authentication(),
        2 => a_backend_policy(),
        2 => (name(), any::<bool>()).prop_map(|(name, abort)| {
            let fault = fault_injection(&name);
            FaultInjection { abort: fault.abort.clone().filter(|_| abort), ..fault }.into()
        }),
        2 => (name(), 0..2_u32, pick(&["", "x", "y"]), any::<bool>()).prop_map(|(name, requests, route, grpc)| {
            let mut limit = RateLimit { requests: requests + 1, ..rate_limit(&name) };
            if !route.is_empty() {
                let name = ObjectName::new(&*limit.meta.name.namespace, route);
                let kind = if grpc { Kind::GrpcRoute } else { Kind::HttpRoute };
                limit.targets.push(RateTarget { object: ObjectKey { kind, name }, section: None });
            }
            limit.into()
        }),
        1 => (pick(&["n1", "n2"]), pick(&["z1", "z2"])).prop_map(|(name, zone)| node(name, zone).into()),
    ]
}

fn a_key() -> impl Strategy<Value = ObjectKey> {
    let kinds = [
        Kind::Service,
        Kind::EndpointSlice,
        Kind::Pod,
        Kind::HttpRoute,
        Kind::GrpcRoute,
        Kind::TlsRoute,
        Kind::TcpRoute,
        Kind::BackendTlsPolicy,
        Kind::TrafficPolicy,
        Kind::ConfigMap,
        Kind::FaultInjection,
        Kind::RateLimit,
        Kind::PeerAuthentication,
        Kind::BackendPolicy,
        Kind::Node,
    ];
    let name = prop_oneof![5 => name(), 1 => pick(&["n1", "n2"]).prop_map(str::to_owned)];
    (prop::sample::select(kinds.to_vec()), name).prop_map(|(kind, name)| ObjectKey { kind, name: named(&name) })
}

fn a_batch() -> impl Strategy<Value = Batch> {
    (prop::collection::vec(a_key(), 0..3), prop::collection::vec(an_object(), 0..6))
        .prop_map(|(removes, upserts)| Batch { removes, upserts })
}

/// What there is, independent of how it came about: the oracle of [`Translator`]'s incremental state.
#[derive(Debug, PartialEq)]
struct Everything {
    resources: BTreeMap<(&'static str, String, String), Lookup>,
    own: BTreeMap<(&'static str, IpAddr), (Lookup, Option<WorkloadIdentity>)>,
    statuses: BTreeMap<ObjectKey, RouteStatus>,
    accepted: BTreeMap<ObjectKey, Condition>,
    services: usize,
    endpoints: usize,
    workloads: usize,
}

/// Every name that could be asked for in these worlds, in every view.
fn everything(world: &Translated) -> Everything {
    let mut resources = BTreeMap::new();
    let mut ask = |type_url: &'static str, name: String| {
        for client in ["a", "b", "weft-system", "elsewhere"] {
            let answer = world.lookup(type_url, &name, &view(client));
            resources.insert((type_url, name.clone(), client.to_owned()), answer);
        }
    };
    for vip in ["10.96.0.1", "10.96.0.2", "10.96.1.1", "203.0.113.1", "10.0.0.1"] {
        ask(type_url::SERVICE, vip.to_owned());
    }
    for name in NAMES {
        ask(type_url::SERVICE, name.to_owned());
        for namespace in NAMESPACES {
            ask(type_url::SERVICE, format!("{namespace}/{name}"));
            for suffix in ["", ".svc", ".svc.cluster.local"] {
                ask(type_url::SERVICE, format!("{name}.{namespace}{suffix}"));
            }
            for port in [80, 81, 3306] {
                ask(type_url::ENDPOINTS, format!("{namespace}/{name}:{port}"));
            }
        }
    }
    let addresses = ["10.0.0.1", "10.0.0.2", "10.0.1.1", "fd00::1"];
    for addr in addresses {
        ask(type_url::WORKLOAD, addr.to_owned());
    }
    ask(type_url::MESH_SETTINGS, MESH_SETTINGS.to_owned());
    let mut own = BTreeMap::new();
    for addr in addresses.map(ip) {
        for type_url in [type_url::WORKLOAD, type_url::INBOUND_POLICY] {
            let identity = world.workload_by_address(addr).map(|identity| (**identity).clone());
            own.insert((type_url, addr), (world.own(type_url, addr), identity));
        }
    }
    Everything {
        resources,
        own,
        statuses: world.route_statuses().map(|(route, status)| (route.clone(), (**status).clone())).collect(),
        accepted: world.own_conditions().map(|(object, said)| (object.clone(), (**said).clone())).collect(),
        services: world.services.iter().count(),
        endpoints: world.endpoints.iter().count(),
        workloads: world.workloads.iter().count(),
    }
}

/// The objects that are there after some batches.
fn objects(batches: &[Batch]) -> Vec<Object> {
    let mut objects = BTreeMap::new();
    for batch in batches {
        for key in &batch.removes {
            objects.remove(key);
        }
        for object in &batch.upserts {
            objects.insert(object.key(), object.clone());
        }
    }
    objects.into_values().collect()
}

fn from_scratch(objects: Vec<Object>) -> Everything {
    let batch = Batch { upserts: objects, ..Batch::default() };
    everything(&Translator::new(MeshConfig::default()).apply(batch).0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Also: whatever differs for anyone was named by `Touched`, and what was named first did change for someone.
    #[test]
    fn incremental_equals_from_scratch_and_touched_names_all_that_changed(
        batches in prop::collection::vec(a_batch(), 1..12),
    ) {
        let mut translator = Translator::new(MeshConfig::default());
        let mut before = everything(&translator.apply(Batch::default()).0);
        for (index, batch) in batches.iter().enumerate() {
            let (world, touched) = translator.apply(batch.clone());
            let after = everything(&world);
            prop_assert_eq!(&after, &from_scratch(objects(&batches[..=index])), "after batch {}", index);

            for (key, answer) in &after.resources {
                let old = &before.resources[key];
                if old == answer {
                    continue;
                }
                let told = touched.names.get(key.0).cloned().unwrap_or_default();
                let canonical = |lookup: &Lookup| match lookup {
                    Lookup::Found(resource) => Some(resource.name.clone()),
                    Lookup::Held | Lookup::Absent => None,
                };
                match (canonical(old), canonical(answer)) {
                    // Another content under the same meaning: whoever has it knows its canonical name.
                    (Some(old), Some(new)) if old == new => prop_assert!(told.contains(&new), "{:?}", key),
                    // Another meaning: whoever asked by this name must hear of it.
                    _ => prop_assert!(told.contains(&key.1), "{:?} not in {:?}", key, told),
                }
            }
            for (key, answer) in &after.own {
                prop_assert!(before.own[key] == *answer || touched.own.contains(&key.1), "{:?}", key);
            }
            let routes: BTreeSet<_> = before.statuses.keys().chain(after.statuses.keys()).collect();
            for route in routes {
                let changed = before.statuses.get(route) != after.statuses.get(route);
                prop_assert_eq!(changed, touched.statuses.contains(route), "{:?}", route);
            }
            for object in before.accepted.keys().chain(after.accepted.keys()) {
                let changed = before.accepted.get(object) != after.accepted.get(object);
                prop_assert_eq!(changed, touched.statuses.contains(object), "{:?}", object);
            }
            prop_assert!(!touched.everything);
            before = after;
        }
    }

    #[test]
    fn the_order_in_which_objects_arrive_does_not_matter(
        batch in prop::collection::vec(an_object(), 1..24).prop_flat_map(|all| {
            let unique = objects(&[Batch { upserts: all, ..Batch::default() }]);
            (Just(unique.clone()), Just(unique).prop_shuffle())
        }),
    ) {
        let (sorted, shuffled) = batch;
        let expected = from_scratch(sorted);
        let mut one_by_one = Translator::new(MeshConfig::default());
        for object in &shuffled {
            one_by_one.apply(Batch { upserts: vec![object.clone()], ..Batch::default() });
        }
        prop_assert_eq!(&everything(&one_by_one.translated()), &expected);
        prop_assert_eq!(&from_scratch(shuffled), &expected);
    }
}
