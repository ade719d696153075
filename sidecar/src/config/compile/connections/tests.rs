use std::collections::BTreeMap;

use weft_proto::EndpointsName;

use super::super::compile_service;
use super::*;
use crate::config::model::{BackendState, Policy, Protocol, Service};

#[derive(Default)]
struct Backends(BTreeMap<String, Arc<Backend>>);

impl Intern for Backends {
    fn intern(&mut self, name: EndpointsName, protocol: Protocol, policy: Policy) -> Arc<Backend> {
        let made = || Arc::new(Backend::new(name.clone(), protocol, policy.clone(), BackendState::new(&policy)));
        Arc::clone(self.0.entry(name.to_string()).or_insert_with(made))
    }
}

fn target(service: &str, weight: u32) -> v1::WeightedTarget {
    let backend = v1::Backend {
        service: service.into(),
        port: 5432,
        protocol: v1::Protocol::Tcp.into(),
        ..v1::Backend::default()
    };
    v1::WeightedTarget { weight, target: Some(v1::weighted_target::Target::Backend(backend)), filters: Vec::new() }
}

fn routes() -> v1::ConnectionRoutes {
    let rule = |hosts: &[&str], targets| v1::ConnectionRule {
        route: "TLSRoute/shop/db".into(),
        rule: "0".into(),
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        targets,
    };
    let rules = vec![
        rule(&["db.example.com", "*.example.com"], vec![target("shop/v1", 9), target("shop/v2", 0)]),
        rule(&[], vec![target("shop/db", 1)]),
    ];
    v1::ConnectionRoutes { rules }
}

fn compiled(change: impl FnOnce(&mut v1::ServicePort)) -> Result<Service, CompileError> {
    let mut port = v1::ServicePort { port: 5432, connections: Some(routes()), ..v1::ServicePort::default() };
    change(&mut port);
    let service = v1::Service { namespace: "shop".into(), name: "db".into(), ports: vec![port], ..Default::default() };
    compile_service(&service, "node-1", &mut Backends::default())
}

#[test]
fn rules_become_a_table_and_their_backends_are_asked_about() {
    let service = compiled(|_| {}).unwrap();
    let port = &service.ports[&5432];
    let table = port.connections.as_ref().unwrap();
    assert!(table.goes_by_name() && port.routes.is_none());
    assert_eq!(&*table.find(Some("db.example.com")).unwrap().route, "TLSRoute/shop/db");
    assert_eq!(table.find(None).unwrap().targets.iter().count(), 1);
    let backends: Vec<_> = port.backends().map(|backend| backend.name.to_string()).collect();
    assert_eq!(backends, ["shop/db:5432", "shop/v1:5432", "shop/v2:5432"], "a weight of zero too");
    assert_eq!(port.rules[0].matches, ["server name db.example.com", "server name *.example.com"]);
    let targets: Vec<_> = port.rules[0].targets.iter().map(ToString::to_string).collect();
    assert_eq!(targets, ["9: shop/v1:5432", "0: shop/v2:5432"]);
    assert_eq!(port.rules[1].matches, ["any connection"]);
}

#[test]
fn what_is_wrong_is_named() {
    type Break = fn(&mut v1::ServicePort);
    fn rule(port: &mut v1::ServicePort) -> &mut v1::ConnectionRule {
        &mut port.connections.as_mut().unwrap().rules[0]
    }
    let rows: [(Break, &str); 6] = [
        (|p| p.routed = true, "ports[0].connections: routes of requests are attached as well"),
        (|p| rule(p).hosts.push("a..b".into()), "ports[0].connections.rules: `a..b` is neither"),
        (
            |p| {
                let other = rule(p).clone();
                p.connections.as_mut().unwrap().rules.push(other);
            },
            "ports[0].connections.rules: `db.example.com` is in two rules",
        ),
        (|p| rule(p).targets[1].target = None, "ports[0].connections.rules[0].targets[1].target: neither a backend"),
        (
            |p| rule(p).targets[0].filters.push(v1::Filter::default()),
            "ports[0].connections.rules[0].targets[0].filters: a connection has none",
        ),
        (
            |p| rule(p).hosts = (0..=MAX_NAMES).map(|name| format!("n{name}")).collect(),
            "ports[0].connections.rules: 10241 server names are more than 10240",
        ),
    ];
    for (break_it, expected) in rows {
        let error = compiled(break_it).map(|_| ()).expect_err(expected).to_string();
        assert!(error.starts_with(expected), "{expected}\n  {error}");
    }
}
