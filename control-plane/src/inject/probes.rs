//! Probes and hooks that must go through the sidecar, on its port 15021.
//!
//! kubelet opens a probe's connection from outside the pod: redirected, a TCP probe would always succeed (the sidecar
//! accepts), and under STRICT an HTTP probe never (kubelet has no SVID). So `httpGet`, `tcpSocket` and `grpc` handlers become
//! `httpGet :15021/probe/<secret>.<container>/<kind>`, and the sidecar does the original to the app and passes the verdict on.
//! `exec` and `sleep` handlers happen inside the pod and stay. So do all other fields of a probe; its `timeoutSeconds` also
//! bounds what the sidecar does. Pure.
//!
//! The secret is the pod's ([`ProbeSecret`]): anybody in the network reaches that port, and without it could have the app's
//! hooks called past STRICT and every AuthorizationPolicy. It is in the paths and in `WEFT_PROBES` and nowhere else: the way
//! back goes by the containers' names.
//!
//! In classic mode the probes of the app's own native sidecars stay as they are: those start before our sidecar does, and a
//! `startupProbe` that waits for it would wait for ever.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, LifecycleHandler, PodSpec, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};
use weft_proto::{ProbeSecret, ports};

use super::{Edits, Mode, to_json};

/// kubelet's own default for a probe.
const DEFAULT_TIMEOUT: i64 = 1;
/// For a hook after the start, which kubelet itself does not bound.
const POST_START_TIMEOUT: i64 = 60;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Probes {
    /// `WEFT_PROBES`: by `SECRET.CONTAINER/KIND`.
    pub(super) handed_over: BTreeMap<String, Value>,
    /// The handlers as they were.
    pub(super) originals: BTreeMap<String, Value>,
    /// What puts ours in their place. Places are those of the pod before anything else is done to it.
    pub(super) operations: Vec<json_patch::PatchOperation>,
    /// What cannot be done.
    pub(super) warnings: Vec<String>,
}

/// The kinds, and where each is in a container.
const KINDS: [(&str, &[&str]); 5] = [
    ("startup", &["startupProbe"]),
    ("readiness", &["readinessProbe"]),
    ("liveness", &["livenessProbe"]),
    ("post-start", &["lifecycle", "postStart"]),
    ("pre-stop", &["lifecycle", "preStop"]),
];

/// Where a kind of probe or hook is in a container.
pub(super) fn path_of(kind: &str) -> Option<&'static [&'static str]> {
    KINDS.iter().find(|(name, _)| *name == kind).map(|(_, path)| *path)
}

/// Finds every probe and hook that must go through the sidecar.
pub(super) fn rewrite(spec: &PodSpec, mode: Mode, grace: i64, secret: &ProbeSecret) -> Probes {
    let mut probes = Probes::default();
    for (index, container) in spec.containers.iter().enumerate() {
        probes.container("containers", index, container, grace, secret);
    }
    for (index, container) in spec.init_containers.iter().flatten().enumerate() {
        if container.restart_policy.as_deref() != Some("Always") {
            continue;
        }
        if mode == Mode::Native {
            probes.container("initContainers", index, container, grace, secret);
        } else if network_handlers(container, grace).next().is_some() {
            probes.warnings.push(format!(
                "weft: probes of `{}` go past the classic sidecar, which starts after it; under STRICT they fail",
                container.name
            ));
        }
    }
    probes
}

/// A handler that goes over the network.
struct Handler {
    kind: &'static str,
    /// Its field in a probe or hook.
    field: &'static str,
    original: Value,
    /// As `WEFT_PROBES` has it, but for its port.
    what: &'static str,
    details: Value,
    port: IntOrString,
}

impl Probes {
    fn container(&mut self, list: &str, index: usize, container: &Container, grace: i64, secret: &ProbeSecret) {
        for handler in network_handlers(container, grace) {
            let key = format!("{}/{}", container.name, handler.kind);
            let Some(port) = port_number(&handler.port, container) else {
                // As without us: kubelet could not find the port either.
                self.warnings.push(format!(
                    "weft: container `{}` has no port `{}`, which its {} handler names; left as it is",
                    container.name,
                    shown(&handler.port),
                    handler.kind
                ));
                continue;
            };
            let mut details = handler.details;
            details["port"] = port.into();
            let asked = format!("{secret}.{key}");
            let through_us = json!({ "port": ports::HEALTH, "path": format!("/probe/{asked}") });
            self.handed_over.insert(asked, json!({ handler.what: details }));
            self.originals.insert(key, json!({ handler.field: handler.original }));
            let index = index.to_string();
            let mut at = vec!["spec", list, &index];
            at.extend(path_of(handler.kind).into_iter().flatten());
            let mut edits = Edits::default();
            let field = [&at[..], &[handler.field]].concat();
            edits.remove(&field);
            edits.add(&[&at[..], &["httpGet"]].concat(), through_us);
            self.operations.extend(edits.0);
        }
    }
}

fn network_handlers(container: &Container, grace: i64) -> impl Iterator<Item = Handler> {
    let probes = [
        ("startup", &container.startup_probe),
        ("readiness", &container.readiness_probe),
        ("liveness", &container.liveness_probe),
    ];
    let probes = probes.into_iter().filter_map(|(kind, probe)| of_probe(kind, probe.as_ref()?));
    let lifecycle = container.lifecycle.as_ref();
    let hooks = [
        ("post-start", lifecycle.and_then(|all| all.post_start.as_ref()), POST_START_TIMEOUT),
        ("pre-stop", lifecycle.and_then(|all| all.pre_stop.as_ref()), grace.max(DEFAULT_TIMEOUT)),
    ];
    probes.chain(hooks.into_iter().filter_map(|(kind, hook, timeout)| of_hook(kind, hook?, timeout)))
}

fn of_probe(kind: &'static str, probe: &Probe) -> Option<Handler> {
    let timeout = probe.timeout_seconds.map_or(DEFAULT_TIMEOUT, i64::from);
    if let Some(get) = &probe.http_get {
        return Some(of_http(kind, get, timeout));
    }
    if let Some(tcp) = &probe.tcp_socket {
        let details = json!({ "host": tcp.host, "timeoutSeconds": timeout });
        let (original, port) = (to_json(tcp), tcp.port.clone());
        return Some(Handler { kind, field: "tcpSocket", original, what: "tcp", details, port });
    }
    let grpc = probe.grpc.as_ref()?;
    let details = json!({ "service": grpc.service.as_deref().unwrap_or_default(), "timeoutSeconds": timeout });
    let (original, port) = (to_json(grpc), IntOrString::Int(grpc.port));
    Some(Handler { kind, field: "grpc", original, what: "grpc", details, port })
}

/// A hook's `tcpSocket` is a leftover that Kubernetes does not carry out.
fn of_hook(kind: &'static str, hook: &LifecycleHandler, timeout: i64) -> Option<Handler> {
    hook.http_get.as_ref().map(|get| of_http(kind, get, timeout))
}

fn of_http(kind: &'static str, get: &HTTPGetAction, timeout: i64) -> Handler {
    let headers: Vec<_> = get.http_headers.iter().flatten().map(|header| [&header.name, &header.value]).collect();
    let details = json!({
        "path": get.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/"),
        "scheme": get.scheme.as_deref().unwrap_or("HTTP"),
        "host": get.host.as_deref().filter(|host| !host.is_empty()),
        "headers": headers,
        "timeoutSeconds": timeout,
    });
    Handler { kind, field: "httpGet", original: to_json(get), what: "http", details, port: get.port.clone() }
}

fn shown(port: &IntOrString) -> String {
    match port {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(name) => name.clone(),
    }
}

/// As kubelet finds it: a name among the container's own ports, or else a number as text.
fn port_number(port: &IntOrString, container: &Container) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let mut declared = container.ports.iter().flatten();
            let declared = declared.find(|port| port.name.as_ref() == Some(name)).map(|port| port.container_port);
            declared.or_else(|| name.parse().ok())?
        }
    };
    u16::try_from(number).ok().filter(|&port| port != 0)
}
