//! The TLS of port 15012: TLS 1.3 only, X25519MLKEM768 preferred, our own SVID, and a client certificate that may be absent
//! (a sidecar that asks for its first certificate has none) but never bad: a chain that does not lead to our roots, or
//! a leaf without exactly one SPIFFE ID of our trust domain, ends the connection.
//!
//! The roots that a client's chain may lead to follow the authority's bundle: [`FollowingRoots`] looks at it in each
//! handshake, so a rotation needs no new listener and no task. No resumption: each handshake proves the peer again.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::sync::watch;
use weft_proto::SpiffeId;
use x509_parser::extensions::GeneralName;

use super::{Authority, Bundle, Error, OwnSvid};

/// The verified other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its SPIFFE ID.
    pub id: SpiffeId,
    /// When its certificate ends; nothing it began outlives that.
    pub not_after: SystemTime,
}

/// What port 15012 needs, for as long as it is served: the roots and the SVID in it follow `authority` and `svid`.
///
/// # Errors
/// When rustls does not take the authority's roots.
pub fn server_config(authority: &dyn Authority, svid: Arc<OwnSvid>) -> Result<ServerConfig, Error> {
    let failed = |e: &dyn std::fmt::Display| Error::Tls(e.to_string());
    let provider = Arc::new(CryptoProvider {
        kx_groups: vec![aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    });
    let clients = Arc::new(FollowingRoots::new(authority.bundle(), Arc::clone(&provider))?);
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

/// Verifies clients by the roots that are in the bundle at the moment.
#[derive(Debug)]
struct FollowingRoots {
    bundle: watch::Receiver<Bundle>,
    provider: Arc<CryptoProvider>,
    built: ArcSwap<Built>,
}

/// A verifier, and the bundle it was last held against.
#[derive(Debug)]
struct Built {
    bundle: Bundle,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl FollowingRoots {
    fn new(bundle: watch::Receiver<Bundle>, provider: Arc<CryptoProvider>) -> Result<Self, Error> {
        let first = Arc::clone(&bundle.borrow());
        let verifier = verifier(&first, &provider)?;
        Ok(Self { bundle, provider, built: ArcSwap::from_pointee(Built { bundle: first, verifier }) })
    }

    fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        let built = self.built.load();
        let bundle = Arc::clone(&self.bundle.borrow());
        if Arc::ptr_eq(&bundle, &built.bundle) {
            return Arc::clone(&built.verifier);
        }
        // A bundle that rustls does not take is said once and leaves the roots as they were.
        let verifier = verifier(&bundle, &self.provider).unwrap_or_else(|error| {
            tracing::error!(%error, "port 15012 cannot use the new trust bundle; keeping the old one");
            Arc::clone(&built.verifier)
        });
        self.built.store(Arc::new(Built { bundle, verifier: Arc::clone(&verifier) }));
        verifier
    }
}

fn verifier(bundle: &Bundle, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let failed = |e: &dyn std::fmt::Display| Error::Tls(e.to_string());
    let mut roots = RootCertStore::empty();
    for root in bundle.iter() {
        roots.add(root.clone()).map_err(|e| failed(&e))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .allow_unauthenticated()
        .build()
        .map_err(|e| failed(&e))
}

impl ClientCertVerifier for FollowingRoots {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// No hints: a sidecar has one certificate, and roots come and go.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verifier().verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier().verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier().verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
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
