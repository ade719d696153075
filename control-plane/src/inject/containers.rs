//! The two containers and their volumes, as JSON: what is here is what `kubectl get pod -o yaml` shows. Pure.
//!
//! The sidecar is clean by the *restricted* Pod Security Standard. `weft-redirect` cannot be: it programs the pod's network,
//! so it has NET_ADMIN and NET_RAW as root, and nothing else; with `cni: true` there is none.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use weft_proto::{SIDECAR_UID, ports};

use super::annotations::Asked;
use super::settings::{InjectSettings, Resources};
use super::{MAX_EXCLUSIONS, Mode, REDIRECT, Refusal, SIDECAR, VOLUMES};
use crate::identity::{AUDIENCE, ROOTS_CONFIG_MAP, ROOTS_KEY};

/// What is left of the grace period when the sidecar's drain must be over (SEMANTICS.md §3).
pub(super) const KILL_MARGIN: u64 = 2;
const BINARY: &str = "/weft-sidecar";
const ROOTS_DIRECTORY: &str = "/var/run/weft/ca";
const TOKEN_DIRECTORY: &str = "/var/run/weft/token";
/// kubelet renews the token at 80 % of this, and the sidecar reads it at each renewal of its certificate.
const TOKEN_SECONDS: u32 = 3600;
/// A control plane that is away for minutes must not make kubelet restart sidecars meanwhile: one try a second, an hour.
const STARTUP_TRIES: u32 = 3600;
/// For `weft-sidecar wait`, which fails the container's start when it gives up; kubelet then starts it again.
const WAIT_SECONDS: u32 = 600;

/// The sidecar.
pub(super) fn sidecar(
    asked: &Asked,
    mode: Mode,
    drain_seconds: u64,
    probes: &BTreeMap<String, Value>,
    settings: &InjectSettings,
) -> Value {
    let health = |path: &str| json!({ "path": path, "port": ports::HEALTH });
    let exec = |command: &[&str]| json!({ "exec": { "command": command } });
    let mut sidecar = json!({
        "name": SIDECAR,
        "image": asked.image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": [BINARY],
        "args": ["run"],
        "env": environment(asked, mode, drain_seconds, probes, settings),
        "ports": [{ "name": "weft-metrics", "containerPort": ports::METRICS, "protocol": "TCP" }],
        // Ready: it has its SVID and its InboundPolicy, and the redirection is there.
        "startupProbe": { "httpGet": health("/ready"), "periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": STARTUP_TRIES },
        "readinessProbe": { "httpGet": health("/ready"), "periodSeconds": 5, "timeoutSeconds": 3, "failureThreshold": 3 },
        // Slow to judge: a busy machine is not a hung proxy.
        "livenessProbe": { "httpGet": health("/live"), "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6 },
        "resources": resources(&asked.resources),
        "securityContext": {
            "runAsUser": SIDECAR_UID,
            "runAsGroup": SIDECAR_UID,
            "runAsNonRoot": true,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            { "name": VOLUMES[0], "mountPath": ROOTS_DIRECTORY, "readOnly": true },
            { "name": VOLUMES[1], "mountPath": TOKEN_DIRECTORY, "readOnly": true },
        ],
    });
    match mode {
        Mode::Native => {
            sidecar["restartPolicy"] = json!("Always");
            // kubelet sends a native sidecar its SIGTERM only when the app is gone; this is at the very beginning.
            sidecar["lifecycle"] = json!({ "preStop": exec(&[BINARY, "drain"]) });
        }
        Mode::Classic => {
            let wait = format!("--timeout={WAIT_SECONDS}");
            sidecar["lifecycle"] = json!({ "postStart": exec(&[BINARY, "wait", &wait]) });
        }
    }
    sidecar
}

fn environment(
    asked: &Asked,
    mode: Mode,
    drain_seconds: u64,
    probes: &BTreeMap<String, Value>,
    settings: &InjectSettings,
) -> Vec<Value> {
    let value = |name: &str, value: &str| json!({ "name": name, "value": value });
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let mut all = vec![
        value("WEFT_CONTROL_PLANE", &settings.control_plane),
        value("WEFT_CA_ROOTS", &format!("{ROOTS_DIRECTORY}/{ROOTS_KEY}")),
        value("WEFT_JOIN_TOKEN", &format!("{TOKEN_DIRECTORY}/token")),
        value("WEFT_TRUST_DOMAIN", &settings.trust_domain),
        value("WEFT_CLUSTER_DOMAIN", &settings.cluster_domain),
        field("WEFT_NAMESPACE", "metadata.namespace"),
        field("WEFT_POD", "metadata.name"),
        field("WEFT_SERVICE_ACCOUNT", "spec.serviceAccountName"),
        field("WEFT_POD_ADDRESS", "status.podIP"),
        field("WEFT_NODE", "spec.nodeName"),
        value("WEFT_MODE", mode.word()),
        value("WEFT_DRAIN_SECONDS", &drain_seconds.to_string()),
        value("WEFT_LOG", &asked.log_level),
    ];
    if settings.access_log {
        all.push(value("WEFT_ACCESS_LOG", "on"));
    }
    if !settings.busy_poll {
        all.push(value("WEFT_BUSY_POLL", "off"));
    }
    if let Some(share) = &asked.trace_sampling {
        all.push(value("WEFT_TRACE_SAMPLING", share));
    }
    if let Some(url) = &settings.otlp_endpoint {
        all.push(value("WEFT_OTLP_ENDPOINT", url));
    }
    if !probes.is_empty() {
        all.push(value("WEFT_PROBES", &json!(probes).to_string()));
    }
    all
}

/// The init container that programs the redirection, if it is ours to program.
///
/// # Errors
/// When there are more exceptions than it takes.
pub(super) fn redirect(asked: &Asked, settings: &InjectSettings) -> Result<Option<Value>, Refusal> {
    let given =
        asked.exclude_inbound_ports.len() + asked.exclude_outbound_ports.len() + asked.exclude_outbound_cidrs.len();
    if given > MAX_EXCLUSIONS {
        return Err(Refusal::TooManyExclusions { given });
    }
    if settings.cni {
        return Ok(None);
    }
    let mut args = vec!["redirect".to_owned()];
    list(&mut args, "--exclude-inbound-ports", &asked.exclude_inbound_ports);
    list(&mut args, "--exclude-outbound-ports", &asked.exclude_outbound_ports);
    list(&mut args, "--exclude-outbound-cidrs", &asked.exclude_outbound_cidrs);
    Ok(Some(json!({
        "name": REDIRECT,
        // Never what an annotation says: it is root, with NET_ADMIN.
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": [BINARY],
        "args": args,
        // It costs nothing beside the sidecar's (the larger of the two counts), and quotas want it said.
        "resources": resources(&asked.resources),
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"] },
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    })))
}

fn list<T: ToString>(args: &mut Vec<String>, flag: &str, values: &[T]) {
    if !values.is_empty() {
        let values: Vec<_> = values.iter().map(ToString::to_string).collect();
        args.push(format!("{flag}={}", values.join(",")));
    }
}

/// The trust bundle and the token, in the order of [`VOLUMES`].
pub(super) fn volumes() -> [Value; 2] {
    let token = json!({ "path": "token", "audience": AUDIENCE, "expirationSeconds": TOKEN_SECONDS });
    [
        json!({ "name": VOLUMES[0], "configMap": { "name": ROOTS_CONFIG_MAP } }),
        json!({ "name": VOLUMES[1], "projected": { "sources": [{ "serviceAccountToken": token }] } }),
    ]
}

fn resources(resources: &Resources) -> Value {
    let amounts = |cpu: &Option<super::values::Quantity>, memory: &Option<super::values::Quantity>| {
        let named = [("cpu", cpu), ("memory", memory)];
        let given =
            named.into_iter().filter_map(|(name, amount)| Some((name.to_owned(), json!(amount.as_ref()?.as_str()))));
        given.collect::<Map<_, _>>()
    };
    let mut all = Map::new();
    let lists = [
        ("requests", amounts(&resources.cpu_request, &resources.memory_request)),
        ("limits", amounts(&resources.cpu_limit, &resources.memory_limit)),
    ];
    for (name, amounts) in lists {
        if !amounts.is_empty() {
            all.insert(name.to_owned(), amounts.into());
        }
    }
    all.into()
}
