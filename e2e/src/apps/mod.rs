//! The small programs that run in pods, all in one binary. They write what they saw as JSON lines to standard output,
//! which the pod keeps in a file; or, where `WEFT_E2E_LOG` names a folder, to a file in it that is called like the pod: a
//! cluster's pods take their standard output with them when they go.
//!
//! They are clients and servers as users have them: they know nothing of the mesh, retry nothing and hide nothing.

pub mod certify;
pub mod get;
pub mod grpc;
pub mod http_server;
pub mod load;
pub mod tcp;
pub mod websocket;

use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

/// Why an app ended.
pub type AppError = Box<dyn std::error::Error + Send + Sync>;

/// Milliseconds since 1970: all pods share the machine's clock.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// The folder apps of a cluster's pods write to.
pub const LOG: &str = "WEFT_E2E_LOG";

/// Where lines go: a file, or standard output if none.
static SINK: LazyLock<Option<File>> = LazyLock::new(|| {
    let folder = std::env::var_os(LOG)?;
    // Set in every pod to the pod's name.
    let name = std::env::var("HOSTNAME").unwrap_or_else(|_| "app".to_owned());
    let path = Path::new(&folder).join(format!("{name}.log"));
    match File::options().create(true).append(true).open(&path) {
        Ok(file) => Some(file),
        Err(error) => {
            eprintln!("weft-e2e: {}: {error}", path.display());
            None
        }
    }
});

/// Writes one JSON line.
pub fn say(line: &impl Serialize) {
    if let Ok(mut text) = serde_json::to_string(line) {
        text.push('\n');
        // A full disk shows as missing lines, which the reader counts. Each line is one write, so lines of two writers
        // to one file do not mix.
        let _ = match &*SINK {
            Some(file) => (&*file).write_all(text.as_bytes()),
            None => io::stdout().write_all(text.as_bytes()),
        };
    }
}

/// Writes one JSON line to standard output: to whoever runs the app and waits for it.
pub fn answer(line: &impl Serialize) {
    if let Ok(text) = serde_json::to_string(line) {
        println!("{text}");
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
