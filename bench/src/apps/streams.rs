//! gRPC streams that live as long as the run: each sends a message of 128 bytes, waits for its echo, sends the next.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use h2::client::{self, SendRequest};
use http::{Method, Request, header};
use tokio::net::TcpStream;

use super::{AppError, Outcome};

const PATIENCE: Duration = Duration::from_secs(5);
/// What a stream may have under way, both directions: far above a message, so that windows decide nothing.
pub(crate) const WINDOW: u32 = 256 * 1024;
/// A gRPC message: not compressed, 123 bytes.
const MESSAGE: [u8; 128] = {
    let mut message = [b'm'; 128];
    let prefix = [0, 0, 0, 0, 123];
    let mut at = 0;
    while at < prefix.len() {
        message[at] = prefix[at];
        at += 1;
    }
    message
};

/// Its options.
#[derive(Debug, clap::Args)]
pub(crate) struct Streams {
    /// Whom to call.
    #[arg(long)]
    target: SocketAddr,
    /// The path of the method, `/package.Service/Method`.
    #[arg(long, default_value = "/bench.Echo/Stream")]
    path: String,
    /// Connections.
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Streams on each.
    #[arg(long, default_value_t = 8)]
    streams: usize,
    /// For how long, in s; 0 for one message on each stream.
    #[arg(long)]
    seconds: f64,
}

/// Runs it.
///
/// # Errors
/// When it cannot connect.
pub(crate) async fn run(options: Streams) -> Result<Outcome, AppError> {
    let options = Arc::new(options);
    let local = tokio::task::LocalSet::new();
    local.run_until(all(options)).await
}

async fn all(options: Arc<Streams>) -> Result<Outcome, AppError> {
    let mut tasks = Vec::new();
    for _ in 0..options.connections {
        let tcp = TcpStream::connect(options.target).await?;
        tcp.set_nodelay(true)?;
        let mut builder = client::Builder::new();
        builder.initial_window_size(WINDOW).initial_connection_window_size(16 * WINDOW);
        let (sender, connection) = builder.handshake(tcp).await?;
        tokio::task::spawn_local(async move {
            // Its end shows on every stream.
            let _ = connection.await;
        });
        for _ in 0..options.streams {
            tasks.push(tokio::task::spawn_local(stream(sender.clone(), Arc::clone(&options))));
        }
    }
    let mut all = Outcome::default();
    for task in tasks {
        all.add(task.await?);
    }
    Ok(all)
}

async fn stream(sender: SendRequest<Bytes>, options: Arc<Streams>) -> Outcome {
    let started = Instant::now();
    let mut outcome = Outcome::default();
    if let Err(error) = echoes(sender, &options, started, &mut outcome).await {
        outcome.fail(error);
    }
    outcome.seconds = started.elapsed().as_secs_f64();
    outcome
}

async fn echoes(
    sender: SendRequest<Bytes>,
    options: &Streams,
    started: Instant,
    outcome: &mut Outcome,
) -> Result<(), AppError> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{}{}", options.target, options.path))
        .version(http::Version::HTTP_2)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(())?;
    let mut sender = within(sender.ready()).await??;
    let (response, mut send) = sender.send_request(request, false)?;
    let message = Bytes::from_static(&MESSAGE);
    // A server may hold its head back until the first message.
    send.send_data(message.clone(), false)?;
    let response = within(response).await??;
    if response.status() != 200 {
        return Err(format!("the answer is {}", response.status()).into());
    }
    let mut body = response.into_body();
    loop {
        let mut echo = BytesMut::new();
        while echo.len() < MESSAGE.len() {
            let Some(data) = within(body.data()).await? else { return Err("the stream ended early".into()) };
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            echo.extend_from_slice(&data);
        }
        if echo != MESSAGE[..] {
            return Err("the echo is not what was sent".into());
        }
        outcome.operations += 1;
        if started.elapsed().as_secs_f64() >= options.seconds {
            break;
        }
        send.send_data(message.clone(), false)?;
    }
    send.send_data(Bytes::new(), true)?;
    while within(body.data()).await?.transpose()?.is_some() {}
    let trailers = within(body.trailers()).await??.unwrap_or_default();
    match trailers.get("grpc-status").map(|status| status.as_bytes()) {
        Some(b"0") => Ok(()),
        other => Err(format!("the stream ended with grpc-status {other:?}").into()),
    }
}

async fn within<F: Future>(future: F) -> Result<F::Output, AppError> {
    Ok(tokio::time::timeout(PATIENCE, future).await.map_err(|_| format!("nothing came within {PATIENCE:?}"))?)
}
