//! What injection puts into pods: `injection.yaml`, the one key of ConfigMap `weft-injection` (`weft-injection-REVISION` for a
//! revision), mounted into the control plane (`--injection FILE`) and read again when it changes (`follow.rs`). `weft inject`
//! reads the same file. The chart renders all of it:
//!
//! ```yaml
//! # The control plane's own namespace. Its pods, and those of kube-system, are never injected.
//! namespace: weft-system
//! # Which of several control planes of one mesh; empty where there is but one.
//! revision: ""
//! # Where a sidecar finds discovery and identity.
//! controlPlane: weft-control-plane.weft-system.svc:15012
//! trustDomain: cluster.local
//! clusterDomain: cluster.local
//! image: weft.dev/sidecar:0.1.0
//! # Annotation weft.dev/image may give a pod's sidecar another one; it is refused where this is false.
//! allowImageAnnotation: false
//! # Always, IfNotPresent or Never.
//! imagePullPolicy: IfNotPresent
//! # A CNI plugin programs the redirection, so pods get no init container with NET_ADMIN.
//! cni: false
//! # auto: native (an init container with restartPolicy Always) where the API server and every kubelet are 1.29 or later,
//! # else classic. native and classic: whatever they are. Annotation weft.dev/sidecar-mode on a pod goes first.
//! sidecarMode: auto
//! # Inject pods of Jobs in classic mode, too: the sidecar then outlives the Job's own containers unless they end it.
//! jobsInClassicMode: false
//! resources:
//!   requests: {cpu: 10m, memory: 32Mi}
//!   limits: {memory: 256Mi}
//! logLevel: info
//! # JSON lines for each request, on the sidecar's standard output.
//! accessLog: false
//! # Awaits responses that are about to come awake (`--busy-poll`).
//! busyPoll: true
//! # The share of requests that start a trace, such as 1%. Empty: as the mesh's settings say.
//! traceSampling: ""
//! # Where spans go, such as http://collector.observability:4317. Empty: no spans are made.
//! otlpEndpoint: ""
//! # Defaults of the annotations weft.dev/exclude-inbound-ports and so on. A pod's or namespace's annotation replaces them.
//! excludeInboundPorts: []
//! excludeOutboundPorts: [] # such as [5432, 9000-9010]
//! excludeOutboundCidrs: [] # such as [169.254.169.254/32]
//! includeOutboundCidrs: [] # where not empty, only these are redirected
//! # Never injected, in addition to kube-system and our own.
//! excludeNamespaces: []
//! ```
//!
//! Everything has the default shown, but unknown keys are errors. Checked as a whole: all that is wrong is said at once.

use std::collections::BTreeSet;
use std::fmt;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::values::{self, PortRange, Quantity};

/// Never injected, whatever is labelled.
pub const NEVER: &str = "kube-system";
/// The largest file taken.
pub const MAX_FILE: usize = 256 << 10;

/// How pods are injected, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InjectSettings {
    /// Our own namespace.
    pub namespace: String,
    /// Which of several control planes of one mesh; empty where there is but one.
    pub revision: String,
    /// `HOST:PORT` of discovery and identity.
    pub control_plane: String,
    /// The SPIFFE trust domain.
    pub trust_domain: String,
    /// The suffix of the cluster's DNS names.
    pub cluster_domain: String,
    /// The sidecar's image, and the redirection's.
    pub image: String,
    /// Whether an annotation may say another for the sidecar.
    pub allow_image_annotation: bool,
    /// `Always`, `IfNotPresent` or `Never`.
    pub image_pull_policy: String,
    /// A CNI plugin programs the redirection.
    pub cni: bool,
    /// Native or classic sidecar.
    pub sidecar_mode: SidecarMode,
    /// Inject pods of Jobs in classic mode.
    pub jobs_in_classic_mode: bool,
    /// Of the sidecar.
    pub resources: Resources,
    /// The sidecar's `WEFT_LOG`.
    pub log_level: String,
    /// A line for each request.
    pub access_log: bool,
    /// Awaits responses that are about to come awake.
    pub busy_poll: bool,
    /// The share of requests that start a trace, where the mesh's settings do not say.
    pub trace_sampling: Option<String>,
    /// Where spans go.
    pub otlp_endpoint: Option<String>,
    /// The app's ports that are reached directly.
    pub exclude_inbound_ports: Vec<u16>,
    /// Destination ports that the app reaches directly.
    pub exclude_outbound_ports: Vec<PortRange>,
    /// Destinations that the app reaches directly.
    pub exclude_outbound_cidrs: Vec<IpNet>,
    /// Where not empty, only these destinations are redirected.
    pub include_outbound_cidrs: Vec<IpNet>,
    /// Never injected; `kube-system` and our own namespace are always among them.
    pub exclude_namespaces: BTreeSet<String>,
}

/// What decides between a native and a classic sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SidecarMode {
    /// Native where everything in the cluster is 1.29 or later.
    Auto,
    /// An init container with `restartPolicy: Always`.
    Native,
    /// A container beside the app's.
    Classic,
}

/// What the sidecar asks for and may use. Defaults: an idle sidecar has 12 to 20 MB (PERFORMANCE.md) and hardly a CPU, so
/// it asks for 10m and 32Mi; 256Mi is room for some 30,000 idle connections; no CPU limit, since throttling is latency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resources {
    /// `requests.cpu`
    pub cpu_request: Option<Quantity>,
    /// `requests.memory`
    pub memory_request: Option<Quantity>,
    /// `limits.cpu`
    pub cpu_limit: Option<Quantity>,
    /// `limits.memory`
    pub memory_limit: Option<Quantity>,
}

/// Every setting that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct BadInjectSettings(pub Vec<String>);

impl fmt::Display for BadInjectSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0[..] {
            [one] => write!(f, "injection.yaml: {one}"),
            several => {
                write!(f, "injection.yaml: {} settings are wrong:", several.len())?;
                several.iter().try_for_each(|wrong| write!(f, "\n  {wrong}"))
            }
        }
    }
}

/// The file as written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct File {
    namespace: String,
    revision: String,
    control_plane: Option<String>,
    trust_domain: String,
    cluster_domain: String,
    image: String,
    allow_image_annotation: bool,
    image_pull_policy: String,
    cni: bool,
    sidecar_mode: SidecarMode,
    jobs_in_classic_mode: bool,
    resources: ResourcesFile,
    log_level: String,
    access_log: bool,
    busy_poll: bool,
    trace_sampling: String,
    otlp_endpoint: String,
    exclude_inbound_ports: Vec<Word>,
    exclude_outbound_ports: Vec<Word>,
    exclude_outbound_cidrs: Vec<Word>,
    include_outbound_cidrs: Vec<Word>,
    exclude_namespaces: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ResourcesFile {
    requests: Amounts,
    limits: Amounts,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Amounts {
    cpu: Option<Word>,
    memory: Option<Word>,
}

/// What YAML may take for a number: `5432`, `0.5`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Word {
    Integer(u64),
    Number(f64),
    Text(String),
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Word::Integer(number) => number.fmt(f),
            Word::Number(number) => number.fmt(f),
            Word::Text(text) => f.write_str(text.trim()),
        }
    }
}

impl Default for File {
    fn default() -> Self {
        Self {
            namespace: "weft-system".to_owned(),
            revision: String::new(),
            control_plane: None,
            trust_domain: "cluster.local".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            image: concat!("weft.dev/sidecar:", env!("CARGO_PKG_VERSION")).to_owned(),
            allow_image_annotation: false,
            image_pull_policy: "IfNotPresent".to_owned(),
            cni: false,
            sidecar_mode: SidecarMode::Auto,
            jobs_in_classic_mode: false,
            resources: ResourcesFile::default(),
            log_level: "info".to_owned(),
            access_log: false,
            busy_poll: true,
            trace_sampling: String::new(),
            otlp_endpoint: String::new(),
            exclude_inbound_ports: Vec::new(),
            exclude_outbound_ports: Vec::new(),
            exclude_outbound_cidrs: Vec::new(),
            include_outbound_cidrs: Vec::new(),
            exclude_namespaces: Vec::new(),
        }
    }
}

impl Default for ResourcesFile {
    fn default() -> Self {
        let amount = |text: &str| Some(Word::Text(text.to_owned()));
        Self {
            requests: Amounts { cpu: amount("10m"), memory: amount("32Mi") },
            limits: Amounts { cpu: None, memory: amount("256Mi") },
        }
    }
}

impl InjectSettings {
    /// Reads and checks `injection.yaml`.
    ///
    /// # Errors
    /// All that is wrong; where it is not even such a file, only that.
    pub fn parse(text: &str) -> Result<Self, BadInjectSettings> {
        if text.len() > MAX_FILE {
            return Err(BadInjectSettings(vec![format!("it is larger than {} KiB", MAX_FILE >> 10)]));
        }
        // An empty file, or one of comments only, says that everything is as by default.
        let file: Option<File> =
            serde_saphyr::from_str(text).map_err(|error| BadInjectSettings(vec![error.to_string()]))?;
        file.unwrap_or_default().check()
    }
}

impl Default for InjectSettings {
    /// As an empty file says.
    fn default() -> Self {
        // The test `the_defaults_are_right` shows that nothing in it can fail.
        File::default().check().unwrap_or_else(|bad| unreachable!("{bad}"))
    }
}

impl File {
    fn check(self) -> Result<InjectSettings, BadInjectSettings> {
        let mut wrong = Wrong(Vec::new());
        let namespace = wrong.check("namespace", label(&self.namespace));
        let revision = wrong.check("revision", revision(&self.revision));
        let suffix = if self.revision.is_empty() { String::new() } else { format!("-{}", self.revision) };
        let control_plane =
            self.control_plane.unwrap_or_else(|| format!("weft-control-plane{suffix}.{}.svc:15012", self.namespace));
        let control_plane = wrong.check("controlPlane", host_and_port(control_plane));
        let trust_domain = wrong.check("trustDomain", values::dns_name(&self.trust_domain));
        let cluster_domain = wrong.check("clusterDomain", values::dns_name(&self.cluster_domain));
        let image = wrong.check("image", values::image(&self.image));
        let policy = match &*self.image_pull_policy {
            "Always" | "IfNotPresent" | "Never" => Ok(self.image_pull_policy),
            other => Err(format!("`{other}` is not one of: Always, IfNotPresent, Never")),
        };
        let image_pull_policy = wrong.check("imagePullPolicy", policy);
        let resources = Resources {
            cpu_request: wrong.amount("resources.requests.cpu", self.resources.requests.cpu),
            memory_request: wrong.amount("resources.requests.memory", self.resources.requests.memory),
            cpu_limit: wrong.amount("resources.limits.cpu", self.resources.limits.cpu),
            memory_limit: wrong.amount("resources.limits.memory", self.resources.limits.memory),
        };
        if let Err(why) = resources.check() {
            wrong.0.push(format!("resources: {why}"));
        }
        let log_level = wrong.check("logLevel", values::log_level(&self.log_level));
        let given = |text: String| Some(text).filter(|text| !text.is_empty());
        let trace_sampling =
            given(self.trace_sampling).and_then(|share| wrong.check("traceSampling", values::percentage(&share)));
        let otlp_endpoint = given(self.otlp_endpoint).and_then(|url| wrong.check("otlpEndpoint", endpoint(url)));
        let exclude_inbound_ports = wrong.all("excludeInboundPorts", &self.exclude_inbound_ports, values::port);
        let exclude_outbound_ports =
            wrong.all("excludeOutboundPorts", &self.exclude_outbound_ports, |text| text.parse());
        let exclude_outbound_cidrs = wrong.all("excludeOutboundCidrs", &self.exclude_outbound_cidrs, values::cidr);
        let include_outbound_cidrs = wrong.all("includeOutboundCidrs", &self.include_outbound_cidrs, values::cidr);
        let mut exclude_namespaces = BTreeSet::from([NEVER.to_owned(), self.namespace.clone()]);
        exclude_namespaces
            .extend(self.exclude_namespaces.iter().filter_map(|name| wrong.check("excludeNamespaces", label(name))));
        let all = || {
            Some(InjectSettings {
                namespace: namespace?,
                revision: revision?,
                control_plane: control_plane?,
                trust_domain: trust_domain?,
                cluster_domain: cluster_domain?,
                image: image?,
                allow_image_annotation: self.allow_image_annotation,
                image_pull_policy: image_pull_policy?,
                cni: self.cni,
                sidecar_mode: self.sidecar_mode,
                jobs_in_classic_mode: self.jobs_in_classic_mode,
                resources,
                log_level: log_level?,
                access_log: self.access_log,
                busy_poll: self.busy_poll,
                trace_sampling,
                otlp_endpoint,
                exclude_inbound_ports,
                exclude_outbound_ports,
                exclude_outbound_cidrs,
                include_outbound_cidrs,
                exclude_namespaces,
            })
        };
        match all() {
            Some(settings) if wrong.0.is_empty() => Ok(settings),
            _ => Err(BadInjectSettings(wrong.0)),
        }
    }
}

impl Resources {
    /// Whether no request is above its limit, which the API server would refuse in words about a container that the user
    /// did not write.
    ///
    /// # Errors
    /// Which request is.
    pub fn check(&self) -> Result<(), String> {
        let pairs = [("cpu", &self.cpu_request, &self.cpu_limit), ("memory", &self.memory_request, &self.memory_limit)];
        for (name, request, limit) in pairs {
            if let (Some(request), Some(limit)) = (request, limit)
                && !request.at_most(limit)
            {
                let (request, limit) = (request.as_str(), limit.as_str());
                return Err(format!("the {name} request, {request}, is above the {name} limit, {limit}"));
            }
        }
        Ok(())
    }
}

/// Collects what is wrong.
struct Wrong(Vec<String>);

impl Wrong {
    fn check<T>(&mut self, key: &str, result: Result<T, String>) -> Option<T> {
        result.map_err(|why| self.0.push(format!("{key}: {why}"))).ok()
    }

    fn amount(&mut self, key: &str, amount: Option<Word>) -> Option<Quantity> {
        amount.and_then(|amount| self.check(key, amount.to_string().parse()))
    }

    fn all<T>(&mut self, key: &str, words: &[Word], one: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        if self.check(key, values::at_most(words.len())).is_none() {
            return Vec::new();
        }
        words.iter().filter_map(|word| self.check(key, one(&word.to_string()))).collect()
    }
}

fn label(text: &str) -> Result<String, String> {
    values::is_label(text).then(|| text.to_owned()).ok_or_else(|| format!("`{text}` names no namespace"))
}

fn revision(text: &str) -> Result<String, String> {
    // As the control plane's --revision: it becomes part of names.
    if text.is_empty() || text.len() <= 32 && label(text).is_ok() {
        return Ok(text.to_owned());
    }
    Err(format!("`{text}` is not a name of at most 32 lower-case letters, digits and `-`"))
}

fn host_and_port(text: String) -> Result<String, String> {
    let right =
        text.rsplit_once(':').is_some_and(|(host, port)| values::dns_name(host).is_ok() && values::port(port).is_ok());
    if right {
        Ok(text)
    } else {
        Err(format!("`{text}` is not HOST:PORT such as weft-control-plane.weft-system.svc:15012"))
    }
}

fn endpoint(text: String) -> Result<String, String> {
    let right = text.parse::<http::Uri>().is_ok_and(|url| {
        matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some_and(|host| !host.is_empty())
    });
    if right { Ok(text) } else { Err(format!("`{text}` is not a URL such as http://collector.observability:4317")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the module's documentation.
    fn example() -> String {
        let text = include_str!("settings.rs");
        let lines = text.lines().skip_while(|line| !line.starts_with("//! ```yaml")).skip(1);
        let lines = lines.take_while(|line| !line.starts_with("//! ```"));
        lines
            .map(|line| line.trim_start_matches("//!").strip_prefix(' ').unwrap_or_default())
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn the_defaults_are_right() {
        let settings = InjectSettings::default();
        assert_eq!(InjectSettings::parse(""), Ok(settings.clone()));
        assert_eq!(InjectSettings::parse("# nothing\n"), Ok(settings.clone()));
        assert_eq!(InjectSettings::parse(&example()), Ok(settings.clone()), "the documentation shows the defaults");
        assert_eq!(settings.exclude_namespaces, ["kube-system", "weft-system"].map(str::to_owned).into());
    }

    #[test]
    fn a_revision_and_a_namespace_of_ones_own_name_the_control_plane() {
        let settings = InjectSettings::parse("{revision: canary, namespace: mesh}").unwrap();
        assert_eq!(settings.control_plane, "weft-control-plane-canary.mesh.svc:15012");
        assert!(settings.exclude_namespaces.contains("mesh") && !settings.exclude_namespaces.contains("weft-system"));
    }

    #[test]
    fn numbers_and_texts_are_both_taken() {
        let text =
            "{excludeOutboundPorts: [5432, '25', 9000-9010], resources: {requests: {cpu: 0.5}, limits: {cpu: 1}}}";
        let settings = InjectSettings::parse(text).unwrap();
        let ports: Vec<_> = settings.exclude_outbound_ports.iter().map(ToString::to_string).collect();
        assert_eq!(ports, ["5432", "25", "9000-9010"]);
        let amounts =
            [&settings.resources.cpu_request, &settings.resources.cpu_limit, &settings.resources.memory_limit];
        assert_eq!(amounts.map(|amount| amount.as_ref().map(Quantity::as_str)), [Some("0.5"), Some("1"), None]);
    }

    #[test]
    fn what_is_wrong_is_said_all_at_once() {
        let text = "
namespace: A
revision: has.dots
controlPlane: nowhere
trustDomain: UPPER
image: ''
imagePullPolicy: Sometimes
resources: {requests: {cpu: two, memory: 1Gi}, limits: {memory: 1Mi}}
logLevel: loud
traceSampling: '1'
otlpEndpoint: collector:4317
excludeInboundPorts: [0]
excludeOutboundPorts: [web]
excludeOutboundCidrs: [10.0.0.0/99]
includeOutboundCidrs: [all]
excludeNamespaces: [Not_One]
";
        let bad = InjectSettings::parse(text).unwrap_err();
        let keys: Vec<_> = bad.0.iter().map(|line| line.split_once(": ").unwrap().0).collect();
        assert_eq!(
            keys,
            [
                "namespace",
                "revision",
                "controlPlane",
                "trustDomain",
                "image",
                "imagePullPolicy",
                "resources.requests.cpu",
                "resources",
                "logLevel",
                "traceSampling",
                "otlpEndpoint",
                "excludeInboundPorts",
                "excludeOutboundPorts",
                "excludeOutboundCidrs",
                "includeOutboundCidrs",
                "excludeNamespaces",
            ]
        );
        assert!(bad.to_string().starts_with("injection.yaml: 16 settings are wrong:\n"), "{bad}");
    }

    #[test]
    fn what_is_no_such_file_says_where() {
        for (text, part) in [
            ("nativ: true", "nativ"),
            (
                &format!("excludeOutboundCidrs: [{}]", "10.0.0.1,".repeat(257)),
                "excludeOutboundCidrs: it has 257 entries",
            ),
            ("sidecarMode: sometimes", "sometimes"),
            ("cni: perhaps", "cni"),
            ("resources: {limits: {disk: 1}}", "disk"),
            ("[]", "line 1"),
            ("image: [", "line 1"),
        ] {
            let bad = InjectSettings::parse(text).unwrap_err().to_string();
            assert!(bad.contains(part), "{text}: {bad}");
        }
        assert!(InjectSettings::parse(&" ".repeat(MAX_FILE + 1)).is_err());
    }
}
