//! What Services and EndpointSlices say of who should be near whom.

use super::*;
use crate::model::{Hints, TrafficDistribution};

/// A Service with this in its metadata and its spec, and what is said of that.
fn distribution(metadata: &str, spec: &str) -> (Option<TrafficDistribution>, Vec<String>) {
    let mut state = State::default();
    let text = format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: s{metadata}}}, spec: {{clusterIP: 10.96.0.1, ports: [{{port: 80}}]{spec}}}}}"
    );
    let problems = errors_in(&write(&mut state, "a.yaml", &text));
    let Some(Object::Service(service)) = objects(&state).into_iter().next() else { panic!("no Service: {problems:?}") };
    (service.traffic_distribution, problems)
}

#[test]
fn a_service_says_which_endpoints_its_clients_prefer() {
    use TrafficDistribution::{SameNode, SameZone};
    let auto = ", annotations: {service.kubernetes.io/topology-mode: Auto}";
    let old = ", annotations: {service.kubernetes.io/topology-aware-hints: auto}";
    let off = ", annotations: {service.kubernetes.io/topology-mode: Disabled}";
    let both = |old, new| {
        format!(
            ", annotations: {{service.kubernetes.io/topology-aware-hints: {old}, service.kubernetes.io/topology-mode: {new}}}"
        )
    };
    for (metadata, spec, want) in [
        ("", "", None),
        ("", ", trafficDistribution: PreferClose", Some(SameZone)),
        ("", ", trafficDistribution: PreferSameZone", Some(SameZone)),
        ("", ", trafficDistribution: PreferSameNode", Some(SameNode)),
        (auto, ", trafficDistribution: PreferSameNode", None),
        (old, ", trafficDistribution: PreferSameNode", None),
        (off, ", trafficDistribution: PreferSameNode", Some(SameNode)),
        (&both("Disabled", "Auto"), ", trafficDistribution: PreferSameNode", Some(SameNode)),
        (&both("Auto", "Disabled"), ", trafficDistribution: PreferSameNode", None),
    ] {
        assert_eq!(distribution(metadata, spec), (want, Vec::new()), "{metadata}{spec}");
    }
    // Of a later Kubernetes: the Service is good all the same.
    let (said, problems) = distribution("", ", trafficDistribution: PreferSameRack");
    assert_eq!((said, problems.len()), (None, 1));
    assert!(problems[0].contains("trafficDistribution") && problems[0].contains("PreferSameRack"), "{problems:?}");
}

#[test]
fn hints_of_a_slice_are_read_sorted() {
    let rows = [
        ("", &[][..], &[][..]),
        (", hints: {}", &[], &[]),
        (", hints: {forZones: [{name: b}, {name: a}, {name: b}]}", &["a", "b"], &[]),
        (", hints: {forZones: [{name: a}], forNodes: [{name: n1}]}", &["a"], &["n1"]),
    ];
    for (hints, zones, nodes) in rows {
        let mut state = State::default();
        let text = format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, \
             metadata: {{name: s, labels: {{kubernetes.io/service-name: s}}}}, ports: [{{port: 80}}], \
             endpoints: [{{addresses: [10.0.0.1]{hints}}}]}}"
        );
        assert_eq!(errors_in(&write(&mut state, "a.yaml", &text)), [""; 0], "{hints}");
        let names = |of: &[&str]| of.iter().map(|name| (*name).to_owned()).collect();
        let Some(Object::EndpointSlice(slice)) = objects(&state).into_iter().next() else { panic!("no slice") };
        assert_eq!(slice.endpoints[0].hints, Hints { zones: names(zones), nodes: names(nodes) }, "{hints}");
    }
}
