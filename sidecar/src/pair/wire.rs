//! The apps on both ends: HTTP/1 spoken by hand, so that a test sees every byte; HTTP/2 by the `h2` crate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Nothing here takes this long: a test that hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(20);

/// One end of a TCP connection.
pub(super) struct Wire {
    pub(super) stream: TcpStream,
    pub(super) read: BytesMut,
}

/// A message's start line and fields, as they came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) start: String,
    /// Names in lower case.
    pub(super) fields: Vec<(String, String)>,
}

impl Head {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(field, _)| field == name).map(|(_, value)| value.as_str()).collect()
    }

    pub(super) fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
    }

    pub(super) fn path(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }
}

/// A whole message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) head: Head,
    pub(super) body: Bytes,
    pub(super) trailers: Vec<(String, String)>,
}

impl Message {
    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// How a connection's bytes ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    Closed,
    Reset,
}

impl Wire {
    pub(super) fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self { stream, read: BytesMut::new() }
    }

    pub(super) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        timeout(PATIENCE, self.stream.write_all(bytes.as_ref())).await.expect("nobody reads").unwrap();
    }

    /// More bytes, or how it ended.
    pub(super) async fn more(&mut self) -> Result<(), End> {
        match timeout(PATIENCE, self.stream.read_buf(&mut self.read)).await.expect("nothing came") {
            Ok(0) => Err(End::Closed),
            Ok(_) => Ok(()),
            Err(_) => Err(End::Reset),
        }
    }

    /// Exactly `count` bytes.
    pub(super) async fn take(&mut self, count: usize) -> Bytes {
        while self.read.len() < count {
            let got = String::from_utf8_lossy(&self.read).into_owned();
            self.more().await.unwrap_or_else(|end| panic!("{end:?} after {got:?}, wanted {count} bytes"));
        }
        self.read.split_to(count).freeze()
    }

    async fn line(&mut self) -> Result<String, End> {
        loop {
            if let Some(end) = self.read.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8(self.read.split_to(end).to_vec()).unwrap();
                self.read.advance(2);
                return Ok(line);
            }
            self.more().await?;
        }
    }

    async fn fields(&mut self) -> Result<Vec<(String, String)>, End> {
        let mut fields = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) = line.split_once(':').unwrap();
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    pub(super) async fn try_head(&mut self) -> Result<Head, End> {
        Ok(Head { start: self.line().await?, fields: self.fields().await? })
    }

    pub(super) async fn head(&mut self) -> Head {
        self.try_head().await.expect("a head")
    }

    /// The content that follows `head`. `ends`: a response without a length lasts until the close.
    pub(super) async fn content(&mut self, head: &Head, ends: bool) -> Result<(Bytes, Vec<(String, String)>), End> {
        let mut body = BytesMut::new();
        if head.get("transfer-encoding") == Some("chunked") {
            loop {
                let size = usize::from_str_radix(self.line().await?.split(';').next().unwrap(), 16).unwrap();
                if size == 0 {
                    return Ok((body.freeze(), self.fields().await?));
                }
                while self.read.len() < size + 2 {
                    self.more().await?;
                }
                body.extend_from_slice(&self.read.split_to(size));
                assert_eq!(&self.read.split_to(2)[..], b"\r\n");
            }
        }
        match head.get("content-length") {
            Some(length) => {
                let length: usize = length.parse().unwrap();
                while self.read.len() < length {
                    self.more().await?;
                }
                Ok((self.read.split_to(length).freeze(), Vec::new()))
            }
            None if ends => loop {
                match self.more().await {
                    Ok(()) => {}
                    Err(End::Closed) => return Ok((self.read.split().freeze(), Vec::new())),
                    Err(End::Reset) => return Err(End::Reset),
                }
            },
            None => Ok((Bytes::new(), Vec::new())),
        }
    }

    /// A response with its content, as a client that did not send HEAD reads it.
    pub(super) async fn response(&mut self) -> Message {
        let head = self.head().await;
        let bodiless = matches!(head.status(), 100..=199 | 204 | 304);
        let (body, trailers) = if bodiless {
            Default::default()
        } else {
            self.content(&head, true).await.unwrap_or_else(|end| panic!("{end:?} in the content of {head:?}"))
        };
        Message { head, body, trailers }
    }

    /// Sends a request and reads the response.
    pub(super) async fn ask(&mut self, request: impl AsRef<[u8]>) -> Message {
        self.send(request).await;
        self.response().await
    }

    pub(super) async fn get(&mut self, path: &str) -> Message {
        self.ask(format!("GET {path} HTTP/1.1\r\nhost: reviews\r\n\r\n")).await
    }

    pub(super) async fn post(&mut self, path: &str, body: &str) -> Message {
        let length = body.len();
        self.ask(format!("POST {path} HTTP/1.1\r\nhost: reviews\r\ncontent-length: {length}\r\n\r\n{body}")).await
    }

    /// How the connection ends, when nothing more comes before it does.
    pub(super) async fn end(&mut self) -> End {
        loop {
            assert_eq!(self.read, "", "unexpected bytes");
            if let Err(end) = self.more().await {
                return end;
            }
        }
    }

    /// The next request, if one comes.
    pub(super) async fn request(&mut self) -> Option<Message> {
        let head = self.try_head().await.ok()?;
        let (body, trailers) = self.content(&head, false).await.ok()?;
        Some(Message { head, body, trailers })
    }

    /// Closes abruptly.
    pub(super) fn reset(self) {
        self.stream.set_zero_linger().unwrap();
    }

    /// HTTP/2 over this connection.
    pub(super) async fn h2(self) -> h2::client::SendRequest<Bytes> {
        let (send, connection) = timeout(PATIENCE, h2::client::handshake(self.stream)).await.unwrap().unwrap();
        tokio::spawn(connection);
        send
    }
}

/// What an app saw.
#[derive(Default)]
pub(super) struct Log {
    pub(super) requests: Mutex<Vec<Message>>,
    pub(super) connections: AtomicUsize,
}

/// A server app.
pub(super) struct App {
    pub(super) addr: SocketAddr,
    pub(super) log: Arc<Log>,
    task: JoinHandle<()>,
}

impl Drop for App {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl App {
    /// Each connection is given to `script`.
    pub(super) async fn raw<F>(script: impl Fn(Wire, Arc<Log>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::at("127.0.0.1:0".parse().unwrap(), script).await
    }

    pub(super) async fn at<F>(addr: SocketAddr, script: impl Fn(Wire, Arc<Log>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let log = Arc::<Log>::default();
        let task = {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                let mut connections = tokio::task::JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    log.connections.fetch_add(1, Ordering::Relaxed);
                    connections.spawn(script(Wire::new(stream), Arc::clone(&log)));
                }
            })
        };
        Self { addr, log, task }
    }

    /// Answers each HTTP/1 request with the text that `answer` makes; closes after one that says so, or has no length.
    pub(super) async fn http1(answer: impl Fn(&Message) -> String + Send + Sync + 'static) -> Self {
        let answer = Arc::new(answer);
        Self::raw(move |mut wire, log| {
            let answer = Arc::clone(&answer);
            async move {
                while let Some(request) = wire.request().await {
                    let text = answer(&request);
                    log.requests.lock().push(request);
                    wire.send(&text).await;
                    if text.contains("connection: close") {
                        return;
                    }
                }
            }
        })
        .await
    }

    /// Answers everything with 200 and this text.
    pub(super) async fn says(text: &'static str) -> Self {
        Self::http1(move |_| ok(text)).await
    }

    /// HTTP/2 with prior knowledge: each request's head and body to what is answered.
    pub(super) async fn h2(answer: impl Fn(&http::request::Parts, &Bytes) -> Answer2 + Send + Sync + 'static) -> Self {
        Self::h2_at("127.0.0.1:0".parse().unwrap(), answer).await
    }

    pub(super) async fn h2_at(
        addr: SocketAddr,
        answer: impl Fn(&http::request::Parts, &Bytes) -> Answer2 + Send + Sync + 'static,
    ) -> Self {
        let answer = Arc::new(answer);
        Self::at(addr, move |wire, log| {
            let answer = Arc::clone(&answer);
            async move {
                let Ok(mut connection) = h2::server::handshake(wire.stream).await else { return };
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
                    tokio::spawn(async move {
                        let (parts, mut recv) = request.into_parts();
                        let (body, trailers) = collect(&mut recv).await.unwrap();
                        log.requests.lock().push(message(&parts, &body, trailers));
                        let Answer2 { status, headers, body, trailers } = answer(&parts, &body);
                        let mut head = http::Response::new(());
                        *head.status_mut() = status.try_into().unwrap();
                        *head.headers_mut() = headers;
                        let only = body.is_empty() && trailers.is_none();
                        let mut stream = respond.send_response(head, only).unwrap();
                        if !body.is_empty() {
                            stream.send_data(body, trailers.is_none()).unwrap();
                        }
                        if let Some(trailers) = trailers {
                            stream.send_trailers(trailers).unwrap();
                        }
                    });
                }
            }
        })
        .await
    }

    pub(super) fn requests(&self) -> Vec<Message> {
        self.log.requests.lock().clone()
    }

    /// Requests seen in full.
    pub(super) fn count(&self) -> usize {
        self.log.requests.lock().len()
    }

    pub(super) fn connections(&self) -> usize {
        self.log.connections.load(Ordering::Relaxed)
    }

    /// The only request.
    pub(super) fn only(&self) -> Message {
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests.into_iter().next().unwrap()
    }
}

/// What an HTTP/2 app answers.
#[derive(Default)]
pub(super) struct Answer2 {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) trailers: Option<HeaderMap>,
}

fn message(parts: &http::request::Parts, body: &Bytes, trailers: Option<HeaderMap>) -> Message {
    let fields = |headers: &HeaderMap| -> Vec<(String, String)> {
        headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect()
    };
    let start = format!("{} {} {:?}", parts.method, parts.uri, parts.version);
    Message {
        head: Head { start, fields: fields(&parts.headers) },
        body: body.clone(),
        trailers: trailers.as_ref().map(fields).unwrap_or_default(),
    }
}

/// A whole HTTP/2 body.
pub(super) async fn collect(recv: &mut h2::RecvStream) -> Result<(Bytes, Option<HeaderMap>), h2::Error> {
    let mut body = BytesMut::new();
    while let Some(data) = timeout(PATIENCE, recv.data()).await.expect("no data came") {
        let data = data?;
        recv.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    let trailers = timeout(PATIENCE, recv.trailers()).await.expect("no trailers came")?;
    Ok((body.freeze(), trailers))
}

/// Sends a whole request over HTTP/2 and reads the response.
pub(super) async fn ask_h2(
    send: &h2::client::SendRequest<Bytes>,
    request: http::Request<Bytes>,
) -> Result<(http::Response<Bytes>, Option<HeaderMap>), h2::Error> {
    let (parts, body) = request.into_parts();
    let mut send = send.clone().ready().await?;
    let (response, mut stream) = send.send_request(http::Request::from_parts(parts, ()), body.is_empty())?;
    if !body.is_empty() {
        stream.send_data(body, true)?;
    }
    let response = timeout(PATIENCE, response).await.expect("no response came")?;
    let (parts, mut recv) = response.into_parts();
    let (body, trailers) = collect(&mut recv).await?;
    Ok((http::Response::from_parts(parts, body), trailers))
}

/// A 200 with a length.
pub(super) fn ok(text: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len())
}
