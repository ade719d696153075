//! What an edit does to what is in force. Refused documents have a table of their own in `refused`.

use super::*;
use crate::model::{HttpRoute, ServiceKind, SliceEndpoint};

/// Writes files (`None` deletes) in one stroke.
fn stroke(state: &mut State, files: &[(&str, Option<&str>)]) -> Edit {
    let content = |text: &Option<&str>| text.map_or(Content::Gone, |text| Content::Text(text.to_owned()));
    let changes = files.iter().map(|(name, text)| ((*name).to_owned(), content(text))).collect();
    state.apply(changes, Vec::new()).unwrap_or_default()
}

fn write(state: &mut State, name: &str, text: &str) -> Edit {
    stroke(state, &[(name, Some(text))])
}

fn service(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: 10.96.0.1, selector: {{app: {name}}}, ports: [{{port: {port}}}]}}\n"
    )
}

fn route(weight: u32) -> String {
    format!(
        "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: reviews}}
spec:
  parentRefs: [{{group: '', kind: Service, name: reviews}}]
  rules:
  - backendRefs:
    - name: reviews-v1
      port: 80
      weight: {weight}
"
    )
}

fn errors_in(edit: &Edit) -> Vec<String> {
    edit.problems.iter().map(ToString::to_string).collect()
}

fn names(edit: &Edit) -> Vec<String> {
    edit.objects.upserts.iter().map(|object| describe(&object.key())).collect()
}

fn objects(state: &State) -> Vec<Object> {
    state.written.values().chain(state.derived.values()).map(|held| held.object.clone()).collect()
}

/// The route in force.
fn route_of(state: &State) -> &HttpRoute {
    let mut routes = state.written.values().filter_map(|held| match &held.object {
        Object::HttpRoute(route) => Some(route),
        _ => None,
    });
    routes.next().expect("a route")
}

fn weight(state: &State) -> u32 {
    route_of(state).rules[0].backends[0].weight
}

#[test]
fn a_bad_weight_is_named_by_file_line_and_field_and_the_last_good_version_stays() {
    let mut state = State::default();
    let good = format!("{}---\n{}", route(10), service("reviews", 80));
    assert_eq!(errors_in(&write(&mut state, "reviews.yaml", &good)), [""; 0]);

    let bad = format!("{}---\n{}", route(2_000_000), service("reviews", 8080));
    let edit = write(&mut state, "reviews.yaml", &bad);
    assert_eq!(
        errors_in(&edit),
        ["reviews.yaml:10: spec.rules[0].backendRefs[0].weight: must be between 0 and 1000000"]
    );
    assert_eq!(
        edit.problems[0].object,
        Some(ObjectKey { kind: Kind::HttpRoute, name: ObjectName::new("default", "reviews") })
    );
    // The other document of the same file took effect.
    assert_eq!(names(&edit), ["Service default/reviews"]);
    assert_eq!((weight(&state), route_of(&state).meta.generation), (10, 1));

    let edit = write(&mut state, "reviews.yaml", &format!("{}---\n{}", route(20), service("reviews", 8080)));
    assert_eq!((names(&edit), errors_in(&edit).len()), (vec!["HTTPRoute default/reviews".to_owned()], 0));
    assert_eq!((weight(&state), route_of(&state).meta.generation), (20, 2));

    let edit = write(&mut state, "reviews.yaml", &service("reviews", 8080));
    assert_eq!(edit.objects.removes.len(), 1);
}

#[test]
fn text_that_is_not_yaml_keeps_what_the_file_gave() {
    let mut state = State::default();
    write(&mut state, "a.yaml", &format!("{}---\n{}---\n{}", service("a", 1), service("b", 2), service("c", 3)));
    let before = objects(&state);

    // The middle one is broken beyond recognition, and with it stands the whole file.
    let edit = write(&mut state, "a.yaml", &format!("{}---\nkind: [Serv\n---\n{}", service("a", 1), service("c", 3)));
    assert_eq!((edit.objects.upserts.len(), edit.objects.removes.len(), edit.problems.len()), (0, 0, 1));
    assert_eq!(edit.problems[0].line, 6, "{}", edit.problems[0]);
    assert_eq!(objects(&state), before);

    // Another document is edited meanwhile: that takes effect.
    let edit = write(&mut state, "a.yaml", &format!("{}---\nkind: [Serv\n---\n{}", service("a", 9), service("c", 3)));
    assert_eq!(names(&edit), ["Service default/a"]);

    // A `---` was lost: two documents in one, neither may vanish.
    write(&mut state, "a.yaml", &format!("{}{}---\n{}", service("a", 9), service("b", 2), service("c", 3)));
    assert_eq!(objects(&state).len(), 3);

    let edit = write(&mut state, "a.yaml", &format!("{}---\n{}", service("a", 9), service("c", 3)));
    assert_eq!(edit.objects.removes, [ObjectKey { kind: Kind::Service, name: ObjectName::new("default", "b") }]);
    assert_eq!(edit.problems, []);
}

#[test]
fn a_file_that_cannot_be_read_keeps_what_it_gave() {
    let mut state = State::default();
    write(&mut state, "a.yaml", &service("a", 1));
    let changes = BTreeMap::from([("a.yaml".to_owned(), Content::Unreadable("cannot be read: no".into()))]);
    let edit = state.apply(changes, Vec::new()).expect("a problem");
    assert_eq!((edit.objects.removes.len(), errors_in(&edit)), (0, vec!["a.yaml: cannot be read: no".to_owned()]));
    let edit = stroke(&mut state, &[("a.yaml", None)]);
    assert_eq!((edit.objects.removes.len(), edit.problems.len()), (1, 0));
}

#[test]
fn an_object_that_never_was_good_is_absent_and_named() {
    let mut state = State::default();
    let edit = write(&mut state, "a.yaml", &service("a", 0));
    assert_eq!(objects(&state), []);
    assert_eq!(errors_in(&edit), ["a.yaml:4: spec.ports[0].port: must be between 1 and 65535"]);
}

#[test]
fn generations_count_changes_of_content_only() {
    let mut state = State::default();
    let generation = |state: &State| route_of(state).meta.generation;
    let steps: &[(&str, String, i64)] = &[
        ("new", route(1), 1),
        ("the same again", route(1), 1),
        ("a weight", route(2), 2),
        ("a comment", format!("# hello\n{}", route(2)), 2),
        ("a label", route(2).replace("{name: reviews}\nspec", "{name: reviews, labels: {a: b}}\nspec"), 2),
        ("a document before it", format!("{}---\n{}", service("x", 1), route(2)), 2),
        ("the first weight again", route(1), 3),
        ("refused", route(9_999_999), 3),
        ("mended", route(4), 4),
    ];
    for (name, text, expected) in steps {
        write(&mut state, "r.yaml", text);
        assert_eq!(generation(&state), *expected, "{name}");
    }
    // A move to another file in one stroke is no change; going and coming back is a new object.
    stroke(&mut state, &[("r.yaml", None), ("s.yaml", Some(&route(4)))]);
    assert_eq!(generation(&state), 4);
    stroke(&mut state, &[("s.yaml", None)]);
    write(&mut state, "s.yaml", &route(4));
    assert_eq!(generation(&state), 1);
}

#[test]
fn ages_follow_file_then_document() {
    let mut state = State::default();
    let two = format!("{}---\n{}", service("z", 1), service("a", 1));
    stroke(&mut state, &[("b.yaml", Some(&two)), ("a.yaml", Some(&service("m", 1)))]);
    let mut services: Vec<_> = state.written.values().map(|held| held.object.meta()).collect();
    services.sort_by(|a, b| a.age.cmp(&b.age));
    let order: Vec<_> = services.iter().map(|meta| meta.name.name.as_str()).collect();
    assert_eq!(order, ["m", "z", "a"]);
    assert_eq!(services[2].age, Age(0, "b.yaml".into(), 1));
}

#[test]
fn of_two_definitions_the_first_wins_and_both_places_are_named() {
    let mut state = State::default();
    write(&mut state, "b.yaml", &service("a", 1));
    let edit = write(&mut state, "a.yaml", &format!("# first\n{}", service("a", 2)));
    assert_eq!(names(&edit), ["Service default/a"]);
    assert_eq!(
        errors_in(&edit),
        ["b.yaml:1: metadata.name: Service default/a is already defined at a.yaml:2, which wins"]
    );
    let edit = stroke(&mut state, &[("a.yaml", None)]);
    assert_eq!((names(&edit), edit.problems.len()), (vec!["Service default/a".to_owned()], 0));
}

#[test]
fn an_edit_of_several_objects_is_one_batch_and_nothing_new_is_no_batch() {
    let mut state = State::default();
    let edit = stroke(&mut state, &[]);
    assert_eq!(edit, Edit::default());
    let text = format!("{}---\n{}", service("a", 1), service("b", 1));
    assert_eq!(write(&mut state, "a.yaml", &text).objects.upserts.len(), 2);
    let same = BTreeMap::from([("a.yaml".to_owned(), Content::Text(text))]);
    assert_eq!(state.apply(same, Vec::new()), None);
}

#[test]
fn unknown_fields_and_kinds_warn_and_the_object_works() {
    let mut state = State::default();
    let text = "\
apiVersion: v1
kind: Service
metadata: {name: a}
spec:
  clusterIp: 10.0.0.1
  ports:
  - port: 80
    tragetPort: 8080
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: a, lables: {}}
spec:
  rules:
  - backendRef: []
    retry: {attempt: 3}
    sessionPersistence: {idle: 1s}
    matches:
    - path: {type: Exact, vlaue: /x}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: a}
spec: {anything: goes}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: a}
spec:
  mtls: {mod: STRICT}
";
    let edit = write(&mut state, "x.yaml", text);
    assert_eq!(
        errors_in(&edit),
        [
            "x.yaml:5: spec.clusterIp: unknown field, has no effect",
            "x.yaml:8: spec.ports[0].tragetPort: unknown field, has no effect",
            "x.yaml:12: metadata.lables: unknown field, has no effect",
            "x.yaml:15: spec.rules[0].backendRef: unknown field, has no effect",
            "x.yaml:16: spec.rules[0].retry.attempt: unknown field, has no effect",
            "x.yaml:17: spec.rules[0].sessionPersistence.idle: unknown field, has no effect",
            "x.yaml:19: spec.rules[0].matches[0].path.vlaue: unknown field, has no effect",
            "x.yaml:22: kind: Deployment (apps/v1) is not read by this version",
            "x.yaml:30: spec.mtls.mod: unknown field, has no effect",
        ]
    );
    assert!(edit.problems.iter().all(|problem| problem.severity == Severity::Warning));
    assert_eq!(names(&edit), ["Service default/a", "HTTPRoute default/a", "PeerAuthentication default/a"]);
}

#[test]
fn a_list_is_unpacked_and_each_item_stands_alone() {
    let mut state = State::default();
    let text = "\
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {a: b}}}
- {apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 70000}]}}
- {apiVersion: v1, kind: Node, metadata: {name: n1}}
";
    let edit = write(&mut state, "l.yaml", text);
    assert_eq!(names(&edit), ["Namespace shop", "Node n1"]);
    assert_eq!(errors_in(&edit), ["l.yaml:5: items[1].spec.ports[0].port: must be between 1 and 65535"]);
    // A JSON file is read too.
    let json =
        r#"{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Node","metadata":{"name":"m"}}]}"#;
    assert_eq!(names(&write(&mut state, "l.json", json)), ["Node m"]);
}

/// Name, ports and endpoints of a derived slice.
type Derived = (String, Vec<(String, u16)>, Vec<SliceEndpoint>);

fn slices(state: &State) -> Vec<Derived> {
    let slices = state.derived.values().filter_map(|held| match &held.object {
        Object::EndpointSlice(slice) => Some(slice),
        _ => None,
    });
    slices
        .map(|slice| {
            let ports = slice.ports.iter().map(|port| (port.name.clone(), port.port)).collect();
            (slice.meta.name.name.clone(), ports, slice.endpoints.clone())
        })
        .collect()
}

/// A pod of `app: a`, with further lines of its parts.
fn pod(name: &str, ip: &str, metadata: &str, spec: &str, status: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: a}}{metadata}}}\nspec: {{containers: [{{name: c, ports: [{{name: http, containerPort: 8080}}]}}]{spec}}}\nstatus: {{podIP: {ip}{status}}}\n"
    )
}

#[test]
fn slices_are_derived_as_the_endpoints_controller_does() {
    let service = |spec: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{selector: {{app: a}}, ports: [{{name: http, port: 80, targetPort: http}}]{spec}}}\n"
        )
    };
    // What the one endpoint looks like: ready, serving, terminating; `None` where there is none.
    type Row = (&'static str, &'static str, String, Option<(bool, bool, bool)>);
    let rows: &[Row] = &[
        ("no conditions", "", pod("p", "10.0.0.1", "", "", ""), Some((true, true, false))),
        (
            "ready",
            "",
            pod("p", "10.0.0.1", "", "", ", conditions: [{type: Ready, status: 'True'}]"),
            Some((true, true, false)),
        ),
        (
            "not ready",
            "",
            pod("p", "10.0.0.1", "", "", ", conditions: [{type: Ready, status: 'False'}]"),
            Some((false, false, false)),
        ),
        (
            "not ready, but published",
            ", publishNotReadyAddresses: true",
            pod("p", "10.0.0.1", "", "", ", conditions: [{type: Ready, status: 'False'}]"),
            Some((true, false, false)),
        ),
        (
            "being deleted",
            "",
            pod("p", "10.0.0.1", ", deletionTimestamp: '2026-01-01T00:00:00Z'", "", ""),
            Some((false, true, true)),
        ),
        (
            "being deleted, by annotation",
            "",
            pod("p", "10.0.0.1", ", annotations: {weft.dev/terminating: 'true'}", "", ""),
            Some((false, true, true)),
        ),
        ("succeeded", "", pod("p", "10.0.0.1", "", "", ", phase: Succeeded"), None),
        ("failed", "", pod("p", "10.0.0.1", "", "", ", phase: Failed"), None),
        ("without an address", "", pod("p", "''", "", "", ""), None),
        ("of another app", "", pod("p", "10.0.0.1", "", "", "").replace("app: a", "app: b"), None),
        ("without the named port", "", pod("p", "10.0.0.1", "", "", "").replace("name: http", "name: web"), None),
        ("of an ExternalName", ", type: ExternalName, externalName: b.example", pod("p", "10.0.0.1", "", "", ""), None),
        ("headless", ", clusterIP: None", pod("p", "10.0.0.1", "", "", ""), Some((true, true, false))),
    ];
    for (name, spec, pod, expected) in rows {
        let mut state = State::default();
        let edit = write(&mut state, "a.yaml", &format!("{}{pod}", service(spec)));
        assert_eq!(errors_in(&edit), [""; 0], "{name}");
        let found: Vec<_> = slices(&state)
            .into_iter()
            .flat_map(|(_, _, endpoints)| endpoints)
            .map(|endpoint| (endpoint.ready, endpoint.serving, endpoint.terminating))
            .collect();
        assert_eq!(found, expected.iter().copied().collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn pods_that_differ_in_port_or_family_get_slices_of_their_own_and_zones_come_from_nodes() {
    let mut state = State::default();
    let mut text = "\
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {selector: {app: a}, ports: [{name: http, port: 80, targetPort: http}, {name: admin, port: 81}, {name: dns, port: 53, protocol: UDP}]}
---
{apiVersion: v1, kind: Node, metadata: {name: n1, labels: {topology.kubernetes.io/zone: z1}}}
"
    .to_owned();
    text += &pod("p1", "10.0.0.1", "", ", nodeName: n1", ", podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]");
    text += &pod("p2", "10.0.0.2", "", "", "");
    text += &pod("p3", "10.0.0.3", "", "", "").replace("8080", "9090");
    let edit = write(&mut state, "a.yaml", &text);
    assert_eq!(errors_in(&edit), [""; 0]);
    let found: Vec<_> = slices(&state)
        .into_iter()
        .map(|(name, ports, endpoints)| {
            let pods: Vec<_> = endpoints.iter().map(|e| format!("{}@{}", e.addresses[0], e.zone)).collect();
            (name, ports, pods)
        })
        .collect();
    let ports = |n| vec![("admin".to_owned(), 81), ("http".to_owned(), n)];
    assert_eq!(
        found,
        [
            ("a-weft".to_owned(), ports(8080), vec!["10.0.0.1@z1".to_owned(), "10.0.0.2@".to_owned()]),
            ("a-weft-2".to_owned(), ports(9090), vec!["10.0.0.3@".to_owned()]),
            ("a-weft-3".to_owned(), ports(8080), vec!["fd00::1@z1".to_owned()]),
        ]
    );
    // Another zone for the node: only what lies on it changes.
    let edit = write(&mut state, "a.yaml", &text.replace("zone: z1", "zone: z2"));
    assert_eq!(names(&edit), ["Node n1", "EndpointSlice default/a-weft", "EndpointSlice default/a-weft-3"]);
}

#[test]
fn a_slice_written_by_hand_replaces_the_derived_ones_and_its_removal_brings_them_back() {
    let mut state = State::default();
    write(&mut state, "a.yaml", &format!("{}{}", service("a", 80), pod("p", "10.0.0.1", "", "", "")));
    assert_eq!(slices(&state).len(), 1);
    let by_hand = |name: &str| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, labels: {{kubernetes.io/service-name: a}}}}\naddressType: IPv4\nports: [{{port: 80}}]\nendpoints: [{{addresses: [10.9.9.9]}}]\n"
        )
    };
    let edit = write(&mut state, "s.yaml", &by_hand("a-1"));
    assert_eq!(names(&edit), ["EndpointSlice default/a-1"]);
    assert_eq!(edit.objects.removes.iter().map(|key| key.name.name.as_str()).collect::<Vec<_>>(), ["a-weft"]);
    // Even one of the very name: it is replaced, never removed.
    let edit = write(&mut state, "s.yaml", &by_hand("a-weft"));
    assert_eq!(names(&edit), ["EndpointSlice default/a-weft"]);
    let edit = stroke(&mut state, &[("s.yaml", None)]);
    assert_eq!((names(&edit), edit.objects.removes.len()), (vec!["EndpointSlice default/a-weft".to_owned()], 0));
}

#[test]
fn pods_and_services_are_read_with_the_api_servers_defaults() {
    let mut state = State::default();
    let text = "\
apiVersion: v1
kind: Pod
metadata:
  name: reviews-6d4cf56db6-x2x2x
  labels: {app: reviews, pod-template-hash: 6d4cf56db6}
  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: reviews-6d4cf56db6, uid: u, controller: true}]
spec:
  hostNetwork: true
  initContainers:
  - {name: once, ports: [{name: once, containerPort: 1}]}
  - {name: sidecar, restartPolicy: Always, ports: [{name: side, containerPort: 2}]}
  containers: [{name: c, ports: [{name: http, containerPort: 8080}, {name: quic, containerPort: 8080, protocol: UDP}]}]
---
apiVersion: v1
kind: Service
metadata: {name: s, namespace: shop}
spec:
  clusterIPs: [10.96.0.1, 'fd00::1']
  clusterIP: 10.96.0.1
  externalIPs: [192.0.2.1]
  sessionAffinity: ClientIP
  internalTrafficPolicy: Local
  ports:
  - {name: web, port: 80, appProtocol: kubernetes.io/h2c}
  - {name: grpc-api, port: 90, targetPort: api}
  - {name: dns, port: 80, protocol: UDP}
status: {loadBalancer: {ingress: [{ip: 192.0.2.9}]}}
";
    let edit = write(&mut state, "a.yaml", text);
    assert_eq!(errors_in(&edit), [""; 0]);
    let mut found = objects(&state).into_iter();
    let Some(Object::Service(service)) = found.next() else { panic!("a Service") };
    assert_eq!(service.meta.name.namespace, "shop");
    assert_eq!(service.kind, ServiceKind::ClusterIp);
    let vips: Vec<_> = service.vips.iter().map(ToString::to_string).collect();
    assert_eq!(vips, ["10.96.0.1", "fd00::1", "192.0.2.1", "192.0.2.9"]);
    assert_eq!(service.client_ip_affinity, Some(std::time::Duration::from_secs(10_800)));
    assert!(service.node_local);
    let ports: Vec<_> = service.ports.iter().map(|p| (p.port, p.target.clone(), p.protocol)).collect();
    use crate::model::TargetPort::{Name, Number};
    use weft_proto::v1::Protocol;
    assert_eq!(ports, [(80, Number(80), Protocol::Http2), (90, Name("api".into()), Protocol::Grpc)]);
    let Some(Object::Pod(pod)) = found.next() else { panic!("a Pod") };
    assert_eq!(pod.meta.name.namespace, "default");
    assert_eq!((pod.service_account.as_str(), pod.owner.as_str()), ("default", "reviews"));
    assert!(pod.host_network && pod.ready && !pod.terminating && !pod.finished && pod.addresses.is_empty());
    let ports: Vec<_> = pod.ports.iter().map(|p| (p.name.as_str(), p.port)).collect();
    assert_eq!(ports, [("http", 8080), ("side", 2)]);
}

#[test]
fn what_is_refused_is_known_however_many_problems_there_are() {
    let fault = |n: usize| {
        let text = format!(
            "{{apiVersion: weft.dev/v1alpha1, kind: FaultInjection, metadata: {{name: f{n}}}, spec: {{delay: {{fixedDelay: 0s}}}}}}"
        );
        (format!("{n:05}.yaml"), text)
    };
    let files: Vec<_> = (0..MAX_PROBLEMS + 5).map(fault).collect();
    let all: Vec<_> = files.iter().map(|(name, text)| (&**name, Some(&**text))).collect();
    let mut state = State::default();
    let edit = stroke(&mut state, &all);
    assert_eq!((edit.problems.len(), edit.refused.len()), (MAX_PROBLEMS, MAX_PROBLEMS + 5));
    assert_eq!(edit.problems.last().unwrap().message, "6 more problems are not listed");
    assert!(edit.refused.values().all(|why| why.starts_with("spec.delay.fixedDelay: ")));
    // As many are not listed as before, but of other objects.
    let (last, other) = (&*files.last().unwrap().0, fault(MAX_PROBLEMS + 5).1);
    let edit = stroke(&mut state, &[(last, Some(&*other))]);
    assert_eq!(edit.refused.len(), MAX_PROBLEMS + 5, "it is told");
}

mod connection_routes;
mod grpc_route;
mod incremental;
mod locality;
mod refused;
