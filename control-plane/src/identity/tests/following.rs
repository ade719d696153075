//! What follows an authority while it runs: the control plane's own SVID, and the roots of port 15012.

use super::*;

/// An authority whose signing root can be changed, as a rotation does it.
struct Changing {
    first: FileAuthority,
    second: FileAuthority,
    bundle: tokio::sync::watch::Sender<Bundle>,
    issuer: tokio::sync::watch::Sender<u64>,
}

impl Authority for Changing {
    fn sign(&self, request: &CheckedRequest, ttl: Duration, now: SystemTime) -> Result<Issued, Error> {
        if *self.issuer.borrow() == 0 { &self.first } else { &self.second }.sign(request, ttl, now)
    }

    fn bundle(&self) -> tokio::sync::watch::Receiver<Bundle> {
        self.bundle.subscribe()
    }

    fn issuer(&self) -> tokio::sync::watch::Receiver<u64> {
        self.issuer.subscribe()
    }
}

fn changing() -> (Arc<Changing>, [tempfile::TempDir; 2]) {
    let ((a, first), (b, second)) = (authority(now()), authority(now()));
    let bundle = tokio::sync::watch::Sender::new(Arc::new(first.roots()));
    (Arc::new(Changing { first, second, bundle, issuer: tokio::sync::watch::Sender::new(0) }), [a, b])
}

#[tokio::test(start_paused = true)]
async fn the_control_planes_own_svid_is_issued_again_when_another_root_signs() {
    let (authority, _dirs) = changing();
    let own = id("spiffe://weft.local/ns/weft-system/sa/weft-control-plane");
    let svid = Arc::new(OwnSvid::issue(&*authority, own, DAY, now()).unwrap());
    assert_eq!(verifies(&svid.chain(), &authority.first.roots(), now()), Ok(()));
    // Even a change before anybody keeps it is not missed.
    authority.issuer.send_replace(1);
    tokio::spawn(Arc::clone(&svid).keep(authority.clone()));
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(verifies(&svid.chain(), &authority.second.roots(), now()), Ok(()));
}

#[tokio::test]
async fn port_15012_follows_the_bundle_without_a_new_listener() {
    let (authority, _dirs) = changing();
    let own = id("spiffe://weft.local/ns/weft-system/sa/weft-control-plane");
    let svid = Arc::new(OwnSvid::issue(&*authority, own, DAY, now()).unwrap());
    let server = Arc::new(server_config(&*authority, svid).unwrap());
    let (one, two) = (authority.first.roots(), authority.second.roots());
    let both = [&one[..], &two[..]].concat();
    for (row, bundle, [first_may, second_may]) in [
        ("stable", one, [true, false]),
        ("both", both, [true, true]),
        ("the first withdrawn", two, [false, true]),
        ("a root that is none leaves things as they were", vec![CertificateDer::from(vec![1])], [false, true]),
    ] {
        authority.bundle.send_replace(Arc::new(bundle));
        assert_eq!(handshake(&server, &authority.first).await, first_may, "{row}: the first root's client");
        assert_eq!(handshake(&server, &authority.second).await, second_may, "{row}: the second root's client");
    }
}

/// Whether `server` takes a client whose SVID is by `by`.
async fn handshake(server: &Arc<rustls::ServerConfig>, by: &FileAuthority) -> bool {
    let key = p256();
    let chain = by.sign(&check(&request_for(vec![uri(WEB)], &key), &id(WEB)).unwrap(), DAY, now()).unwrap().chain;
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut client = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
        .with_client_auth_cert(chain, key)
        .unwrap();
    client.alpn_protocols = vec![b"h2".to_vec()];
    let (near, far) = tokio::io::duplex(64 << 10);
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::clone(server));
    let name = rustls_pki_types::ServerName::try_from("weft.local").unwrap();
    let client = connector.connect(name, near);
    let (client, server) = tokio::join!(client, acceptor.accept(far));
    // In TLS 1.3 a client is done before the server has looked at its certificate.
    client.unwrap();
    server.is_ok()
}

/// The client's side is not what is tested here.
#[derive(Debug)]
struct AnyServer(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &rustls_pki_types::ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
