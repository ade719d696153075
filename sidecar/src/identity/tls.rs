//! The rustls configurations of mesh TLS (SEMANTICS.md §1): TLS 1.3 only, X25519MLKEM768 before X25519, both ends show
//! an SVID, ALPN `weft/*`, no resumption, no tickets, no early data.
//!
//! [`MeshTls`] is one generation: an SVID and the roots it was paired with. It is built when either changes and
//! replaced as a whole, so a handshake never mixes two generations and open connections keep theirs.
//! Bound: [`MAX_CLIENTS`] client configurations, then the cache starts again.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig};
use weft_proto::SpiffeId;

use super::Svid;
use super::crypto::provider;
use super::verify::{AnyMember, ExpectServer, Roots};

/// Identities for which a client configuration is kept: a proxy talks to few services at a time, and building one
/// costs microseconds.
const MAX_CLIENTS: usize = 1024;

/// What a mesh connection carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MeshProtocol {
    /// `weft/h2`: HTTP of any version, carried as HTTP/2.
    H2,
    /// `weft/h1`: one HTTP/1 exchange that becomes a tunnel.
    H1,
    /// `weft/tcp`: opaque bytes.
    Tcp,
}

impl MeshProtocol {
    /// In the order a server prefers them.
    pub const ALL: [Self; 3] = [Self::H2, Self::H1, Self::Tcp];

    /// Its ALPN name.
    pub const fn alpn(self) -> &'static [u8] {
        match self {
            Self::H2 => weft_proto::alpn::H2,
            Self::H1 => weft_proto::alpn::H1,
            Self::Tcp => weft_proto::alpn::TCP,
        }
    }

    /// The protocol an ALPN name stands for, if it is one of ours.
    pub fn from_alpn(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.alpn() == name)
    }
}

/// One generation of mesh TLS: an SVID, roots, and what is built of them.
pub(super) struct MeshTls {
    pub(super) svid: Arc<Svid>,
    pub(super) roots: Arc<Roots>,
    pub(super) server: Arc<ServerConfig>,
    own: Arc<SingleCertAndKey>,
    clients: Mutex<HashMap<(SpiffeId, MeshProtocol), Arc<ClientConfig>>>,
}

impl MeshTls {
    pub(super) fn new(svid: Arc<Svid>, roots: Arc<Roots>) -> Result<Self, rustls::Error> {
        let own = Arc::new(SingleCertAndKey::from(Arc::clone(&svid.certified)));
        let server = Arc::new(server_config(&own, &roots)?);
        Ok(Self { svid, roots, server, own, clients: Mutex::new(HashMap::new()) })
    }

    pub(super) fn client(
        &self,
        expected: &SpiffeId,
        protocol: MeshProtocol,
    ) -> Result<Arc<ClientConfig>, rustls::Error> {
        let key = (expected.clone(), protocol);
        if let Some(config) = self.clients.lock().get(&key) {
            return Ok(Arc::clone(config));
        }
        let config =
            Arc::new(client_config(Some(&self.own), Arc::clone(&self.roots), expected.clone(), protocol.alpn())?);
        let mut clients = self.clients.lock();
        if clients.len() >= MAX_CLIENTS {
            clients.clear();
        }
        clients.insert(key, Arc::clone(&config));
        Ok(config)
    }

    /// Towards the control plane, whose roots may be more than those for peers.
    pub(super) fn to_control_plane(
        &self,
        roots: Arc<Roots>,
        expected: SpiffeId,
    ) -> Result<Arc<ClientConfig>, rustls::Error> {
        client_config(Some(&self.own), roots, expected, b"h2").map(Arc::new)
    }
}

fn server_config(own: &Arc<SingleCertAndKey>, roots: &Arc<Roots>) -> Result<ServerConfig, rustls::Error> {
    let verifier = AnyMember { roots: Arc::clone(roots), algorithms: provider().signature_verification_algorithms };
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::clone(own) as _);
    config.alpn_protocols = MeshProtocol::ALL.map(|protocol| protocol.alpn().to_vec()).to_vec();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// A client that accepts exactly one server identity. Without `own` it stays anonymous: only `Certify` does that.
pub(super) fn client_config(
    own: Option<&Arc<SingleCertAndKey>>,
    roots: Arc<Roots>,
    expected: SpiffeId,
    alpn: &[u8],
) -> Result<ClientConfig, rustls::Error> {
    let verifier = ExpectServer { roots, expected, algorithms: provider().signature_verification_algorithms };
    let config = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match own {
        Some(own) => config.with_client_cert_resolver(Arc::clone(own) as _),
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    // Identities are in certificates; a server name would only tell an observer more.
    config.enable_sni = false;
    Ok(config)
}

/// A key and the chain that certifies it, checked to belong together.
pub(super) fn certified_key(
    chain: Vec<CertificateDer<'static>>,
    key: rustls::pki_types::PrivateKeyDer<'static>,
) -> Result<Arc<CertifiedKey>, rustls::Error> {
    let key = provider().key_provider.load_private_key(key)?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match()?;
    Ok(Arc::new(certified))
}
