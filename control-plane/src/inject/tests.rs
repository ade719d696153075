use super::*;

fn pod(yaml: &str) -> Pod {
    serde_saphyr::from_str(yaml).unwrap_or_else(|error| panic!("{error}\n{yaml}"))
}

/// A namespace that asks, in a cluster where native sidecars are possible.
fn context() -> Context {
    Context {
        namespace: "shop".to_owned(),
        labels: BTreeMap::from([(INJECT.to_owned(), "enabled".to_owned())]),
        annotations: BTreeMap::new(),
        cluster: ClusterFacts::SUPPORTED,
        of_job: false,
        probe_secret: [0x5e; 16].into(),
    }
}

/// As in [`context`].
const SECRET: &str = "5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e";

fn settings(yaml: &str) -> InjectSettings {
    InjectSettings::parse(yaml).unwrap()
}

fn patched(pod: &Pod, injection: &Injection) -> Value {
    let mut value = to_json(pod);
    json_patch::patch(&mut value, &injection.patch).unwrap();
    value
}

fn inject(text: &str, yaml: &str) -> (Value, Injection) {
    let pod = pod(text);
    match patch(&pod, &context(), &settings(yaml)) {
        Ok(Outcome::Injected(injection)) => (patched(&pod, &injection), injection),
        other => panic!("{other:?}"),
    }
}

const APP: &str = "
metadata: {name: web, labels: {app: web}}
spec:
  initContainers: [{name: migrate, image: shop/migrate}]
  containers:
  - name: app
    image: shop/web
    ports: [{name: http, containerPort: 8080}]
    readinessProbe: {httpGet: {path: /ready, port: http}, periodSeconds: 2}
";

fn names(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(|item| item["name"].as_str()).collect()
}

fn env<'a>(container: &'a Value, name: &str) -> Option<&'a str> {
    container["env"].as_array()?.iter().find(|env| env["name"] == name)?["value"].as_str()
}

#[test]
fn a_native_sidecar_is_there_before_the_apps_own_init_containers() {
    let (pod, injection) = inject(APP, "");
    assert_eq!(injection.mode, Mode::Native);
    assert_eq!(names(&pod["spec"]["initContainers"]), ["weft-redirect", "weft-sidecar", "migrate"]);
    assert_eq!(names(&pod["spec"]["containers"]), ["app"]);
    assert_eq!(names(&pod["spec"]["volumes"]), VOLUMES);
    let expected = json!({
        "name": "weft-sidecar",
        "image": "weft.dev/sidecar:0.1.0",
        "imagePullPolicy": "IfNotPresent",
        "restartPolicy": "Always",
        "command": ["/weft-sidecar"],
        "args": ["run"],
        "env": [
            { "name": "WEFT_CONTROL_PLANE", "value": "weft-control-plane.weft-system.svc:15012" },
            { "name": "WEFT_CA_ROOTS", "value": "/var/run/weft/ca/roots.pem" },
            { "name": "WEFT_JOIN_TOKEN", "value": "/var/run/weft/token/token" },
            { "name": "WEFT_TRUST_DOMAIN", "value": "cluster.local" },
            { "name": "WEFT_CLUSTER_DOMAIN", "value": "cluster.local" },
            { "name": "WEFT_NAMESPACE", "valueFrom": { "fieldRef": { "fieldPath": "metadata.namespace" } } },
            { "name": "WEFT_POD", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
            { "name": "WEFT_SERVICE_ACCOUNT", "valueFrom": { "fieldRef": { "fieldPath": "spec.serviceAccountName" } } },
            { "name": "WEFT_POD_ADDRESS", "valueFrom": { "fieldRef": { "fieldPath": "status.podIP" } } },
            { "name": "WEFT_NODE", "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } } },
            { "name": "WEFT_MODE", "value": "native" },
            { "name": "WEFT_DRAIN_SECONDS", "value": "28" },
            { "name": "WEFT_LOG", "value": "info" },
            { "name": "WEFT_PROBES", "value": "{\"5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e.app/readiness\":{\"http\":{\"headers\":[],\"host\":null,\"path\":\"/ready\",\"port\":8080,\"scheme\":\"HTTP\",\"timeoutSeconds\":1}}}" },
        ],
        "ports": [{ "name": "weft-metrics", "containerPort": 15020, "protocol": "TCP" }],
        "startupProbe": { "httpGet": { "path": "/ready", "port": 15021 }, "periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 3600 },
        "readinessProbe": { "httpGet": { "path": "/ready", "port": 15021 }, "periodSeconds": 5, "timeoutSeconds": 3, "failureThreshold": 3 },
        "livenessProbe": { "httpGet": { "path": "/live", "port": 15021 }, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6 },
        "lifecycle": { "preStop": { "exec": { "command": ["/weft-sidecar", "drain"] } } },
        "resources": { "requests": { "cpu": "10m", "memory": "32Mi" }, "limits": { "memory": "256Mi" } },
        "securityContext": {
            "runAsUser": 1337, "runAsGroup": 1337, "runAsNonRoot": true, "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] }, "seccompProfile": { "type": "RuntimeDefault" },
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            { "name": "weft-ca-roots", "mountPath": "/var/run/weft/ca", "readOnly": true },
            { "name": "weft-token", "mountPath": "/var/run/weft/token", "readOnly": true },
        ],
    });
    assert_eq!(pod["spec"]["initContainers"][1], expected);
    let security = &pod["spec"]["initContainers"][0]["securityContext"];
    assert_eq!(security["capabilities"], json!({ "drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"] }));
    let token = json!({ "serviceAccountToken": { "path": "token", "audience": "weft-ca", "expirationSeconds": 3600 } });
    assert_eq!(pod["spec"]["volumes"][1]["projected"]["sources"], json!([token]));
    assert_eq!(pod["spec"]["volumes"][0]["configMap"]["name"], "weft-ca-roots");
    assert_eq!(pod["metadata"]["labels"], json!({ "app": "web", "weft.dev/mesh-tls": "1" }));
    let path = format!("/probe/{SECRET}.app/readiness");
    let probe = json!({ "httpGet": { "port": 15021, "path": path }, "periodSeconds": 2 });
    assert_eq!(pod["spec"]["containers"][0]["readinessProbe"], probe);
    let record: Record = serde_json::from_str(pod["metadata"]["annotations"][INJECTED].as_str().unwrap()).unwrap();
    assert_eq!((record.mode.as_str(), record.version.as_str()), ("native", env!("CARGO_PKG_VERSION")));
    assert_eq!(record.init_containers, ["weft-redirect", "weft-sidecar"]);
    // It is a pod in Kubernetes' eyes.
    serde_json::from_value::<Pod>(pod).unwrap();
}

#[test]
fn a_classic_sidecar_starts_before_the_app_and_after_its_init_containers() {
    let (pod, injection) = inject(APP, "sidecarMode: classic");
    assert_eq!(injection.mode, Mode::Classic);
    assert_eq!(names(&pod["spec"]["initContainers"]), ["migrate", "weft-redirect"]);
    assert_eq!(names(&pod["spec"]["containers"]), ["weft-sidecar", "app"]);
    let sidecar = &pod["spec"]["containers"][0];
    assert_eq!(
        sidecar["lifecycle"],
        json!({ "postStart": { "exec": { "command": ["/weft-sidecar", "wait", "--timeout=600"] } } })
    );
    assert_eq!((sidecar.get("restartPolicy"), env(sidecar, "WEFT_MODE")), (None, Some("classic")));
    let path = format!("/probe/{SECRET}.app/readiness");
    assert_eq!(pod["spec"]["containers"][1]["readinessProbe"]["httpGet"]["path"], path);
    assert_eq!(pod["metadata"]["annotations"][DEFAULT_CONTAINER], "app", "`kubectl logs` shows the app");
    serde_json::from_value::<Pod>(pod).unwrap();
}

#[test]
fn the_switches_of_the_settings_are_told_to_the_sidecar_where_they_differ_from_its_defaults() {
    let told = |yaml| {
        let (pod, _) = inject(APP, yaml);
        let sidecar = &pod["spec"]["initContainers"][1];
        ["WEFT_ACCESS_LOG", "WEFT_BUSY_POLL"].map(|name| env(sidecar, name).map(str::to_owned))
    };
    let told = |yaml| told(yaml).map(|value| value.unwrap_or_default());
    assert_eq!(told(""), ["", ""]);
    assert_eq!(told("{accessLog: false, busyPoll: true}"), ["", ""]);
    assert_eq!(told("{accessLog: true, busyPoll: false}"), ["on", "off"]);
}

#[test]
fn the_mode_is_the_annotations_before_the_settings_before_the_clusters() {
    let old = ClusterFacts { server: cluster::Version::parse("v1.28.0"), ..ClusterFacts::default() };
    let rows = [
        ("auto", "", ClusterFacts::SUPPORTED, Mode::Native),
        ("auto", "", old, Mode::Classic),
        ("native", "", old, Mode::Native),
        ("classic", "", ClusterFacts::SUPPORTED, Mode::Classic),
        ("classic", "weft.dev/sidecar-mode: native", ClusterFacts::SUPPORTED, Mode::Native),
        ("native", "weft.dev/sidecar-mode: classic", ClusterFacts::SUPPORTED, Mode::Classic),
    ];
    for (setting, annotation, cluster, expected) in rows {
        let pod =
            pod(&format!("{{metadata: {{annotations: {{{annotation}}}}}, spec: {{containers: [{{name: app}}]}}}}"));
        let outcome = patch(&pod, &Context { cluster, ..context() }, &settings(&format!("sidecarMode: {setting}")));
        let Ok(Outcome::Injected(injection)) = outcome else { panic!("{outcome:?}") };
        assert_eq!(injection.mode, expected, "{setting} {annotation}");
    }
}

#[test]
fn some_pods_are_left_alone_and_their_owners_told() {
    let app = "containers: [{name: app}]";
    let owned = |kind: &str| {
        format!(
            "{{metadata: {{ownerReferences: [{{apiVersion: batch/v1, kind: {kind}, name: a, uid: b}}]}}, spec: {{{app}}}}}"
        )
    };
    let other = "weft.dev/revision: canary";
    #[rustfmt::skip]
    let rows = [
        // (what, pod, settings, why, what the owner is told)
        ("hostNetwork",                format!("{{spec: {{hostNetwork: true, {app}}}}}"), "", "host-network", Some("not meshed")),
        ("Windows by its spec",        format!("{{spec: {{os: {{name: windows}}, {app}}}}}"), "", "windows", Some("Windows")),
        ("Windows by its node",        format!("{{spec: {{nodeSelector: {{kubernetes.io/os: windows}}, {app}}}}}"), "", "windows", Some("Windows")),
        ("a static pod",               format!("{{metadata: {{annotations: {{kubernetes.io/config.mirror: a}}}}, spec: {{{app}}}}}"), "", "static-pod", Some("static")),
        ("a Job's, classic",           owned("Job"), "sidecarMode: classic", "job", Some("sidecar-mode: classic")),
        ("opted out",                  format!("{{metadata: {{labels: {{weft.dev/inject: disabled}}}}, spec: {{{app}}}}}"), "", "not-asked", None),
        ("another revision's",         format!("{{metadata: {{labels: {{{other}}}}}, spec: {{{app}}}}}"), "", "other-revision", None),
        ("of a namespace never meshed",format!("{{spec: {{{app}}}}}"), "excludeNamespaces: [shop]", "excluded-namespace", None),
    ];
    for (what, text, yaml, expected, told) in rows {
        let outcome = patch(&pod(&text), &context(), &settings(yaml));
        let Ok(Outcome::LeftAlone(why)) = outcome else { panic!("{what}: {outcome:?}") };
        assert_eq!(why.reason(), expected, "{what}");
        let warning = why.warning();
        assert_eq!(warning.is_some(), told.is_some(), "{what}: {warning:?}");
        assert!(warning.unwrap_or_default().contains(told.unwrap_or_default()), "{what}");
    }
    for namespace in ["kube-system", "weft-system"] {
        let context = Context { namespace: namespace.to_owned(), ..context() };
        assert_eq!(patch(&pod(APP), &context, &settings("")), Ok(Outcome::LeftAlone(Why::Namespace)));
    }
    let (_, injection) = inject(&owned("Job"), "");
    assert!(injection.warnings.is_empty(), "a native sidecar ends with the Job");
    let (_, injection) = inject(&owned("Job"), "{sidecarMode: classic, jobsInClassicMode: true}");
    assert!(injection.warnings[0].contains("quitquitquit"));
    let (_, injection) = inject(&owned("ReplicaSet"), "sidecarMode: classic");
    assert!(injection.warnings.is_empty());
}

#[test]
fn what_programs_the_network_has_the_administrators_image() {
    let text = "{metadata: {annotations: {weft.dev/image: 'mine:1'}}, spec: {containers: [{name: app}]}}";
    let images = |mode: &str| {
        let (patched, _) = inject(text, &format!("{{allowImageAnnotation: true, sidecarMode: {mode}}}"));
        let lists = ["/spec/initContainers", "/spec/containers"].map(|list| patched.pointer(list).cloned());
        let all = lists.into_iter().flatten().flat_map(|list| list.as_array().cloned().unwrap_or_default());
        all.map(|container| (container["name"].clone(), container["image"].clone())).collect::<Vec<_>>()
    };
    for mode in ["native", "classic"] {
        let images = images(mode);
        let image = |name: &str| images.iter().find(|(given, _)| given == name).map(|(_, image)| image.clone());
        assert_eq!(image(REDIRECT), Some(InjectSettings::default().image.into()), "{mode}");
        assert_eq!(image(SIDECAR), Some("mine:1".into()), "{mode}");
    }
}

#[test]
fn a_pod_that_cannot_be_meshed_is_refused_with_the_reason() {
    let annotated = |annotation: &str| {
        format!("{{metadata: {{annotations: {{{annotation}}}}}, spec: {{containers: [{{name: app}}]}}}}")
    };
    let wide: Vec<_> = (1..=257).map(|port| port.to_string()).collect();
    let addresses: Vec<_> = (0..20_000).map(|host| format!("fd00::{host:x}")).collect();
    #[rustfmt::skip]
    let rows = [
        ("the sidecar's UID",           "{spec: {containers: [{name: app, securityContext: {runAsUser: 1337}}]}}".to_owned(), "container `app` runs as UID 1337 (its own"),
        ("the sidecar's UID, the pod's","{spec: {securityContext: {runAsUser: 1337}, containers: [{name: app}]}}".to_owned(), "container `app` runs as UID 1337 (the pod's"),
        ("an init container's",         "{spec: {initContainers: [{name: init, securityContext: {runAsUser: 1337}}], containers: [{name: app}]}}".to_owned(), "container `init` runs"),
        ("a bad annotation",            annotated("weft.dev/log-level: loud"), "annotation weft.dev/log-level of the pod is `loud`: "),
        ("a bad label",                 "{metadata: {labels: {weft.dev/inject: 'true'}}, spec: {containers: [{name: app}]}}".to_owned(), "use `enabled` or `disabled`"),
        ("a container of our name",     "{spec: {containers: [{name: weft-sidecar}]}}".to_owned(), "a container named `weft-sidecar` of its own"),
        ("an init container of it",     "{spec: {initContainers: [{name: weft-redirect}], containers: [{name: app}]}}".to_owned(), "an init container named `weft-redirect`".get(3..).unwrap_or_default()),
        ("a volume of our name",        "{spec: {volumes: [{name: weft-token}], containers: [{name: app}]}}".to_owned(), "a volume named `weft-token`"),
        ("too many exceptions",         annotated(&format!("weft.dev/exclude-outbound-ports: '{}', weft.dev/exclude-inbound-ports: '1'", wide[1..].join(","))), "257 exceptions"),
        ("too many of one kind",        annotated(&format!("weft.dev/exclude-outbound-ports: '{}'", wide.join(","))), "exclude-outbound-ports of the pod is `1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,2…`: it has 257 entries"),
        ("far too many, to compute",    annotated(&format!("weft.dev/include-outbound-cidrs: '{}'", addresses.join(","))), ": it has 20000 entries, and 256 at most"),
        ("a request above the limit",   annotated("weft.dev/proxy-memory-request: 1Gi"), "above the memory limit, 256Mi"),
    ];
    for (what, text, message) in rows {
        let refusal = patch(&pod(&text), &context(), &settings("")).unwrap_err().to_string();
        assert!(refusal.contains(message), "{what}: {refusal}");
    }
    // A container of its own UID overrides its pod's.
    let text =
        "{spec: {securityContext: {runAsUser: 1337}, containers: [{name: app, securityContext: {runAsUser: 1}}]}}";
    assert!(matches!(patch(&pod(text), &context(), &settings("")), Ok(Outcome::Injected(_))));
    // One that opts out is nobody's business.
    let text = "{metadata: {labels: {weft.dev/inject: disabled}}, spec: {securityContext: {runAsUser: 1337}, containers: [{name: app}]}}";
    assert_eq!(patch(&pod(text), &context(), &settings("")), Ok(Outcome::LeftAlone(Why::NotAsked)));
}

#[test]
fn probes_and_hooks_that_come_over_the_network_go_through_the_sidecar() {
    let http = |more: Value| {
        let mut all =
            json!({ "port": 8080, "path": "/", "scheme": "HTTP", "host": null, "headers": [], "timeoutSeconds": 1 });
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Some(json!({ "http": all }))
    };
    #[rustfmt::skip]
    let rows = [
        ("by number",            "readinessProbe: {httpGet: {port: 8080}}", "readiness", http(json!({}))),
        ("by name",              "livenessProbe: {httpGet: {port: http, path: /live}}", "liveness", http(json!({ "path": "/live" }))),
        ("a number as text",     "livenessProbe: {httpGet: {port: '81'}}", "liveness", http(json!({ "port": 81 }))),
        ("HTTPS, headers",       "startupProbe: {httpGet: {port: 8080, scheme: HTTPS, httpHeaders: [{name: a, value: b}]}}", "startup", http(json!({ "scheme": "HTTPS", "headers": [["a", "b"]] }))),
        ("another host, slow",   "readinessProbe: {httpGet: {port: 8080, host: example.com}, timeoutSeconds: 7}", "readiness", http(json!({ "host": "example.com", "timeoutSeconds": 7 }))),
        ("TCP",                  "readinessProbe: {tcpSocket: {port: http}}", "readiness", Some(json!({ "tcp": { "port": 8080, "host": null, "timeoutSeconds": 1 } }))),
        ("gRPC",                 "readinessProbe: {grpc: {port: 9000}}", "readiness", Some(json!({ "grpc": { "port": 9000, "service": "", "timeoutSeconds": 1 } }))),
        ("gRPC, a service",      "readinessProbe: {grpc: {port: 9000, service: s}}", "readiness", Some(json!({ "grpc": { "port": 9000, "service": "s", "timeoutSeconds": 1 } }))),
        ("a hook before the end","lifecycle: {preStop: {httpGet: {port: http, path: /bye}}}", "pre-stop", http(json!({ "path": "/bye", "timeoutSeconds": 30 }))),
        ("a hook at the start",  "lifecycle: {postStart: {httpGet: {port: 8080}}}", "post-start", http(json!({ "timeoutSeconds": 60 }))),
        ("exec",                 "readinessProbe: {exec: {command: ['true']}}", "readiness", None),
        ("a hook that sleeps",   "lifecycle: {preStop: {sleep: {seconds: 1}}}", "pre-stop", None),
        ("a port nobody has",    "readinessProbe: {httpGet: {port: nowhere}}", "readiness", None),
    ];
    for (what, probe, kind, expected) in rows {
        for list in ["containers", "initContainers"] {
            let container =
                format!("{{name: c, ports: [{{name: http, containerPort: 8080}}], restartPolicy: Always, {probe}}}");
            let text = match list {
                "containers" => format!("{{spec: {{containers: [{container}]}}}}"),
                _ => format!("{{spec: {{initContainers: [{container}], containers: [{{name: app}}]}}}}"),
            };
            let before = to_json(&pod(&text));
            let (after, injection) = inject(&text, "");
            let told = env(&after["spec"]["initContainers"][1], "WEFT_PROBES");
            let told: Option<Value> = told.map(|text| serde_json::from_str(text).unwrap());
            let key = format!("{SECRET}.c/{kind}");
            assert_eq!(told.as_ref().map(|all| &all[&key]), expected.as_ref(), "{what}");
            let place = |pod: &Value, index: usize| {
                let path = probes::path_of(kind).unwrap();
                path.iter().fold(pod["spec"][list][index].clone(), |value, key| value[*key].clone())
            };
            let (was, mut is) = (place(&before, 0), place(&after, if list == "containers" { 0 } else { 2 }));
            assert_eq!(injection.warnings.is_empty(), what != "a port nobody has", "{what}");
            if expected.is_some() {
                assert_eq!(is["httpGet"], json!({ "port": 15021, "path": format!("/probe/{key}") }), "{what}");
                // All but the handler stays.
                let mut was = was;
                for value in [&mut was, &mut is] {
                    for handler in ["httpGet", "tcpSocket", "grpc"] {
                        value.as_object_mut().unwrap().remove(handler);
                    }
                }
                assert_eq!(is, was, "{what}");
            } else {
                assert_eq!(is, was, "{what}");
            }
        }
    }
}

#[test]
fn a_pods_probes_have_its_secret_and_keep_it() {
    let app = pod(APP);
    let of = |pod: &Pod, byte: u8| patch(pod, &Context { probe_secret: [byte; 16].into(), ..context() }, &settings(""));
    for (byte, secret) in [(0x01, "01".repeat(16)), (0xfe, "fe".repeat(16))] {
        let Ok(Outcome::Injected(injection)) = of(&app, byte) else { panic!() };
        let pod = patched(&app, &injection);
        // In the probe's path and for the sidecar; in no annotation, which people copy.
        assert_eq!(pod.to_string().matches(&secret).count(), 2, "{pod}");
        assert!(!pod["metadata"].to_string().contains(&secret), "{pod}");
        let again: Pod = serde_json::from_value(pod).unwrap();
        assert_eq!(of(&again, 0x77), Ok(Outcome::LeftAlone(Why::Already)));
    }
}

#[test]
fn probes_of_init_containers_that_start_before_a_classic_sidecar_stay() {
    let text = "{spec: {initContainers: [{name: c, restartPolicy: Always, startupProbe: {tcpSocket: {port: 1}}}], containers: [{name: app}]}}";
    let (pod, injection) = inject(text, "sidecarMode: classic");
    assert_eq!(pod["spec"]["initContainers"][0]["startupProbe"], json!({ "tcpSocket": { "port": 1 } }));
    assert!(injection.warnings[0].contains("go past the classic sidecar"), "{:?}", injection.warnings);
}

#[test]
fn the_drain_takes_what_the_grace_period_leaves() {
    #[rustfmt::skip]
    let rows = [
        ("the default", "",                                   "",                              "28", false),
        ("longer",      "terminationGracePeriodSeconds: 120", "",                              "118", false),
        ("none",        "terminationGracePeriodSeconds: 0",   "",                              "0", false),
        ("one second",  "terminationGracePeriodSeconds: 1",   "",                              "0", false),
        ("as asked",    "",                                   "weft.dev/drain-seconds: '5'",   "5", false),
        ("too much",    "",                                   "weft.dev/drain-seconds: '60'",  "60", true),
    ];
    for (what, grace, annotation, expected, warned) in rows {
        let grace = if grace.is_empty() { String::new() } else { format!("{grace}, ") };
        let text =
            format!("{{metadata: {{annotations: {{{annotation}}}}}, spec: {{{grace}containers: [{{name: app}}]}}}}");
        let (pod, injection) = inject(&text, "");
        assert_eq!(env(&pod["spec"]["initContainers"][1], "WEFT_DRAIN_SECONDS"), Some(expected), "{what}");
        assert_eq!(!injection.warnings.is_empty(), warned, "{what}");
    }
}

#[test]
fn exceptions_become_flags_of_the_redirection() {
    let annotations = "weft.dev/exclude-inbound-ports: '9090,9091', weft.dev/exclude-outbound-ports: '25, 9000-9010', \
                       weft.dev/exclude-outbound-cidrs: '10.1.2.3/16, fd00::1'";
    let text = format!("{{metadata: {{annotations: {{{annotations}}}}}, spec: {{containers: [{{name: app}}]}}}}");
    let (pod, _) = inject(&text, "");
    let expected = [
        "redirect",
        "--exclude-inbound-ports=9090,9091",
        "--exclude-outbound-ports=25,9000-9010",
        "--exclude-outbound-cidrs=10.1.0.0/16,fd00::1/128",
    ];
    assert_eq!(pod["spec"]["initContainers"][0]["args"], json!(expected));
    let (pod, _) = inject(&text, "cni: true");
    assert_eq!(names(&pod["spec"]["initContainers"]), ["weft-sidecar"], "a CNI plugin does it");
    let (pod, _) = inject("{spec: {containers: [{name: app}]}}", "{cni: true, sidecarMode: classic}");
    assert!(pod["spec"].get("initContainers").is_none());
    // What the control plane reads from the pod is written there, wherever it comes from.
    let (pod, _) = inject("{spec: {containers: [{name: app}]}}", "excludeInboundPorts: [9090]");
    assert_eq!(pod["metadata"]["annotations"]["weft.dev/exclude-inbound-ports"], "9090");
}

#[test]
fn a_call_again_changes_nothing_whatever_others_did_meanwhile() {
    let again = |pod: &Value, yaml: &str, context: &Context| {
        let pod: Pod = serde_json::from_value(pod.clone()).unwrap();
        patch(&pod, context, &settings(yaml))
    };
    for mode in ["native", "classic"] {
        let (pod, _) = inject(APP, &format!("sidecarMode: {mode}"));
        let mut others = pod.clone();
        others["spec"]["containers"]
            .as_array_mut()
            .unwrap()
            .insert(0, json!({ "name": "logger", "readinessProbe": { "httpGet": { "port": 1 } } }));
        others["spec"]["initContainers"].as_array_mut().unwrap().insert(0, json!({ "name": "first" }));
        others["spec"]["volumes"].as_array_mut().unwrap().reverse();
        others["metadata"]["labels"]["more"] = json!("1");
        // Another revision's webhook is called as well, and so is ours when the pod's labels say otherwise by now.
        let canary = Context { labels: BTreeMap::from([(REVISION.to_owned(), "canary".to_owned())]), ..context() };
        for (yaml, context) in [("", context()), ("sidecarMode: classic", context()), ("revision: canary", canary)] {
            for pod in [&pod, &others] {
                assert_eq!(again(pod, yaml, &context), Ok(Outcome::LeftAlone(Why::Already)), "{mode} {yaml}");
            }
        }
        // The annotation alone, as a copied manifest has it, is no proof.
        let mut copied = pod.clone();
        for list in ["containers", "initContainers"] {
            copied["spec"][list]
                .as_array_mut()
                .unwrap()
                .retain(|container| !container["name"].as_str().unwrap().starts_with("weft-"));
        }
        copied["spec"]["volumes"] = json!([]);
        assert!(matches!(again(&copied, "", &context()), Ok(Outcome::Injected(_))));
    }
}

#[test]
fn ports_that_the_sidecar_needs_are_pointed_out() {
    let text = "{spec: {containers: [{name: app, ports: [{containerPort: 15006}, {containerPort: 15001, protocol: UDP}, {containerPort: 80}]}]}}";
    let (_, injection) = inject(text, "");
    assert_eq!(injection.warnings, ["weft: container `app` declares port 15006, which the sidecar uses"]);
}

#[test]
fn fields_that_are_newer_than_our_types_survive() {
    let mut value =
        json!({ "metadata": {}, "spec": { "containers": [{ "name": "app", "fromTheFuture": { "a": 1 } }] } });
    let pod: Pod = serde_json::from_value(value.clone()).unwrap();
    for yaml in ["sidecarMode: classic", "sidecarMode: native"] {
        let Ok(Outcome::Injected(injection)) = patch(&pod, &context(), &settings(yaml)) else { panic!() };
        let mut value = value.clone();
        json_patch::patch(&mut value, &injection.patch).unwrap();
        let app = value["spec"]["containers"].as_array().unwrap().iter().find(|container| container["name"] == "app");
        assert_eq!(app.unwrap()["fromTheFuture"], json!({ "a": 1 }), "{yaml}");
    }
    value["spec"] = json!(null);
    assert_eq!(
        patch(&serde_json::from_value(value).unwrap(), &context(), &settings("")),
        Ok(Outcome::LeftAlone(Why::NotAsked))
    );
}

#[test]
fn a_namespace_that_would_not_admit_the_redirection_is_said_so_at_once() {
    let app = "{spec: {containers: [{name: app}]}}";
    for (level, yaml, refused) in [
        ("restricted", "", true),
        ("baseline", "", true),
        ("privileged", "", false),
        ("restricted", "cni: true", false),
        ("", "", false),
    ] {
        let mut context = context();
        context.labels.insert(POD_SECURITY.to_owned(), level.to_owned());
        let outcome = patch(&pod(app), &context, &settings(yaml));
        assert_eq!(outcome.is_err(), refused, "{level} {yaml}");
        let Err(refusal) = outcome else { continue };
        let message = refusal.to_string();
        let parts = [level, POD_SECURITY, "weft-redirect", "NET_ADMIN", "cni: true", "weft.dev/inject: disabled"];
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        // One that is left alone is none of our business.
        let host = pod("{spec: {hostNetwork: true, containers: [{name: app}]}}");
        assert_eq!(patch(&host, &context, &settings(yaml)), Ok(Outcome::LeftAlone(Why::HostNetwork)));
    }
}

#[test]
fn what_quotas_and_the_restricted_standard_want_is_said_of_every_container_of_ours() {
    let annotations = "weft.dev/proxy-cpu-request: 100m, weft.dev/proxy-cpu-limit: '1', weft.dev/proxy-memory-request: 64Mi, \
                       weft.dev/proxy-memory-limit: 128Mi";
    let asked = format!("{{metadata: {{annotations: {{{annotations}}}}}, spec: {{containers: [{{name: app}}]}}}}");
    let default = json!({ "requests": { "cpu": "10m", "memory": "32Mi" }, "limits": { "memory": "256Mi" } });
    let all = json!({ "requests": { "cpu": "100m", "memory": "64Mi" }, "limits": { "cpu": "1", "memory": "128Mi" } });
    for mode in ["native", "classic"] {
        for (text, expected) in [("{spec: {containers: [{name: app}]}}", &default), (&asked, &all)] {
            let (pod, _) = inject(text, &format!("sidecarMode: {mode}"));
            let lists = ["initContainers", "containers"].map(|list| pod["spec"][list].as_array().cloned());
            let ours: Vec<_> = lists.into_iter().flatten().flatten().filter(|one| one["name"] != "app").collect();
            assert_eq!(ours.len(), 2, "{mode}");
            for container in ours {
                assert_eq!(&container["resources"], expected, "{mode} {}", container["name"]);
                let security = &container["securityContext"];
                assert_eq!(security["capabilities"]["drop"], json!(["ALL"]));
                assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
                let may = [&security["allowPrivilegeEscalation"], &security["readOnlyRootFilesystem"]];
                assert_eq!(may, [&json!(false), &json!(true)]);
                let redirect = container["name"] == REDIRECT;
                assert_eq!(security["capabilities"].get("add").is_some(), redirect);
                assert_eq!(security["runAsNonRoot"], json!(!redirect));
            }
        }
    }
}
