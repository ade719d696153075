//! The two apps of `helm test`, which runs with our own images only: one call between two meshed pods, believed only by what
//! the server's app saw (`charts/weft/templates/tests/mesh-tls.yaml` draws it).
//!
//! `serve` answers `/headers` with the headers that reached it; with `--forward-to`, `/forward` with what the other's `/headers`
//! says. `ask` asks for `/forward` until the answer holds the text expected: `x-forwarded-client-cert` with the caller's
//! identity, which a sidecar adds only for a certificate that it verified and strips from plain text.
//!
//! Neither knows anything of the mesh. Bound: [`MAX_CONNECTIONS`], [`MAX_BODY`], [`TIME_LIMIT`] per request.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand};
use http::header::HOST;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;

const MAX_CONNECTIONS: usize = 16;
const MAX_BODY: usize = 64 << 10;
/// One request, there and back.
const TIME_LIMIT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(500);

/// One of the two apps.
#[derive(Debug, Clone, Subcommand)]
pub enum HelmTest {
    /// Answer with the headers that reached us, or with what another app answers
    Serve(Serve),
    /// Ask until the answer holds a text
    Ask(Ask),
}

/// Flags of `serve`.
#[derive(Debug, Clone, Args)]
pub struct Serve {
    /// Where to listen
    #[arg(long, default_value = "0.0.0.0:8080", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// Whose `/headers` to answer `/forward` with
    #[arg(long, value_name = "HOST:PORT")]
    pub forward_to: Option<String>,
}

/// Flags of `ask`.
#[derive(Debug, Clone, Args)]
pub struct Ask {
    /// Whose `/forward` to ask for
    #[arg(long, value_name = "HOST:PORT")]
    pub address: String,
    /// What the answer must hold
    #[arg(long, value_name = "TEXT")]
    pub expect: String,
    /// For how long to go on asking, in seconds: pods start and certificates are signed meanwhile
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    pub within: u64,
}

/// Why the test fails.
#[derive(Debug, thiserror::Error)]
pub enum HelmTestError {
    /// No port.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The call was made, and not by mesh TLS.
    #[error(
        "no call by mesh TLS: the server's app did not see `{expect}`, but\n{saw}\nare both pods injected? (they are gone when the test ends: watch them by kubectl meanwhile)"
    )]
    NotMeshed {
        /// What was to be seen.
        expect: String,
        /// What was.
        saw: String,
    },
    /// No call was made.
    #[error("no answer within {within:?}: {last}")]
    NoAnswer {
        /// For how long we asked.
        within: Duration,
        /// What went wrong last.
        last: String,
    },
}

impl HelmTest {
    /// Serves until `shutdown`, or asks until it is known; what to print then.
    ///
    /// # Errors
    /// When it cannot listen, or the call was not as it must be.
    pub async fn run(&self, shutdown: impl Future<Output = ()>) -> Result<Option<String>, HelmTestError> {
        match self {
            Self::Serve(serve) => {
                let listener = TcpListener::bind(serve.listen).await;
                let listener = listener.map_err(|source| HelmTestError::Listen { address: serve.listen, source })?;
                serve_on(listener, serve.forward_to.clone(), shutdown).await;
                Ok(None)
            }
            Self::Ask(ask) => ask.until_known().await.map(Some),
        }
    }
}

impl Ask {
    async fn until_known(&self) -> Result<String, HelmTestError> {
        let within = Duration::from_secs(self.within);
        let end = Instant::now() + within;
        loop {
            let seen = get(&self.address, "/forward").await;
            if let Ok((StatusCode::OK, text)) = &seen
                && text.contains(&self.expect)
            {
                return Ok(format!("one call by mesh TLS; the server's app saw\n{text}"));
            }
            // Also while plain text comes through: the certificate may be a moment away.
            if Instant::now() + PAUSE > end {
                return Err(match seen {
                    Ok((StatusCode::OK, saw)) => HelmTestError::NotMeshed { expect: self.expect.clone(), saw },
                    Ok((status, text)) => {
                        HelmTestError::NoAnswer { within, last: format!("{status}: {}", text.trim()) }
                    }
                    Err(last) => HelmTestError::NoAnswer { within, last },
                });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn serve_on(listener: TcpListener, forward_to: Option<String>, shutdown: impl Future<Output = ()>) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let forward_to: Option<Arc<str>> = forward_to.map(Into::into);
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = async {
            let permit = Arc::clone(&connections).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            accepted = accepted => accepted,
            () = &mut shutdown => return,
        };
        let Ok((socket, _)) = accepted else {
            // Out of descriptors, most likely: some come back.
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let forward_to = forward_to.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let forward_to = forward_to.clone();
                async move { Ok::<_, Infallible>(answer(&request, forward_to.as_deref()).await) }
            });
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(TIME_LIMIT);
            // A client that goes away is its own affair.
            let _ = builder.serve_connection(TokioIo::new(socket), service).await;
            drop(permit);
        });
    }
}

async fn answer(request: &Request<Incoming>, forward_to: Option<&str>) -> Response<Full<Bytes>> {
    let (status, text) = match (request.uri().path(), forward_to) {
        ("/", _) => (StatusCode::OK, "ready\n".to_owned()),
        ("/headers", _) => {
            let lines = request.headers().iter();
            let lines = lines.map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
            (StatusCode::OK, lines.collect())
        }
        ("/forward", Some(address)) => match get(address, "/headers").await {
            Ok(answered) => answered,
            Err(why) => (StatusCode::BAD_GATEWAY, why),
        },
        (path, _) => (StatusCode::NOT_FOUND, format!("there is no {path}\n")),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
}

/// One request on a connection of its own.
async fn get(address: &str, path: &str) -> Result<(StatusCode, String), String> {
    let exchange = async {
        let socket = TcpStream::connect(address).await.map_err(|error| format!("{address}: {error}"))?;
        let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket))
            .await
            .map_err(|error| format!("{address}: {error}"))?;
        let connection = async {
            // What it says of a failure, the request says too.
            let _ = connection.await;
            std::future::pending().await
        };
        let request = Request::get(path).header(HOST, address).body(Empty::<Bytes>::new());
        let request = request.map_err(|error| format!("{address}{path}: {error}"))?;
        let asked = async {
            let response = client.send_request(request).await.map_err(|error| format!("{address}{path}: {error}"))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
            let body = body.map_err(|error| format!("{address}{path}: {error}"))?.to_bytes();
            Ok((status, String::from_utf8_lossy(&body).into_owned()))
        };
        tokio::select! {
            answered = asked => answered,
            () = connection => Err(format!("{address}: the connection ended")),
        }
    };
    match tokio::time::timeout(TIME_LIMIT, exchange).await {
        Ok(answered) => answered,
        Err(_) => Err(format!("{address}{path}: no answer within {TIME_LIMIT:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An app on a port of its own, and its address; it ends with the runtime.
    async fn app(forward_to: Option<String>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(serve_on(listener, forward_to, std::future::pending()));
        address
    }

    async fn ask(address: String, expect: &str) -> Result<Option<String>, HelmTestError> {
        let ask = Ask { address, expect: expect.to_owned(), within: 0 };
        HelmTest::Ask(ask).run(std::future::pending()).await
    }

    #[tokio::test]
    async fn what_the_server_saw_decides() {
        let server = app(None).await;
        let client = app(Some(server.clone())).await;
        // The Host that the client's app gave is among what the server saw.
        let passed = ask(client.clone(), &format!("host: {server}")).await.unwrap().unwrap();
        assert!(passed.starts_with("one call by mesh TLS"), "{passed}");
        let failed = ask(client, "URI=spiffe://x/ns/y/sa/client").await.unwrap_err().to_string();
        assert!(failed.contains("did not see `URI=spiffe://x/ns/y/sa/client`"), "{failed}");
        assert!(failed.contains(&format!("host: {server}")) && failed.contains("injected?"), "{failed}");
    }

    #[tokio::test]
    async fn a_server_that_is_away_is_named() {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
        let client = app(Some(gone.clone())).await;
        let failed = ask(client, "x").await.unwrap_err().to_string();
        assert!(failed.contains("502") && failed.contains(&gone), "{failed}");
        let failed = ask(gone.clone(), "x").await.unwrap_err().to_string();
        assert!(failed.starts_with("no answer within 0ns") && failed.contains(&gone), "{failed}");
    }

    #[tokio::test]
    async fn an_app_that_forwards_to_nobody_says_so() {
        let server = app(None).await;
        let failed = ask(server, "x").await.unwrap_err().to_string();
        assert!(failed.contains("404") && failed.contains("/forward"), "{failed}");
    }
}
