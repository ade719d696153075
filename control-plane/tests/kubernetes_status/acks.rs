//! What the proxies of *another* replica ACK counts: a real stream to it, and the leader that asks it, having found it in
//! the EndpointSlices of the control plane's Service.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use hyper_util::rt::TokioIo;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::PostParams;
use rustls_pki_types::ServerName;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::codegen::Service;
use tonic::transport::{Endpoint, Uri};
use weft_control_plane::discovery::{Ages, Discovery, Feed, Server};
use weft_control_plane::identity::{Authenticator, Certifier, FileAuthority, JoinTokens, OwnSvid, server_config};
use weft_control_plane::line_limit::Lines;
use weft_control_plane::model::{Age, Batch, Meta, Object, ObjectName, PathMatch, Pod};
use weft_control_plane::replicas::{Place, Progresses, Replicas, client_config};
use weft_control_plane::status::{CONTROLLER_NAME, PROGRAMMED};
use weft_control_plane::translate::{MeshConfig, Translator};
use weft_proto::discovery::{
    AggregatedDiscoveryServiceClient, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Status,
};
use weft_proto::{SpiffeId, control_plane_identity, type_url};

use crate::cluster::{Cluster, PATIENCE, ours, route, until};
use crate::replica::{Proxies, Replica, seen, services};

const DOMAIN: &str = "cluster.local";
const TTL: Duration = Duration::from_secs(3600);
const POD: &str = "10.1.0.1";

/// The other replica: it translates and serves, and does not lead.
struct Other {
    translator: Translator,
    feed: Arc<Feed>,
    address: SocketAddr,
}

impl Other {
    async fn serve(cluster: &Cluster, directory: &std::path::Path, authority: &Arc<FileAuthority>) -> Self {
        let mut translator = Translator::new(MeshConfig::default());
        let feed = Arc::new(Feed::new(translator.translated()));
        let mut upserts = services(&cluster.namespace);
        upserts.push(pod());
        let (state, touched) = translator.apply(Batch { upserts, ..Batch::default() });
        feed.publish(state, touched);
        feed.set_synced();
        let discovery = Discovery {
            feed: Arc::clone(&feed),
            proxies: Arc::default(),
            metrics: Default::default(),
            lines: Lines::default(),
            pod_appears: Duration::from_secs(1),
        };
        let certifier = Certifier {
            authority: Arc::clone(authority) as _,
            authenticator: Authenticator::JoinTokens(JoinTokens::open(directory).unwrap()),
            trust_domain: DOMAIN.into(),
            ttl: TTL,
            metrics: Default::default(),
            lines: Lines::default(),
        };
        let tls = server_config(&**authority, svid(authority, control_plane_identity(DOMAIN).unwrap())).unwrap();
        // The API server takes no loopback address for an endpoint.
        let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(Server::new(discovery, certifier, tls, Ages::default()).run(listener, std::future::pending()));
        Self { translator, feed, address }
    }

    fn take(&mut self, batch: Batch) {
        let (state, touched) = self.translator.apply(batch);
        self.feed.publish(state, touched);
    }
}

/// This machine's address towards others. Nothing is sent.
fn own_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").unwrap();
    socket.local_addr().unwrap().ip()
}

fn svid(authority: &FileAuthority, id: SpiffeId) -> Arc<OwnSvid> {
    Arc::new(OwnSvid::issue(authority, id, TTL, SystemTime::now()).unwrap())
}

fn pod() -> Object {
    let meta = Meta {
        name: ObjectName::new("web", "client"),
        labels: Default::default(),
        annotations: Default::default(),
        generation: 1,
        age: Age(0, String::new(), 0),
    };
    Object::Pod(Pod {
        meta,
        addresses: vec![POD.parse().unwrap()],
        service_account: "client".into(),
        host_network: false,
        node: "node".into(),
        ports: Vec::new(),
        finished: false,
        ready: true,
        terminating: false,
        owner: "client".into(),
    })
}

/// A proxy that answers when it is told to.
struct Proxy {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Proxy {
    async fn connect(other: &Other, authority: &FileAuthority, subscribe: String) -> Self {
        let id = SpiffeId::new(DOMAIN, "web", "client").unwrap();
        let tls = client_config(authority, svid(authority, id), control_plane_identity(DOMAIN).unwrap()).unwrap();
        let socket = TcpStream::connect(other.address).await.unwrap();
        let name = ServerName::IpAddress(other.address.ip().into());
        let tls = TlsConnector::from(tls).connect(name, socket).await.unwrap();
        let channel = Endpoint::from_static("http://other").connect_with_connector(Once(Some(TokioIo::new(tls)))).await;
        let mut client = AggregatedDiscoveryServiceClient::new(channel.unwrap());
        let (requests, outgoing) = mpsc::channel(4);
        let node = Some(Node { id: POD.into(), ..Node::default() });
        let resource_names_subscribe = vec![subscribe];
        let type_url = type_url::SERVICE.to_owned();
        let first = DeltaDiscoveryRequest { node, type_url, resource_names_subscribe, ..Default::default() };
        requests.send(first).await.unwrap();
        let responses = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
        Self { requests, responses }
    }

    /// Takes the next response, or refuses it.
    async fn answer(&mut self, refuse: Option<&str>) {
        let response = tokio::time::timeout(PATIENCE, self.responses.message()).await.unwrap().unwrap().unwrap();
        let error_detail = refuse.map(|message| Status { message: message.into(), ..Status::default() });
        let answer = DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            error_detail,
            ..Default::default()
        };
        self.requests.send(answer).await.unwrap();
    }
}

/// Gives its connection to tonic once.
struct Once(Option<TokioIo<TlsStream<TcpStream>>>);

impl Service<Uri> for Once {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let io = self.0.take().ok_or_else(|| std::io::ErrorKind::NotConnected.into());
        Box::pin(std::future::ready(io))
    }
}

/// As Kubernetes lists the pods behind the control plane's Service.
async fn list(cluster: &Cluster, other: IpAddr) {
    let endpoint = |pod: &str, address: String| json!({"addresses": [address], "conditions": {"ready": true}, "targetRef": {"kind": "Pod", "name": pod}});
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"name": "weft-control-plane-x", "labels": {"kubernetes.io/service-name": "weft-control-plane"}},
        "addressType": "IPv4",
        "endpoints": [endpoint("me", "10.1.0.9".to_owned()), endpoint("other", other.to_string())],
    }))
    .unwrap();
    let slices = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    slices.create(&PostParams::default(), &slice).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs WEFT_TEST_KUBECONFIG"]
async fn what_another_replicas_proxy_acks_counts() {
    let cluster = Cluster::new("acks").await;
    let directory = tempfile::tempdir().unwrap();
    let authority = Arc::new(FileAuthority::open(directory.path(), DOMAIN, SystemTime::now()).unwrap());
    let mut other = Other::serve(&cluster, directory.path(), &authority).await;
    list(&cluster, other.address.ip()).await;
    let place = Place {
        namespace: cluster.namespace.clone(),
        service: "weft-control-plane".into(),
        pod: "me".into(),
        port: other.address.port(),
    };
    let own = control_plane_identity(DOMAIN).unwrap();
    let tls = client_config(&*authority, svid(&authority, own.clone()), own).unwrap();
    let replicas = Replicas::begin(cluster.client.clone(), place, Arc::default(), tls);
    let mut leader = Replica::asking(&cluster, true, replicas as Arc<dyn Progresses>, Proxies::new());
    let service = format!("{}/reviews", cluster.namespace);
    let mut proxy = Proxy::connect(&other, &authority, service.clone()).await;
    proxy.answer(None).await;

    let routes = cluster.routes();
    let created = routes.create(&PostParams::default(), &route("canary", &["reviews"])).await.unwrap();
    let routed = seen(&[created]);
    other.take(routed.clone());
    leader.take(routed);
    let base = format!("{CONTROLLER_NAME} reviews: Accepted=True(1) ResolvedRefs=True(1)");
    let undecided = std::slice::from_ref(&base);
    until("the proxy has not answered", &routes, "canary", undecided).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    until("and still has not", &routes, "canary", undecided).await;
    proxy.answer(None).await;
    let took = until("it has", &routes, "canary", &[ours("reviews", true, 1)]).await;
    // Asked once a second by now.
    assert!(took < Duration::from_millis(1_500), "{took:?}");
    let message = || async {
        let route = routes.get("canary").await.unwrap();
        let conditions = route.data["status"]["parents"][0]["conditions"].as_array().unwrap().clone();
        conditions.into_iter().find(|condition| condition["type"] == PROGRAMMED).unwrap()["message"].clone()
    };
    assert_eq!(message().await, format!("the one proxy that uses Service {service} has it"));

    // The next generation is refused there.
    let path = json!({"spec": {"rules": [{
        "matches": [{"path": {"type": "PathPrefix", "value": "/x"}}],
        "backendRefs": [{"name": "ratings", "port": 80}],
    }]}});
    let patch = kube::api::Patch::Merge(&path);
    let changed = routes.patch("canary", &Default::default(), &patch).await.unwrap();
    let mut routed = seen(&[changed]);
    for object in &mut routed.upserts {
        if let Object::HttpRoute(route) = object {
            route.rules[0].matches[0].path = PathMatch::Prefix("/x".into());
        }
    }
    other.take(routed.clone());
    leader.take(routed);
    proxy.answer(Some("too hard for me")).await;
    let refused = format!("{CONTROLLER_NAME} reviews: Accepted=True(2) ResolvedRefs=True(2) {PROGRAMMED}=False(2)");
    let took = until("refused", &routes, "canary", &[refused]).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    let said = message().await;
    let said = said.as_str().unwrap();
    assert_eq!(said, "0 of 1 proxies have it; waiting for web/client (refused it: too hard for me)");
    cluster.end().await;
}
