//! Who is at the other end: a certificate chain → a [`SpiffeId`] of our trust domain, or the fact that refuses it
//! (SEMANTICS.md §1 "mesh TLS"; SPIFFE X509-SVID §5.2).
//!
//! Checked, in this order: the leaf parses; it has exactly one URI SAN and that is an identity of ours; the trust domain
//! is ours; the chain leads to a root now; where one identity is expected, it is that one. DNS names are never looked at.
//! The rustls verifiers here are thin: they call [`verify_peer`] and carry its error through rustls unchanged.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, PeerIncompatible, SignatureScheme,
};
use weft_proto::SpiffeId;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::crypto::provider;

/// Most certificates in a chain that are looked at (leaf, intermediates of the control plane's replicas, spare).
const MAX_CHAIN: usize = 8;

/// Why a peer, or an answer of the control plane, is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// No certificate at all.
    #[error("the peer sent no certificate")]
    NoCertificate,
    /// More certificates than a mesh chain can have.
    #[error("the chain has {0} certificates, more than {MAX_CHAIN}")]
    ChainTooLong(usize),
    /// Not X.509.
    #[error("the certificate does not parse: {0}")]
    Malformed(String),
    /// An SVID has exactly one URI name.
    #[error("the certificate has {0} URI names instead of one: is the peer a workload of this mesh?")]
    NotOneUri(usize),
    /// The URI name is not an identity of ours.
    #[error("the certificate's URI name: {0}")]
    NotSpiffe(#[from] weft_proto::InvalidSpiffeId),
    /// A SPIFFE ID of another mesh.
    #[error("{got} is not of our trust domain {ours}")]
    OtherTrustDomain {
        /// Who it is.
        got: SpiffeId,
        /// The trust domain we are in.
        ours: String,
    },
    /// A member of the mesh, but not the one that was meant.
    #[error("the peer is {got}, expected {expected}: did its address move to another workload?")]
    WrongIdentity {
        /// Who was meant.
        expected: SpiffeId,
        /// Who answered.
        got: SpiffeId,
    },
    /// Past its notAfter.
    #[error("the certificate of {identity} expired {seconds} s ago: can its sidecar reach the control plane?")]
    Expired {
        /// Whose.
        identity: SpiffeId,
        /// How long ago.
        seconds: u64,
    },
    /// Before its notBefore.
    #[error("the certificate of {identity} is valid only in {seconds} s: are the clocks set?")]
    NotYetValid {
        /// Whose.
        identity: SpiffeId,
        /// How far ahead.
        seconds: u64,
    },
    /// Signed by nobody we trust.
    #[error("the certificate of {identity} leads to no root of {trust_domain} that this proxy trusts")]
    UnknownIssuer {
        /// Whom it names, unproven.
        identity: SpiffeId,
        /// Whose roots.
        trust_domain: String,
    },
    /// Anything else path building refuses.
    #[error("the certificate of {identity} is refused: {why}")]
    Chain {
        /// Whom it names, unproven.
        identity: SpiffeId,
        /// What is wrong.
        why: webpki::Error,
    },
}

/// The certificates a chain may end in, for one trust domain. Never empty.
#[derive(Clone)]
pub struct Roots {
    trust_domain: String,
    certificates: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
}

/// Why a set of roots cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RootsError {
    /// It would trust nobody.
    #[error("there is no root certificate")]
    Empty,
    /// One is no certificate.
    #[error("root {index} is not a certificate: {why}")]
    Malformed {
        /// Counted from 0.
        index: usize,
        /// What is wrong.
        why: webpki::Error,
    },
}

impl Roots {
    /// Takes DER certificates, at least one. Duplicates are dropped.
    ///
    /// # Errors
    /// When there is none, or one does not parse.
    pub fn new(trust_domain: &str, certificates: Vec<CertificateDer<'static>>) -> Result<Self, RootsError> {
        let mut unique: Vec<CertificateDer<'static>> = Vec::with_capacity(certificates.len());
        let mut anchors = Vec::with_capacity(certificates.len());
        for (index, certificate) in certificates.into_iter().enumerate() {
            let anchor = webpki::anchor_from_trusted_cert(&certificate)
                .map_err(|why| RootsError::Malformed { index, why })?
                .to_owned();
            if !unique.contains(&certificate) {
                unique.push(certificate);
                anchors.push(anchor);
            }
        }
        if unique.is_empty() {
            return Err(RootsError::Empty);
        }
        Ok(Self { trust_domain: trust_domain.to_owned(), certificates: unique, anchors })
    }

    /// These and `others`.
    pub fn and(&self, others: &Self) -> Self {
        let mut all = self.clone();
        for (certificate, anchor) in others.certificates.iter().zip(&others.anchors) {
            if !all.certificates.contains(certificate) {
                all.certificates.push(certificate.clone());
                all.anchors.push(anchor.clone());
            }
        }
        all
    }

    /// The trust domain they vouch for.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The certificates, DER.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }
}

impl PartialEq for Roots {
    fn eq(&self, other: &Self) -> bool {
        self.trust_domain == other.trust_domain && self.certificates == other.certificates
    }
}

impl std::fmt::Debug for Roots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Roots({} of {})", self.certificates.len(), self.trust_domain)
    }
}

/// Which end of the connection a certificate speaks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// It proves a server.
    Server,
    /// It proves a client.
    Client,
}

/// A leaf whose chain was checked: only [`verify_peer`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedLeaf {
    identity: SpiffeId,
    not_after: SystemTime,
}

impl VerifiedLeaf {
    /// Who it is.
    pub fn identity(&self) -> &SpiffeId {
        &self.identity
    }

    /// When its certificate ends: the connection is drained by then.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }
}

/// The identity a chain's leaf *claims*. After a handshake under our verifiers the claim is proven; elsewhere it is not.
///
/// # Errors
/// [`PeerError::NoCertificate`], [`PeerError::Malformed`], [`PeerError::NotOneUri`] or [`PeerError::NotSpiffe`].
pub fn peer_identity(chain: &[CertificateDer<'_>]) -> Result<SpiffeId, PeerError> {
    claimed(chain.first().ok_or(PeerError::NoCertificate)?).map(|leaf| leaf.identity)
}

/// What a leaf says of itself, unproven.
pub(super) fn claimed(leaf: &CertificateDer<'_>) -> Result<VerifiedLeaf, PeerError> {
    let malformed = |why: &dyn std::fmt::Display| PeerError::Malformed(why.to_string());
    let (rest, leaf) = X509Certificate::from_der(leaf).map_err(|why| malformed(&why))?;
    if !rest.is_empty() {
        return Err(malformed(&"bytes follow it"));
    }
    let names = leaf.subject_alternative_name().map_err(|why| malformed(&why))?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
        .collect();
    let [uri] = uris[..] else {
        return Err(PeerError::NotOneUri(uris.len()));
    };
    let not_after = u64::try_from(leaf.validity().not_after.timestamp()).unwrap_or(0);
    Ok(VerifiedLeaf { identity: uri.parse()?, not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(not_after) })
}

/// Checks a chain against `roots` at `now`, and its identity against `expected` if one is.
pub(super) fn verify_peer(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &Roots,
    role: Role,
    expected: Option<&SpiffeId>,
    now: UnixTime,
) -> Result<VerifiedLeaf, PeerError> {
    if intermediates.len() >= MAX_CHAIN {
        return Err(PeerError::ChainTooLong(intermediates.len() + 1));
    }
    let claim = claimed(leaf)?;
    if claim.identity.trust_domain() != roots.trust_domain {
        return Err(PeerError::OtherTrustDomain { got: claim.identity, ours: roots.trust_domain.clone() });
    }
    let usage = match role {
        Role::Server => webpki::KeyUsage::server_auth(),
        Role::Client => webpki::KeyUsage::client_auth(),
    };
    let parsed = webpki::EndEntityCert::try_from(leaf).map_err(|why| PeerError::Malformed(why.to_string()))?;
    let algorithms = provider().signature_verification_algorithms.all;
    if let Err(why) = parsed.verify_for_usage(algorithms, &roots.anchors, intermediates, now, usage, None, None) {
        return Err(refusal(why, claim.identity, roots));
    }
    match expected {
        Some(expected) if *expected != claim.identity => {
            Err(PeerError::WrongIdentity { expected: expected.clone(), got: claim.identity })
        }
        _ => Ok(claim),
    }
}

fn refusal(why: webpki::Error, identity: SpiffeId, roots: &Roots) -> PeerError {
    match why {
        webpki::Error::CertExpired { time, not_after } => {
            PeerError::Expired { identity, seconds: time.as_secs().saturating_sub(not_after.as_secs()) }
        }
        webpki::Error::CertNotValidYet { time, not_before } => {
            PeerError::NotYetValid { identity, seconds: not_before.as_secs().saturating_sub(time.as_secs()) }
        }
        // Path building reports a signature that does not fit as bad when a root of the same name exists: for the
        // reader it is the same fact.
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
            PeerError::UnknownIssuer { identity, trust_domain: roots.trust_domain.clone() }
        }
        why => PeerError::Chain { identity, why },
    }
}

/// Our error, carried through rustls unchanged: [`super::handshake`] takes it out again.
fn carried(why: PeerError) -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(why))))
}

/// The part of rustls' two verifier traits that is the same in both: signatures by `self.algorithms`, in TLS 1.3 alone.
macro_rules! tls13_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _cert: &CertificateDer<'_>,
            _dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Err(rustls::Error::PeerIncompatible(PeerIncompatible::Tls12NotOfferedOrEnabled))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls13_signature(message, cert, dss, &self.algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.algorithms.supported_schemes()
        }
    };
}

/// Verifies a server against roots and the one identity it must be.
#[derive(Debug)]
pub(super) struct ExpectServer {
    pub(super) roots: Arc<Roots>,
    pub(super) expected: SpiffeId,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for ExpectServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        verify_peer(end_entity, intermediates, &self.roots, Role::Server, Some(&self.expected), now)
            .map(|_| ServerCertVerified::assertion())
            .map_err(carried)
    }

    tls13_signatures!();
}

/// Verifies that a client is a member of the mesh; who may do what is `authz`'s to say.
#[derive(Debug)]
pub(super) struct AnyMember {
    pub(super) roots: Arc<Roots>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for AnyMember {
    // No hints: a mesh client has one certificate, and the names of roots are nobody's business.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        verify_peer(end_entity, intermediates, &self.roots, Role::Client, None, now)
            .map(|_| ClientCertVerified::assertion())
            .map_err(carried)
    }

    tls13_signatures!();
}
