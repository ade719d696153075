//! The proxy's side of TLS: its certificate, and whom it believes.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::Service;
use tonic::transport::Uri;
use weft_control_plane::identity::{Authority as _, FileAuthority, check, peer_of};

use super::patience::within;

pub(crate) const RESERVED_NOT_FOR_ANYBODY: &str = "spiffe://cluster.local/ns/weft-system/sa/weft-control-plane";

/// A certificate and its key.
#[derive(Clone)]
pub(crate) struct Svid {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) roots: Vec<CertificateDer<'static>>,
    pub(super) key: Vec<u8>,
}

impl Svid {
    pub(crate) fn roots(&self) -> Vec<Vec<u8>> {
        self.roots.iter().map(|root| root.to_vec()).collect()
    }

    /// One for `id` from `authority` itself, good for `ttl`, whatever `Certify` would say.
    pub(crate) fn signed_by(authority: &FileAuthority, id: &str, ttl: Duration) -> Self {
        let (key, csr) = request(id);
        let issued = authority.sign(&check(&csr, &id.parse().unwrap()).unwrap(), ttl, SystemTime::now()).unwrap();
        Self { chain: issued.chain, roots: authority.roots(), key: key.serialize_der() }
    }

    /// The same, believing whom `other` believes.
    pub(crate) fn trusting(&self, other: &Self) -> Self {
        Self { roots: other.roots.clone(), ..self.clone() }
    }
}

/// A key, and a request to have it certified for `id`.
pub(super) fn request(id: &str) -> (KeyPair, Vec<u8>) {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    let csr = params.serialize_request(&key).unwrap().der().to_vec();
    (key, csr)
}

/// Connects, as a proxy with this certificate or with none.
pub(super) async fn dial(
    address: SocketAddr,
    roots: Vec<CertificateDer<'static>>,
    svid: Option<&Svid>,
) -> Result<TlsStream<TcpStream>, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(ControlPlaneOnly { roots, provider: provider.clone() });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match svid {
        Some(svid) => {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(svid.key.clone()));
            config.with_client_auth_cert(svid.chain.clone(), key).unwrap()
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let socket = TcpStream::connect(address).await.map_err(|e| e.to_string())?;
    let name = ServerName::try_from("unnamed.invalid").unwrap();
    within(TlsConnector::from(Arc::new(config)).connect(name, socket)).await.map_err(|e| e.to_string())
}

/// Believes a server that proves to be the control plane.
#[derive(Debug)]
struct ControlPlaneOnly {
    roots: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ControlPlaneOnly {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let refuse = |e: &dyn Debug| rustls::Error::General(format!("{e:?}"));
        let anchors: Vec<_> = self.roots.iter().map(|root| webpki::anchor_from_trusted_cert(root).unwrap()).collect();
        let end_entity = webpki::EndEntityCert::try_from(leaf).map_err(|e| refuse(&e))?;
        let usage = webpki::KeyUsage::server_auth();
        end_entity
            .verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, others, now, usage, None, None)
            .map_err(|e| refuse(&e))?;
        let peer = peer_of(leaf, "cluster.local").map_err(|e| refuse(&e))?;
        if peer.id.as_str() != RESERVED_NOT_FOR_ANYBODY {
            return Err(refuse(&peer.id));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, leaf, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Gives its connection to tonic once.
pub(super) struct Once<IO>(pub(super) Option<IO>);

impl<IO: Send + 'static> Service<Uri> for Once<IO> {
    type Response = IO;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<IO>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let io = self.0.take().ok_or_else(|| std::io::ErrorKind::NotConnected.into());
        Box::pin(std::future::ready(io))
    }
}
