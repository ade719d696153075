//! Flags and environment. Everything is taken as text first and checked together, so that a bad start reports every bad
//! setting at once. Each setting says its default, where that comes from and what it costs.

mod kubernetes;
mod parse;

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use ipnet::IpNet;
use weft_proto::{SpiffeId, control_plane_identity};

use self::parse::{dns_name, duration_within, outbound_policy, per_10000, socket_address};
use crate::discovery::Ages;
use crate::helm_test::HelmTest;
use crate::translate::MeshConfig;

pub use self::kubernetes::{CleanupFlags, CleanupSettings, KubernetesFlags, KubernetesSettings, of_revision};

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "weft-control-plane", version, about = "Weft's control plane", args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do; `run` where not given.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The flags of `run`.
    #[command(flatten)]
    pub run: RunFlags,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch, translate, serve and sign (the default)
    Run(Box<RunFlags>),
    /// Print a token by which a sidecar proves one identity
    JoinToken(JoinTokenFlags),
    /// Take away what the control plane made in the cluster (a Helm hook runs it before an uninstall)
    Cleanup(CleanupFlags),
    /// The two apps of `helm test`
    #[command(subcommand)]
    HelmTest(HelmTest),
}

/// The flags of `run`, as written.
#[derive(Debug, Clone, Args)]
pub struct RunFlags {
    /// Where objects come from: `files` or `kubernetes`
    #[arg(long, env = "WEFT_SOURCE", default_value = "files", value_name = "SOURCE")]
    pub source: String,
    /// With `--source files`: the directory of Kubernetes YAML to watch
    #[arg(long, env = "WEFT_MANIFESTS", value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// With `--source files`: where the status of objects is written, a file per object; not written where not given
    #[arg(long, env = "WEFT_STATUS_DIR", value_name = "DIR")]
    pub status_dir: Option<PathBuf>,
    /// With `--source files`: keeps the root certificate and the join tokens' key; `roots.pem` for pods is written there
    #[arg(long, env = "WEFT_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// What `--source kubernetes` needs to know.
    #[command(flatten)]
    pub kubernetes: KubernetesFlags,
    /// The SPIFFE trust domain
    #[arg(long, env = "WEFT_TRUST_DOMAIN", default_value = "cluster.local", value_name = "NAME")]
    pub trust_domain: String,
    /// The suffix of the cluster's DNS names
    #[arg(long, env = "WEFT_CLUSTER_DOMAIN", default_value = "cluster.local", value_name = "NAME")]
    pub cluster_domain: String,
    /// Policies in this namespace are for the whole mesh; `--namespace` where not given
    #[arg(long, env = "WEFT_ROOT_NAMESPACE", value_name = "NAMESPACE")]
    pub root_namespace: Option<String>,
    /// Address ranges of the cluster, in which proxies ask about unknown destinations; added to those derived from
    /// the objects
    #[arg(long, env = "WEFT_CLUSTER_CIDR", value_delimiter = ',', value_name = "CIDR")]
    pub cluster_cidr: Vec<String>,
    /// What happens to destinations nobody knows: `allow-any` or `registry-only`
    #[arg(long, env = "WEFT_OUTBOUND_POLICY", default_value = "allow-any", value_name = "POLICY")]
    pub outbound_policy: String,
    /// How long a workload's certificate is good for, 10s to 720h
    #[arg(long, env = "WEFT_CERTIFICATE_TTL", default_value = "24h", value_name = "DURATION")]
    pub certificate_ttl: String,
    /// The share of requests that start a sampled trace, `0%` to `100%`, in hundredths of a percent
    #[arg(long, env = "WEFT_TRACING_SAMPLE", default_value = "1%", value_name = "PERCENT")]
    pub tracing_sample: String,
    /// Where discovery and certificates are served; `[::]:15012` serves IPv4 as well
    #[arg(long, env = "WEFT_DISCOVERY_ADDRESS", default_value = "0.0.0.0:15012", value_name = "ADDRESS")]
    pub discovery_address: String,
    /// Where /ready, /live, /metrics and /debug are served
    #[arg(long, env = "WEFT_ADMIN_ADDRESS", default_value = "0.0.0.0:15014", value_name = "ADDRESS")]
    pub admin_address: String,
    /// Who may read /debug on that port: callers on this machine (`loopback`), such as `kubectl port-forward`, or all who
    /// reach it (`anywhere`), though it shows the configuration of all namespaces
    #[arg(long, env = "WEFT_DEBUG_FROM", default_value = "loopback", value_name = "WHERE")]
    pub debug_from: String,
    /// `error`, `warn`, `info`, `debug` or `trace`, or directives such as `info,weft_control_plane::discovery=debug`
    #[arg(long, env = "WEFT_LOG_LEVEL", default_value = "info", value_name = "LEVEL")]
    pub log_level: String,
    /// `text` or `json`
    #[arg(long, env = "WEFT_LOG_FORMAT", default_value = "text", value_name = "FORMAT")]
    pub log_format: String,
}

/// The flags of `join-token`, as written.
#[derive(Debug, Clone, Args)]
pub struct JoinTokenFlags {
    /// The control plane's state directory
    #[arg(long, env = "WEFT_STATE_DIR", value_name = "DIR")]
    pub state_dir: PathBuf,
    /// Whom the token proves: `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICEACCOUNT`
    #[arg(long, value_name = "ID")]
    pub spiffe_id: String,
    /// How long it is good for
    #[arg(long, default_value = "720h", value_name = "DURATION")]
    pub ttl: String,
}

/// Where objects come from, and what goes with it.
#[derive(Debug, Clone)]
pub enum SourceSettings {
    /// `--source files`
    Files(FilesSettings),
    /// `--source kubernetes`
    Kubernetes(KubernetesSettings),
}

/// What `--source files` needs.
#[derive(Debug, Clone)]
pub struct FilesSettings {
    /// Where objects come from.
    pub manifests: PathBuf,
    /// Where status goes.
    pub status_dir: Option<PathBuf>,
    /// The CA's root and the join tokens' key.
    pub state_dir: PathBuf,
}

/// Settings that hold together.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where objects come from.
    pub source: SourceSettings,
    /// What the whole mesh agrees on.
    pub mesh: MeshConfig,
    /// The control plane's own identity.
    pub identity: SpiffeId,
    /// Life of a leaf. Default 24 h (SEMANTICS.md §4); a shorter one costs a signature per proxy and half-life.
    pub certificate_ttl: Duration,
    /// Port 15012.
    pub discovery_address: SocketAddr,
    /// Port 15014.
    pub admin_address: SocketAddr,
    /// Whether its `/debug` is for everybody who reaches it. Default: for callers on this machine.
    pub debug_from_anywhere: bool,
    /// The times of connections, always their defaults but in tests.
    pub ages: Ages,
}

/// How to log.
#[derive(Debug)]
pub struct Logging {
    /// Which events.
    pub filter: tracing_subscriber::EnvFilter,
    /// One JSON object per line.
    pub json: bool,
}

/// A join token to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinTokenSettings {
    /// Where the key is.
    pub state_dir: PathBuf,
    /// Whom it proves.
    pub id: SpiffeId,
    /// For how long.
    pub ttl: Duration,
}

/// Every setting that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct BadSettings(Vec<String>);

impl fmt::Display for BadSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0[..] {
            [one] => write!(f, "a setting is wrong: {one}"),
            several => {
                write!(f, "{} settings are wrong:", several.len())?;
                several.iter().try_for_each(|wrong| write!(f, "\n  {wrong}"))
            }
        }
    }
}

const TTL_RANGE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(720 * 3600));
const TOKEN_TTL_RANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10 * 365 * 24 * 3600));

/// Collects what is wrong.
#[derive(Default)]
struct Wrong(Vec<String>);

impl Wrong {
    /// The value, or a note that `flag` is wrong.
    fn check<T>(&mut self, flag: &str, result: Result<T, impl fmt::Display>) -> Option<T> {
        result.map_err(|why| self.0.push(format!("{flag}: {why}"))).ok()
    }

    fn required<T: Clone>(&mut self, flag: &str, what: &str, value: Option<&T>) -> Option<T> {
        self.check(flag, value.cloned().ok_or_else(|| format!("is required with --source files ({what})")))
    }
}

impl RunFlags {
    /// Checks everything.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn settings(&self) -> Result<(Settings, Logging), BadSettings> {
        let mut wrong = Wrong::default();
        let source = match &*self.source {
            "files" => self.files(&mut wrong).map(SourceSettings::Files),
            "kubernetes" => self.kubernetes.settings(&mut wrong).map(SourceSettings::Kubernetes),
            other => wrong.check("--source", Err(format!("`{other}` is not one of: files, kubernetes"))),
        };
        let identity = wrong.check("--trust-domain", control_plane_identity(&self.trust_domain));
        let cluster_domain = wrong.check("--cluster-domain", dns_name(&self.cluster_domain));
        let root_namespace = self.root_namespace.as_ref().unwrap_or(&self.kubernetes.namespace);
        let root_namespace = wrong.check("--root-namespace", dns_name(root_namespace));
        let cidrs: BTreeSet<IpNet> = self
            .cluster_cidr
            .iter()
            .map(|text| text.trim())
            .filter(|text| !text.is_empty())
            .filter_map(|text| {
                let parsed = text.parse().map_err(|_| format!("`{text}` is not a CIDR such as 10.96.0.0/12"));
                wrong.check("--cluster-cidr", parsed)
            })
            .collect();
        let outbound_policy = wrong.check("--outbound-policy", outbound_policy(&self.outbound_policy));
        let certificate_ttl = wrong.check("--certificate-ttl", duration_within(&self.certificate_ttl, TTL_RANGE));
        let sample = wrong.check("--tracing-sample", per_10000(&self.tracing_sample));
        let discovery_address = wrong.check("--discovery-address", socket_address(&self.discovery_address));
        let admin_address = wrong.check("--admin-address", socket_address(&self.admin_address));
        let debug_from_anywhere = match &*self.debug_from {
            "loopback" => Ok(false),
            "anywhere" => Ok(true),
            other => Err(format!("`{other}` is not one of: loopback, anywhere")),
        };
        let debug_from_anywhere = wrong.check("--debug-from", debug_from_anywhere);
        let filter = tracing_subscriber::EnvFilter::try_new(&self.log_level);
        let filter = wrong.check("--log-level", filter.map_err(|_| format!("`{}` is no level", self.log_level)));
        let json = match &*self.log_format {
            "text" => Ok(false),
            "json" => Ok(true),
            other => Err(format!("`{other}` is not one of: text, json")),
        };
        let json = wrong.check("--log-format", json);
        let all = || {
            let mesh = MeshConfig {
                trust_domain: self.trust_domain.clone(),
                cluster_domain: cluster_domain?,
                root_namespace: root_namespace?,
                cluster_cidrs: cidrs.into_iter().collect(),
                outbound_policy: outbound_policy?,
                tracing_sample_per_10000: sample?,
                ..MeshConfig::default()
            };
            let source = source?;
            let ages = match source {
                SourceSettings::Files(_) => Ages::default(),
                SourceSettings::Kubernetes(_) => Ages::behind_a_service(),
            };
            let settings = Settings {
                source,
                mesh,
                identity: identity?,
                certificate_ttl: certificate_ttl?,
                discovery_address: discovery_address?,
                admin_address: admin_address?,
                debug_from_anywhere: debug_from_anywhere?,
                ages,
            };
            Some((settings, Logging { filter: filter?, json: json? }))
        };
        match all() {
            Some(settings) if wrong.0.is_empty() => Ok(settings),
            _ => Err(BadSettings(wrong.0)),
        }
    }

    fn files(&self, wrong: &mut Wrong) -> Option<FilesSettings> {
        let manifests = wrong.required("--manifests", "the directory of Kubernetes YAML", self.manifests.as_ref());
        let state_dir = wrong.required("--state-dir", "it keeps the mesh's root certificate", self.state_dir.as_ref());
        Some(FilesSettings { manifests: manifests?, status_dir: self.status_dir.clone(), state_dir: state_dir? })
    }
}

impl JoinTokenFlags {
    /// Checks everything.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn settings(&self) -> Result<JoinTokenSettings, BadSettings> {
        let mut wrong = Wrong::default();
        let id = wrong.check("--spiffe-id", self.spiffe_id.parse::<SpiffeId>());
        if let Some(id) = &id
            && control_plane_identity(id.trust_domain()).as_ref() == Ok(id)
        {
            wrong.check::<()>("--spiffe-id", Err("that is the control plane's own identity, which is given to nobody"));
        }
        let ttl = wrong.check("--ttl", duration_within(&self.ttl, TOKEN_TTL_RANGE));
        match (id, ttl) {
            (Some(id), Some(ttl)) if wrong.0.is_empty() => {
                Ok(JoinTokenSettings { state_dir: self.state_dir.clone(), id, ttl })
            }
            _ => Err(BadSettings(wrong.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(args: &[&str]) -> RunFlags {
        Cli::try_parse_from([&["weft-control-plane"], args].concat()).unwrap().run
    }

    #[test]
    fn defaults_are_those_of_the_reference() {
        let (settings, logging) = flags(&["--manifests", "m", "--state-dir", "s"]).settings().unwrap();
        assert_eq!(settings.certificate_ttl, Duration::from_secs(24 * 3600));
        assert_eq!(settings.mesh, MeshConfig::default());
        assert_eq!(settings.identity.as_str(), "spiffe://cluster.local/ns/weft-system/sa/weft-control-plane");
        assert_eq!(settings.discovery_address.to_string(), "0.0.0.0:15012");
        assert_eq!(settings.admin_address.to_string(), "0.0.0.0:15014");
        assert!(!settings.debug_from_anywhere && !logging.json);
    }

    #[test]
    fn a_bad_start_reports_every_bad_setting_at_once() {
        let bad = [
            ("--root-namespace", "Weft_System"),
            ("--trust-domain", "UPPER"),
            ("--cluster-domain", "a..b"),
            ("--cluster-cidr", "10.0.0.0/33"),
            ("--outbound-policy", "deny"),
            ("--certificate-ttl", "1s"),
            ("--tracing-sample", "1"),
            ("--discovery-address", "15012"),
            ("--admin-address", "localhost:1"),
            ("--debug-from", "nowhere"),
            ("--log-level", "a=b=c"),
            ("--log-format", "xml"),
        ];
        let args: Vec<&str> = bad.iter().flat_map(|(flag, value)| [*flag, *value]).collect();
        let error = flags(&args).settings().unwrap_err().to_string();
        for flag in bad.iter().map(|(flag, _)| *flag).chain(["--manifests", "--state-dir"]) {
            assert!(error.contains(&format!("  {flag}: ")), "{flag} is not in:\n{error}");
        }
        assert!(error.starts_with("14 settings are wrong:"), "{error}");
    }

    #[test]
    fn a_source_nobody_knows_is_named_with_those_there_are() {
        let error = flags(&["--source", "etcd"]).settings().unwrap_err().to_string();
        assert_eq!(error, "a setting is wrong: --source: `etcd` is not one of: files, kubernetes");
    }

    #[test]
    fn in_a_cluster_neither_manifests_nor_a_state_directory_are_wanted() {
        let args =
            ["--source", "kubernetes", "--namespace", "mesh", "--pod-name", "weft-0", "--pod-address", "10.0.0.7"];
        let (settings, _) = flags(&args).settings().unwrap();
        assert_eq!(settings.mesh.root_namespace, "mesh");
        let SourceSettings::Kubernetes(kubernetes) = settings.source else { panic!("{:?}", settings.source) };
        assert_eq!((&*kubernetes.namespace, &*kubernetes.pod_name), ("mesh", "weft-0"));
        let error = flags(&["--source", "kubernetes", "--webhook-address", "x"]).settings().unwrap_err().to_string();
        for flag in ["--webhook-address", "--pod-name", "--pod-address"] {
            assert!(error.contains(&format!("  {flag}: ")), "{flag} is not in:\n{error}");
        }
    }

    #[test]
    fn run_may_be_said_or_left_out() {
        let cli = Cli::try_parse_from(["weft-control-plane", "run", "--manifests", "m", "--state-dir", "s"]).unwrap();
        let Some(Command::Run(flags)) = cli.command else { panic!("{cli:?}") };
        assert!(flags.settings().is_ok());
    }

    #[test]
    fn nobody_gets_a_token_for_the_control_planes_own_identity() {
        let flags = |id: &str| JoinTokenFlags { state_dir: "s".into(), spiffe_id: id.to_owned(), ttl: "1h".to_owned() };
        assert!(flags("spiffe://weft.local/ns/shop/sa/web").settings().is_ok());
        assert!(flags("spiffe://weft.local/ns/weft-system/sa/weft-control-plane").settings().is_err());
        assert!(flags("spiffe://weft.local/shop").settings().is_err());
    }
}
