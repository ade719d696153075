//! What a good GRPCRoute is read as. Bad ones are in `refused`.

use super::*;
use crate::model::{GrpcRoute, HttpRouteFilter, HttpRouteMatch, KeyMatch, MethodMatch, PathMatch};

fn read(rules: &str) -> (GrpcRoute, Vec<String>) {
    let mut state = State::default();
    let text = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {{name: echo}}\nspec:\n  hostnames: [echo.example.com]\n  \
         parentRefs: [{{group: '', kind: Service, name: echo}}]\n{rules}"
    );
    let problems = errors_in(&write(&mut state, "r.yaml", &text));
    let mut routes = objects(&state).into_iter().filter_map(|object| match object {
        Object::GrpcRoute(route) => Some(route),
        _ => None,
    });
    (routes.next().expect("a route"), problems)
}

fn call(service: Option<&str>, method: Option<&str>, regex: bool) -> PathMatch {
    PathMatch::Call(MethodMatch { service: service.map(str::to_owned), method: method.map(str::to_owned), regex })
}

#[test]
fn a_match_is_a_post_and_a_call() {
    let any = || PathMatch::Prefix("/".to_owned());
    let rows = [
        ("{}", any(), 0),
        ("{method: {service: pkg.Echo}}", call(Some("pkg.Echo"), None, false), 0),
        ("{method: {method: Say}}", call(None, Some("Say"), false), 0),
        (
            "{method: {type: Exact, service: .pkg.v1.Echo, method: Say_2}}",
            call(Some(".pkg.v1.Echo"), Some("Say_2"), false),
            0,
        ),
        ("{method: {type: RegularExpression, service: '.*Echo', method: ''}}", call(Some(".*Echo"), None, true), 0),
        ("{method: {type: RegularExpression, method: 'S.+'}}", call(None, Some("S.+"), true), 0),
        ("{headers: [{name: X-A, value: b}, {name: x-b, type: RegularExpression, value: c+}]}", any(), 2),
    ];
    for (text, path, headers) in rows {
        let (route, problems) = read(&format!("  rules: [{{matches: [{text}]}}]\n"));
        assert_eq!(problems, [""; 0], "{text}");
        let found = &route.rules[0].matches[0];
        assert_eq!(
            (&found.path, found.method.as_deref(), found.headers.len()),
            (&path, Some("POST"), headers),
            "{text}"
        );
    }
    let (route, _) = read("  rules: [{matches: [{headers: [{name: X-A, value: b}]}]}]\n");
    let header = KeyMatch { name: "x-a".to_owned(), value: "b".to_owned(), regex: false };
    assert_eq!(route.rules[0].matches[0].headers, [header]);
}

#[test]
fn defaults_are_filled_in_and_what_is_not_done_is_said() {
    let (none, problems) = read("");
    assert_eq!((none.rules.len(), problems.len()), (0, 0), "no rules: it is good, and matches nothing");

    let (route, problems) = read(
        "  rules:
  - name: all
    filters:
    - {type: ResponseHeaderModifier, responseHeaderModifier: {remove: [x-a]}}
    - {type: ExtensionRef, extensionRef: {group: example.com, kind: X, name: x}}
    backendRefs: [{name: echo, port: 80}]
    sessionPersistence: {sessionName: a, type: Header}
",
    );
    let rule = &route.rules[0];
    let everything = HttpRouteMatch {
        path: PathMatch::Prefix("/".into()),
        method: Some("POST".into()),
        headers: vec![],
        query_params: vec![],
    };
    assert_eq!((rule.name.as_deref(), &rule.matches), (Some("all"), &vec![everything]));
    assert!(matches!(rule.filters[0], HttpRouteFilter::ResponseHeaders(_)));
    assert_eq!((rule.backends[0].weight, &*rule.backends[0].kind, rule.backends[0].port), (1, "Service", Some(80)));
    let said = |part: &str| problems.iter().any(|problem| problem.contains(part));
    assert!(problems.len() == 1 && said("ExtensionRef"), "{problems:?}");
    let session = rule.session.as_ref().unwrap();
    assert_eq!((session.name.as_deref(), session.header), (Some("a"), true));
}
