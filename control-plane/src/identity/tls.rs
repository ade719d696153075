//! The TLS of port 15012: TLS 1.3 only, X25519MLKEM768 preferred, our own SVID, and a client certificate that may be absent
//! (a sidecar that asks for its first certificate has none) but never bad: a chain that does not lead to our roots, or
//! a leaf without exactly one SPIFFE ID of our trust domain, ends the connection.
//!
//! No resumption: each handshake proves the peer again.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use rustls_pki_types::CertificateDer;
use weft_proto::SpiffeId;
use x509_parser::extensions::GeneralName;

use super::{Authority, Error, OwnSvid};

/// The verified other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its SPIFFE ID.
    pub id: SpiffeId,
    /// When its certificate ends; nothing it began outlives that.
    pub not_after: SystemTime,
}

/// What port 15012 needs.
///
/// # Errors
/// When rustls does not take the authority's roots.
pub fn server_config(authority: &dyn Authority, svid: Arc<OwnSvid>) -> Result<ServerConfig, Error> {
    let failed = |e: &dyn std::fmt::Display| Error::Tls(e.to_string());
    let provider = Arc::new(CryptoProvider {
        kx_groups: vec![aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    });
    let mut roots = RootCertStore::empty();
    for root in authority.roots() {
        roots.add(root).map_err(|e| failed(&e))?;
    }
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .map_err(|e| failed(&e))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| failed(&e))?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(svid);
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Who `leaf` says it is; rustls has verified its chain and its time.
///
/// # Errors
/// What is wrong with it, for the log: the peer learns nothing.
pub fn peer_of(leaf: &CertificateDer<'_>, trust_domain: &str) -> Result<Peer, String> {
    let (_, leaf) = x509_parser::parse_x509_certificate(leaf).map_err(|e| format!("unreadable certificate: {e}"))?;
    let names = leaf.subject_alternative_name().map_err(|e| format!("unreadable subject alternative name: {e}"))?;
    let names = names.map(|names| &names.value.general_names[..]).unwrap_or_default();
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    // X.509-SVID §2: exactly one URI, and that one is the identity.
    let (Some(uri), None) = (uris.next(), uris.next()) else {
        return Err("the certificate does not carry exactly one URI".to_owned());
    };
    let id: SpiffeId = uri.parse().map_err(|e: weft_proto::InvalidSpiffeId| e.to_string())?;
    if id.trust_domain() != trust_domain {
        return Err(format!("{id} is not of this trust domain, `{trust_domain}`"));
    }
    Ok(Peer { id, not_after: leaf.validity().not_after.to_datetime().into() })
}
