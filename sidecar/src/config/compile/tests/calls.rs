//! Calls of gRPC among a port's matches.

use weft_proto::v1::call_match::{Method as Called, Service as Of};

use super::*;

#[test]
fn a_call_is_compiled_and_can_be_read() {
    let exact = |service: &str| Some(Of::ExactService(service.into()));
    let rows = [
        (exact("pkg.Echo"), Some(Called::ExactMethod("Say".into())), true, "service pkg.Echo, method Say"),
        (exact("pkg.Echo"), None, true, "service pkg.Echo"),
        (None, Some(Called::MethodRegex("S.*".into())), true, "any service, method ~ S.*"),
        (Some(Of::ServiceRegex(".*Echo".into())), None, true, "service ~ .*Echo"),
        (
            Some(Of::ServiceRegex("Echo".into())),
            Some(Called::ExactMethod("Say".into())),
            false,
            "service ~ Echo, method Say",
        ),
    ];
    for (service, method, found, readable) in rows {
        let mut wire = service_with_a_call(service, method);
        let compiled = compiled(&wire).unwrap();
        let port = &compiled.ports[&80];
        let request =
            RequestView { method: &Method::POST, path: "/pkg.Echo/Say", query: None, headers: &HeaderMap::new() };
        assert_eq!(port.routes.as_ref().unwrap().find(&request).is_some(), found, "{readable}");
        assert_eq!(port.rules[0].matches, [format!("0: POST {readable}")]);

        wire.ports[0].entries[0].r#match.as_mut().unwrap().path = call(Some(Of::ServiceRegex("(".into())), None);
        let error = super::compiled(&wire).unwrap_err().to_string();
        assert!(error.contains("ports[0].entries[0].match") && error.contains("unclosed group"), "{error}");
    }
}

fn call(service: Option<Of>, method: Option<Called>) -> Option<v1::PathMatch> {
    Some(v1::PathMatch { kind: Some(v1::path_match::Kind::Call(v1::CallMatch { service, method })) })
}

fn service_with_a_call(of: Option<Of>, called: Option<Called>) -> v1::Service {
    let mut wire = service();
    let found = v1::HttpMatch { path: call(of, called), method: "POST".into(), ..v1::HttpMatch::default() };
    wire.ports[0].entries = vec![v1::RouteEntry { r#match: Some(found), rule: 0 }];
    wire
}
