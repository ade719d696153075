//! GRPCRoute end to end, tonic on both ends: which app a call reaches, and what a real client makes of our answers
//! (SEMANTICS.md §2 "Gateway API", §3 "deadlines"). The service is one of our own: any unary one does.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};
use tower_service::Service as _;
use weft_proto::v1::call_match::{Method as Called, Service as Of};
use weft_proto::v1::path_match::Kind as Path;
use weft_proto::v1::replicas_client::ReplicasClient;
use weft_proto::v1::replicas_server::{Replicas, ReplicasServer};
use weft_proto::v1::{self, Laggard, Progress, ProgressRequest, ProgressResponse};

use super::wire::{App, Log, Message};
use super::{Pair, REVIEWS, Sidecar, VIP, routed, rule};

/// An app that answers with its name.
struct Named(&'static str, Arc<Log>);

#[tonic::async_trait]
impl Replicas for Named {
    async fn progress(&self, request: Request<ProgressRequest>) -> Result<Response<ProgressResponse>, Status> {
        let mut seen = Message::default();
        for name in ["grpc-timeout", "x-rule"] {
            let value = request.metadata().get(name).and_then(|value| value.to_str().ok());
            seen.head.fields.extend(value.map(|value| (name.to_owned(), value.to_owned())));
        }
        self.1.requests.lock().push(seen);
        if request.get_ref().trust_bundle_version == "fail" {
            return Err(Status::failed_precondition("said the app"));
        }
        let laggards = vec![Laggard { pod: self.0.to_owned(), ..Laggard::default() }];
        let services = vec![Progress { laggards, ..Progress::default() }];
        Ok(Response::new(ProgressResponse { services, ..ProgressResponse::default() }))
    }
}

async fn app(name: &'static str) -> App {
    App::raw(move |wire, log| async move {
        let service = ReplicasServer::new(Named(name, log));
        let service = hyper::service::service_fn(move |request| service.clone().call(request));
        let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = http.serve_connection(TokioIo::new(wire.stream), service).await;
    })
    .await
}

/// Gives tonic the connection that redirection would have made.
struct Once(Option<TokioIo<TcpStream>>);

impl tower_service::Service<Uri> for Once {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<TokioIo<TcpStream>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        std::future::ready(self.0.take().ok_or_else(|| io::ErrorKind::NotConnected.into()))
    }
}

async fn client(web: &Sidecar) -> ReplicasClient<Channel> {
    let stream = web.connect(VIP).await.stream;
    let endpoint = Endpoint::from_static("http://reviews");
    ReplicasClient::new(endpoint.connect_with_connector(Once(Some(TokioIo::new(stream)))).await.unwrap())
}

/// Which app answers a call, or with what it fails.
async fn called(web: &Sidecar) -> Result<String, Status> {
    let response = client(web).await.progress(ProgressRequest::default()).await?.into_inner();
    Ok(response.services[0].laggards[0].pod.clone())
}

/// Attaches one rule for calls like these.
fn attach(web: &Sidecar, path: Path, rule: v1::RouteRule) {
    let path = Some(v1::PathMatch { kind: Some(path) });
    let found = v1::HttpMatch { path, method: "POST".into(), ..v1::HttpMatch::default() };
    web.service(|port| {
        routed(port, v1::RouteRule { route: "GRPCRoute/shop/reviews".into(), ..rule });
        port.entries[0].r#match = Some(found);
        port.protocol = v1::Protocol::Grpc.into();
    });
}

fn call(service: Option<Of>, method: Option<Called>) -> Path {
    Path::Call(v1::CallMatch { service, method })
}

#[tokio::test]
async fn a_call_goes_where_its_service_and_method_say_and_what_none_matches_is_unimplemented() {
    let pair = Pair::new(app("v1").await).await;
    let second = app("v2").await;
    pair.web.endpoints("shop/reviews-v2:80", &[pair.reviews.meshed(second.addr).await]);
    let regex = |text: &str| Some(Of::ServiceRegex(text.into()));
    let method = |text: &str| Some(Called::ExactMethod(text.into()));
    let rows = [
        ("both exact", Path::Exact("/weft.v1.Replicas/Progress".into()), true),
        ("another method", Path::Exact("/weft.v1.Replicas/Regress".into()), false),
        ("the service", Path::Prefix("/weft.v1.Replicas".into()), true),
        ("another service", Path::Prefix("/weft.v1.Replica".into()), false),
        ("the method", call(None, method("Progress")), true),
        ("expressions", call(regex("weft[.].*"), Some(Called::MethodRegex("Pro.*".into()))), true),
        ("not the whole service", call(regex("weft"), None), false),
    ];
    for (row, path, matched) in rows {
        attach(&pair.web, path, rule(&[("shop/reviews-v2", 1)]));
        match called(&pair.web).await {
            Ok(name) => assert!(matched && name == "v2", "{row}: {name}"),
            Err(status) => {
                assert!(!matched && status.code() == Code::Unimplemented, "{row}: {status}");
                assert_eq!(status.metadata().get("x-weft-reason").unwrap(), "no-route", "{row}");
            }
        }
    }
    assert_eq!(pair.app.count(), 0);
    // Who does not speak gRPC would not understand a gRPC status.
    let response = pair.connect().await.post("/weft.v1.Replicas/Other", "").await;
    assert_eq!((response.head.status(), response.head.get("x-weft-reason")), (404, Some("no-route")));
}

#[tokio::test]
async fn a_client_is_told_in_grpc_what_went_wrong_and_by_the_app_what_the_app_says() {
    let pair = Pair::new(app("v1").await).await;
    let everything = || Path::Prefix("/".into());
    let fixed = v1::FixedAnswer { status: 500, detail: "backend shop/nowhere does not exist".into() };
    let target = v1::weighted_target::Target::Answer(fixed);
    let invalid = v1::WeightedTarget { weight: 1, target: Some(target), filters: Vec::new() };
    attach(&pair.web, everything(), v1::RouteRule { targets: vec![invalid], ..rule(&[]) });
    let status = called(&pair.web).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "backend shop/nowhere does not exist"));

    attach(&pair.web, everything(), rule(&[("shop/reviews", 1)]));
    let failing = ProgressRequest { trust_bundle_version: "fail".into(), ..ProgressRequest::default() };
    let status = client(&pair.web).await.progress(failing).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "said the app"));

    pair.web.endpoints(REVIEWS, &[]);
    let status = called(&pair.web).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(
        status.metadata().get("x-weft-reason").unwrap().to_str().unwrap().starts_with("no-endpoints; rule=GRPCRoute/")
    );
}

#[tokio::test]
async fn filters_and_the_deadline_reach_the_app() {
    let pair = Pair::new(app("v1").await).await;
    let set = |name: &str| v1::HeaderModifier {
        set: vec![v1::Header { name: name.into(), value: "set".into() }],
        ..v1::HeaderModifier::default()
    };
    let filters = [v1::filter::Kind::RequestHeaders(set("x-rule")), v1::filter::Kind::ResponseHeaders(set("x-back"))];
    let filters = filters.map(|kind| v1::Filter { kind: Some(kind) }).to_vec();
    attach(&pair.web, call(None, None), v1::RouteRule { filters, ..rule(&[("shop/reviews", 1)]) });
    let mut request = Request::new(ProgressRequest::default());
    request.set_timeout(Duration::from_secs(10));
    let response = client(&pair.web).await.progress(request).await.unwrap();
    assert_eq!(response.metadata().get("x-back").unwrap(), "set");
    let seen = pair.app.only().head;
    assert_eq!(seen.get("x-rule"), Some("set"));
    let left = crate::resilience::parse_grpc_timeout(&seen.get("grpc-timeout").unwrap().parse().unwrap()).unwrap();
    assert!(left <= Duration::from_secs(10) && left > Duration::from_secs(5), "{left:?}");
}
