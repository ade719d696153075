//! Filters that name a FaultInjection: what they become, and what becomes of a rule whose filter names none.

use weft_proto::v1::filter::Kind as FilterKind;

use super::*;
use crate::model::{Batch, ExtensionRef, FaultAbort, FaultDelay, FaultInjection, Kind, ObjectKey, Share};
use crate::translate::fixtures::{call, fault_injection, grpc_route, meta, named};
use crate::translate::{MeshConfig, Translator};

fn extension(group: &str, kind: &str, name: &str) -> HttpRouteFilter {
    let name = named(name);
    HttpRouteFilter::Extension(ExtensionRef { group: group.to_owned(), kind: kind.to_owned(), name })
}

fn fault(name: &str) -> HttpRouteFilter {
    extension("weft.dev", "FaultInjection", name)
}

fn with(filters: Vec<HttpRouteFilter>) -> HttpRouteRule {
    HttpRouteRule { filters, ..rule(vec![backend("shop/reviews")]) }
}

fn of(filters: &[v1::Filter]) -> Vec<v1::Fault> {
    let fault = |filter: &v1::Filter| match &filter.kind {
        Some(FilterKind::Fault(fault)) => Some(fault.clone()),
        _ => None,
    };
    filters.iter().filter_map(fault).collect()
}

#[test]
fn a_fault_is_translated_on_a_rule_and_on_a_backend() {
    let half = Share { numerator: 1, denominator: 2 };
    let faults = FaultInjection {
        meta: meta("shop/faults"),
        delay: Some(FaultDelay { fixed: Duration::from_micros(1_500), share: half }),
        abort: Some(FaultAbort { http_status: Some(418), grpc_status: None, share: half }),
    };
    let on_backend = rule(vec![BackendRef { filters: vec![fault("shop/faults")], ..backend("shop/reviews") }]);
    // As many as one likes, beside others.
    let on_rule = with(vec![fault("shop/faults"), fault("shop/faults")]);
    let world = world(upserts![reviews(), faults, route("shop/r", vec![parent("reviews")], vec![on_rule, on_backend])]);
    let port = port_80(&world);
    let wanted = v1::Fault {
        name: "shop/faults".to_owned(),
        delay: Some(v1::FaultDelay { fixed: Some(v1::Millis { value: 2 }), numerator: 1, denominator: 2 }),
        abort: Some(v1::FaultAbort { http_status: 418, grpc_status: 2, numerator: 1, denominator: 2 }),
    };
    assert_eq!(of(&port.rules[0].filters), [wanted.clone(), wanted.clone()]);
    assert_eq!(of(&port.rules[1].targets[0].filters), [wanted]);
    let status = world.status_of("shop/r");
    assert!(condition(&status, "ResolvedRefs").unwrap().status, "{status:?}");
    assert!(condition(&status, "PartiallyInvalid").is_none(), "{status:?}");
}

#[test]
fn a_filter_that_names_nothing_answers_500_and_status_says_what_to_do() {
    for (row, filter, reason, says) in [
        ("none by that name", fault("shop/gone"), "FilterNotFound", "there is no FaultInjection shop/gone"),
        ("another kind", extension("weft.dev", "Fault", "shop/faults"), "InvalidKind", "a Fault of group weft.dev"),
        ("another's", extension("example.com", "FaultInjection", "shop/faults"), "InvalidKind", "group example.com"),
    ] {
        let wholly = world(upserts![
            reviews(),
            fault_injection("shop/faults"),
            route("shop/r", vec![parent("reviews")], vec![with(vec![filter.clone()])])
        ]);
        let port = port_80(&wholly);
        assert!(port.routed, "{row}: without the route, requests would pass that were to fail");
        assert_eq!((shares(&port.rules[0]), port.rules[0].filters.len()), (vec!["1 500".to_owned()], 0), "{row}");
        let status = wholly.status_of("shop/r");
        assert!(condition(&status, "Accepted").unwrap().status, "{row}: {status:?}");
        let refs = condition(&status, "ResolvedRefs").unwrap();
        assert_eq!((refs.status, &*refs.reason), (false, reason), "{row}");
        assert!(refs.message.contains(says) && refs.message.contains("rule 0: "), "{row}: {}", refs.message);
        assert!(refs.message.contains("all requests of their rules get 500"), "{row}: {}", refs.message);
        assert!(condition(&status, "PartiallyInvalid").is_none(), "{row}: {status:?}");

        let share = BackendRef { weight: 3, filters: vec![filter], ..backend("shop/reviews") };
        let split = rule(vec![share, backend("shop/reviews")]);
        let partly = world(upserts![
            reviews(),
            fault_injection("shop/faults"),
            route("shop/r", vec![parent("reviews")], vec![split])
        ]);
        assert_eq!(shares(&port_80(&partly).rules[0]), ["3 500", "1 shop/reviews:80"], "{row}");
        let refs = condition(&partly.status_of("shop/r"), "ResolvedRefs").unwrap();
        assert!(refs.message.contains("rule 0, backend reviews: "), "{row}: {}", refs.message);
        assert!(refs.message.contains("their share of requests gets 500"), "{row}: {}", refs.message);
    }
}

#[test]
fn a_fault_that_comes_changes_or_goes_is_that_of_its_routes_and_no_others() {
    let to_grpc = HttpRouteRule { matches: vec![call("a", "")], ..with(vec![fault("shop/faults")]) };
    let mut translator = Translator::new(MeshConfig::default());
    translator.apply(upserts![
        reviews(),
        service("shop/calls", "10.96.0.2"),
        service("shop/other", "10.96.0.3"),
        route("shop/r", vec![parent("reviews")], vec![with(vec![fault("shop/faults")])]),
        grpc_route("shop/g", vec![parent("calls")], vec![to_grpc]),
        route("shop/o", vec![parent("other")], vec![with(vec![fault("shop/others")])]),
    ]);
    let changed = FaultInjection { abort: None, ..fault_injection("shop/faults") };
    let key = ObjectKey { kind: Kind::FaultInjection, name: named("shop/faults") };
    for (row, batch, filters, resolved) in [
        ("comes", upserts![fault_injection("shop/faults")], 1, true),
        ("changes", upserts![changed], 1, true),
        ("goes", Batch { removes: vec![key], ..Batch::default() }, 0, false),
    ] {
        let (world, touched) = translator.apply(batch);
        let names: Vec<_> = touched.names.values().flatten().map(|name| &**name).collect();
        assert_eq!(names, ["shop/calls", "shop/reviews"], "{row}");
        assert_eq!(of(&port_80(&world).rules[0].filters).len(), filters, "{row}");
        let refs = condition(&world.status_of_kind(Kind::GrpcRoute, "shop/g"), "ResolvedRefs").unwrap();
        assert_eq!(refs.status, resolved, "{row}: {}", refs.message);
    }
}
