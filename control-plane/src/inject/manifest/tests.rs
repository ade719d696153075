use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;
use crate::inject::INJECTED;

fn options(settings: &str) -> Options {
    Options {
        settings: InjectSettings::parse(settings).unwrap(),
        cluster: ClusterFacts::SUPPORTED,
        namespace: "shop".to_owned(),
    }
}

/// The same secrets each time.
fn rng() -> StdRng {
    StdRng::seed_from_u64(7)
}

fn injected(text: &str) -> Changed {
    inject_yaml(text, &options(""), &mut rng()).unwrap()
}

fn read(text: &str) -> Vec<Value> {
    documents::split(text)
        .iter()
        .map(|document| yaml::value(&tree::parse(document.text, document.first_line).unwrap()).unwrap())
        .collect()
}

const DEPLOYMENT: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web} # its comment
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata:
      labels: {app: web}
    spec:
      containers:
      - name: app
        image: shop/web:1
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {port: http, path: /ready}, periodSeconds: 2}
        livenessProbe: {tcpSocket: {port: 8080}}
      volumes:
      - name: scripts
        configMap: {name: scripts, defaultMode: 0755}
";

const SERVICE: &str =
    "---\n# Kept as it is.\napiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80}]}\n";

#[test]
fn only_what_has_pods_changes_and_the_rest_keeps_its_text() {
    let changed = injected(&format!("{DEPLOYMENT}{SERVICE}"));
    assert!(changed.text.ends_with(SERVICE), "{}", changed.text);
    let report = Report {
        object: "Deployment shop/web".to_owned(),
        changed: true,
        what: "injected (native)".to_owned(),
        warnings: Vec::new(),
    };
    assert_eq!(changed.objects, [report]);
    let template = &read(&changed.text)[0]["spec"]["template"];
    assert_eq!(template["metadata"]["labels"]["weft.dev/mesh-tls"], "1");
    assert_eq!(template["spec"]["initContainers"][1]["name"], "weft-sidecar");
    let path = template["spec"]["containers"][0]["readinessProbe"]["httpGet"]["path"].as_str().unwrap();
    assert!(path.starts_with("/probe/") && path.ends_with(".app/readiness"), "{path}");
    assert_eq!(template["spec"]["volumes"][0]["configMap"]["defaultMode"], 0o755, "octal as kubectl takes it");
}

#[test]
fn a_second_time_changes_nothing_and_undoing_gives_it_back() {
    for settings in
        ["", "sidecarMode: classic", "cni: true", "{sidecarMode: classic, cni: true, excludeInboundPorts: [9090]}"]
    {
        let text = format!("{DEPLOYMENT}{SERVICE}");
        let once = inject_yaml(&text, &options(settings), &mut rng()).unwrap();
        let twice = inject_yaml(&once.text, &options(""), &mut rng()).unwrap();
        assert_eq!(twice.text, once.text, "{settings}");
        assert_eq!(twice.objects[0].what, "left alone: it is injected already");
        let back = uninject_yaml(&once.text).unwrap();
        assert_eq!(read(&back.text), read(&text), "{settings}");
        assert!(!back.text.contains("weft"), "{}", back.text);
        assert_eq!(uninject_yaml(&back.text).unwrap().text, back.text);
    }
}

#[test]
fn every_object_has_secrets_of_its_own_which_stay_while_it_is_injected() {
    let mut rng = rng();
    let secrets = |text: &str| {
        let paths = text.split("/probe/").skip(1).filter_map(|rest| rest.split_once('.'));
        paths.map(|(secret, _)| secret.to_owned()).collect::<Vec<_>>()
    };
    let text = format!("{DEPLOYMENT}---\n{DEPLOYMENT}");
    let once = inject_yaml(&text, &options(""), &mut rng).unwrap();
    let [a, b, c, d] = &secrets(&once.text)[..] else { panic!("{}", once.text) };
    assert!(a == b && c == d && a != c && a.len() == 32, "{}", once.text);
    assert_eq!(inject_yaml(&once.text, &options(""), &mut rng).unwrap().text, once.text);
    let anew = inject_yaml(&uninject_yaml(&once.text).unwrap().text, &options(""), &mut rng).unwrap();
    let mut same_but_for_secrets = anew.text.clone();
    for (new, old) in secrets(&anew.text).iter().zip(secrets(&once.text)) {
        same_but_for_secrets = same_but_for_secrets.replace(new, &old);
    }
    assert!(anew.text != once.text && same_but_for_secrets == once.text, "{}", anew.text);
    // What kubelet asks for is what the sidecar knows.
    for secret in [a, c] {
        assert_eq!(once.text.matches(&format!("{secret}.app/readiness")).count(), 2, "{}", once.text);
        assert_eq!(once.text.matches(&format!("{secret}.app/liveness")).count(), 2, "{}", once.text);
    }
}

#[test]
fn every_kind_that_has_pods_is_known() {
    let pod = "{metadata: {labels: {app: a}}, spec: {containers: [{name: app, image: a}]}}";
    let rows = [
        ("apps/v1", "Deployment", format!("template: {pod}"), true),
        ("apps/v1", "StatefulSet", format!("template: {pod}"), true),
        ("apps/v1", "DaemonSet", format!("template: {pod}"), true),
        ("apps/v1", "ReplicaSet", format!("template: {pod}"), true),
        ("v1", "ReplicationController", format!("template: {pod}"), true),
        ("batch/v1", "Job", format!("template: {pod}"), true),
        ("batch/v1", "CronJob", format!("jobTemplate: {{spec: {{template: {pod}}}}}"), true),
        ("v1", "Pod", "containers: [{name: app, image: a}]".to_owned(), true),
        ("batch.example.com/v1", "Job", format!("template: {pod}"), false),
        ("v1", "ConfigMap", format!("template: {pod}"), false),
        ("apps/v1", "Deployment", "replicas: 1".to_owned(), false),
    ];
    for (version, kind, spec, expected) in rows {
        let text = format!("{{apiVersion: {version}, kind: {kind}, metadata: {{name: a}}, spec: {{{spec}}}}}\n");
        let changed = injected(&text);
        assert_eq!(changed.text.contains(INJECTED), expected, "{kind} {version}");
        let in_a_list = injected(&format!("apiVersion: v1\nkind: List\nitems:\n- {text}- {text}"));
        assert_eq!(in_a_list.text.matches(INJECTED).count(), if expected { 2 } else { 0 }, "{kind} {version}");
        assert_eq!(in_a_list.objects.len(), if expected { 2 } else { 0 });
    }
}

#[test]
fn a_job_is_left_alone_where_the_sidecar_would_keep_it_from_completing() {
    let job = |annotations: &str| {
        format!(
            "{{apiVersion: batch/v1, kind: Job, metadata: {{name: a}}, spec: {{template: {{metadata: {{annotations: {{{annotations}}}}}, \
             spec: {{containers: [{{name: app, image: a}}]}}}}}}}}\n"
        )
    };
    let rows = [
        ("", "", "injected (native)"),
        ("sidecarMode: classic", "", "left alone: a Job, and the sidecar would be a classic one"),
        ("sidecarMode: classic", "weft.dev/sidecar-mode: classic", "injected (classic)"),
        ("{sidecarMode: classic, jobsInClassicMode: true}", "", "injected (classic)"),
    ];
    for (settings, annotations, expected) in rows {
        let changed = inject_yaml(&job(annotations), &options(settings), &mut rng()).unwrap();
        assert_eq!(changed.objects[0].what, expected, "{settings} {annotations}");
        assert_eq!(changed.objects[0].warnings.is_empty(), expected == "injected (native)");
    }
}

#[test]
fn everything_that_is_wrong_is_said_at_once_and_nothing_is_given_out() {
    let pod = |name: &str, annotations: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, annotations: {{{annotations}}}}}\nspec: {{containers: [{{name: a}}]}}\n"
        )
    };
    let text = [
        pod("good", ""),
        pod("bad", "weft.dev/image: ''"),
        "---\na: [\n".to_owned(),
        pod("odd", "weft.dev/log-level: loud"),
    ];
    let BadManifest(wrong) = inject_yaml(&text.concat(), &options(""), &mut rng()).unwrap_err();
    assert_eq!(wrong.len(), 3, "{wrong:?}");
    assert!(wrong[0].starts_with("Pod shop/bad: annotation weft.dev/image"), "{wrong:?}");
    assert!(wrong[1].starts_with("line 1"), "{wrong:?}");
    assert!(wrong[2].starts_with("Pod shop/odd: annotation weft.dev/log-level"), "{wrong:?}");
    let injected_by_hand = pod("forged", "weft.dev/injected: '['");
    assert!(uninject_yaml(&injected_by_hand).unwrap_err().to_string().contains("cannot be read"));
}

/// Pods as people write them: any mixture of what injection touches.
fn templates() -> impl Strategy<Value = Value> {
    let handler = prop_oneof![
        Just(json!({ "httpGet": { "port": "http", "path": "/x", "scheme": "HTTPS" } })),
        Just(
            json!({ "httpGet": { "port": 8080, "host": "example.com", "httpHeaders": [{ "name": "a", "value": "b" }] } })
        ),
        Just(json!({ "tcpSocket": { "port": "nowhere" } })),
        Just(json!({ "tcpSocket": { "port": 8080 }, "timeoutSeconds": 3 })),
        Just(json!({ "grpc": { "port": 9000, "service": "s" } })),
        Just(json!({ "grpc": { "port": 9000 }, "periodSeconds": 1 })),
        Just(json!({ "exec": { "command": ["true"] } })),
    ];
    let hook = prop_oneof![Just(json!({ "httpGet": { "port": "http" } })), Just(json!({ "sleep": { "seconds": 1 } })),];
    let container = (
        prop::option::of(handler.clone()),
        prop::option::of(handler),
        prop::option::of(hook),
        any::<bool>(),
        any::<bool>(),
    );
    let container = container.prop_map(|(readiness, startup, hook, stays, newer)| {
        let mut container = json!({ "ports": [{ "name": "http", "containerPort": 8080 }] });
        let mut put = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                container[key] = value;
            }
        };
        put("readinessProbe", readiness);
        put("startupProbe", startup);
        put("lifecycle", hook.map(|hook| json!({ "preStop": hook })));
        put("restartPolicy", stays.then(|| json!("Always")));
        put("fieldFromTheFuture", newer.then(|| json!({ "b": [1] })));
        container
    });
    let map = || prop::option::of(prop::collection::btree_map("[a-c]", "[a-c]", 0..3));
    (
        prop::collection::vec(container.clone(), 1..4),
        prop::option::of(prop::collection::vec(container, 0..3)),
        prop::option::of(prop::collection::vec(Just(json!({ "name": "v", "emptyDir": {} })), 0..2)),
        map(),
        map(),
        any::<bool>(),
    )
        .prop_map(|(mut containers, mut init, volumes, labels, annotations, labelled)| {
            // No two containers of a pod have the same name.
            let all = containers.iter_mut().chain(init.iter_mut().flatten()).enumerate();
            all.for_each(|(index, container)| container["name"] = format!("c-{index}").into());
            let mut template = json!({ "metadata": { "name": "a" }, "spec": { "containers": containers } });
            let mut put = |of: &str, key: &str, value: Option<Value>| {
                if let Some(value) = value {
                    template[of][key] = value;
                }
            };
            put("spec", "initContainers", init.map(Value::from));
            put("spec", "volumes", volumes.map(Value::from));
            put("metadata", "annotations", annotations.map(|all| json!(all)));
            put(
                "metadata",
                "labels",
                labels.map(|mut all| {
                    if labelled {
                        all.insert("weft.dev/mesh-tls".to_owned(), "0".to_owned());
                    }
                    json!(all)
                }),
            );
            template
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn undoing_gives_back_what_was_injected(template in templates(), classic in any::<bool>(), cni in any::<bool>()) {
        let mode = if classic { "classic" } else { "native" };
        let options = options(&format!("{{sidecarMode: {mode}, cni: {cni}}}"));
        let object = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "a" }, "spec": { "template": template } });
        let mut text = String::new();
        yaml::write(&object, &mut text);
        let once = inject_yaml(&text, &options, &mut rng()).unwrap();
        prop_assert!(once.objects[0].changed);
        prop_assert_eq!(&inject_yaml(&once.text, &options, &mut rng()).unwrap().text, &once.text);
        let back = uninject_yaml(&once.text).unwrap();
        prop_assert_eq!(&read(&back.text)[0], &object, "{}", once.text);
    }
}
