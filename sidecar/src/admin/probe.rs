//! kubelet's probes of the app and its `httpGet` hooks, run by us in its place (SEMANTICS.md §1, port 15021).
//!
//! Injection points them at `15021/probe/CONTAINER/KIND` and writes the originals into `WEFT_PROBES`. Sent to the app's own
//! port they would meet inbound: under STRICT every one of them is refused, and a TCP probe always succeeds, for it is we
//! who accept. We are not redirected (UID 1337), so what is dialled here is the app.
//!
//! ```text
//! kubelet ─ GET :15021/probe/app/readiness ─► the original, within its timeout ─► the pod's address, the app's port
//!         ◄─ 200, or 503 and why              HTTP(S) `http.rs` · TCP here · gRPC `grpc.rs`
//! ```
//!
//! What counts as good is kubelet's own rule, kind by kind, told in those files. A hook (`post-start`, `pre-stop`) is good
//! when the app answers at all, and holds up the end of a drain: a pod whose `preStop` is still running is not over.
//!
//! kubelet shows nobody the body of an answer, so the reason of a probe that begins to fail is also in our log, once.
//!
//! Bounds: [`MAX_AT_ONCE`] running; each ends with its timeout, a hook with [`HOOK_TIMEOUT`] or when kubelet hangs up.

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

use crate::dns::{Dns, DnsError};
use crate::listen::drain::Watch;

pub(crate) use self::spec::parse;
pub use self::spec::{BadProbe, Check, GrpcCheck, HttpCheck, Kind, ProbeSpecs, Spec, TcpCheck};

/// Probes and hooks running at once; more wait, within their own timeout.
const MAX_AT_ONCE: usize = 64;
/// The longest a hook may take. kubelet gives up before, at the end of the pod's grace period.
const HOOK_TIMEOUT: Duration = Duration::from_secs(600);

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
    places: Semaphore,
}

struct Probe {
    spec: Spec,
    /// The last run failed: its next failure is no news.
    failing: AtomicBool,
}

impl Probes {
    /// The probes of the pod at `address`. Hooks hold up `drain`.
    pub fn new(specs: ProbeSpecs, address: IpAddr, dns: Dns, drain: Watch) -> Self {
        let probes = specs.into_iter().map(|(name, spec)| (name, Probe { spec, failing: AtomicBool::new(false) }));
        Self { probes: probes.collect(), address, dns, drain, places: Semaphore::new(MAX_AT_ONCE) }
    }

    /// Runs the probe called `CONTAINER/KIND`; `None` when there is none. `user_agent` is kubelet's.
    ///
    /// # Cancel safety
    /// Dropping the future closes the probe's connection.
    pub async fn run(&self, name: &str, user_agent: Option<&HeaderValue>) -> Option<Result<(), Failure>> {
        let probe = self.probes.get(name)?;
        let is_hook = probe.spec.kind.is_hook();
        let _guard = is_hook.then(|| self.drain.guard());
        let at_most = if is_hook { HOOK_TIMEOUT } else { probe.spec.timeout };
        let checked = timeout(at_most, async {
            // Never closed: waiting fails only by the timeout around it.
            let _place = self.places.acquire().await;
            self.check(&probe.spec, user_agent).await
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
        Some(result)
    }

    /// The names there are.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.probes.keys().map(|name| &**name)
    }

    async fn check(&self, spec: &Spec, user_agent: Option<&HeaderValue>) -> Result<(), Failure> {
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
