//! The client's side of TLS on port 15012: its certificate, if it has one, and whom it believes.

use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::Service;
use tonic::transport::Uri;

use super::{Roots, Svid};

/// The last parts of the control plane's identity, in whatever trust domain.
const CONTROL_PLANE: &str = "/ns/weft-system/sa/weft-control-plane";
const PATIENCE: Duration = Duration::from_secs(5);

/// Connects, as a proxy with this certificate or with none.
///
/// # Errors
/// What TCP or TLS said, or that nobody answered within [`PATIENCE`].
pub async fn dial(address: SocketAddr, roots: Roots, svid: Option<&Svid>) -> Result<TlsStream<TcpStream>, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(ControlPlaneOnly { roots, provider: provider.clone() });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match svid {
        Some(svid) => {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(svid.key.clone()));
            config.with_client_auth_cert(svid.chain.clone(), key).map_err(|error| error.to_string())?
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from("unnamed.invalid").map_err(|error| error.to_string())?;
    let dialling = async {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        TlsConnector::from(Arc::new(config)).connect(name, socket).await
    };
    match tokio::time::timeout(PATIENCE, dialling).await {
        Ok(dialled) => dialled.map_err(|error| error.to_string()),
        Err(_) => Err(format!("{address} does not answer")),
    }
}

/// Believes a server that proves to be the control plane.
#[derive(Debug)]
struct ControlPlaneOnly {
    roots: Roots,
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
        let refuse = |error: &dyn Debug| rustls::Error::General(format!("{error:?}"));
        let anchors: Result<Vec<_>, _> = self.roots.iter().map(webpki::anchor_from_trusted_cert).collect();
        let anchors = anchors.map_err(|error| refuse(&error))?;
        let end_entity = webpki::EndEntityCert::try_from(leaf).map_err(|error| refuse(&error))?;
        let usage = webpki::KeyUsage::server_auth();
        end_entity
            .verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, others, now, usage, None, None)
            .map_err(|error| refuse(&error))?;
        let names: Vec<_> = end_entity.valid_uri_names().collect();
        match names[..] {
            [name] if name.ends_with(CONTROL_PLANE) => Ok(ServerCertVerified::assertion()),
            _ => Err(refuse(&names)),
        }
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
pub struct Once<IO>(pub Option<IO>);

impl<IO: Send + 'static> Service<Uri> for Once<IO> {
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
