//! A client for a person's or a test's single question, as `curl` is: asks, and prints all about the answer as a line of
//! JSON. It ends well whatever came, since "no answer" is an answer to whoever asked.
//!
//! Bound: one connection at a time; [`MAX_BODY`] of a body are shown.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST};
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::load::describe;
use super::{AppError, resolve};
use crate::stats::Got;

/// How much of a body is shown.
const MAX_BODY: usize = 16 * 1024;

/// Its options.
#[derive(Debug, Clone, clap::Args)]
pub struct Get {
    /// `http://HOST[:PORT]/PATH`
    #[arg(required = true)]
    urls: Vec<String>,
    /// How.
    #[arg(long, default_value = "GET")]
    method: Method,
    /// Headers to send with each, as `name: value`; `host` replaces the URL's.
    #[arg(long = "header")]
    headers: Vec<String>,
    /// How often each, every time on a new connection.
    #[arg(long, default_value_t = 1)]
    repeat: u32,
    /// When to give up, in ms.
    #[arg(long, default_value_t = 10_000)]
    timeout_ms: u64,
}

/// Asks and prints.
///
/// # Errors
/// When an option makes no sense.
pub async fn run(options: Get) -> Result<(), AppError> {
    for _ in 0..options.repeat {
        for url in &options.urls {
            let uri: Uri = url.parse()?;
            println!("{}", serde_json::to_string(&one(&uri, &options).await)?);
        }
    }
    Ok(())
}

async fn one(uri: &Uri, options: &Get) -> Got {
    let began = Instant::now();
    let mut got = Got { url: uri.to_string(), ..Got::default() };
    let limit = Duration::from_millis(options.timeout_ms);
    match tokio::time::timeout(limit, ask(uri, options, &mut got)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => got.error = error.to_string(),
        Err(_) => "timeout".clone_into(&mut got.error),
    }
    got.micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    got
}

async fn ask(uri: &Uri, options: &Get, got: &mut Got) -> Result<(), AppError> {
    let host = uri.host().ok_or("a URL without a host")?;
    let address = resolve(&format!("{host}:{}", uri.port_u16().unwrap_or(80))).await?;
    got.address = address.to_string();
    let authority = uri.authority().map_or(host, |authority| authority.as_str());
    let mut request = Request::builder()
        .method(options.method.clone())
        .uri(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header(HOST, authority)
        .header(CONNECTION, "close")
        .body(Full::new(Bytes::new()))?;
    for header in &options.headers {
        let (name, value) = header.split_once(':').ok_or("--header wants `name: value`")?;
        request.headers_mut().insert(name.trim().parse::<HeaderName>()?, value.trim().parse::<HeaderValue>()?);
    }
    let stream = TcpStream::connect(address).await?;
    let (mut send, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(describe)?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    let (head, body) = send.send_request(request).await.map_err(describe)?.into_parts();
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    got.status = head.status.as_u16();
    got.server = head.headers.get("x-server").map(text).unwrap_or_default();
    got.headers = head.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    let body = body.collect().await.map_err(describe)?.to_bytes();
    got.body = String::from_utf8_lossy(body.get(..MAX_BODY).unwrap_or(&body)).into_owned();
    Ok(())
}
