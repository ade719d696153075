//! What an operator can set, by flag or by environment. Each setting says its default, where that comes from, and what
//! it costs. A bad start reports every bad setting at once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use tracing_subscriber::EnvFilter;
use weft_proto::{InvalidSpiffeId, SpiffeId, ports};

use crate::admin::probe::{self, BadProbe, ProbeSpecs};

/// Settings of `weft-sidecar run`.
#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    /// Where discovery and identity are served: `HOST:PORT`.
    #[arg(long, env = "WEFT_CONTROL_PLANE", default_value = "weft-control-plane.weft-system:15012")]
    pub control_plane: String,

    /// PEM file with the mesh's root certificates; read again when it changes, waited for where its folder is there.
    #[arg(long, env = "WEFT_CA_ROOTS", value_name = "FILE")]
    pub ca_roots: PathBuf,

    /// File with the token that proves this workload's identity; read again at each renewal, waited for where its folder is
    /// there.
    #[arg(long, visible_alias = "token", env = "WEFT_JOIN_TOKEN", value_name = "FILE")]
    pub join_token: PathBuf,

    /// The mesh's trust domain.
    #[arg(long, env = "WEFT_TRUST_DOMAIN", default_value = "cluster.local")]
    pub trust_domain: String,

    /// This pod's namespace.
    #[arg(long, env = "WEFT_NAMESPACE", default_value = "default")]
    pub namespace: String,

    /// This pod's service account.
    #[arg(long, env = "WEFT_SERVICE_ACCOUNT", default_value = "default")]
    pub service_account: String,

    /// This pod's name, for metrics and logs.
    #[arg(long, env = "WEFT_POD", default_value = "")]
    pub pod: String,

    /// This pod's address: what the control plane knows it by.
    #[arg(long, env = "WEFT_POD_ADDRESS")]
    pub pod_address: IpAddr,

    /// The node this pod is on, for Services whose internalTrafficPolicy is Local.
    #[arg(long, env = "WEFT_NODE", default_value = "")]
    pub node: String,

    /// Data-plane threads. Default: the CPUs available, at most 2. Each costs about 1 MiB.
    #[arg(long, env = "WEFT_WORKERS", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers: Option<u16>,

    /// Spin up to 0.2 ms for a response that is expected within that time, rather than sleep and be woken: `on`, or `off`.
    /// Costs at most 10 % of a core for each worker, and nothing while there are no requests, under load, or where
    /// responses take longer. Takes a quarter off the latency that a proxy adds: docs/PERFORMANCE.md. Always off where the
    /// CPU limit is below one core.
    #[arg(long, env = "WEFT_BUSY_POLL", default_value = "on")]
    pub busy_poll: Switch,

    /// Address ranges in which an unknown destination is asked about, until the control plane says which those are.
    #[arg(long, env = "WEFT_CLUSTER_CIDRS", value_delimiter = ',')]
    pub cluster_cidr: Vec<IpNet>,

    /// Retries: `on` (the safe defaults), or `off` for diagnosis.
    #[arg(long, env = "WEFT_RETRIES", default_value = "on")]
    pub retries: Switch,

    /// Ejection of endpoints that keep failing: `on` (the defaults), or `off` for diagnosis.
    #[arg(long, env = "WEFT_EJECTION", default_value = "on")]
    pub ejection: Switch,

    /// Largest request body kept for a retry, in bytes. Worst-case memory: this times the requests in flight.
    #[arg(long, env = "WEFT_REPLAY_LIMIT", default_value_t = 64 * 1024)]
    pub replay_limit: usize,

    /// Write an access log line (JSON, standard output) for each request.
    #[arg(long, env = "WEFT_ACCESS_LOG", default_value = "off")]
    pub access_log: Switch,

    /// OTLP/gRPC endpoint for spans, such as `http://collector:4317`. None: no spans are made.
    #[arg(long, env = "WEFT_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,

    /// What to log, as `tracing` directives; changed while running by `POST /log`.
    #[arg(long, env = "WEFT_LOG", default_value = "info")]
    pub log_level: String,

    /// How long a drain may take before connections are cut, in seconds: the pod's grace period less 2 s.
    #[arg(long, env = "WEFT_DRAIN_SECONDS", default_value_t = 28)]
    pub drain_seconds: u64,

    /// Whether we outlive the app: `native`, SIGTERM comes once it has ended (a restartable init container); `classic`,
    /// SIGTERM comes to both at once, and we stay until the app is gone.
    #[arg(long, env = "WEFT_MODE", default_value = "native")]
    pub mode: Mode,

    /// Be ready only once this pod's traffic is seen to come to us: `on`, or `off` where nothing redirects it.
    #[arg(long, env = "WEFT_REQUIRE_REDIRECT", default_value = "on")]
    pub require_redirect: Switch,

    /// The app's probes and hooks, which are run in kubelet's place: JSON, as injection writes it.
    #[arg(long, env = "WEFT_PROBES", value_name = "JSON", default_value = "", hide_env_values = true)]
    pub probes: String,

    /// Answer requests whose path is `/weft-panic` with a panic: only to test that a panic ends one request.
    #[arg(long, env = "WEFT_TEST_PANIC", hide = true, default_value = "off")]
    pub test_panic: Switch,
}

impl RunArgs {
    /// Panics for `/weft-panic` where `WEFT_TEST_PANIC` is on: what a test needs to show that a defect ends one request.
    pub(crate) fn panic_if_asked(&self, path: &str) {
        assert!(!(self.test_panic.is_on() && path == "/weft-panic"), "asked to by WEFT_TEST_PANIC");
    }
}

/// `on` or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Switch {
    /// As by default, or switched on.
    On,
    /// Switched off.
    Off,
}

impl Switch {
    /// Whether it is on.
    pub fn is_on(self) -> bool {
        self == Self::On
    }
}

/// How our end and the app's are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// A native sidecar: kubelet ends us after the app.
    Native,
    /// A container like any other: kubelet ends us with the app.
    Classic,
}

/// Settings, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// As given.
    pub args: RunArgs,
    /// Who we are.
    pub identity: SpiffeId,
    /// Data-plane threads.
    pub workers: usize,
    /// Time limits that are not (yet) policy.
    pub timeouts: Timeouts,
    /// The app's probes and hooks.
    pub probes: ProbeSpecs,
}

/// Time limits (SEMANTICS.md §3, "connections"). Those of handshakes and first messages lie beside what they bound
/// (`identity/`, `listen/first.rs`).
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// TCP connect: 2 s.
    pub connect: Duration,
    /// An idle connection to the local app is reused for at most 1 s.
    pub idle_app: Duration,
    /// An idle connection to a plain-text backend is reused for at most 4 s.
    pub idle_plain: Duration,
    /// An idle mesh connection closes after 5 min.
    pub idle_mesh: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            idle_app: Duration::from_secs(1),
            idle_plain: Duration::from_secs(4),
            idle_mesh: Duration::from_secs(300),
        }
    }
}

/// Every setting that is wrong.
#[derive(Debug, thiserror::Error)]
#[error("{} bad setting(s):\n  {}", .0.len(), .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  "))]
pub struct BadSettings(pub Vec<BadSetting>);

/// A setting that is wrong.
#[derive(Debug, thiserror::Error)]
pub enum BadSetting {
    /// The three parts make no SPIFFE ID.
    #[error("--trust-domain, --namespace, --service-account: {0}")]
    Identity(#[from] InvalidSpiffeId),
    /// A file that must be there is not, and will not come: even its folder is missing.
    #[error("{flag} {path}: {error}")]
    File {
        /// The flag.
        flag: &'static str,
        /// The path given.
        path: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// No port in the control plane's address.
    #[error("--control-plane {0}: give HOST:PORT, such as weft-control-plane.weft-system:15012")]
    ControlPlane(String),
    /// The log directives do not parse.
    #[error("--log-level {0}: {1}")]
    Log(String, String),
    /// A probe cannot be run.
    #[error(transparent)]
    Probe(#[from] BadProbe),
}

impl Settings {
    /// Checks everything, reporting all that is wrong.
    ///
    /// # Errors
    /// [`BadSettings`] with one entry per bad setting.
    pub fn check(args: RunArgs) -> Result<Self, BadSettings> {
        let mut bad = Vec::new();
        let identity = SpiffeId::new(&args.trust_domain, &args.namespace, &args.service_account)
            .map_err(|e| bad.push(e.into()))
            .ok();
        for (flag, path) in [("--ca-roots", &args.ca_roots), ("--join-token", &args.join_token)] {
            if let Err(error) = will_be_there(path) {
                bad.push(BadSetting::File { flag, path: path.display().to_string(), error });
            }
        }
        if args
            .control_plane
            .rsplit_once(':')
            .is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err())
        {
            bad.push(BadSetting::ControlPlane(args.control_plane.clone()));
        }
        if let Err(why) = log_filter(&args.log_level) {
            bad.push(BadSetting::Log(args.log_level.clone(), why));
        }
        let probes = probe::parse(&args.probes).unwrap_or_else(|wrong| {
            bad.extend(wrong.into_iter().map(BadSetting::from));
            ProbeSpecs::new()
        });
        let available = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = args.workers.map_or(available.min(2), usize::from);
        match identity {
            Some(identity) if bad.is_empty() => {
                Ok(Self { args, identity, workers, timeouts: Timeouts::default(), probes })
            }
            _ => Err(BadSettings(bad)),
        }
    }
}

/// The longest log directives, in bytes.
const MAX_DIRECTIVES: usize = 512;

/// What log directives let through. What they ask of a span's fields is taken literally: as a regular expression, 30 bytes
/// could become an automaton of gigabytes, and whoever may annotate a pod or reach its `POST /log` can write them.
///
/// # Errors
/// What is wrong with them.
pub fn log_filter(directives: &str) -> Result<EnvFilter, String> {
    if directives.len() > MAX_DIRECTIVES {
        return Err(format!("{} bytes, and directives have {MAX_DIRECTIVES} at most", directives.len()));
    }
    EnvFilter::builder().with_regex(false).parse(directives).map_err(|error| error.to_string())
}

/// A ConfigMap or a token may come after us, into a folder that is mounted before: the file is waited for, its folder not.
fn will_be_there(path: &Path) -> std::io::Result<()> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => match path.parent() {
            Some(folder) if folder.is_dir() => Ok(()),
            _ => Err(error),
        },
        found => found.map(drop),
    }
}

/// The loopback addresses of a port, IPv4 and IPv6.
pub fn loopback(port: u16) -> [SocketAddr; 2] {
    [(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]
}

/// Whether a port is one of our own listeners: a connection meant for one is closed, never relayed (§1, "redirect").
pub fn is_own_port(port: u16) -> bool {
    matches!(port, ports::ADMIN | ports::OUTBOUND | ports::INBOUND | ports::METRICS | ports::HEALTH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        run: RunArgs,
    }

    #[test]
    fn a_bad_start_reports_every_bad_setting_at_once() {
        let cli = Cli::parse_from([
            "x",
            "--control-plane=nowhere",
            "--ca-roots=/does/not/exist",
            "--join-token=/does/not/exist/either",
            "--trust-domain=UPPER",
            "--pod-address=10.0.0.1",
            "--log-level=a=b=c",
            r#"--probes={"app/readiness": {"exec": {}}, "app": {"tcp": {"port": 1}}}"#,
        ]);
        let text = Settings::check(cli.run).unwrap_err().to_string();
        for part in
            ["7 bad setting(s)", "UPPER", "--ca-roots", "--join-token", "nowhere", "--log-level", "exec", "`app`"]
        {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
    }

    #[test]
    fn log_directives_are_short_and_hold_no_regular_expression() {
        let long = format!("weft={},info", "::x".repeat(170));
        #[rustfmt::skip]
        let rows: &[(&str, Result<&str, &str>)] = &[
            ("info,weft_sidecar::http=trace",              Ok("weft_sidecar::http=trace,info")),
            ("[{x=a(}]=info",                              Ok("[{x=a(}]=info")),
            ("[{x=a.........................}]=info",      Ok("[{x=a.........................}]=info")),
            ("a=b=c",                                      Err("error parsing level filter")),
            (&long,                                        Err("520 bytes, and directives have 512 at most")),
        ];
        for (directives, expected) in rows {
            match (log_filter(directives), expected) {
                (Ok(filter), Ok(expected)) => assert_eq!(filter.to_string(), *expected, "{directives}"),
                (Err(why), Err(part)) => assert!(why.contains(part), "{directives}: {why}"),
                (found, expected) => panic!("{directives}: {found:?} is not {expected:?}"),
            }
        }
    }

    #[test]
    fn a_file_that_is_still_to_come_is_no_bad_setting() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let cli = Cli::parse_from([
            "x",
            &format!("--ca-roots={}", path("roots.pem")),
            &format!("--token={}", path("token")),
            "--pod-address=10.0.0.1",
            r#"--probes={"app/liveness": {"tcp": {"port": 1}}}"#,
        ]);
        let settings = Settings::check(cli.run).unwrap();
        assert_eq!(settings.args.join_token, folder.path().join("token"));
        assert_eq!((settings.args.mode, settings.probes.len()), (Mode::Native, 1));
    }
}
