//! The way to the control plane: name → address → TCP → TLS that proves `weft-system/weft-control-plane` → gRPC channel.
//!
//! Each [`Channel`] is one connection: when it ends it is not dialled again behind our back, because who dials next
//! (`certify.rs`, `config/client.rs`) has a back-off and a fresh view of addresses, roots and SVID.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rand::seq::SliceRandom;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use super::IdentityManager;
use super::handshake::{HandshakeError, unnamed, within};
use super::tls::client_config;
use crate::dns::{Dns, DnsError};

/// One TCP connection attempt (SEMANTICS.md §3).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A PING after this much silence, and how long it may take to be answered (SEMANTICS.md §3).
const PING_AFTER: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// All addresses of one name together; then the back-off is the caller's.
const ALL_TIMEOUT: Duration = Duration::from_secs(9);

/// A byte stream.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A future that gives a byte stream.
pub type Dialling = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>>;

/// Opens byte streams: TCP, or a pipe in tests.
pub trait Dial: Send + Sync + 'static {
    /// Connects to `address`.
    fn dial(&self, address: SocketAddr) -> Dialling;
}

/// TCP with keep-alive left to HTTP/2's PING.
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpDial;

impl Dial for TcpDial {
    fn dial(&self, address: SocketAddr) -> Dialling {
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Io>)
        })
    }
}

/// Why the control plane cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum ControlPlaneError {
    /// Its name has no address.
    #[error("the control plane's address is not known: {0}")]
    Name(#[from] DnsError),
    /// No address took the connection; this is the last error.
    #[error("the control plane at {address} does not answer: {why}")]
    Connect {
        /// The last address tried.
        address: SocketAddr,
        /// What happened.
        why: io::Error,
    },
    /// It is not believed, or does not believe us.
    #[error("TLS with the control plane: {0}")]
    Tls(#[from] HandshakeError),
    /// No root to verify it with.
    #[error("no roots to verify the control plane with: is the roots file there?")]
    NoRoots,
    /// rustls refused our own configuration.
    #[error("TLS towards the control plane cannot be configured: {0}")]
    Configuration(rustls::Error),
    /// HTTP/2 did not start.
    #[error("HTTP/2 with the control plane: {0}")]
    Http(#[from] tonic::transport::Error),
}

/// Where the control plane is and how to get there.
#[derive(Clone)]
pub struct ControlPlane {
    host: Arc<str>,
    port: u16,
    dns: Dns,
    dial: Arc<dyn Dial>,
    identity: IdentityManager,
}

/// A text that is not `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not HOST:PORT (an IPv6 address goes in brackets)")]
pub struct InvalidAddress(String);

impl ControlPlane {
    /// The control plane at `address` (`host:port`).
    ///
    /// # Errors
    /// When `address` has no port or no host.
    pub fn new(
        address: &str,
        dns: Dns,
        dial: Arc<dyn Dial>,
        identity: IdentityManager,
    ) -> Result<Self, InvalidAddress> {
        let invalid = || InvalidAddress(address.to_owned());
        let (host, port) = address.rsplit_once(':').ok_or_else(invalid)?;
        let port = port.parse().ok().filter(|&port| port != 0).ok_or_else(invalid)?;
        let host = match host.strip_prefix('[') {
            Some(v6) => v6.strip_suffix(']').ok_or_else(invalid)?,
            None if host.contains(':') => return Err(invalid()),
            None => host,
        };
        if host.is_empty() {
            return Err(invalid());
        }
        Ok(Self { host: host.into(), port, dns, dial, identity })
    }

    /// The identity this channel authenticates with.
    pub fn identity(&self) -> &IdentityManager {
        &self.identity
    }

    /// A connection on which we show our SVID: for discovery and reports, and to renew it.
    ///
    /// # Errors
    /// Any step may fail; [`ControlPlaneError`] says which.
    pub async fn channel(&self) -> Result<Channel, ControlPlaneError> {
        self.open(self.tls(true)?).await
    }

    /// A connection on which we stay anonymous: for the first `Certify`, which a token proves.
    pub(super) async fn anonymous_channel(&self) -> Result<Channel, ControlPlaneError> {
        self.open(self.tls(false)?).await
    }

    fn tls(&self, with_svid: bool) -> Result<Arc<ClientConfig>, ControlPlaneError> {
        let expected = weft_proto::control_plane_identity(self.identity.identity().trust_domain())
            .map_err(|why| HandshakeError::Peer(why.into()))?;
        let roots = self.identity.0.roots.lock().for_control_plane().ok_or(ControlPlaneError::NoRoots)?;
        if with_svid {
            let current = self.identity.0.current.load();
            let tls = current.as_ref().ok_or(HandshakeError::NoSvid)?;
            tls.to_control_plane(roots, expected)
        } else {
            client_config(None, roots, expected, b"h2").map(Arc::new)
        }
        .map_err(ControlPlaneError::Configuration)
    }

    async fn open(&self, tls: Arc<ClientConfig>) -> Result<Channel, ControlPlaneError> {
        let tcp = self.connect().await?;
        let io = within(TlsConnector::from(tls).connect(unnamed(), tcp)).await?;
        Ok(Endpoint::from_static("http://weft-control-plane")
            .http2_keep_alive_interval(PING_AFTER)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .connect_timeout(CONNECT_TIMEOUT)
            .connect_with_connector(Once(Some(TokioIo::new(io))))
            .await?)
    }

    async fn connect(&self) -> Result<Box<dyn Io>, ControlPlaneError> {
        let mut addresses = self.dns.resolve(&self.host).await?.addresses().to_vec();
        // Spreads proxies over replicas whose name has several addresses.
        addresses.shuffle(&mut rand::rng());
        let give_up = Instant::now() + ALL_TIMEOUT;
        let mut last = None;
        for ip in addresses {
            let address = SocketAddr::new(ip, self.port);
            let until = give_up.min(Instant::now() + CONNECT_TIMEOUT);
            let why = match tokio::time::timeout_at(until, self.dial.dial(address)).await {
                Ok(Ok(io)) => return Ok(io),
                Ok(Err(why)) => why,
                Err(_) => io::ErrorKind::TimedOut.into(),
            };
            last = Some(ControlPlaneError::Connect { address, why });
            if Instant::now() >= give_up {
                break;
            }
        }
        // Replicas may have moved since the name was looked up, whatever its TTL says.
        self.dns.refresh(&self.host);
        Err(last.unwrap_or(ControlPlaneError::Name(DnsError::NoAddress(self.host.to_string()))))
    }
}

impl fmt::Debug for ControlPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ControlPlane({}:{})", self.host, self.port)
    }
}

/// Gives its connection once; tonic asking again is told that it ended.
struct Once<IO>(Option<IO>);

impl<IO: Send + 'static> tower_service::Service<Uri> for Once<IO> {
    type Response = IO;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<IO>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        std::future::ready(self.0.take().ok_or_else(|| io::ErrorKind::NotConnected.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::TestCa;
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        let ca = TestCa::new("weft.local");
        let parse = |text: &str| {
            ControlPlane::new(text, Dns::fixed([]), Arc::new(TcpDial), ca.manager("a", "b"))
                .map(|cp| (cp.host.to_string(), cp.port))
                .ok()
        };
        for (text, expected) in [
            ("weft-control-plane.weft-system:15012", Some(("weft-control-plane.weft-system", 15012))),
            ("10.0.0.1:15012", Some(("10.0.0.1", 15012))),
            ("[fd00::1]:15012", Some(("fd00::1", 15012))),
            ("fd00::1:15012", None),
            ("[fd00::1:15012", None),
            ("host", None),
            ("host:0", None),
            ("host:x", None),
            (":15012", None),
        ] {
            assert_eq!(parse(text), expected.map(|(host, port)| (host.to_owned(), port)), "{text}");
        }
    }
}
