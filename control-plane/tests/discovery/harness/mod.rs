//! A mesh of one control plane, and a proxy that does as the protocol says. Nothing of the sidecar's is used here: this is
//! the other side of the contract, written from the contract.

mod manifests;
mod patience;
mod proxy;
mod tls;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use clap::Parser as _;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::client::TlsStream;
use tokio_stream::StreamExt as _;
use tonic::codegen::Service as _;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use weft_control_plane::identity::{Authority as _, FileAuthority, JoinTokens};
use weft_control_plane::run::ControlPlane;
use weft_control_plane::settings::{Cli, FilesSettings, Settings, SourceSettings};
use weft_proto::discovery::{AggregatedDiscoveryServiceClient, DiscoveryRequest};
use weft_proto::identity::v1::CertifyRequest;
use weft_proto::identity::v1::identity_client::IdentityClient;

pub(crate) use self::manifests::{manifests_of_the_mesh, node, pod, route};
pub(crate) use self::proxy::{Proxy, text_of};
pub(crate) use self::tls::{RESERVED_NOT_FOR_ANYBODY, roots, signed_by};

use self::patience::{PATIENCE, within};
use weft_e2e::wire::{Once, Svid, dial, signing_request};

pub(crate) const PERMISSION_DENIED: Code = Code::PermissionDenied;
pub(crate) const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

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
        let (from, state, status) = (path("manifests"), path("state"), path("status"));
        let args = ["weft-control-plane", "--manifests", &from, "--state-dir", &state, "--status-dir", &status];
        let ports = ["--discovery-address", "127.0.0.1:0", "--admin-address", "127.0.0.1:0"];
        let cli = Cli::try_parse_from(args.into_iter().chain(ports)).unwrap();
        let (mut settings, _) = cli.run.settings().unwrap();
        settings.ages.pod_appears = Duration::from_millis(500);
        let manifests = directory.path().join("manifests");
        write(&manifests.join("mesh.yaml"), &manifests_of_the_mesh());
        write(&manifests.join("route.yaml"), &route(90, 10));
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
        write(&self.files().manifests.join(name), content);
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
        std::fs::remove_file(self.files().manifests.join(name)).unwrap();
    }

    fn files(&self) -> &FilesSettings {
        match &self.settings.source {
            SourceSettings::Files(files) => files,
            SourceSettings::Kubernetes(_) => panic!("a mesh of manifests"),
        }
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
        let tokens = JoinTokens::open(&self.files().state_dir).unwrap();
        tokens.issue(&id.parse().unwrap(), Duration::from_secs(3600), SystemTime::now())
    }

    pub(crate) async fn certify(&self, id: &str) -> Result<Svid, Status> {
        self.certify_with(Some(self.token(id)), id).await
    }

    /// Asks for a certificate for `id`, proving what `token` proves.
    pub(crate) async fn certify_with(&self, token: Option<String>, id: &str) -> Result<Svid, Status> {
        let (key, csr) = signing_request(id).unwrap();
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
        let authority = FileAuthority::open(&self.files().state_dir, "cluster.local", SystemTime::now()).unwrap();
        signed_by(&authority, id, ttl)
    }

    /// Opens a discovery stream as the proxy of the pod at `address`.
    pub(crate) async fn connect(&self, svid: &Svid, address: &str) -> Proxy {
        open(self.control_plane.discovery_address, svid, address).await
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

    /// What a call is told whose message has no end.
    pub(crate) async fn unfinished(&self, svid: Option<&Svid>, path: &str) -> Code {
        let endless = StreamBody::new(tokio_stream::pending::<Result<Frame<Bytes>, Status>>());
        let request = http::Request::post(format!("http://control-plane{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(tonic::body::Body::new(endless))
            .unwrap();
        let mut channel = self.channel(svid).await;
        within(std::future::poll_fn(|context| channel.poll_ready(context))).await.unwrap();
        let answer = within(channel.call(request)).await.unwrap();
        Status::from_header_map(answer.headers()).expect("an answer without a status").code()
    }

    /// As many discovery calls on one connection, none of which says anything; what each is told at once.
    pub(crate) async fn calls(&self, svid: &Svid, count: usize) -> Vec<Result<(), Status>> {
        let client = AggregatedDiscoveryServiceClient::new(self.channel(Some(svid)).await);
        let (mut told, mut open) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let call = within(client.clone().delta_aggregated_resources(tokio_stream::pending())).await;
            told.push(call.map(|call| open.push(call)));
        }
        told
    }

    /// As many discovery calls on one connection, each with the head of a message of so many bytes, and nothing of it; until it
    /// is dropped.
    pub(crate) async fn half_sent(
        &self,
        svid: &Svid,
        count: usize,
        bytes: usize,
    ) -> Vec<http::Response<tonic::body::Body>> {
        let mut channel = self.channel(Some(svid)).await;
        let mut head = vec![0];
        head.extend(u32::try_from(bytes).unwrap().to_be_bytes());
        let mut open = Vec::new();
        for _ in 0..count {
            let head = Ok::<_, Status>(Frame::data(Bytes::from(head.clone())));
            let body = tokio_stream::once(head).chain(tokio_stream::pending());
            let request = http::Request::post(format!("http://control-plane{DELTA}"))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(tonic::body::Body::new(StreamBody::new(body)))
                .unwrap();
            within(std::future::poll_fn(|context| channel.poll_ready(context))).await.unwrap();
            open.push(within(channel.call(request)).await.unwrap());
        }
        open
    }

    /// As many connections without a certificate, each open until it is dropped or the other end closes it.
    pub(crate) async fn anonymous_connections(&self, count: usize) -> Vec<TlsStream<TcpStream>> {
        let mut open = Vec::new();
        for _ in 0..count {
            open.push(self.tls(None).await.unwrap());
        }
        open
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
        channel(self.tls(svid).await.unwrap()).await
    }

    async fn tls(&self, svid: Option<&Svid>) -> Result<TlsStream<TcpStream>, String> {
        // Before it has a certificate a proxy has the roots from a file.
        let authority = FileAuthority::open(&self.files().state_dir, "cluster.local", SystemTime::now()).unwrap();
        let roots = svid.map_or_else(|| authority.roots(), |svid| svid.roots.clone());
        dial(self.control_plane.discovery_address, roots, svid).await
    }
}

/// Waits until the server has closed `connection`.
pub(crate) async fn until_closed(connection: &mut TlsStream<TcpStream>) {
    // What it said before is read over; how it ended does not matter.
    let _ = within(connection.read_to_end(&mut Vec::new())).await;
}

/// Opens a discovery stream at `server` as the proxy of the pod at `address`.
pub(crate) async fn open(server: SocketAddr, svid: &Svid, address: &str) -> Proxy {
    let tls = dial(server, svid.roots.clone(), Some(svid)).await.unwrap();
    let mut client = AggregatedDiscoveryServiceClient::new(channel(tls).await);
    let (requests, outgoing) = mpsc::channel(16);
    let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
    let responses = within(client.delta_aggregated_resources(outgoing)).await.unwrap().into_inner();
    Proxy::new(requests, responses, address)
}

async fn channel(tls: TlsStream<TcpStream>) -> Channel {
    Endpoint::from_static("http://control-plane").connect_with_connector(Once(Some(TokioIo::new(tls)))).await.unwrap()
}

fn write(path: &Path, content: &str) {
    let temporary: PathBuf = path.with_extension("tmp");
    std::fs::write(&temporary, content).unwrap();
    std::fs::rename(&temporary, path).unwrap();
}
