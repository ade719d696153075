//! HTTP probes and hooks, by kubelet's rules (Kubernetes `pkg/probe/http`, `pkg/kubelet/lifecycle`):
//!
//! * GET over HTTP/1.1 on a connection of its own, `Connection: close`; HTTPS believes any certificate.
//! * `User-Agent` is kubelet's or ours (`probe.rs`) and `Accept: */*`, unless the probe has its own; an empty `Accept` sends
//!   none; `Host` is the address, unless the probe has its own.
//! * Good is a status from 200 to 399, and a body that does not break off within its first 10 KiB.
//! * A redirect is followed, ten times, while it stays on the host it began on (whatever the port and scheme); one that
//!   leads elsewhere, or nowhere, is itself the answer, and good. `Host` of the probe's own goes along if the redirect
//!   names no host.
//! * A hook is good when there is any answer; one of scheme HTTPS that meets plain HTTP is sent again as that.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, HOST, LOCATION, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::spec::HttpCheck;
use super::{Failure, dial};

/// Redirects followed.
const MAX_REDIRECTS: u32 = 10;
/// Bytes of a body that are read.
const MAX_BODY: usize = 10 * 1024;

/// Where one request of a probe goes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    tls: bool,
    /// As in the URL: a name, or the address itself.
    host: String,
    port: u16,
    path: PathAndQuery,
}

pub(super) async fn run(
    check: &HttpCheck,
    address: IpAddr,
    user_agent: &HeaderValue,
    hook: bool,
) -> Result<(), Failure> {
    let target = Target {
        tls: check.tls,
        host: check.host.clone().unwrap_or_else(|| address.to_string()),
        port: check.port.get(),
        path: path(&check.path)?,
    };
    let headers = headers(&check.headers, user_agent);
    match follow(target.clone(), address, &headers).await {
        Ok(_) if hook => Ok(()),
        Ok(status) if status.is_success() || status.is_redirection() => Ok(()),
        Ok(status) => Err(Failure::Status(status)),
        Err(Failure::Tls { why, .. }) if hook && is_not_tls(&why) => {
            follow(Target { tls: false, ..target }, address, &headers).await.map(drop)
        }
        Err(error) => Err(error),
    }
}

/// The status at the end of all redirects.
async fn follow(mut target: Target, address: IpAddr, headers: &HeaderMap) -> Result<StatusCode, Failure> {
    let mut own_host = headers.get(HOST).cloned();
    for _ in 0..=MAX_REDIRECTS {
        let response = get(&target, address, headers, own_host.as_ref()).await?;
        let status = response.status();
        let next = match (is_followed(status), response.headers().get(LOCATION)) {
            (true, Some(location)) => target.next(location),
            _ => None,
        };
        match next {
            Some((next, relative)) if next.host.eq_ignore_ascii_case(&target.host) => {
                if !relative {
                    own_host = None;
                }
                target = next;
            }
            _ => return drain(response).await.map(|()| status),
        }
    }
    Err(Failure::Redirects(MAX_REDIRECTS))
}

async fn get(
    target: &Target,
    address: IpAddr,
    headers: &HeaderMap,
    own_host: Option<&HeaderValue>,
) -> Result<Answered, Failure> {
    let address = SocketAddr::new(address, target.port);
    let stream = dial(address).await?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = target.path.clone().into();
    *request.headers_mut() = headers.clone();
    let host = match own_host {
        Some(host) => host.clone(),
        None => HeaderValue::from_str(&target.authority()).map_err(http::Error::from)?,
    };
    request.headers_mut().insert(HOST, host);
    if !target.tls {
        return exchange(stream, request).await;
    }
    // As kubelet's client: an address is no server name, and goes unnamed.
    let name = ServerName::try_from(target.host.clone()).unwrap_or_else(|_| address.ip().into());
    let failed = |why| Failure::Tls { address, why };
    let config = believing().map_err(|why| failed(std::io::Error::other(why)))?;
    exchange(TlsConnector::from(config).connect(name, stream).await.map_err(failed)?, request).await
}

/// A response whose connection lives as long as it does.
struct Answered {
    response: Response<Incoming>,
    _driver: JoinSet<()>,
}

impl Answered {
    fn status(&self) -> StatusCode {
        self.response.status()
    }

    fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }
}

async fn exchange<IO>(io: IO, request: Request<Empty<Bytes>>) -> Result<Answered, Failure>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut send, connection) =
        hyper::client::conn::http1::Builder::new().title_case_headers(true).handshake(TokioIo::new(io)).await?;
    let mut driver = JoinSet::new();
    driver.spawn(async move {
        // Its failure is the request's.
        let _ = connection.await;
    });
    let response = send.send_request(request).await?;
    Ok(Answered { response, _driver: driver })
}

async fn drain(answered: Answered) -> Result<(), Failure> {
    let Answered { mut response, _driver } = answered;
    let mut read = 0;
    while let Some(frame) = response.body_mut().frame().await {
        read += frame?.data_ref().map_or(0, Bytes::len);
        if read >= MAX_BODY {
            break;
        }
    }
    Ok(())
}

fn headers(given: &HeaderMap, user_agent: &HeaderValue) -> HeaderMap {
    let mut headers = given.clone();
    if !headers.contains_key(USER_AGENT) {
        headers.insert(USER_AGENT, user_agent.clone());
    }
    match headers.get(ACCEPT) {
        None => _ = headers.insert(ACCEPT, HeaderValue::from_static("*/*")),
        Some(accept) if accept.is_empty() => _ = headers.remove(ACCEPT),
        Some(_) => {}
    }
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers
}

/// The path as the object has it: a leading slash may be missing, and what no URL may hold is escaped.
fn path(given: &str) -> Result<PathAndQuery, Failure> {
    let given = given.split_once('#').map_or(given, |(path, _)| path);
    let mut text = String::with_capacity(given.len() + 1);
    if !given.starts_with('/') {
        text.push('/');
    }
    for byte in given.bytes() {
        match byte {
            0x21..=0x7e if !matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}') => {
                text.push(char::from(byte));
            }
            other => text.push_str(&format!("%{other:02X}")),
        }
    }
    Ok(text.parse::<PathAndQuery>().map_err(http::Error::from)?)
}

fn is_followed(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

impl Target {
    fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let default = if self.tls { 443 } else { 80 };
        if self.port == default { host } else { format!("{host}:{}", self.port) }
    }

    /// Where `location` leads, and whether it names no host. `None`: nowhere we can go.
    fn next(&self, location: &HeaderValue) -> Option<(Self, bool)> {
        let location = location.to_str().ok()?;
        let absolute = |tls: bool, rest: &str| {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let (authority, rest) = rest.split_at(end);
            let authority = authority.parse::<http::uri::Authority>().ok()?;
            let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
            let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
            Some((Self { tls, host, port, path: path(rest).ok()? }, false))
        };
        if let Some(rest) = location.strip_prefix("http://") {
            absolute(false, rest)
        } else if let Some(rest) = location.strip_prefix("https://") {
            absolute(true, rest)
        } else if let Some(rest) = location.strip_prefix("//") {
            absolute(self.tls, rest)
        } else {
            let base = self.path.path();
            let text = match location.chars().next() {
                Some('/') => location.to_owned(),
                Some('?') => format!("{base}{location}"),
                None | Some('#') => self.path.to_string(),
                Some(_) => {
                    format!("{}{location}", base.rsplit_once('/').map_or("/", |(folder, _)| &base[..=folder.len()]))
                }
            };
            Some((Self { path: path(&text).ok()?, ..self.clone() }, true))
        }
    }
}

fn is_not_tls(why: &std::io::Error) -> bool {
    let inner = why.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidMessage(_)))
}

/// TLS 1.2 or 1.3 with whoever answers: kubelet verifies nothing either, and nothing secret is sent.
fn believing() -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Believes any certificate.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(tls: bool, host: &str, port: u16, path: &str) -> Target {
        Target { tls, host: host.to_owned(), port, path: super::path(path).unwrap() }
    }

    #[test]
    fn a_redirect_leads_where_its_location_says() {
        let from = target(false, "10.0.0.7", 8080, "/a/b?q=1");
        for (location, expected) in [
            ("/c", Some((target(false, "10.0.0.7", 8080, "/c"), true))),
            ("c?d=1", Some((target(false, "10.0.0.7", 8080, "/a/c?d=1"), true))),
            ("?d", Some((target(false, "10.0.0.7", 8080, "/a/b?d"), true))),
            ("", Some((target(false, "10.0.0.7", 8080, "/a/b?q=1"), true))),
            ("#f", Some((target(false, "10.0.0.7", 8080, "/a/b?q=1"), true))),
            ("//10.0.0.7/c", Some((target(false, "10.0.0.7", 80, "/c"), false))),
            ("http://10.0.0.7:9/c#f", Some((target(false, "10.0.0.7", 9, "/c"), false))),
            ("https://10.0.0.7", Some((target(true, "10.0.0.7", 443, "/"), false))),
            ("https://[fd00::1]:9?x", Some((target(true, "fd00::1", 9, "/?x"), false))),
            ("http://shop.example/c", Some((target(false, "shop.example", 80, "/c"), false))),
            ("http://a b/", None),
        ] {
            assert_eq!(from.next(&HeaderValue::from_str(location).unwrap()), expected, "{location}");
        }
    }

    #[test]
    fn a_path_is_made_fit_for_a_url() {
        for (given, expected) in [
            ("", "/"),
            ("/", "/"),
            ("healthz", "/healthz"),
            ("/a?b=c&d=%20", "/a?b=c&d=%20"),
            ("/a b", "/a%20b"),
            ("/ä", "/%C3%A4"),
            ("/a#b", "/a"),
        ] {
            assert_eq!(path(given).unwrap().as_str(), expected, "{given:?}");
        }
    }

    #[test]
    fn the_host_is_named_as_a_url_would() {
        for (target, expected) in [
            (target(false, "10.0.0.7", 80, "/"), "10.0.0.7"),
            (target(false, "10.0.0.7", 443, "/"), "10.0.0.7:443"),
            (target(true, "fd00::1", 443, "/"), "[fd00::1]"),
            (target(true, "fd00::1", 8443, "/"), "[fd00::1]:8443"),
        ] {
            assert_eq!(target.authority(), expected);
        }
    }
}
