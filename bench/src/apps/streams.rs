//! gRPC streams that live as long as the run: each sends a message of 128 bytes, waits for its echo, sends the next.
//!
//! With `--stalled`, so many more streams join each connection at half time, whose client sends all it may and reads nothing:
//! every buffer on their way is full from then on. What the others notice of it is the difference between the halves. With
//! `--pace-ms` they take turns, spread over that time: all at once, most of what a message waits for would be the others.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use h2::client::{self, SendRequest};
use http::{Method, Request, header};
use tokio::net::TcpStream;
use tokio::time::MissedTickBehavior;

use super::{AppError, Outcome, quantile};

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
    /// Streams on each that stall at half time.
    #[arg(long, default_value_t = 0)]
    stalled: usize,
    /// From one message of a stream to its next, in ms, or more where the echo takes longer; 0: at once after the echo.
    #[arg(long, default_value_t = 0)]
    pace_ms: u64,
    /// For how long, in s; 0 for one message on each stream.
    #[arg(long)]
    seconds: f64,
}

impl Streams {
    fn pace(&self) -> Duration {
        Duration::from_millis(self.pace_ms)
    }
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

/// From a message to its echo: in the first half of the run, and in the second.
type Latencies = Rc<RefCell<[Vec<Duration>; 2]>>;

async fn all(options: Arc<Streams>) -> Result<Outcome, AppError> {
    let mut tasks = Vec::new();
    let latencies = Latencies::default();
    let mut stalled = Vec::new();
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
        for nth in 0..options.streams {
            let offset = options.pace() * u32::try_from(nth)? / u32::try_from(options.streams)?;
            let stream = stream(sender.clone(), Arc::clone(&options), offset, Rc::clone(&latencies));
            tasks.push(tokio::task::spawn_local(stream));
        }
        for _ in 0..options.stalled {
            stalled.push(tokio::task::spawn_local(stall(sender.clone(), Arc::clone(&options))));
        }
    }
    let mut all = Outcome::default();
    for task in tasks {
        all.add(task.await?);
    }
    for stalled in stalled {
        // It ends only by itself when it could not do what it was to.
        if stalled.is_finished() {
            stalled.await??;
            return Err("a stream that was to stall has ended".into());
        }
        stalled.abort();
    }
    let [clear, blocked] = &mut *latencies.borrow_mut();
    clear.sort_unstable();
    blocked.sort_unstable();
    let us = |latencies: &[Duration], part| quantile(latencies, part).map_or(0.0, |value| value.as_secs_f64() * 1e6);
    all.p99_clear_us = us(clear, 0.99);
    all.p50_us = us(blocked, 0.5);
    all.p99_us = us(blocked, 0.99);
    Ok(all)
}

/// Sends all it may and reads nothing, from half time on.
async fn stall(sender: SendRequest<Bytes>, options: Arc<Streams>) -> Result<(), AppError> {
    tokio::time::sleep(Duration::from_secs_f64(options.seconds / 2.0)).await;
    let mut sender = within(sender.ready()).await??;
    let (response, mut send) = sender.send_request(call(&options)?, false)?;
    // Unread, but held: dropping it would end the stream.
    let _response = response;
    loop {
        send.reserve_capacity(MESSAGE.len() * 512);
        let Some(room) = std::future::poll_fn(|cx| send.poll_capacity(cx)).await else { return Ok(()) };
        send.send_data(Bytes::from(MESSAGE.repeat(room?.div_ceil(MESSAGE.len()))), false)?;
        // The others are on this thread as well.
        tokio::task::yield_now().await;
    }
}

/// Its paced messages come at `offset` and so many paces after its start.
async fn stream(sender: SendRequest<Bytes>, options: Arc<Streams>, offset: Duration, latencies: Latencies) -> Outcome {
    let started = Instant::now();
    let mut outcome = Outcome::default();
    if let Err(error) = echoes(sender, &options, (started, offset), &mut outcome, &latencies).await {
        outcome.fail(error);
    }
    outcome.seconds = started.elapsed().as_secs_f64();
    outcome
}

async fn echoes(
    sender: SendRequest<Bytes>,
    options: &Streams,
    (started, offset): (Instant, Duration),
    outcome: &mut Outcome,
    latencies: &Latencies,
) -> Result<(), AppError> {
    let mut sender = within(sender.ready()).await??;
    let (response, mut send) = sender.send_request(call(options)?, false)?;
    let message = Bytes::from_static(&MESSAGE);
    // A server may hold its head back until the first message.
    send.send_data(message.clone(), false)?;
    let response = within(response).await??;
    if response.status() != 200 {
        return Err(format!("the answer is {}", response.status()).into());
    }
    let mut body = response.into_body();
    let half = Duration::from_secs_f64(options.seconds / 2.0);
    let mut turns = (options.pace_ms > 0).then(|| {
        let mut turns = tokio::time::interval_at((started + offset).into(), options.pace());
        // Who was held up does not make up for it in a burst.
        turns.set_missed_tick_behavior(MissedTickBehavior::Skip);
        turns
    });
    let mut sent = Instant::now();
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
        if options.stalled > 0 {
            latencies.borrow_mut()[usize::from(sent.duration_since(started) >= half)].push(sent.elapsed());
        }
        if started.elapsed().as_secs_f64() >= options.seconds {
            break;
        }
        if let Some(turns) = &mut turns {
            turns.tick().await;
        }
        sent = Instant::now();
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

fn call(options: &Streams) -> Result<Request<()>, http::Error> {
    Request::builder()
        .method(Method::POST)
        .uri(format!("http://{}{}", options.target, options.path))
        .version(http::Version::HTTP_2)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(())
}

async fn within<F: Future>(future: F) -> Result<F::Output, AppError> {
    Ok(tokio::time::timeout(PATIENCE, future).await.map_err(|_| format!("nothing came within {PATIENCE:?}"))?)
}
