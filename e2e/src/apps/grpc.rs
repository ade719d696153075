//! gRPC in all four forms, as an app has it: tonic over h2c. The server answers health checks as well.

use std::net::SocketAddr;
use std::pin::Pin;

use futures_util::{Stream, StreamExt, stream};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::Service as _;
use tonic::{Code, Request, Response, Status, Streaming};

use super::{AppError, answer, asked_to_end};
use crate::echo::Message;
use crate::echo::echo_client::EchoClient;
use crate::echo::echo_server::{Echo, EchoServer};
use crate::health::health_check_response::ServingStatus;
use crate::health::health_server::{Health, HealthServer};
use crate::health::{HealthCheckRequest, HealthCheckResponse};

/// Options of the server.
#[derive(Debug, Clone, clap::Args)]
pub struct GrpcServer {
    /// Where to listen.
    #[arg(long, default_value = "[::]:50051")]
    listen: SocketAddr,
    /// What it calls itself.
    #[arg(long)]
    name: String,
}

/// Options of the client.
#[derive(Debug, Clone, clap::Args)]
pub struct GrpcClient {
    /// `http://HOST:PORT`
    #[arg(long)]
    url: String,
    /// How many messages each stream has.
    #[arg(long, default_value_t = 100)]
    count: u32,
}

/// What the client prints: how many messages came back in each form.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct GrpcReport {
    /// Unary calls answered.
    pub unary: u32,
    /// Messages of a server stream.
    pub server_stream: u32,
    /// Messages of a client stream that the server counted.
    pub client_stream: u32,
    /// Messages of a bidirectional stream, each asked for after the one before was answered.
    pub bidi: u32,
    /// Whether an error's code and message came through in the trailers after a stream that had begun well.
    pub trailers: bool,
}

#[derive(Clone)]
struct Service {
    name: String,
}

type Answers = Pin<Box<dyn Stream<Item = Result<Message, Status>> + Send>>;

#[tonic::async_trait]
impl Echo for Service {
    async fn unary(&self, request: Request<Message>) -> Result<Response<Message>, Status> {
        let message = request.into_inner();
        Ok(Response::new(Message { text: format!("{}: {}", self.name, message.text), count: message.count }))
    }

    type ServerStreamStream = Answers;

    /// After its `count` answers, text `fail` makes it end with an error, which travels in trailers.
    async fn server_stream(&self, request: Request<Message>) -> Result<Response<Answers>, Status> {
        let Message { text, count } = request.into_inner();
        let end = (text == "fail").then(|| Err(Status::new(Code::DataLoss, "as asked")));
        let answers = (0..count).map(move |count| Ok(Message { text: text.clone(), count }));
        Ok(Response::new(Box::pin(stream::iter(answers.chain(end)))))
    }

    async fn client_stream(&self, request: Request<Streaming<Message>>) -> Result<Response<Message>, Status> {
        let mut messages = request.into_inner();
        let mut count = 0;
        while messages.message().await?.is_some() {
            count += 1;
        }
        Ok(Response::new(Message { text: self.name.clone(), count }))
    }

    type BidiStream = Answers;

    async fn bidi(&self, request: Request<Streaming<Message>>) -> Result<Response<Answers>, Status> {
        Ok(Response::new(Box::pin(request.into_inner().map(|message| message))))
    }
}

/// Always well.
struct Healthy;

#[tonic::async_trait]
impl Health for Healthy {
    async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(HealthCheckResponse { status: ServingStatus::Serving.into() }))
    }
}

/// Serves until told to end.
///
/// # Errors
/// When it cannot listen.
pub async fn server(options: GrpcServer) -> Result<(), AppError> {
    let listener = TcpListener::bind(options.listen).await?;
    let echo = EchoServer::new(Service { name: options.name });
    let health = HealthServer::new(Healthy);
    let end = asked_to_end();
    tokio::pin!(end);
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted?,
            () = &mut end => return Ok(()),
        };
        let (echo, health) = (echo.clone(), health.clone());
        let service = service_fn(move |request: http::Request<Incoming>| {
            if request.uri().path().starts_with("/grpc.health.v1.Health/") {
                return health.clone().call(request);
            }
            echo.clone().call(request)
        });
        tokio::spawn(async move {
            let builder = auto::Builder::new(TokioExecutor::new()).http2_only();
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// Calls each form and prints what came back.
///
/// # Errors
/// When a call fails that should not.
pub async fn client(options: GrpcClient) -> Result<(), AppError> {
    let mut client = EchoClient::connect(options.url.clone()).await?;
    let count = options.count;
    let message = |count| Message { text: "hello".to_owned(), count };
    let mut report = GrpcReport::default();

    for n in 0..count {
        let answer = client.unary(message(n)).await?.into_inner();
        report.unary += u32::from(answer.count == n && answer.text.ends_with("hello"));
    }

    let mut answers = client.server_stream(message(count)).await?.into_inner();
    while answers.message().await?.is_some() {
        report.server_stream += 1;
    }

    let all: Vec<_> = (0..count).map(message).collect();
    report.client_stream = client.client_stream(stream::iter(all)).await?.into_inner().count;

    let (sender, receiver) = mpsc::channel(1);
    let mut answers = client.bidi(ReceiverStream::new(receiver)).await?.into_inner();
    for n in 0..count {
        sender.send(message(n)).await?;
        let answer = answers.message().await?.ok_or("the stream ended early")?;
        report.bidi += u32::from(answer.count == n);
    }
    drop(sender);
    if answers.message().await?.is_some() {
        return Err("a message too many".into());
    }

    let fail = Message { text: "fail".to_owned(), count: 3 };
    let mut answers = client.server_stream(fail).await?.into_inner();
    let mut before = 0;
    report.trailers = loop {
        match answers.message().await {
            Ok(Some(_)) => before += 1,
            Ok(None) => break false,
            Err(status) => break before == 3 && status.code() == Code::DataLoss && status.message() == "as asked",
        }
    };
    answer(&report);
    Ok(())
}
