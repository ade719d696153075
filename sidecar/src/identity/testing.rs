//! A CA, and a control plane behind in-memory pipes, for the tests of this room and of `config/`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use weft_proto::SpiffeId;
use weft_proto::identity::v1::identity_server::Identity;
use weft_proto::identity::v1::{CertifyRequest, CertifyResponse};

use super::control_plane::{Dial, Dialling, Io};
use super::crypto::provider;
use super::tls::certified_key;
use super::{ControlPlane, IdentityManager, IdentitySettings, Svid};
use crate::dns::Dns;

/// A root that signs leaves.
pub(crate) struct TestCa {
    pub(crate) trust_domain: String,
    issuer: Issuer<'static, KeyPair>,
    pub(crate) root: CertificateDer<'static>,
}

/// A leaf before it is signed.
pub(crate) struct Leaf {
    pub(crate) uris: Vec<String>,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

impl Leaf {
    pub(crate) fn of(identity: &SpiffeId) -> Self {
        let now = SystemTime::now();
        Self {
            uris: vec![identity.to_string()],
            not_before: now - Duration::from_secs(60),
            not_after: now + Duration::from_secs(3600),
        }
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = self.uris.iter().map(|uri| SanType::URI(uri.as_str().try_into().unwrap())).collect();
        params.not_before = self.not_before.into();
        params.not_after = self.not_after.into();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params
    }
}

impl TestCa {
    pub(crate) fn new(trust_domain: &str) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = params.self_signed(&key).unwrap().der().clone();
        Self { trust_domain: trust_domain.to_owned(), issuer: Issuer::new(params, key), root }
    }

    pub(crate) fn id(&self, namespace: &str, service_account: &str) -> SpiffeId {
        SpiffeId::new(&self.trust_domain, namespace, service_account).unwrap()
    }

    pub(crate) fn svid(&self, identity: &SpiffeId, leaf: &Leaf) -> Arc<Svid> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let chain = vec![leaf.params().signed_by(&key, &self.issuer).unwrap().der().clone()];
        let certified =
            certified_key(chain, PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()))).unwrap();
        Arc::new(Svid { identity: identity.clone(), issued: SystemTime::now(), not_after: leaf.not_after, certified })
    }

    /// A manager that has its SVID and trusts this CA.
    pub(crate) fn manager(&self, namespace: &str, service_account: &str) -> IdentityManager {
        let identity = self.id(namespace, service_account);
        self.manager_with(&identity, &Leaf::of(&identity))
    }

    pub(crate) fn manager_with(&self, identity: &SpiffeId, leaf: &Leaf) -> IdentityManager {
        let manager = IdentityManager::new(IdentitySettings {
            identity: identity.clone(),
            ca_roots: "/nonexistent".into(),
            join_token: "/nonexistent".into(),
        });
        manager.set_roots(vec![self.root.clone()]).unwrap();
        manager.install(self.svid(identity, leaf));
        manager
    }

    /// Signs a CSR's key for whatever names the CSR asks for, as a control plane would.
    fn sign(&self, csr: &[u8], lifetime: Duration) -> CertificateDer<'static> {
        let csr = rcgen::CertificateSigningRequestParams::from_der(&csr.into()).unwrap();
        let mut csr = csr;
        csr.params.not_before = (SystemTime::now() - Duration::from_secs(60)).into();
        csr.params.not_after = (SystemTime::now() + lifetime).into();
        csr.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        csr.signed_by(&self.issuer).unwrap().der().clone()
    }

    /// What a control plane of this mesh serves with; clients may stay anonymous (`Certify`).
    pub(crate) fn control_plane_tls(&self, identity: &SpiffeId) -> Arc<rustls::ServerConfig> {
        self.control_plane_tls_for(identity, &self.root)
    }

    /// The same, for clients with certificates by `clients`.
    pub(crate) fn control_plane_tls_for(
        &self,
        identity: &SpiffeId,
        clients: &CertificateDer<'static>,
    ) -> Arc<rustls::ServerConfig> {
        let svid = self.svid(identity, &Leaf::of(identity));
        let mut roots = rustls::RootCertStore::empty();
        roots.add(clients.clone()).unwrap();
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider()))
                .allow_unauthenticated()
                .build()
                .unwrap();
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(Arc::clone(&svid.certified))));
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }
}

/// Dials into a queue of pipes that a fake control plane takes from; dialling fails while it is "down".
#[derive(Clone)]
pub(crate) struct PipeDial {
    accept: Arc<Mutex<Option<mpsc::UnboundedSender<DuplexStream>>>>,
    pub(crate) dialled: Arc<AtomicUsize>,
}

impl PipeDial {
    pub(crate) fn down() -> Self {
        Self { accept: Arc::default(), dialled: Arc::default() }
    }

    /// From now on connections arrive at the receiver.
    pub(crate) fn up(&self) -> mpsc::UnboundedReceiver<DuplexStream> {
        let (sender, receiver) = mpsc::unbounded_channel();
        *self.accept.lock() = Some(sender);
        receiver
    }

    pub(crate) fn control_plane(&self, identity: IdentityManager) -> ControlPlane {
        ControlPlane::new("127.0.0.1:15012", Dns::fixed([]), Arc::new(self.clone()), identity).unwrap()
    }
}

impl Dial for PipeDial {
    fn dial(&self, _: SocketAddr) -> Dialling {
        self.dialled.fetch_add(1, Ordering::Relaxed);
        let (ours, theirs) = tokio::io::duplex(256 * 1024);
        let sent = self.accept.lock().as_ref().is_some_and(|accept| accept.send(theirs).is_ok());
        Box::pin(async move {
            if sent { Ok(Box::new(ours) as Box<dyn Io>) } else { Err(io::ErrorKind::ConnectionRefused.into()) }
        })
    }
}

/// Serves a gRPC service on every connection that finishes its handshake, until the pipes end; then, or when the task
/// is aborted, the connections end too.
pub(crate) fn serve<S>(
    mut pipes: mpsc::UnboundedReceiver<DuplexStream>,
    tls: Arc<rustls::ServerConfig>,
    service: S,
) -> tokio::task::JoinHandle<()>
where
    S: tower_service::Service<
            http::Request<hyper::body::Incoming>,
            Response = http::Response<tonic::body::Body>,
            Error = std::convert::Infallible,
        > + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
{
    tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Some(pipe) = pipes.recv().await {
            let (tls, service) = (TlsAcceptor::from(Arc::clone(&tls)), service.clone());
            connections.spawn(async move {
                let Ok(stream) = tls.accept(pipe).await else { return };
                let certified = Certified(stream.get_ref().1.peer_certificates().is_some());
                let service = hyper::service::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
                    request.extensions_mut().insert(certified);
                    service.clone().call(request)
                });
                let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = http.serve_connection(TokioIo::new(stream), service).await;
            });
        }
        connections.join_all().await;
    })
}

/// Whether the caller showed a certificate; in the extensions of its requests.
#[derive(Debug, Clone, Copy)]
struct Certified(bool);

/// A `Certify` that signs for whoever shows the token.
pub(crate) struct FakeIdentity {
    pub(crate) ca: Arc<TestCa>,
    pub(crate) token: Mutex<String>,
    pub(crate) lifetime: Duration,
    pub(crate) served: AtomicUsize,
    /// Of these, callers who showed a certificate.
    pub(crate) certified: AtomicUsize,
    /// What to do instead of signing properly, for one answer.
    pub(crate) next: Mutex<Option<Answer>>,
}

/// A wrong answer.
pub(crate) enum Answer {
    Fail,
    Chain(Vec<CertificateDer<'static>>),
}

#[tonic::async_trait]
impl Identity for FakeIdentity {
    async fn certify(
        &self,
        request: tonic::Request<CertifyRequest>,
    ) -> Result<tonic::Response<CertifyResponse>, tonic::Status> {
        let shown = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        if shown != Some(&format!("Bearer {}", self.token.lock())) {
            return Err(tonic::Status::unauthenticated("the token is not known"));
        }
        if request.extensions().get::<Certified>().is_some_and(|certified| certified.0) {
            self.certified.fetch_add(1, Ordering::Relaxed);
        }
        self.served.fetch_add(1, Ordering::Relaxed);
        let chain = match self.next.lock().take() {
            Some(Answer::Fail) => return Err(tonic::Status::unavailable("try later")),
            Some(Answer::Chain(chain)) => chain,
            None => vec![self.ca.sign(&request.into_inner().csr, self.lifetime)],
        };
        Ok(tonic::Response::new(CertifyResponse {
            chain: chain.iter().map(|der| der.to_vec()).collect(),
            roots: vec![self.ca.root.to_vec()],
        }))
    }
}
