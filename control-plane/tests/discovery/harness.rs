//! A mesh of one control plane, and a proxy that does as the protocol says. Nothing of the sidecar's is used here: this is
//! the other side of the contract, written from the contract.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use clap::Parser as _;
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::Service;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status, Streaming};
use weft_control_plane::identity::{Authority as _, FileAuthority, JoinTokens, check, peer_of};
use weft_control_plane::run::ControlPlane;
use weft_control_plane::settings::{Cli, Settings};
use weft_proto::discovery::{
    AggregatedDiscoveryServiceClient, DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, Node,
    Status as RpcStatus,
};
use weft_proto::identity::v1::CertifyRequest;
use weft_proto::identity::v1::identity_client::IdentityClient;

pub(crate) const PERMISSION_DENIED: Code = Code::PermissionDenied;
pub(crate) const RESERVED_NOT_FOR_ANYBODY: &str = "spiffe://cluster.local/ns/weft-system/sa/weft-control-plane";

/// Longer than anything here takes on a busy machine; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(30);

/// A control plane, its directories, and ways to talk to it.
pub(crate) struct Mesh {
    directory: tempfile::TempDir,
    settings: Settings,
    control_plane: ControlPlane,
}

impl Mesh {
    /// Two versions of `reviews` behind one Service and a client, as manifests; and the control plane on them.
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for sub in ["manifests", "state"] {
            std::fs::create_dir(directory.path().join(sub)).unwrap();
        }
        let path = |sub: &str| directory.path().join(sub).display().to_string();
        let (manifests, state, status) = (path("manifests"), path("state"), path("status"));
        let args = ["weft-control-plane", "--manifests", &manifests, "--state-dir", &state, "--status-dir", &status];
        let ports = ["--discovery-address", "127.0.0.1:0", "--admin-address", "127.0.0.1:0"];
        let cli = Cli::try_parse_from(args.into_iter().chain(ports)).unwrap();
        let (mut settings, _) = cli.run.settings().unwrap();
        settings.ages.pod_appears = Duration::from_millis(500);
        write(&settings.manifests.join("mesh.yaml"), &manifests_of_the_mesh());
        write(&settings.manifests.join("route.yaml"), &route(90, 10));
        let control_plane = ControlPlane::start(&settings).await.unwrap();
        let mesh = Self { directory, settings, control_plane };
        mesh.until("/ready", "ready\n").await;
        mesh
    }

    /// Ends the control plane and starts another on the same directories.
    pub(crate) async fn restart(&mut self) {
        let next = ControlPlane::start(&self.settings).await.unwrap();
        std::mem::replace(&mut self.control_plane, next).stop().await;
        self.until("/ready", "ready\n").await;
    }

    pub(crate) async fn stop(self) {
        self.control_plane.stop().await;
        self.directory.close().unwrap();
    }

    /// Writes a manifest as an editor does: whole, under its name in one stroke.
    pub(crate) fn write(&self, name: &str, content: &str) {
        write(&self.settings.manifests.join(name), content);
    }

    /// Reads a status file until it has `part`.
    pub(crate) async fn status_until(&self, name: &str, part: &str) -> String {
        let path = self.directory.path().join("status").join(name);
        let looking = async {
            loop {
                match std::fs::read_to_string(&path) {
                    Ok(text) if text.contains(part) => return text,
                    _ => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("{name} never says {part:?}"))
    }

    pub(crate) fn remove(&self, name: &str) {
        std::fs::remove_file(self.settings.manifests.join(name)).unwrap();
    }

    /// A GET on the admin port.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let mut socket = TcpStream::connect(self.control_plane.admin_address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// GETs until the body has `part`.
    pub(crate) async fn until(&self, path: &str, part: &str) -> String {
        let looking = async {
            loop {
                let (_, body) = self.get(path).await;
                if body.contains(part) && !body.starts_with("not ") {
                    return body;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("{path} never says {part:?}"))
    }

    pub(crate) async fn metrics(&self) -> String {
        self.get("/metrics").await.1
    }

    pub(crate) fn token(&self, id: &str) -> String {
        let tokens = JoinTokens::open(&self.settings.state_dir).unwrap();
        tokens.issue(&id.parse().unwrap(), Duration::from_secs(3600), SystemTime::now())
    }

    pub(crate) async fn certify(&self, id: &str) -> Result<Svid, Status> {
        self.certify_with(Some(self.token(id)), id).await
    }

    /// Asks for a certificate for `id`, proving what `token` proves.
    pub(crate) async fn certify_with(&self, token: Option<String>, id: &str) -> Result<Svid, Status> {
        let (key, csr) = request(id);
        let mut request = tonic::Request::new(CertifyRequest { csr });
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let mut client = IdentityClient::new(self.channel(None).await);
        let answer = within(client.certify(request)).await?.into_inner();
        let certificates = |der: Vec<Vec<u8>>| der.into_iter().map(CertificateDer::from).collect::<Vec<_>>();
        Ok(Svid { chain: certificates(answer.chain), roots: certificates(answer.roots), key: key.serialize_der() })
    }

    /// A certificate of the mesh that `Certify` would not give: one for so short a time.
    pub(crate) fn short_svid(&self, id: &str, ttl: Duration) -> Svid {
        let (key, csr) = request(id);
        let now = SystemTime::now();
        let authority = FileAuthority::open(&self.settings.state_dir, "cluster.local", now).unwrap();
        let issued = authority.sign(&check(&csr, &id.parse().unwrap()).unwrap(), ttl, now).unwrap();
        Svid { chain: issued.chain, roots: authority.roots(), key: key.serialize_der() }
    }

    /// Opens a discovery stream as the proxy of the pod at `address`.
    pub(crate) async fn connect(&self, svid: &Svid, address: &str) -> Proxy {
        let mut client = AggregatedDiscoveryServiceClient::new(self.channel(Some(svid)).await);
        let (requests, outgoing) = mpsc::channel(16);
        let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
        let responses = within(client.delta_aggregated_resources(outgoing)).await.unwrap().into_inner();
        let node = Some(Node { id: address.to_owned(), ..Node::default() });
        Proxy { requests, responses, node, has: BTreeMap::new(), refuse: None }
    }

    /// What a stream without a certificate is told.
    pub(crate) async fn anonymous_stream(&self) -> Status {
        let mut client = AggregatedDiscoveryServiceClient::new(self.channel(None).await);
        within(client.delta_aggregated_resources(tokio_stream::pending())).await.unwrap_err()
    }

    pub(crate) async fn state_of_the_world(&self, svid: &Svid) -> Status {
        let mut client = AggregatedDiscoveryServiceClient::new(self.channel(Some(svid)).await);
        within(client.stream_aggregated_resources(tokio_stream::pending::<DiscoveryRequest>())).await.unwrap_err()
    }

    /// What a handshake agrees on, once the server has had its say (TLS 1.3 refuses a client after the client is done).
    pub(crate) async fn handshake(&self, svid: Option<&Svid>) -> Result<String, String> {
        let mut tls = self.tls(svid).await?;
        let mut first = [0];
        // HTTP/2 begins with the server's SETTINGS.
        within(tls.read_exact(&mut first)).await.map_err(|e| e.to_string())?;
        let (_, session) = tls.get_ref();
        let group = session.negotiated_key_exchange_group().map(|group| format!("{:?}", group.name()));
        let alpn = String::from_utf8_lossy(session.alpn_protocol().unwrap_or_default()).into_owned();
        Ok(format!("{:?} {} {alpn}", session.protocol_version().unwrap(), group.unwrap_or_default()))
    }

    pub(crate) async fn send_garbage(&self) {
        let mut socket = TcpStream::connect(self.control_plane.discovery_address).await.unwrap();
        socket.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        // Until it hangs up, with or without an alert.
        let _ = within(socket.read_to_end(&mut Vec::new())).await;
    }

    async fn channel(&self, svid: Option<&Svid>) -> Channel {
        let tls = self.tls(svid).await.unwrap();
        Endpoint::from_static("http://control-plane")
            .connect_with_connector(Once(Some(TokioIo::new(tls))))
            .await
            .unwrap()
    }

    async fn tls(&self, svid: Option<&Svid>) -> Result<TlsStream<TcpStream>, String> {
        // Before it has a certificate a proxy has the roots from a file.
        let authority = FileAuthority::open(&self.settings.state_dir, "cluster.local", SystemTime::now()).unwrap();
        let roots = svid.map_or_else(|| authority.roots(), |svid| svid.roots.clone());
        dial(self.control_plane.discovery_address, roots, svid).await
    }
}

/// A certificate and its key.
#[derive(Clone)]
pub(crate) struct Svid {
    chain: Vec<CertificateDer<'static>>,
    roots: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

impl Svid {
    pub(crate) fn roots(&self) -> Vec<Vec<u8>> {
        self.roots.iter().map(|root| root.to_vec()).collect()
    }

    /// The same, believing whom `other` believes.
    pub(crate) fn trusting(&self, other: &Self) -> Self {
        Self { roots: other.roots.clone(), ..self.clone() }
    }
}

/// The other end of a stream.
pub(crate) struct Proxy {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    /// Sent once.
    node: Option<Node>,
    /// By type: name → version.
    has: BTreeMap<String, BTreeMap<String, String>>,
    refuse: Option<String>,
}

impl Proxy {
    pub(crate) async fn subscribe(&mut self, type_url: &str, names: &[&str]) {
        self.reconnect(type_url, names, BTreeMap::new()).await;
    }

    /// Subscribes, saying what it has.
    pub(crate) async fn reconnect(&mut self, type_url: &str, names: &[&str], has: BTreeMap<String, String>) {
        let request = DeltaDiscoveryRequest {
            node: self.node.take(),
            type_url: type_url.to_owned(),
            resource_names_subscribe: names.iter().map(|&name| name.to_owned()).collect(),
            initial_resource_versions: has.into_iter().collect(),
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(request).await.unwrap();
    }

    /// What it has of a type.
    pub(crate) fn has(&self, type_url: &str) -> BTreeMap<String, String> {
        self.has.get(type_url).cloned().unwrap_or_default()
    }

    pub(crate) fn nack_next(&mut self, message: &str) {
        self.refuse = Some(message.to_owned());
    }

    /// The next response, answered; `Code::Ok` as an error is the stream's graceful end.
    pub(crate) async fn next(&mut self) -> Result<DeltaDiscoveryResponse, Status> {
        let response = within(self.responses.message()).await?;
        let response = response.ok_or_else(|| Status::new(Code::Ok, "the stream has ended"))?;
        let has = self.has.entry(response.type_url.clone()).or_default();
        for resource in &response.resources {
            has.insert(resource.name.clone(), resource.version.clone());
        }
        for name in &response.removed_resources {
            has.remove(name);
        }
        let answer = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: self.refuse.take().map(|message| RpcStatus { message, ..RpcStatus::default() }),
            ..DeltaDiscoveryRequest::default()
        };
        // The stream may have ended behind this response.
        let _ = self.requests.send(answer).await;
        Ok(response)
    }

    /// Reads on until the resource comes.
    pub(crate) async fn named<M: prost::Message + Default>(&mut self, type_url: &str, name: &str) -> (M, Vec<String>) {
        loop {
            let response = self.next().await.unwrap();
            if response.type_url != type_url {
                continue;
            }
            if let Some(resource) = response.resources.into_iter().find(|resource| resource.name == name) {
                let body = resource.resource.unwrap();
                assert_eq!(body.type_url, type_url);
                return (M::decode(&*body.value).unwrap(), resource.aliases);
            }
        }
    }

    pub(crate) async fn one<M: prost::Message + Default>(&mut self, type_url: &str, name: &str) -> M {
        self.named(type_url, name).await.0
    }
}

/// `shop/a@1 -gone`
pub(crate) fn text_of(response: &DeltaDiscoveryResponse) -> String {
    let found = response.resources.iter().map(|resource| format!("{}@{}", resource.name, resource.version));
    let removed = response.removed_resources.iter().map(|name| format!("-{name}"));
    found.chain(removed).collect::<Vec<_>>().join(" ")
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("this takes too long")
}

fn request(id: &str) -> (KeyPair, Vec<u8>) {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    let csr = params.serialize_request(&key).unwrap().der().to_vec();
    (key, csr)
}

fn write(path: &std::path::Path, content: &str) {
    let temporary: PathBuf = path.with_extension("tmp");
    std::fs::write(&temporary, content).unwrap();
    std::fs::rename(&temporary, path).unwrap();
}

async fn dial(
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
struct Once<IO>(Option<IO>);

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

pub(crate) fn pod(name: &str, account: &str, app: &str, address: &str) -> String {
    format!(
        "\
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: shop
  labels: {{app: {app}, weft.dev/mesh-tls: \"1\"}}
spec:
  serviceAccountName: {account}
  containers:
  - name: app
    image: app
    ports:
    - containerPort: 8080
status:
  phase: Running
  podIP: {address}
"
    )
}

fn service(name: &str, app: &str, vip: &str) -> String {
    format!(
        "\
apiVersion: v1
kind: Service
metadata:
  name: {name}
  namespace: shop
spec:
  clusterIP: {vip}
  selector:
    app: {app}
  ports:
  - name: http
    port: 80
    targetPort: 8080
    appProtocol: http
"
    )
}

fn manifests_of_the_mesh() -> String {
    [
        service("reviews", "reviews-v1", "10.96.0.7"),
        service("reviews-v1", "reviews-v1", "10.96.0.8"),
        service("reviews-v2", "reviews-v2", "10.96.0.9"),
        pod("client", "client", "client", "10.1.0.1"),
        pod("reviews-v1", "reviews", "reviews-v1", "10.1.0.2"),
        pod("reviews-v2", "reviews", "reviews-v2", "10.1.0.3"),
    ]
    .join("---\n")
}

/// The canary: so much to v1, so much to v2.
pub(crate) fn route(v1: u32, v2: u32) -> String {
    format!(
        "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: canary
  namespace: shop
spec:
  parentRefs:
  - group: \"\"
    kind: Service
    name: reviews
  rules:
  - backendRefs:
    - name: reviews-v1
      port: 80
      weight: {v1}
    - name: reviews-v2
      port: 80
      weight: {v2}
"
    )
}
