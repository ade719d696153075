//! The rate limits of a pod: those whose targetRefs name a Service that selects it, for the ports to which that Service leads.

use std::collections::{BTreeMap, BTreeSet};

use weft_proto::v1;

use super::super::gateway_api::millis;
use super::workload::{selects_pod, target};
use crate::model::{Model, ObjectName, Pod, RateKey, RateLimit};

/// Sorted by name, as the wire wants it.
pub(in super::super) fn rate_limits(pod: &Pod, model: &Model) -> Vec<v1::RateLimit> {
    let mut ports: BTreeMap<&ObjectName, (&RateLimit, BTreeSet<u16>)> = BTreeMap::new();
    for service in model.services_in(&pod.meta.name.namespace).filter(|service| selects_pod(service, pod)) {
        let name = &service.meta.name;
        for limit in model.rate_limits_of(name) {
            let targets = limit.targets.iter().filter(|target| target.service == *name);
            let wanted = |port: &str| targets.clone().any(|target| target.port.as_deref().is_none_or(|it| it == port));
            let leads_to = service.ports.iter().filter(|port| wanted(&port.name));
            let leads_to = leads_to.filter_map(|port| target(&port.target, pod));
            ports.entry(&limit.meta.name).or_insert_with(|| (limit, BTreeSet::new())).1.extend(leads_to);
        }
    }
    ports.into_values().filter(|(_, ports)| !ports.is_empty()).map(|(limit, ports)| wire(limit, &ports)).collect()
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

    use super::super::super::fixtures::{decode, ip, meta, named, pod, port, rate_limit, service, upserts, world};
    use super::super::super::{MeshConfig, Translator};
    use super::*;
    use crate::model::{Batch, Kind, ObjectKey, RateTarget, Service, ServicePort};

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
            let target = RateTarget { service: named(service), port: port.map(str::to_owned) };
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
        let target = RateTarget { service: named("shop/other"), port: None };
        let moved = RateLimit { meta: meta("shop/reviews"), targets: vec![target], ..rate_limit("shop/reviews") };
        let (world, touched) = translator.apply(upserts![moved]);
        assert_eq!(touched.own.len(), 2);
        assert_eq!((limits(&world, "10.0.0.1").len(), limits(&world, "10.0.0.2").len()), (0, 1));
        let key = ObjectKey { kind: Kind::RateLimit, name: named("shop/reviews") };
        let (world, _) = translator.apply(Batch { removes: vec![key], ..Batch::default() });
        assert_eq!(limits(&world, "10.0.0.2"), []);
    }
}
