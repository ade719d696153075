//! How the endpoints of a Service are called: what the Service object says, and what its BackendPolicy (SEMANTICS.md §3), the
//! BackendTLSPolicy of the port and the XBackendTrafficPolicy do.
//!
//! Of several policies that name a Service the oldest counts, then the first by name, and the others do not count at all:
//! half of one and half of another would be what nobody wrote. A policy is for every client and every port, on the Service's
//! own way and as a route's backend.
//! Bound: nothing is kept.

mod locality;
mod outlier;

use weft_proto::v1;

use super::gateway_api::millis;
use super::{backend_tls, traffic_policy};
use crate::model::{
    Algorithm, BackendPolicy, ConnectionLimits, HashKey, LoadBalancer, Model, Service, ServicePort, SlowStart,
};

/// What a client's proxy is told; `None` when all is as by default.
pub(super) fn backend_policy(service: &Service, port: &ServicePort, model: &Model) -> Option<v1::BackendPolicy> {
    let mut out = of_service(service);
    out.tls = backend_tls::of_port(service, port, model).map(Box::new);
    let traffic = traffic_policy::of_port(service, port, model);
    (out.retry_budget, out.session) = (traffic.budget.map(Box::new), traffic.session.map(Box::new));
    let policy = in_effect(service, model);
    if let Some(policy) = policy {
        let said = policy.outlier_detection.as_deref();
        out.limits = limits(policy.limits).map(Box::new);
        out.connect_timeout = policy.connect_timeout.map(millis);
        out.http_idle_timeout = policy.http_idle_timeout.map(millis);
        out.tcp_idle_timeout = policy.tcp_idle_timeout.map(millis);
        out.outlier_detection = said.map(outlier::outlier_detection);
        out.balancing = balancing(policy.load_balancer.as_ref(), said.and_then(|said| said.min_health_percent));
    }
    let said = policy.and_then(|policy| policy.load_balancer.as_ref()).and_then(|said| said.locality);
    if let Some(zone_aware) = locality::zone_aware(said, service.traffic_distribution) {
        out.balancing.get_or_insert_default().zone_aware = Some(zone_aware);
    }
    (out != v1::BackendPolicy::default()).then_some(out)
}

/// The one policy that counts.
pub(super) fn in_effect<'m>(service: &Service, model: &'m Model) -> Option<&'m BackendPolicy> {
    let age = |policy: &&BackendPolicy| (policy.meta.age.clone(), policy.meta.name.clone());
    model.backend_policies_of(&service.meta.name).min_by_key(age)
}

fn of_service(service: &Service) -> v1::BackendPolicy {
    v1::BackendPolicy {
        // Kubernetes allows 1 s to 1 day; less than a second still means "on".
        client_ip_affinity_seconds: service
            .client_ip_affinity
            .map_or(0, |timeout| u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX).max(1)),
        publish_not_ready: service.publish_not_ready,
        node_local: service.node_local,
        ..v1::BackendPolicy::default()
    }
}

fn limits(limits: ConnectionLimits) -> Option<v1::Limits> {
    let wire = v1::Limits {
        max_connections: limits.connections,
        max_pending: limits.pending,
        max_requests: limits.requests,
        max_requests_per_connection: limits.requests_per_connection,
    };
    (limits != ConnectionLimits::default()).then_some(wire)
}

fn balancing(said: Option<&LoadBalancer>, min_health_percent: Option<u32>) -> Option<Box<v1::Balancing>> {
    use v1::BalancingAlgorithm as Wire;
    let mut out = v1::Balancing { min_health_percent, ..v1::Balancing::default() };
    if let Some(said) = said {
        let wire = match &said.algorithm {
            Algorithm::PowerOfTwo => Wire::PowerOfTwo,
            Algorithm::RoundRobin => Wire::RoundRobin,
            Algorithm::LeastRequest { choices, bias_percent } => {
                out.choices = *choices;
                out.active_request_bias_milli = bias_percent.map(|percent| percent.saturating_mul(10));
                Wire::LeastRequest
            }
            Algorithm::Random => Wire::Random,
            Algorithm::RingHash { key, minimum, maximum } => {
                (out.minimum_ring_size, out.maximum_ring_size) = (*minimum, *maximum);
                out.hash_by = Some(hash_by(key));
                Wire::RingHash
            }
            Algorithm::Maglev { key, cells } => {
                out.table_size = *cells;
                out.hash_by = Some(hash_by(key));
                Wire::Maglev
            }
        };
        out.algorithm = wire.into();
        out.slow_start = said.slow_start.as_ref().map(slow_start);
    }
    (out != v1::Balancing::default()).then(|| Box::new(out))
}

fn hash_by(key: &HashKey) -> v1::HashBy {
    use v1::hash_by::By;
    let by = match key {
        HashKey::Header(name) => By::Header(name.clone()),
        HashKey::Cookie { name, path, lasts } => {
            By::Cookie(v1::HashCookie { name: name.clone(), path: path.clone(), lasts: lasts.map(millis) })
        }
        HashKey::Client => By::Client(v1::HashClient {}),
        HashKey::Query(name) => By::QueryParameter(name.clone()),
    };
    v1::HashBy { by: Some(by) }
}

fn slow_start(said: &SlowStart) -> v1::SlowStart {
    v1::SlowStart {
        window: Some(millis(said.window)),
        aggression_milli: said.aggression_percent.map_or(0, |percent| percent.saturating_mul(10)),
        least_percent: said.min_weight_percent,
    }
}

#[cfg(test)]
mod tests {
    use weft_proto::v1::BalancingAlgorithm as Wire;

    use super::super::fixtures::{aged, backend, meta, named, parent, route, rule, service, upserts};
    use super::super::{MeshConfig, Translator};
    use super::*;
    use crate::model::{Batch, Kind, ObjectKey};

    fn policy(name: &str, targets: &[&str], algorithm: Algorithm) -> BackendPolicy {
        BackendPolicy {
            meta: meta(name),
            targets: targets.iter().map(|name| (*name).to_owned()).collect(),
            load_balancer: Some(LoadBalancer { algorithm, slow_start: None, locality: None }),
            outlier_detection: None,
            limits: ConnectionLimits::default(),
            connect_timeout: None,
            http_idle_timeout: None,
            tcp_idle_timeout: None,
        }
    }

    fn algorithm(policy: Option<&v1::BackendPolicy>) -> Option<Wire> {
        policy.and_then(|policy| policy.balancing.as_ref()).map(|balancing| balancing.algorithm())
    }

    /// The algorithm of shop/web's port, and of shop/web as the backend of a route on shop/front.
    fn algorithms(translator: &Translator) -> [Option<Wire>; 2] {
        let translated = translator.translated();
        let own = translated.service_for("shop", "shop/web");
        let front = translated.service_for("shop", "shop/front");
        let routed = front.ports[0].rules.first().and_then(|rule| match &rule.targets[0].target {
            Some(v1::weighted_target::Target::Backend(backend)) => backend.policy.clone(),
            _ => None,
        });
        [algorithm(own.ports[0].policy.as_ref()), algorithm(routed.as_ref())]
    }

    #[test]
    fn the_oldest_policy_of_a_service_counts_wherever_it_is_called_and_is_followed() {
        let mut translator = Translator::new(MeshConfig::default());
        let (web, front) = (service("shop/web", "10.96.0.1"), service("shop/front", "10.96.0.2"));
        let to_web = route("shop/r", vec![parent("front")], vec![rule(vec![backend("shop/web")])]);
        translator.apply(upserts![web, front, to_web]);
        assert_eq!(algorithms(&translator), [None; 2]);
        let mut young = policy("shop/a", &["web"], Algorithm::Random);
        young.meta = aged(young.meta, 9);
        translator.apply(upserts![young]);
        assert_eq!(algorithms(&translator), [Some(Wire::Random); 2]);
        let old = policy("shop/b", &["other", "web"], Algorithm::RoundRobin);
        translator.apply(upserts![old]);
        assert_eq!(algorithms(&translator), [Some(Wire::RoundRobin); 2], "the oldest");
        let elsewhere = policy("shop/b", &["other"], Algorithm::RoundRobin);
        translator.apply(upserts![elsewhere]);
        assert_eq!(algorithms(&translator), [Some(Wire::Random); 2], "it is no longer for this Service");
        translator.apply(upserts![policy("bank/c", &["web"], Algorithm::RoundRobin)]);
        assert_eq!(algorithms(&translator), [Some(Wire::Random); 2], "of another namespace");
        let removes = vec![ObjectKey { kind: Kind::BackendPolicy, name: named("shop/a") }];
        translator.apply(Batch { removes, ..Batch::default() });
        assert_eq!(algorithms(&translator), [None; 2]);
    }

    #[test]
    fn a_policy_says_no_more_than_it_says_and_the_service_keeps_what_it_does() {
        let mut web = service("shop/web", "10.96.0.1");
        web.publish_not_ready = true;
        let mut model = Model::default();
        let empty = BackendPolicy { load_balancer: None, ..policy("shop/p", &["web"], Algorithm::PowerOfTwo) };
        model.apply(upserts![web, empty]);
        let want = v1::BackendPolicy { publish_not_ready: true, ..v1::BackendPolicy::default() };
        assert_eq!(backend_policy(&web, &web.ports[0], &model), Some(want));
        web.publish_not_ready = false;
        assert_eq!(backend_policy(&web, &web.ports[0], &model), None);
        // The mesh's own rule is what absence says.
        model.apply(upserts![policy("shop/p", &["web"], Algorithm::PowerOfTwo)]);
        assert_eq!(backend_policy(&web, &web.ports[0], &model), None);
    }
}
