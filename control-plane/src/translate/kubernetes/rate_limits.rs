//! The rate limits of a pod: those whose targetRefs name a Service that selects it, for the ports to which that Service leads. Those
//! of a route are on its rules ([`rule_rate_limits`]).

use std::collections::{BTreeMap, BTreeSet};

use weft_proto::v1;

use super::super::gateway_api::millis;
use super::selection::{selects_pod, target};
use crate::model::{Kind, Model, ObjectKey, ObjectName, Pod, RateKey, RateLimit, Route};

/// Sorted by name, as the wire wants it.
pub(in super::super) fn rate_limits(pod: &Pod, model: &Model) -> Vec<v1::RateLimit> {
    let mut ports: BTreeMap<&ObjectName, (&RateLimit, BTreeSet<u16>)> = BTreeMap::new();
    for service in model.services_in(&pod.meta.name.namespace).filter(|service| selects_pod(service, pod)) {
        let name = &service.meta.name;
        let key = ObjectKey { kind: Kind::Service, name: name.clone() };
        for limit in model.rate_limits_of(&key) {
            let wanted = |port: &str| is_for(limit, &key, Some(port));
            let leads_to = service.ports.iter().filter(|port| wanted(&port.name));
            let leads_to = leads_to.filter_map(|port| target(&port.target, pod));
            ports.entry(&limit.meta.name).or_insert_with(|| (limit, BTreeSet::new())).1.extend(leads_to);
        }
    }
    ports.into_values().filter(|(_, ports)| !ports.is_empty()).map(|(limit, ports)| wire(limit, &ports)).collect()
}

/// Of one of a route's rules, by its name if it has one; sorted by their names.
pub(in super::super) fn rule_rate_limits(route: Route<'_>, rule: Option<&str>, model: &Model) -> Vec<v1::RateLimit> {
    let key = route.key();
    let limits = model.rate_limits_of(&key).filter(|limit| is_for(limit, &key, rule));
    limits.map(|limit| wire(limit, &BTreeSet::new())).collect()
}

/// Whether it is for this section of an object, or for all of that.
fn is_for(limit: &RateLimit, object: &ObjectKey, section: Option<&str>) -> bool {
    let mut targets = limit.targets.iter().filter(|target| target.object == *object);
    targets.any(|target| target.section.is_none() || target.section.as_deref() == section)
}

fn wire(limit: &RateLimit, ports: &BTreeSet<u16>) -> v1::RateLimit {
    let (key, header) = match &limit.key {
        RateKey::All => (v1::RateKey::All, ""),
        RateKey::Identity => (v1::RateKey::Identity, ""),
        RateKey::SourceIp => (v1::RateKey::SourceIp, ""),
        RateKey::Header(name) => (v1::RateKey::Header, &**name),
    };
    v1::RateLimit {
        name: limit.meta.name.to_string(),
        ports: ports.iter().map(|port| u32::from(*port)).collect(),
        requests: limit.requests,
        per: Some(millis(limit.per)),
        burst: limit.burst,
        key: key.into(),
        header: header.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use weft_proto::v1::InboundPolicy;
    use weft_proto::{SELF, type_url};

    use super::super::super::fixtures::{
        backend, decode, grpc_route, ip, named, parent, pod, port, rate_limit, rate_target, route, rule, service,
        upserts, world,
    };
    use super::super::super::{MeshConfig, Translator};
    use super::*;
    use crate::model::{Batch, GrpcRoute, HttpRoute, HttpRouteRule, RateTarget, Service, ServicePort};

    fn limits(world: &crate::translate::Translated, addr: &str) -> Vec<v1::RateLimit> {
        decode::<InboundPolicy>(world.own(type_url::INBOUND_POLICY, ip(addr))).rate_limits
    }

    /// `NAME PORTS`
    fn short(limits: &[v1::RateLimit]) -> Vec<String> {
        limits.iter().map(|limit| format!("{} {:?}", limit.name, limit.ports)).collect()
    }

    #[test]
    fn a_limit_is_for_the_pods_of_its_services_and_the_ports_they_lead_to() {
        let named_port = |name: &str, number| ServicePort { name: name.to_owned(), ..port(number) };
        let reviews = Service {
            ports: vec![named_port("http", 80), named_port("admin", 81)],
            ..service("shop/reviews", "10.96.0.1")
        };
        let of = |limit: &str, service: &str, port: Option<&str>| {
            let target = RateTarget { section: port.map(str::to_owned), ..rate_target(service) };
            RateLimit { targets: vec![target], ..rate_limit(limit) }
        };
        let world = world(upserts![
            reviews,
            service("shop/other", "10.96.0.2"),
            service("else/reviews", "10.96.0.3"),
            pod("shop/r", "reviews", "10.0.0.1"),
            pod("shop/o", "other", "10.0.0.2"),
            pod("else/r", "reviews", "10.0.0.3"),
            of("shop/b", "shop/reviews", None),
            of("shop/a", "shop/reviews", Some("admin")),
            of("shop/c", "shop/reviews", Some("gone")),
            of("shop/d", "shop/gone", None),
        ]);
        assert_eq!(short(&limits(&world, "10.0.0.1")), ["shop/a [81]", "shop/b [80, 81]"]);
        for addr in ["10.0.0.2", "10.0.0.3"] {
            assert_eq!(limits(&world, addr), [], "{addr}");
        }
    }

    #[test]
    fn what_a_limit_says_is_on_the_wire() {
        let said = RateLimit { key: RateKey::Header("x-user".to_owned()), ..rate_limit("shop/reviews") };
        let world = world(upserts![service("shop/reviews", "10.96.0.1"), pod("shop/r", "reviews", "10.0.0.1"), said]);
        let wanted = v1::RateLimit {
            name: "shop/reviews".to_owned(),
            ports: vec![80],
            requests: 100,
            per: Some(v1::Millis { value: 1_000 }),
            burst: 200,
            key: v1::RateKey::Header.into(),
            header: "x-user".to_owned(),
        };
        assert_eq!(limits(&world, "10.0.0.1"), [wanted]);
        assert_eq!(SELF, "self");
    }

    #[test]
    fn one_that_comes_or_goes_touches_the_pods_it_is_for_and_no_others() {
        let mut translator = Translator::new(MeshConfig::default());
        translator.apply(upserts![
            service("shop/reviews", "10.96.0.1"),
            service("shop/other", "10.96.0.2"),
            pod("shop/r", "reviews", "10.0.0.1"),
            pod("shop/o", "other", "10.0.0.2"),
        ]);
        let (world, touched) = translator.apply(upserts![rate_limit("shop/reviews")]);
        assert_eq!(touched.own.into_iter().collect::<Vec<_>>(), [ip("10.0.0.1")]);
        assert_eq!(limits(&world, "10.0.0.1").len(), 1);
        // To another Service: both.
        let moved = RateLimit { targets: vec![rate_target("shop/other")], ..rate_limit("shop/reviews") };
        let (world, touched) = translator.apply(upserts![moved]);
        assert_eq!(touched.own.len(), 2);
        assert_eq!((limits(&world, "10.0.0.1").len(), limits(&world, "10.0.0.2").len()), (0, 1));
        let key = ObjectKey { kind: Kind::RateLimit, name: named("shop/reviews") };
        let (world, _) = translator.apply(Batch { removes: vec![key], ..Batch::default() });
        assert_eq!(limits(&world, "10.0.0.2"), []);
    }

    /// `RULE: LIMITS` of the port of a Service.
    fn on_rules(world: &crate::translate::Translated, service: &str) -> Vec<String> {
        let rules = world.service_for("web", service).ports.remove(0).rules;
        let limits = |rule: &v1::RouteRule| short(&rule.rate_limits).join(", ");
        rules.iter().map(|rule| format!("{}: {}", rule.rule, limits(rule))).collect()
    }

    fn of_route(limit: &str, kind: Kind, route: &str, section: Option<&str>) -> RateLimit {
        let object = ObjectKey { kind, name: named(route) };
        let target = RateTarget { object, section: section.map(str::to_owned) };
        RateLimit { targets: vec![target], ..rate_limit(limit) }
    }

    fn two_rules(backend_name: &str) -> Vec<HttpRouteRule> {
        let named =
            |name: Option<&str>| HttpRouteRule { name: name.map(str::to_owned), ..rule(vec![backend(backend_name)]) };
        vec![named(Some("first")), named(None)]
    }

    #[test]
    fn a_routes_limit_is_on_its_rules_and_on_no_pod() {
        let http: HttpRoute = route("shop/r", vec![parent("reviews")], two_rules("shop/reviews"));
        let grpc: GrpcRoute = grpc_route("shop/r", vec![parent("other")], two_rules("shop/other"));
        let world = world(upserts![
            service("shop/reviews", "10.96.0.1"),
            service("shop/other", "10.96.0.2"),
            pod("shop/p", "reviews", "10.0.0.1"),
            http,
            grpc,
            of_route("shop/b", Kind::HttpRoute, "shop/r", None),
            of_route("shop/a", Kind::HttpRoute, "shop/r", Some("first")),
            of_route("shop/c", Kind::HttpRoute, "shop/r", Some("gone")),
            of_route("shop/d", Kind::GrpcRoute, "shop/r", None),
        ]);
        assert_eq!(on_rules(&world, "shop/reviews"), ["first: shop/a [], shop/b []", "1: shop/b []"]);
        assert_eq!(on_rules(&world, "shop/other"), ["first: shop/d []", "1: shop/d []"]);
        assert_eq!(limits(&world, "10.0.0.1"), []);
    }

    #[test]
    fn a_routes_limit_that_comes_moves_or_goes_touches_its_services() {
        let mut translator = Translator::new(MeshConfig::default());
        let to =
            |name: &str, service: &str| route(name, vec![parent(service)], vec![rule(vec![backend("shop/reviews")])]);
        translator.apply(upserts![service("shop/reviews", "10.96.0.1"), service("shop/other", "10.96.0.2")]);
        let limit = of_route("shop/a", Kind::HttpRoute, "shop/r", None);
        translator.apply(upserts![limit.clone()]);
        let (world, _) = translator.apply(upserts![to("shop/r", "reviews"), to("shop/o", "other")]);
        assert_eq!(on_rules(&world, "shop/reviews"), ["0: shop/a []"], "it waited for its route");
        let (world, touched) = translator.apply(upserts![of_route("shop/a", Kind::HttpRoute, "shop/o", None)]);
        assert_eq!(
            (on_rules(&world, "shop/reviews"), on_rules(&world, "shop/other")),
            (vec!["0: ".to_owned()], vec!["0: shop/a []".to_owned()])
        );
        let services: Vec<_> = touched.names[type_url::SERVICE].iter().cloned().collect();
        assert_eq!(services, ["shop/other", "shop/reviews"]);
        let (world, _) = translator.apply(Batch {
            removes: vec![Kind::RateLimit].into_iter().map(|kind| ObjectKey { kind, name: named("shop/a") }).collect(),
            ..Batch::default()
        });
        assert_eq!(on_rules(&world, "shop/other"), ["0: "]);
    }
}
