//! kubelet's probes of the app and its `httpGet` hooks, run by us in its place (SEMANTICS.md §1, port 15021).
//!
//! Injection points them at `15021/probe/SECRET.CONTAINER/KIND` and writes the originals into `WEFT_PROBES`. Sent to the app's
//! own port they would meet inbound: under STRICT every one of them is refused, and a TCP probe always succeeds, for it is we
//! who accept. We are not redirected (UID 1337), so what is dialled here is the app.
//!
//! ```text
//! kubelet ─ GET :15021/probe/SECRET.app/readiness ─► the original, within its timeout ─► the pod's address, the app's port
//!         ◄─ 200, or 503 and why                     HTTP(S) `http.rs` · TCP here · gRPC `grpc.rs`
//! ```
//!
//! Whoever reaches the port reaches the app by this, past STRICT and every AuthorizationPolicy: hence the secret
//! ([`ProbeSecret`]), without which there is no such probe. Nothing of a caller's request goes on to the app but kubelet's
//! `User-Agent`.
//!
//! What counts as good is kubelet's own rule, kind by kind, told in those files. A hook (`post-start`, `pre-stop`) is good
//! when the app answers at all, and holds up the end of a drain: a pod whose `preStop` is still running is not over.
//!
//! kubelet shows nobody the body of an answer, so the reason of a probe that begins to fail is also in our log, once.
//!
//! Bounds: [`MAX_AT_ONCE`] probes running, and each hook once: a slow hook takes no probe's place. Each ends with its timeout, a
//! hook with [`HOOK_TIMEOUT`], and when kubelet hangs up.

mod grpc;
mod http;
mod spec;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::http::{HeaderValue, StatusCode};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use weft_proto::ProbeSecret;

use crate::dns::{Dns, DnsError};
use crate::listen::drain::Watch;

pub(crate) use self::spec::parse;
pub use self::spec::{BadProbe, Check, GrpcCheck, HttpCheck, Kind, ProbeSpecs, Spec, TcpCheck};

/// Probes running at once; more wait, within their own timeout.
const MAX_AT_ONCE: usize = 64;
/// The longest a hook may take. kubelet gives up before, at the end of the pod's grace period.
const HOOK_TIMEOUT: Duration = Duration::from_secs(600);
/// What the app is told of who asks, where it is not kubelet.
static OURS: HeaderValue = HeaderValue::from_static("weft-sidecar");
/// Longest version of kubelet's in its `User-Agent`: `1.36`, `1.36+`.
const MAX_VERSION: usize = 16;

/// What a probe found wrong.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Nobody took the connection.
    #[error("no connection to {address}: {why}")]
    Connect {
        /// Where to.
        address: SocketAddr,
        /// What the system said.
        why: std::io::Error,
    },
    /// The probe names a host, and that has no address.
    #[error(transparent)]
    Name(#[from] DnsError),
    /// Time is over.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// A probe of scheme HTTPS, and the handshake failed.
    #[error("TLS handshake with {address}: {why}")]
    Tls {
        /// Whom with.
        address: SocketAddr,
        /// What happened.
        why: std::io::Error,
    },
    /// Nothing that is HTTP came back.
    #[error("no HTTP answer: {0}")]
    Http(#[from] hyper::Error),
    /// The request cannot be made.
    #[error("the probe is no request: {0}")]
    Request(#[from] ::http::Error),
    /// It was answered, and badly.
    #[error("the app answered {0}")]
    Status(StatusCode),
    /// The app sends us in circles.
    #[error("stopped after {0} redirects")]
    Redirects(u32),
    /// Serves gRPC, but no health.
    #[error("the app does not implement the gRPC health protocol (grpc.health.v1.Health)")]
    NoHealthService,
    /// A gRPC error.
    #[error("gRPC status {code}: {message}")]
    Grpc {
        /// Its number.
        code: i32,
        /// Its words.
        message: String,
    },
    /// Healthy it is not.
    #[error("the app says that it is {0}")]
    NotServing(&'static str),
}

/// Every probe of this pod, ready to run.
pub struct Probes {
    probes: BTreeMap<Box<str>, Probe>,
    /// The pod's: what kubelet dials where a probe names no host.
    address: IpAddr,
    dns: Dns,
    drain: Watch,
    /// Of probes.
    places: Semaphore,
}

struct Probe {
    spec: Spec,
    /// A hook's own place. A second run waits for the first.
    turn: Option<Semaphore>,
    /// The last run failed: its next failure is no news.
    failing: AtomicBool,
}

/// A probe that somebody may run.
#[derive(Clone, Copy)]
pub struct Found<'a> {
    all: &'a Probes,
    name: &'a str,
    probe: &'a Probe,
}

impl Probes {
    /// The probes of the pod at `address`. Hooks hold up `drain`.
    pub fn new(specs: ProbeSpecs, address: IpAddr, dns: Dns, drain: Watch) -> Self {
        if specs.values().any(|spec| spec.secret.is_none()) {
            tracing::warn!(
                "whoever reaches port {} may run this pod's probes and hooks: the control plane that injected it is older than \
                 this sidecar; make the pod anew",
                weft_proto::ports::HEALTH
            );
        }
        let probes = specs.into_iter().map(|(name, spec)| {
            let turn = spec.kind.is_hook().then(|| Semaphore::new(1));
            (name, Probe { spec, turn, failing: AtomicBool::new(false) })
        });
        Self { probes: probes.collect(), address, dns, drain, places: Semaphore::new(MAX_AT_ONCE) }
    }

    /// The probe that is asked for as `SECRET.CONTAINER/KIND`; `None` when there is none, and when the secret is another.
    pub fn find(&self, asked: &str) -> Option<Found<'_>> {
        let (secret, name) = ProbeSecret::split(asked);
        self.named(name).filter(|found| found.probe.spec.secret == secret)
    }

    /// The probe called `CONTAINER/KIND`, for a caller who needs no secret.
    pub fn named(&self, name: &str) -> Option<Found<'_>> {
        let (name, probe) = self.probes.get_key_value(name)?;
        Some(Found { all: self, name, probe })
    }

    /// The names there are.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.probes.keys().map(|name| &**name)
    }

    async fn check(&self, spec: &Spec, user_agent: &HeaderValue) -> Result<(), Failure> {
        match &spec.check {
            Check::Http(check) => {
                let address = self.resolve(check.host.as_deref()).await?;
                http::run(check, address, user_agent, spec.kind.is_hook()).await
            }
            // kubelet's rule: that the connection is taken is all.
            Check::Tcp(check) => {
                let address = self.resolve(check.host.as_deref()).await?;
                dial(SocketAddr::new(address, check.port.get())).await.map(drop)
            }
            Check::Grpc(check) => {
                grpc::run(&check.service, SocketAddr::new(self.address, check.port.get()), user_agent).await
            }
        }
    }

    async fn resolve(&self, host: Option<&str>) -> Result<IpAddr, Failure> {
        let Some(host) = host else { return Ok(self.address) };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let resolved = self.dns.resolve(host).await?;
        resolved.addresses().first().copied().ok_or_else(|| DnsError::NoAddress(host.to_owned()).into())
    }
}

impl<'a> Found<'a> {
    /// `CONTAINER/KIND`
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// Only who knows a secret can have found it.
    pub fn is_secret(&self) -> bool {
        self.probe.spec.secret.is_some()
    }

    /// The longest that a run takes.
    pub fn at_most(&self) -> Duration {
        if self.probe.turn.is_some() { HOOK_TIMEOUT } else { self.probe.spec.timeout }
    }

    /// Runs it. `user_agent` is the caller's, and goes on to the app if it is kubelet's.
    ///
    /// # Errors
    /// What is wrong with the app.
    ///
    /// # Cancel safety
    /// Dropping the future closes the probe's connection.
    pub async fn run(self, user_agent: Option<&HeaderValue>) -> Result<(), Failure> {
        let Self { all, name, probe } = self;
        let user_agent = user_agent.filter(|given| is_kubelet(given)).unwrap_or(&OURS);
        let _guard = probe.turn.is_some().then(|| all.drain.guard());
        let at_most = self.at_most();
        let checked = timeout(at_most, async {
            // Never closed: waiting fails only by the timeout around it.
            let _place = probe.turn.as_ref().unwrap_or(&all.places).acquire().await;
            all.check(&probe.spec, user_agent).await
        });
        let result = checked.await.unwrap_or(Err(Failure::Timeout(at_most)));
        match &result {
            Ok(()) if probe.failing.swap(false, Ordering::Relaxed) => {
                tracing::info!(probe = name, "probe passes");
            }
            Err(error) if !probe.failing.swap(true, Ordering::Relaxed) => {
                tracing::info!(probe = name, %error, "probe fails");
            }
            _ => {}
        }
        result
    }
}

/// `kube-probe/1.36`, `kube-lifecycle/1.36`, and nothing else: what a caller may make the app read is no more than that.
fn is_kubelet(user_agent: &HeaderValue) -> bool {
    let text = user_agent.as_bytes();
    let version = text.strip_prefix(b"kube-probe/").or_else(|| text.strip_prefix(b"kube-lifecycle/"));
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b".+-".contains(byte);
    version.is_some_and(|version| (1..=MAX_VERSION).contains(&version.len()) && version.iter().all(plain))
}

impl fmt::Debug for Probes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Probes").field(&self.probes.keys()).finish()
    }
}

async fn dial(address: SocketAddr) -> Result<TcpStream, Failure> {
    TcpStream::connect(address).await.map_err(|why| Failure::Connect { address, why })
}

#[cfg(test)]
mod tests;
