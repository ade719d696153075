//! Protocols that are not HTTP: a server that speaks first, and a client that writes down when the first byte came.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::{AppError, answer, asked_to_end, resolve};

/// Options of the server.
#[derive(Debug, Clone, clap::Args)]
pub struct TcpServer {
    /// Where to listen.
    #[arg(long, default_value = "[::]:9000")]
    listen: SocketAddr,
    /// What it says before it is asked; nothing if empty.
    #[arg(long, default_value = "220 ready\r\n")]
    greeting: String,
}

/// Options of the client.
#[derive(Debug, Clone, clap::Args)]
pub struct TcpClient {
    /// `HOST:PORT`
    #[arg(long)]
    address: String,
    /// How long to stay silent after connecting, in ms.
    #[arg(long, default_value_t = 0)]
    silent_ms: u64,
    /// What to send then; `\r` and `\n` are understood.
    #[arg(long, default_value = "")]
    send: String,
    /// Half-close after sending.
    #[arg(long)]
    finish: bool,
    /// How long to wait for more, in ms.
    #[arg(long, default_value_t = 500)]
    patience_ms: u64,
    /// How many times, one after the other.
    #[arg(long, default_value_t = 1)]
    count: u32,
}

/// What the client prints for each connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Heard {
    /// From before connecting to the first byte, in µs; 0 when none came.
    pub first_byte_micros: u64,
    /// All that came.
    pub received: String,
    /// Whether the other side ended the connection, in order.
    pub closed: bool,
    /// Why it broke, or empty.
    pub error: String,
}

/// Greets, then sends everything back, each direction closed when the other side has.
///
/// # Errors
/// When it cannot listen.
pub async fn server(options: TcpServer) -> Result<(), AppError> {
    let listener = TcpListener::bind(options.listen).await?;
    let end = asked_to_end();
    tokio::pin!(end);
    loop {
        let (mut stream, _) = tokio::select! {
            accepted = listener.accept() => accepted?,
            () = &mut end => return Ok(()),
        };
        let greeting = options.greeting.clone();
        tokio::spawn(async move {
            if stream.write_all(greeting.as_bytes()).await.is_err() {
                return;
            }
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        });
    }
}

/// Connects, waits, sends, listens.
///
/// # Errors
/// When the host is unknown. A connection that breaks is a line of its own.
pub async fn client(options: TcpClient) -> Result<(), AppError> {
    let address = resolve(&options.address).await?;
    for _ in 0..options.count {
        let mut heard = Heard { first_byte_micros: 0, received: String::new(), closed: false, error: String::new() };
        if let Err(error) = converse(address, &options, &mut heard).await {
            heard.error = error.to_string();
        }
        answer(&heard);
    }
    Ok(())
}

async fn converse(address: SocketAddr, options: &TcpClient, heard: &mut Heard) -> std::io::Result<()> {
    let started = Instant::now();
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    tokio::time::sleep(Duration::from_millis(options.silent_ms)).await;
    if !options.send.is_empty() {
        stream.write_all(options.send.replace("\\r", "\r").replace("\\n", "\n").as_bytes()).await?;
    }
    if options.finish {
        stream.shutdown().await?;
    }
    let mut buffer = vec![0; 64 * 1024];
    let patience = Duration::from_millis(options.patience_ms);
    while let Ok(read) = tokio::time::timeout(patience, stream.read(&mut buffer)).await {
        let length = read?;
        if length == 0 {
            heard.closed = true;
            break;
        }
        if heard.first_byte_micros == 0 {
            heard.first_byte_micros = started.elapsed().as_micros() as u64;
        }
        heard.received.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    Ok(())
}
