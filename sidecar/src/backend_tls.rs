//! Backend TLS: TLS spoken by this proxy to a server outside the mesh (BackendTLSPolicy; SEMANTICS.md §2). The app speaks
//! plain text to us; the server is verified by a policy's roots and names, and never by its address.
//!
//! Checked, in this order: the chain leads to one of the roots now; where the policy lists names, the certificate has one of
//! them, otherwise it is for the server name. TLS 1.3 and 1.2, since such servers are anybody's; ALPN offers exactly what is
//! about to be spoken; no resumption, so that each connection is verified under the policy as it is. A policy that cannot be
//! done fails every connection: nothing is ever sent in plain text instead (SEMANTICS.md "Never").
//!
//! The public roots are those built into this binary (`webpki-root-certs`, Mozilla's list): the image holds nothing but the
//! binary, and a node's own list would differ from node to node. They are parsed when the first policy asks for them.
//!
//! Not here: which backend has a policy (`config/`), connections and pools (`outbound/`).
//! Bound: three configurations for each policy in use, which share its roots.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::sync::{Arc, LazyLock};

use prost::Message as _;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{AlertDescription, ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use weft_proto::v1;

use crate::identity::HANDSHAKE_TIMEOUT;
use crate::tcp::Wide;

mod verify;

use verify::{Name, Verifier};

/// What is spoken inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2: the server has to agree.
    Http2,
    /// Bytes: no protocol is named.
    Bytes,
}

impl Speaks {
    const fn alpn(self) -> Option<&'static [u8]> {
        match self {
            Self::Http1 => Some(b"http/1.1"),
            Self::Http2 => Some(b"h2"),
            Self::Bytes => None,
        }
    }
}

/// How a backend's servers are spoken to and verified.
pub struct BackendTls {
    /// `namespace/name`
    policy: Box<str>,
    /// Tells one content from another.
    id: u64,
    to: Result<Ready, Box<str>>,
}

struct Ready {
    server_name: ServerName<'static>,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    bytes: Arc<ClientConfig>,
}

/// A policy is not one.
#[derive(Debug, thiserror::Error)]
pub enum InvalidBackendTls {
    /// It can neither be sent as SNI nor be in a certificate.
    #[error("server_name: `{0}` is not a DNS name")]
    ServerName(Box<str>),
    /// It would trust nobody, or anybody.
    #[error("roots: there is none, and no reason to refuse")]
    NoRoots,
    /// One is no certificate.
    #[error("roots[{index}]: not a certificate: {why}")]
    Root {
        /// Counted from 0.
        index: usize,
        /// What is wrong.
        why: rustls::Error,
    },
    /// It could be in no certificate.
    #[error("names[{index}]: neither a DNS name, exact or `*.` and one, nor a URI")]
    Name {
        /// Counted from 0.
        index: usize,
    },
    /// rustls does not take it.
    #[error("no configuration: {0}")]
    Config(#[from] rustls::Error),
}

/// Why there is no TLS connection.
#[derive(Debug, thiserror::Error)]
pub enum BackendTlsError {
    /// The policy cannot be done.
    #[error("BackendTLSPolicy {policy} cannot be done, so nothing is sent: {why}")]
    Refused {
        /// `namespace/name`
        policy: Box<str>,
        /// What is wrong with it.
        why: Box<str>,
    },
    /// It took too long.
    #[error("the server's TLS handshake took longer than {HANDSHAKE_TIMEOUT:?}: does it speak TLS on that port?")]
    Timeout,
    /// We do not believe the server.
    #[error("BackendTLSPolicy {policy}: the server's certificate is refused: {why}")]
    Certificate {
        /// `namespace/name`
        policy: Box<str>,
        /// What is wrong.
        why: rustls::Error,
    },
    /// The server cannot go on with what we offer.
    #[error("the server refused the TLS handshake ({0:?}): its log says why")]
    RefusedByServer(AlertDescription),
    /// HTTP/2 needs the server's word.
    #[error("the server does not agree to HTTP/2 (ALPN h2), which the client speaks")]
    NoHttp2,
    /// It is no TLS server, or we share no version, suite or key exchange.
    #[error("the TLS handshake with the server failed: {0}")]
    Tls(rustls::Error),
    /// The connection broke.
    #[error("the connection broke during the TLS handshake with the server: {0}")]
    Io(io::Error),
}

impl BackendTlsError {
    /// Whether it says something about the policy and nothing about the endpoint.
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

impl BackendTls {
    /// Checks what the control plane says.
    ///
    /// # Errors
    /// The field that is wrong, and how.
    pub fn new(wire: &v1::BackendTls) -> Result<Self, InvalidBackendTls> {
        let mut hasher = DefaultHasher::new();
        wire.encode_to_vec().hash(&mut hasher);
        let to = if wire.refused.is_empty() { Ok(Ready::new(wire)?) } else { Err(wire.refused.as_str().into()) };
        Ok(Self { policy: wire.policy.as_str().into(), id: hasher.finish(), to })
    }

    /// Differs where anything does: a connection made under one is not used under another.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Takes the client's part of a handshake on a fresh connection.
    ///
    /// # Errors
    /// The server cannot be verified, does not speak TLS, or takes longer than [`HANDSHAKE_TIMEOUT`].
    ///
    /// # Cancel safety
    /// Dropping it closes the connection.
    pub async fn connect(&self, tcp: TcpStream, speaks: Speaks) -> Result<TlsStream<Wide<TcpStream>>, BackendTlsError> {
        let policy = || self.policy.clone();
        let ready = match &self.to {
            Ok(ready) => ready,
            Err(why) => return Err(BackendTlsError::Refused { policy: policy(), why: why.clone() }),
        };
        let config = match speaks {
            Speaks::Http1 => &ready.http1,
            Speaks::Http2 => &ready.http2,
            Speaks::Bytes => &ready.bytes,
        };
        let connecting = TlsConnector::from(Arc::clone(config)).connect(ready.server_name.clone(), Wide::new(tcp));
        let connected = tokio::time::timeout(HANDSHAKE_TIMEOUT, connecting).await;
        let stream = connected.map_err(|_| BackendTlsError::Timeout)?.map_err(|error| {
            match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol))
                    if speaks == Speaks::Http2 =>
                {
                    BackendTlsError::NoHttp2
                }
                Some(rustls::Error::AlertReceived(alert)) => BackendTlsError::RefusedByServer(*alert),
                Some(why @ (rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented)) => {
                    BackendTlsError::Certificate { policy: policy(), why: why.clone() }
                }
                Some(why) => BackendTlsError::Tls(why.clone()),
                None => BackendTlsError::Io(error),
            }
        })?;
        if speaks == Speaks::Http2 && stream.get_ref().1.alpn_protocol() != speaks.alpn() {
            return Err(BackendTlsError::NoHttp2);
        }
        Ok(stream)
    }
}

impl Ready {
    fn new(wire: &v1::BackendTls) -> Result<Self, InvalidBackendTls> {
        let server_name = match ServerName::try_from(wire.server_name.clone()) {
            Ok(name @ ServerName::DnsName(_)) => name,
            _ => return Err(InvalidBackendTls::ServerName(wire.server_name.as_str().into())),
        };
        let roots = match (&*wire.roots, wire.system_roots) {
            ([], false) => return Err(InvalidBackendTls::NoRoots),
            ([], true) => Arc::clone(&PUBLIC_ROOTS),
            (own, system) => {
                let mut store = if system { RootCertStore::clone(&PUBLIC_ROOTS) } else { RootCertStore::empty() };
                for (index, root) in own.iter().enumerate() {
                    let certificate = CertificateDer::from(root.clone());
                    store.add(certificate).map_err(|why| InvalidBackendTls::Root { index, why })?;
                }
                Arc::new(store)
            }
        };
        let name = |(index, name): (usize, &v1::SubjectName)| Name::new(name).ok_or(InvalidBackendTls::Name { index });
        let names = wire.names.iter().enumerate().map(name).collect::<Result<_, _>>()?;
        let algorithms = provider().signature_verification_algorithms;
        let verifier = Arc::new(Verifier { roots, names, algorithms });
        let config = |speaks: Speaks| -> Result<Arc<ClientConfig>, rustls::Error> {
            let mut config = ClientConfig::builder_with_provider(Arc::clone(provider()))
                .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
                .dangerous()
                .with_custom_certificate_verifier(Arc::clone(&verifier) as _)
                .with_no_client_auth();
            config.alpn_protocols = speaks.alpn().map(<[u8]>::to_vec).into_iter().collect();
            config.resumption = Resumption::disabled();
            Ok(Arc::new(config))
        };
        let (http1, http2, bytes) = (config(Speaks::Http1)?, config(Speaks::Http2)?, config(Speaks::Bytes)?);
        Ok(Self { server_name, http1, http2, bytes })
    }
}

impl PartialEq for BackendTls {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for BackendTls {}

impl std::fmt::Debug for BackendTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BackendTls({}, {:016x})", self.policy, self.id)
    }
}

/// The cryptography of backend TLS: all that aws-lc-rs has, which servers of any age share some of.
fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    &PROVIDER
}

/// The public roots of the web.
static PUBLIC_ROOTS: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned());
    Arc::new(roots)
});

#[cfg(test)]
pub(crate) mod tests;
