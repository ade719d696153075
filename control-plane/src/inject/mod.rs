//! Injection: which pods get a sidecar, and what becomes of them (SEMANTICS.md §1 "redirect", §3 "drain").
//!
//! [`patch`] decides, without I/O: a pod, what is known about its namespace and cluster, and [`InjectSettings`] in; a JSON
//! patch, or why there is none, out. The webhook (`webhook/`) and `weft inject` (`manifest/`) are two callers of it, so a
//! cluster and a file get the same.
//!
//! What a pod gets, **native** (an init container with `restartPolicy: Always`; API server and every kubelet 1.29 or later):
//!
//! ```text
//! initContainers: weft-redirect ► weft-sidecar (stays; the next starts when /ready says 200) ► the app's own, meshed too
//! containers:     the app's
//! ```
//!
//! and **classic**:
//!
//! ```text
//! initContainers: the app's own, which nothing redirects yet ► weft-redirect
//! containers:     weft-sidecar (postStart waits for /ready, so kubelet starts the next after it) ► the app's
//! ```
//!
//! In classic mode the redirection comes last because the app's init containers run before any sidecar does: redirected, they
//! would reach nobody. Only the container lists' ends and the fields named here are touched, by operations that
//! name places and not by comparing two typed pods: fields that are newer than our Kubernetes types survive.
//!
//! **Once, whatever the order of webhooks**: annotation [`INJECTED`] together with the container means that it is done, so a
//! call again changes nothing, by whichever revision and whatever others added meanwhile. The annotation records what was
//! added and what the probes were, which is how `weft uninject` finds the way back.
//!
//! **The token.** `weft-token` keeps the default mode: kubelet makes a projected token 0600 for one owner only where all of a
//! pod's containers run as one UID, and ours never do (UID 1337 is refused to the app); otherwise 0644, or 0640 for the
//! group where the pod sets `fsGroup`, which is every container's group. UID 1337 can read it in each case, no pod needs an
//! `fsGroup` for us, and no other container mounts it.
//!
//! | file | what it decides |
//! |---|---|
//! | `opt_in.rs` | whether the labels ask for it, of this revision |
//! | `cluster.rs` | whether the cluster's versions allow native sidecars; watches them |
//! | `annotations.rs` | what annotations say, the pod's before the namespace's before the settings' |
//! | `ranges.rs` | "only these ranges" as exclusions |
//! | `probes.rs` | probes and hooks that must go through the sidecar |
//! | `containers.rs` | the two containers and their volumes |
//! | `record.rs` | the annotation that says what was done; and undoing it |
//! | `settings.rs`, `values.rs`, `follow.rs` | `injection.yaml`, and reading it again |
//! | `manifest/` | the same for YAML files |
//! | `webhook/` | port 15017 |
//! | `certificate/` | its certificate, and the `caBundle` by which the API server trusts it |
//!
//! How a control plane wires it (each future ends when dropped; only the first two lines can fail, and say what to do):
//!
//! ```ignore
//! let following = follow::Following::open(&injection_file, &namespace, &revision)?; // injection.yaml
//! let names = certificate::Names::new(&namespace, &revision);
//! let certificate = certificate::Certificate::open(client.clone(), names, Times::default(), SystemTime::now()).await?;
//! let facts = watch::Sender::new(ClusterFacts::default());
//! let metrics = webhook::Metrics::default();
//! metrics.register(registry, following.rejected());
//! let webhook = webhook::Webhook {
//!     namespaces: client.clone(),
//!     settings: following.settings(),
//!     cluster: facts.subscribe(),
//!     unenforced, // watch::Receiver<Arc<BTreeMap<namespace, names of security objects not enforced>>>
//!     metrics,
//! };
//! let tls = certificate.server_config()?; // its leaf follows by itself
//! let ready = certificate.trusted(); // part of /readyz: false until the API server trusts what this replica serves
//! tokio::join!(
//!     webhook.run(tls, listener, shutdown),
//!     certificate.keep(leader), // watch::Receiver<bool>: who takes the steps of a renewal
//!     cluster::watch(client, oldest_kubelet, facts), // the source watches the nodes
//!     following.run(),
//! );
//! ```
//!
//! Bound: a review of at most 4 MiB; nothing is kept between two.

use std::collections::BTreeMap;
use std::fmt;

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use serde_json::{Value, json};
use weft_proto::{MESH_TLS_LABEL, ProbeSecret, SIDECAR_UID, ports};

mod annotations;
pub mod certificate;
pub mod cluster;
mod containers;
pub mod follow;
pub mod manifest;
mod opt_in;
mod probes;
mod ranges;
mod record;
pub mod settings;
#[cfg(test)]
mod tests;
pub mod values;
pub mod webhook;

pub use annotations::{Asked, KNOWN};
pub use cluster::ClusterFacts;
pub use opt_in::{INJECT, REVISION};
pub use record::{INJECTED, Record};
pub use settings::{BadInjectSettings, InjectSettings, SidecarMode};

/// The sidecar's container.
pub const SIDECAR: &str = "weft-sidecar";
/// The init container that programs the redirection.
pub const REDIRECT: &str = "weft-redirect";
/// The volume of the trust bundle, and of the token.
pub const VOLUMES: [&str; 2] = ["weft-ca-roots", "weft-token"];
/// So that `kubectl logs` and `exec` go to the app when the sidecar is the first container.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// By which a namespace says what its pods may be.
const POD_SECURITY: &str = "pod-security.kubernetes.io/enforce";
/// Kubernetes' own default.
const DEFAULT_GRACE: i64 = 30;

/// What is known around a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// The namespace it is made in.
    pub namespace: String,
    /// The namespace's labels.
    pub labels: BTreeMap<String, String>,
    /// The namespace's annotations, which are defaults.
    pub annotations: BTreeMap<String, String>,
    /// The cluster's versions.
    pub cluster: ClusterFacts,
    /// The pod is a Job's although it does not say so by an owner (a manifest's template).
    pub of_job: bool,
    /// Drawn for this pod alone, by a generator that is fit for keys: who knows it may have the pod's probes and hooks run. One
    /// that is injected already keeps its own.
    pub probe_secret: ProbeSecret,
}

/// What becomes of a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It gets a sidecar.
    Injected(Injection),
    /// It is left as it is.
    LeftAlone(Why),
}

/// A pod's way into the mesh.
#[derive(Debug, Clone, PartialEq)]
pub struct Injection {
    /// What to do to it (RFC 6902).
    pub patch: Patch,
    /// Native or classic.
    pub mode: Mode,
    /// What its owner should know.
    pub warnings: Vec<String>,
}

/// How the sidecar runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As an init container that stays.
    Native,
    /// As a container beside the app's.
    Classic,
}

impl Mode {
    /// As in `WEFT_MODE` and the annotation.
    pub fn word(self) -> &'static str {
        match self {
            Mode::Native => "native",
            Mode::Classic => "classic",
        }
    }
}

/// Why a pod is left as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// Neither its labels nor its namespace's ask for it.
    NotAsked,
    /// Its namespace is one of those never injected.
    Namespace,
    /// Its labels ask for another control plane of the mesh.
    OtherRevision(String),
    /// It was injected already.
    Already,
    /// It shares the node's network, where there is nothing of its own to redirect.
    HostNetwork,
    /// It is the API server's image of a pod that kubelet read from a file, which nothing can change.
    Static,
    /// It is for Windows nodes.
    Windows,
    /// A Job's, and a classic sidecar would keep it from completing.
    Job,
}

impl Why {
    /// A word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Why::NotAsked => "not-asked",
            Why::Namespace => "excluded-namespace",
            Why::OtherRevision(_) => "other-revision",
            Why::Already => "already",
            Why::HostNetwork => "host-network",
            Why::Static => "static-pod",
            Why::Windows => "windows",
            Why::Job => "job",
        }
    }

    /// What the pod's owner, who asked for injection, should know; none where nobody asked or nothing is missing.
    pub fn warning(&self) -> Option<String> {
        let why = match self {
            Why::NotAsked | Why::Namespace | Why::OtherRevision(_) | Why::Already => return None,
            Why::HostNetwork => "hostNetwork: true shares the node's network, so its traffic is not meshed",
            Why::Static => "static pods cannot be changed",
            Why::Windows => "there is no sidecar for Windows",
            Why::Job => {
                "a classic sidecar would keep a Job from completing; weft.dev/sidecar-mode: classic on the pod injects it anyway"
            }
        };
        Some(format!("weft: not injected: {why}"))
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::NotAsked => write!(f, "label {INJECT} does not ask for it"),
            Why::Namespace => f.write_str("its namespace is never injected"),
            Why::OtherRevision(other) => write!(f, "it is for revision `{other}`"),
            Why::Already => f.write_str("it is injected already"),
            Why::HostNetwork => f.write_str("hostNetwork: true"),
            Why::Static => f.write_str("a static pod"),
            Why::Windows => f.write_str("it is for Windows nodes"),
            Why::Job => f.write_str("a Job, and the sidecar would be a classic one"),
        }
    }
}

/// Why a pod that asks for a sidecar cannot have one: its owner must act.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// What it opens would look as if the sidecar opened it.
    #[error(
        "container `{container}` runs as UID {SIDECAR_UID} ({whose} securityContext.runAsUser), which is the sidecar's: its \
         traffic would bypass the mesh; use another UID, or label the pod {INJECT}: disabled"
    )]
    SidecarUid {
        /// Which container.
        container: String,
        /// `its own` or `the pod's`.
        whose: &'static str,
    },
    /// An annotation does not say what it could say.
    #[error("annotation {annotation} of the {whose} is `{value}`: {why}")]
    Annotation {
        /// Its key.
        annotation: &'static str,
        /// What it says.
        value: String,
        /// `pod` or `namespace`.
        whose: &'static str,
        /// What would be right.
        why: String,
    },
    /// Annotations that contradict each other, or the settings.
    #[error("annotations weft.dev/proxy-…: {0}")]
    Resources(String),
    /// More exceptions than the redirection takes.
    #[error(
        "{given} exceptions from the redirection (ports, and address ranges as they must be written for it), and at most \
         {MAX_EXCLUSIONS} can be had: use ranges such as 9000-9010, or wider or better aligned address ranges"
    )]
    TooManyExclusions {
        /// How many.
        given: usize,
    },
    /// A label says something else than it could say.
    #[error("label {INJECT} of the {whose} is `{value}`: use `enabled` or `disabled`")]
    Label {
        /// `pod` or `namespace`.
        whose: &'static str,
        /// What it says.
        value: String,
    },
    /// Pod Security would refuse it in words about a container that the user did not write.
    #[error(
        "its namespace enforces the Pod Security Standard `{level}` (label {POD_SECURITY}), which does not admit the init \
         container {REDIRECT}: it programs the pod's network, by NET_ADMIN and NET_RAW; let the namespace enforce `privileged` \
         (and warn by `{level}`), let a CNI plugin redirect (`cni: true`), or label the pod {INJECT}: disabled"
    )]
    PodSecurity {
        /// `baseline` or `restricted`.
        level: String,
    },
    /// Something of the pod's own has a name that we need.
    #[error("the pod has a {what} named `{name}` of its own: rename it, or label the pod {INJECT}: disabled")]
    NameTaken {
        /// `container`, `init container` or `volume`.
        what: &'static str,
        /// The name.
        name: &'static str,
    },
}

/// As `weft-sidecar redirect` accepts at most.
const MAX_EXCLUSIONS: usize = values::MAX_ENTRIES;

/// Decides what becomes of `pod`.
///
/// # Errors
/// When it asks for a sidecar and cannot have one, and why.
pub fn patch(pod: &Pod, context: &Context, settings: &InjectSettings) -> Result<Outcome, Refusal> {
    let left_alone = |why| Ok(Outcome::LeftAlone(why));
    if settings.exclude_namespaces.contains(&context.namespace) {
        return left_alone(Why::Namespace);
    }
    let Some(spec) = &pod.spec else { return left_alone(Why::NotAsked) };
    if record::is_injected(pod) {
        return left_alone(Why::Already);
    }
    let labels = pod.metadata.labels.as_ref();
    if let Some(why) = opt_in::refuse(labels, &context.labels, &settings.revision)? {
        return left_alone(why);
    }
    let annotations = pod.metadata.annotations.as_ref();
    if annotations.is_some_and(|all| all.contains_key("kubernetes.io/config.mirror")) {
        return left_alone(Why::Static);
    }
    if is_windows(spec) {
        return left_alone(Why::Windows);
    }
    if spec.host_network == Some(true) {
        return left_alone(Why::HostNetwork);
    }
    let asked = Asked::read(annotations, &context.annotations, settings)?;
    let mode = asked.mode.unwrap_or_else(|| context.cluster.mode());
    let explicit = annotations.is_some_and(|all| all.contains_key(annotations::SIDECAR_MODE));
    let of_job = context.of_job || is_of_job(pod);
    if of_job && mode == Mode::Classic && !explicit && !settings.jobs_in_classic_mode {
        return left_alone(Why::Job);
    }
    check_users(spec)?;
    check_names(spec)?;
    check_pod_security(&context.labels, settings)?;
    Ok(Outcome::Injected(inject(pod, spec, &asked, mode, of_job, &context.probe_secret, settings)?))
}

fn inject(
    pod: &Pod,
    spec: &PodSpec,
    asked: &Asked,
    mode: Mode,
    of_job: bool,
    probe_secret: &ProbeSecret,
    settings: &InjectSettings,
) -> Result<Injection, Refusal> {
    let grace = spec.termination_grace_period_seconds.unwrap_or(DEFAULT_GRACE);
    let mut warnings = asked.warnings.clone();
    let probes = probes::rewrite(spec, mode, grace, probe_secret);
    warnings.extend(probes.warnings);
    warnings.extend(taken_ports(spec));
    if of_job && mode == Mode::Classic {
        warnings.push("weft: a classic sidecar keeps running when the Job's containers are done: end it by POST 127.0.0.1:15000/quitquitquit".to_owned());
    }
    let left = u64::try_from(grace).unwrap_or_default();
    let drain = asked.drain_seconds.unwrap_or(left.saturating_sub(containers::KILL_MARGIN));
    if drain > left {
        warnings.push(format!(
            "weft: {} is {drain}, but kubelet ends the pod after terminationGracePeriodSeconds, {left}",
            annotations::DRAIN_SECONDS
        ));
    }
    let sidecar = containers::sidecar(asked, mode, drain, &probes.handed_over, settings);
    let redirect = containers::redirect(asked, settings)?;

    let mut record = Record::new(&settings.revision, mode);
    record.probes = probes.originals;
    let mut edits = Edits(probes.operations);
    let metadata = &pod.metadata;
    edits.map(&["metadata", "labels"], metadata.labels.as_ref().map(BTreeMap::len), &mut record);
    edits.add(&["metadata", "labels", MESH_TLS_LABEL], json!("1"));
    let before = |key: &str| metadata.labels.as_ref().and_then(|all| all.get(key)).cloned();
    record.labels.insert(MESH_TLS_LABEL.to_owned(), before(MESH_TLS_LABEL));

    edits.list(
        &["spec", "initContainers"],
        spec.init_containers.as_ref().map(Vec::len),
        &mut record,
        mode == Mode::Native || redirect.is_some(),
    );
    edits.list(&["spec", "volumes"], spec.volumes.as_ref().map(Vec::len), &mut record, true);
    let native = mode == Mode::Native;
    if native {
        record.init_containers.push(SIDECAR.to_owned());
        edits.add(&["spec", "initContainers", "0"], sidecar);
    } else {
        record.containers.push(SIDECAR.to_owned());
        edits.add(&["spec", "containers", "0"], sidecar);
    }
    if let Some(redirect) = redirect {
        record.init_containers.insert(0, REDIRECT.to_owned());
        edits.add(&["spec", "initContainers", if native { "0" } else { "-" }], redirect);
    }
    for (name, volume) in VOLUMES.into_iter().zip(containers::volumes()) {
        record.volumes.push(name.to_owned());
        edits.add(&["spec", "volumes", "-"], volume);
    }

    edits.map(&["metadata", "annotations"], metadata.annotations.as_ref().map(BTreeMap::len), &mut record);
    let held = |key: &str| metadata.annotations.as_ref().is_some_and(|all| all.contains_key(key));
    let first = spec.containers.first().map(|app| app.name.clone()).filter(|_| !native);
    let spelled_out = first.map(|first| (DEFAULT_CONTAINER, first)).into_iter().chain(asked.to_spell_out.clone());
    for (key, value) in spelled_out.filter(|(key, _)| !held(key)) {
        record.annotations.insert(key.to_owned());
        edits.add(&["metadata", "annotations", key], json!(value));
    }
    edits.add(&["metadata", "annotations", INJECTED], json!(record.to_string()));
    Ok(Injection { patch: Patch(edits.0), mode, warnings })
}

/// The operations of a patch, in order.
#[derive(Debug, Default)]
struct Edits(Vec<PatchOperation>);

impl Edits {
    fn add(&mut self, path: &[&str], value: Value) {
        let path = PointerBuf::from_tokens(path.iter().copied());
        self.0.push(PatchOperation::Add(AddOperation { path, value }));
    }

    fn remove(&mut self, path: &[&str]) {
        let path = PointerBuf::from_tokens(path.iter().copied());
        self.0.push(PatchOperation::Remove(RemoveOperation { path }));
    }

    /// Sees to it that there is a mapping to add to. One that was there and empty is remembered, to be left so.
    fn map(&mut self, path: &[&str], len: Option<usize>, record: &mut Record) {
        self.there(path, len, json!({}), record);
    }

    fn list(&mut self, path: &[&str], len: Option<usize>, record: &mut Record, needed: bool) {
        // An empty one that nothing is added to is remembered, too: the way back takes away what it finds empty.
        if needed || len == Some(0) {
            self.there(path, len, json!([]), record);
        }
    }

    fn there(&mut self, path: &[&str], len: Option<usize>, empty: Value, record: &mut Record) {
        match len {
            None => self.add(path, empty),
            Some(0) => drop(record.empty.insert(path.join("."))),
            Some(_) => {}
        }
    }
}

/// Every container of the pod's own, with the UID that it runs as must not be the sidecar's. What its image says cannot be
/// seen from here.
fn check_users(spec: &PodSpec) -> Result<(), Refusal> {
    let sidecar = i64::from(SIDECAR_UID);
    let of_pod = spec.security_context.as_ref().and_then(|context| context.run_as_user);
    for container in own_containers(spec) {
        let own = container.security_context.as_ref().and_then(|context| context.run_as_user);
        if own.or(of_pod) == Some(sidecar) {
            let whose = if own.is_some() { "its own" } else { "the pod's" };
            return Err(Refusal::SidecarUid { container: container.name.clone(), whose });
        }
    }
    Ok(())
}

/// What of the pod's own has a name of ours, without having been put there by injection.
fn check_names(spec: &PodSpec) -> Result<(), Refusal> {
    let ours = |name: &str| [SIDECAR, REDIRECT].into_iter().find(|ours| *ours == name);
    if let Some(name) = spec.containers.iter().find_map(|container| ours(&container.name)) {
        return Err(Refusal::NameTaken { what: "container", name });
    }
    if let Some(name) = spec.init_containers.iter().flatten().find_map(|container| ours(&container.name)) {
        return Err(Refusal::NameTaken { what: "init container", name });
    }
    let mut volumes = spec.volumes.iter().flatten();
    match volumes.find_map(|volume| VOLUMES.into_iter().find(|ours| *ours == volume.name)) {
        Some(name) => Err(Refusal::NameTaken { what: "volume", name }),
        None => Ok(()),
    }
}

/// Whether the namespace admits the container that programs the redirection, if there must be one. All that the sidecar itself
/// needs is in the strictest standard.
fn check_pod_security(namespace: &BTreeMap<String, String>, settings: &InjectSettings) -> Result<(), Refusal> {
    match namespace.get(POD_SECURITY) {
        Some(level) if !settings.cni && ["baseline", "restricted"].contains(&level.as_str()) => {
            Err(Refusal::PodSecurity { level: level.clone() })
        }
        _ => Ok(()),
    }
}

/// The app's declared ports that the sidecar needs for itself.
fn taken_ports(spec: &PodSpec) -> Vec<String> {
    let ours = [ports::ADMIN, ports::OUTBOUND, ports::INBOUND, ports::METRICS, ports::HEALTH].map(i32::from);
    let declared = own_containers(spec).flat_map(|container| {
        let tcp = |protocol: &Option<String>| protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
        let ports = container.ports.iter().flatten().filter(move |port| tcp(&port.protocol));
        ports.map(move |port| (&container.name, port.container_port))
    });
    declared
        .filter(|(_, port)| ours.contains(port))
        .map(|(name, port)| format!("weft: container `{name}` declares port {port}, which the sidecar uses"))
        .collect()
}

fn own_containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

fn is_of_job(pod: &Pod) -> bool {
    let owners = pod.metadata.owner_references.iter().flatten();
    owners.into_iter().any(|owner| owner.kind == "Job" && owner.api_version.starts_with("batch/"))
}

fn is_windows(spec: &PodSpec) -> bool {
    let selected =
        |key: &str| spec.node_selector.as_ref().and_then(|all| all.get(key)).is_some_and(|os| os == "windows");
    spec.os.as_ref().is_some_and(|os| os.name == "windows") || selected("kubernetes.io/os")
}

/// A Kubernetes type as JSON. It can only fail for a map whose keys are no strings, and there is none.
fn to_json(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}
