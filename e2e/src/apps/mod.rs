//! The small programs that run in pods, all in one binary. They write what they saw as JSON lines to standard output,
//! which the pod keeps in a file.
//!
//! They are clients and servers as users have them: they know nothing of the mesh, retry nothing and hide nothing.

pub mod grpc;
pub mod http_server;
pub mod load;
pub mod tcp;
pub mod websocket;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

/// Why an app ended.
pub type AppError = Box<dyn std::error::Error + Send + Sync>;

/// Milliseconds since 1970: all pods share the machine's clock.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Writes one JSON line.
pub fn say(line: &impl Serialize) {
    if let Ok(mut text) = serde_json::to_string(line) {
        text.push('\n');
        // A full disk shows as missing lines, which the reader counts.
        let _ = io::stdout().write_all(text.as_bytes());
    }
}

/// The first address of `HOST:PORT`.
async fn resolve(address: &str) -> Result<SocketAddr, AppError> {
    let mut found = tokio::net::lookup_host(address).await?;
    found.next().ok_or_else(|| format!("{address} has no address").into())
}

/// SIGTERM or SIGINT.
async fn asked_to_end() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
