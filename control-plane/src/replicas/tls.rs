//! TLS towards another replica: TLS 1.3, our own SVID, and a server that must prove to be the control plane of our trust
//! domain by the roots in force. No name is looked at: an address is only where somebody is found.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::sync::watch;
use weft_proto::SpiffeId;

use crate::identity::{Authority, Bundle, Error, OwnSvid, peer_of};

/// For as long as replicas are asked: the roots and the SVID in it follow `authority` and `svid`. Only `expected` is believed.
///
/// # Errors
/// When rustls knows no TLS 1.3.
pub fn client_config(
    authority: &dyn Authority,
    svid: Arc<OwnSvid>,
    expected: SpiffeId,
) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(OwnKind { bundle: authority.bundle(), expected, provider: Arc::clone(&provider) });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| Error::Tls(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(svid);
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(Arc::new(config))
}

/// Believes nobody but the control plane.
#[derive(Debug)]
struct OwnKind {
    bundle: watch::Receiver<Bundle>,
    expected: SpiffeId,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for OwnKind {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let refuse = |why: String| rustls::Error::General(why);
        let bundle = Arc::clone(&self.bundle.borrow());
        let anchors = bundle.iter().map(webpki::anchor_from_trusted_cert).collect::<Result<Vec<_>, _>>();
        let anchors = anchors.map_err(|error| refuse(format!("a root of ours cannot be used: {error}")))?;
        let chain = webpki::EndEntityCert::try_from(leaf).and_then(|leaf| {
            let usage = webpki::KeyUsage::server_auth();
            leaf.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, intermediates, now, usage, None, None)?;
            Ok(())
        });
        chain.map_err(|error| refuse(format!("its certificate leads to no root of ours: {error}")))?;
        let peer = peer_of(leaf, self.expected.trust_domain()).map_err(refuse)?;
        if peer.id != self.expected {
            tracing::warn!(identity = %peer.id, "an address of the control plane's Service is not the control plane");
            return Err(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, leaf, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
