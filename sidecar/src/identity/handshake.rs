//! Mesh TLS handshakes, bounded in time, with an error that names the fact (SEMANTICS.md §1 "mesh TLS", §3
//! "connections").
//!
//! A [`Peer`] exists only after a handshake under our verifiers: holding one *is* the proof. In TLS 1.3 a client is done
//! before the server has judged it, so a server's refusal reaches the client as an alert on its first read;
//! [`refused_by_peer`] recognises it there.

use std::io;
use std::time::{Duration, SystemTime};

use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use weft_proto::SpiffeId;

use super::IdentityManager;
use super::tls::MeshProtocol;
use super::verify::{PeerError, VerifiedLeaf, claimed};
use crate::tcp::Wide;

/// How long one TLS handshake may take, either side (SEMANTICS.md §3).
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);

/// The verified other end of a mesh TLS connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    leaf: VerifiedLeaf,
    protocol: MeshProtocol,
}

impl Peer {
    /// Who it is.
    pub fn identity(&self) -> &SpiffeId {
        self.leaf.identity()
    }

    /// When its certificate ends: the connection is drained by then.
    pub fn not_after(&self) -> SystemTime {
        self.leaf.not_after()
    }

    /// What the connection carries, as agreed by ALPN.
    pub fn protocol(&self) -> MeshProtocol {
        self.protocol
    }
}

/// Why there is no mesh TLS connection.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// We have no SVID yet.
    #[error("this proxy has no certificate yet: can it reach the control plane?")]
    NoSvid,
    /// It took too long.
    #[error("the TLS handshake took longer than {0:?}")]
    Timeout(Duration),
    /// We do not believe the peer.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The peer does not believe us, or cannot go on.
    #[error("the peer refused the handshake ({0:?}): its log says why")]
    RefusedByPeer(AlertDescription),
    /// It speaks TLS, but none of our protocols.
    #[error("the peer agreed to none of the mesh protocols: is it a sidecar?")]
    NoMeshProtocol,
    /// It went away in the middle.
    #[error("the peer closed the connection during the TLS handshake: is its sidecar running?")]
    Closed,
    /// It breaks the protocol, or we share no version, suite or key exchange.
    #[error("the TLS handshake failed: {0}")]
    Tls(rustls::Error),
    /// The connection broke.
    #[error("the connection broke during the TLS handshake: {0}")]
    Io(io::Error),
}

impl HandshakeError {
    /// Whether the other side was judged, or judged us, on identity: trying the same endpoint again cannot help.
    pub fn is_about_identity(&self) -> bool {
        match self {
            Self::Peer(_) | Self::RefusedByPeer(_) => true,
            Self::NoSvid | Self::Timeout(_) | Self::NoMeshProtocol | Self::Closed | Self::Tls(_) | Self::Io(_) => false,
        }
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::AlertReceived(alert)) => Self::RefusedByPeer(*alert),
            Some(rustls::Error::NoApplicationProtocol) => Self::NoMeshProtocol,
            Some(rustls::Error::NoCertificatesPresented) => Self::Peer(PeerError::NoCertificate),
            Some(rustls::Error::InvalidCertificate(CertificateError::Other(other))) => {
                match other.0.downcast_ref::<PeerError>() {
                    Some(why) => Self::Peer(why.clone()),
                    None => Self::Tls(rustls::Error::InvalidCertificate(CertificateError::Other(other.clone()))),
                }
            }
            Some(why) => Self::Tls(why.clone()),
            None if error.kind() == io::ErrorKind::UnexpectedEof => Self::Closed,
            None => Self::Io(error),
        }
    }
}

/// Whether an error met while reading from a mesh connection is the server's late refusal of our identity.
pub fn refused_by_peer(error: &io::Error) -> Option<AlertDescription> {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::AlertReceived(alert)) => Some(*alert),
        _ => None,
    }
}

impl IdentityManager {
    /// Takes the server's part. `io` starts with the ClientHello.
    ///
    /// # Errors
    /// The peer is no member of the mesh, agrees to no `weft/*` protocol, or takes longer than [`HANDSHAKE_TIMEOUT`].
    ///
    /// # Cancel safety
    /// Dropping it closes `io`.
    pub async fn accept<IO>(&self, io: IO) -> Result<(server::TlsStream<Wide<IO>>, Peer), HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let config = self.server_config().ok_or(HandshakeError::NoSvid)?;
        let stream = within(TlsAcceptor::from(config).accept(Wide::new(io))).await?;
        let peer = peer_of(stream.get_ref().1)?;
        Ok((stream, peer))
    }

    /// Takes the client's part, for a server that must be `expected`.
    ///
    /// # Errors
    /// The server is anybody else, does not agree to `protocol`, or takes longer than [`HANDSHAKE_TIMEOUT`].
    ///
    /// # Cancel safety
    /// Dropping it closes `io`.
    pub async fn connect<IO>(
        &self,
        io: IO,
        expected: &SpiffeId,
        protocol: MeshProtocol,
    ) -> Result<(client::TlsStream<Wide<IO>>, Peer), HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let config = self.client_config(expected, protocol).ok_or(HandshakeError::NoSvid)?;
        let stream = within(TlsConnector::from(config).connect(unnamed(), Wide::new(io))).await?;
        let peer = peer_of(stream.get_ref().1)?;
        // Each configuration offers one name, so any other answer is a server that ignores ALPN.
        if peer.protocol != protocol {
            return Err(HandshakeError::NoMeshProtocol);
        }
        Ok((stream, peer))
    }
}

/// rustls wants a name to connect to; ours is in no ClientHello (SNI is off) and verified by nobody.
pub(super) fn unnamed() -> ServerName<'static> {
    ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into())
}

pub(super) async fn within<T>(handshake: impl Future<Output = io::Result<T>>) -> Result<T, HandshakeError> {
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(HandshakeError::Timeout(HANDSHAKE_TIMEOUT)),
    }
}

fn peer_of(connection: &rustls::CommonState) -> Result<Peer, HandshakeError> {
    let protocol =
        connection.alpn_protocol().and_then(MeshProtocol::from_alpn).ok_or(HandshakeError::NoMeshProtocol)?;
    let leaf = connection.peer_certificates().and_then(|chain| chain.first()).ok_or(PeerError::NoCertificate)?;
    Ok(Peer { leaf: claimed(leaf)?, protocol })
}
