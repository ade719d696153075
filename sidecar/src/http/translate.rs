//! HTTP/1 over the h2 leg between sidecars (SEMANTICS.md §1, the row of that name; RFC 9113 §8.3): heads into what
//! travels and back into what the app spoke. Pure.
//!
//! ```text
//! app ──HTTP/1.x──► outbound ─ to_mesh_h2 ══ h2, x-weft-version ══► inbound ─ from_mesh_h2 ──HTTP/1.x──► app
//! app ◄─HTTP/1.x─── outbound ─ response_from_mesh_h2 ◄═ h2 ═ response_to_mesh_h2 ─ inbound ◄──HTTP/1.x── app
//! ```
//!
//! A client that spoke HTTP/2 is carried the same way without `x-weft-version`, and its server is spoken to in HTTP/2.
//! Not here: which fields a plain-text client may send (`hygiene::strip_untrusted` runs before), framing (`h1::encode`),
//! upgrades and CONNECT (they get a `weft/h1` connection of their own), a reset in mid-body (the connection's matter).

use bytes::{BufMut, BytesMut};
use http::header::{CONTENT_LENGTH, COOKIE, HOST, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Response, StatusCode, Uri, Version, request, response};

use super::h1::{ReasonPhrase, target};
use super::hygiene;

const VERSION: HeaderName = HeaderName::from_static(weft_proto::headers::VERSION);

/// What the client's app spoke, and so what the server's app is spoken to in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AppVersion {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
    /// HTTP/2, in plain text with prior knowledge (h2c)
    H2,
}

impl AppVersion {
    /// As `http` has it.
    pub fn version(self) -> Version {
        match self {
            Self::Http10 => Version::HTTP_10,
            Self::Http11 => Version::HTTP_11,
            Self::H2 => Version::HTTP_2,
        }
    }

    /// Whether 1xx responses may be sent to it: HTTP/1.0 knows none (RFC 9110 §15.2).
    pub fn knows_informational(self) -> bool {
        self != Self::Http10
    }

    /// Whether trailers can be sent to it at all.
    pub fn knows_trailers(self) -> bool {
        self != Self::Http10
    }
}

impl From<Version> for AppVersion {
    fn from(version: Version) -> Self {
        match version {
            Version::HTTP_09 | Version::HTTP_10 => Self::Http10,
            Version::HTTP_11 => Self::Http11,
            _ => Self::H2,
        }
    }
}

/// Why a message cannot be translated. A request is answered 400, a response 502.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// Host and `:authority`, or Host and an absolute target, name different places.
    #[error("Host and :authority (or the absolute target) disagree")]
    Host,
    /// More than one Host.
    #[error("several Host fields")]
    SeveralHosts,
    /// Host or `:authority` is not `host[:port]`.
    #[error("Host or :authority is not a host and an optional port")]
    InvalidHost,
    /// The target has no path where it needs one.
    #[error("the request target has no path")]
    Target,
    /// CONNECT, or 101: an HTTP/2 stream cannot carry it.
    #[error("CONNECT and 101 cannot travel in an HTTP/2 stream: use a weft/h1 connection")]
    Tunnel,
}

/// Makes a request from the local app ready for the h2 leg. `client_version`: what the app spoke.
///
/// `parts.version` is HTTP/2 afterwards, but for a request that names no host (HTTP/1.0 may): that is marked HTTP/1.1,
/// which is how the `h2` crate is told to send it without `:authority`.
///
/// # Errors
/// [`Conflict`]: answer 400.
pub fn to_mesh_h2(mut parts: request::Parts, client_version: Version) -> Result<request::Parts, Conflict> {
    let app = AppVersion::from(client_version);
    if parts.method == Method::CONNECT && app != AppVersion::H2 {
        return Err(Conflict::Tunnel);
    }
    let host = agreed_host(&parts.uri, &parts.headers)?;
    parts.headers.remove(HOST);
    hygiene::strip_hop_by_hop(&mut parts.headers);
    match app {
        AppVersion::Http10 => _ = parts.headers.insert(VERSION, HeaderValue::from_static("1.0")),
        AppVersion::Http11 => _ = parts.headers.insert(VERSION, HeaderValue::from_static("1.1")),
        AppVersion::H2 => _ = parts.headers.remove(VERSION),
    }
    parts.version = if host.is_some() { Version::HTTP_2 } else { Version::HTTP_11 };
    if parts.method != Method::CONNECT {
        let mut uri = std::mem::take(&mut parts.uri).into_parts();
        uri.path_and_query = Some(rooted(uri.path_and_query)?);
        uri.scheme = host.as_ref().map(|_| uri.scheme.unwrap_or(Scheme::HTTP));
        uri.authority = host;
        parts.uri = Uri::from_parts(uri).map_err(|_| Conflict::Target)?;
    }
    Ok(parts)
}

/// Makes a request from a mesh peer ready for the local app: origin-form (or `*`) with Host, one Cookie field, and the
/// version the client's app spoke. A request that says no version is HTTP/2 and stays it.
///
/// # Errors
/// [`Conflict`]: answer 400.
pub fn from_mesh_h2(mut parts: request::Parts) -> Result<(request::Parts, AppVersion), Conflict> {
    let app = match parts.headers.remove(VERSION).as_ref().map(HeaderValue::as_bytes) {
        Some(b"1.0") => AppVersion::Http10,
        Some(b"1.1") => AppVersion::Http11,
        _ => AppVersion::H2,
    };
    let host = agreed_host(&parts.uri, &parts.headers)?;
    if app == AppVersion::H2 {
        // RFC 9113 §8.3.1: `:authority` is what counts; a second copy could only disagree later.
        if parts.uri.authority().is_some() {
            parts.headers.remove(HOST);
        }
        return Ok((parts, app));
    }
    if parts.method == Method::CONNECT {
        return Err(Conflict::Tunnel);
    }
    hygiene::strip_hop_by_hop(&mut parts.headers);
    if let Some(host) = host {
        let host = HeaderValue::from_str(host.as_str()).map_err(|_| Conflict::InvalidHost)?;
        parts.headers.insert(HOST, host);
    } else if app == AppVersion::Http11 {
        return Err(Conflict::InvalidHost);
    }
    join_cookies(&mut parts.headers);
    parts.version = app.version();
    let path = rooted(std::mem::take(&mut parts.uri).into_parts().path_and_query)?;
    parts.uri = Uri::from(path);
    Ok((parts, app))
}

/// Makes a response of the local app ready for the h2 leg. Its head must have been read with unambiguous framing.
///
/// # Errors
/// [`Conflict::Tunnel`] for 101, which only a `weft/h1` connection carries: answer 502.
pub fn response_to_mesh_h2(mut parts: response::Parts) -> Result<response::Parts, Conflict> {
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Conflict::Tunnel);
    }
    hygiene::strip_hop_by_hop(&mut parts.headers);
    drop_meaningless_length(parts.status, &mut parts.headers);
    parts.extensions.remove::<ReasonPhrase>();
    parts.version = Version::HTTP_2;
    Ok(parts)
}

/// Makes a response from a mesh peer ready for a client that spoke `client`. Framing is chosen by
/// [`Framing::for_response`](super::h1::Framing::for_response); a 1xx is not for a client that
/// [knows none](AppVersion::knows_informational).
pub fn response_from_mesh_h2<B>(response: &mut Response<B>, client: AppVersion) {
    let status = response.status();
    hygiene::strip_hop_by_hop(response.headers_mut());
    drop_meaningless_length(status, response.headers_mut());
    *response.version_mut() = client.version();
}

/// 1xx and 204 have no content and no length (RFC 9110 §8.6); with HEAD and 304 the length is that of GET's content, and
/// stays.
fn drop_meaningless_length(status: StatusCode, headers: &mut HeaderMap) {
    if status.is_informational() || status == StatusCode::NO_CONTENT {
        headers.remove(CONTENT_LENGTH);
    }
}

/// The one host that URI and Host agree on; `None` when neither names one.
fn agreed_host(uri: &Uri, headers: &HeaderMap) -> Result<Option<Authority>, Conflict> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => return Err(Conflict::SeveralHosts),
        (host, _) => host.map(HeaderValue::as_bytes),
    };
    let authority = uri.authority();
    if let Some(host) = host
        && !target::is_host(host)
    {
        return Err(Conflict::InvalidHost);
    }
    match (authority, host) {
        (Some(authority), _) if !target::is_host(authority.as_str().as_bytes()) => Err(Conflict::InvalidHost),
        (Some(authority), Some(host))
            if !target::same_authority(host, authority.as_str().as_bytes(), uri.scheme_str()) =>
        {
            Err(Conflict::Host)
        }
        (Some(authority), _) => Ok(Some(authority.clone())),
        (None, Some(host)) => Authority::try_from(host).map(Some).map_err(|_| Conflict::InvalidHost),
        (None, None) => Ok(None),
    }
}

/// A path that starts with `/`, or `*`.
fn rooted(path: Option<PathAndQuery>) -> Result<PathAndQuery, Conflict> {
    match path {
        None => Ok(PathAndQuery::from_static("/")),
        Some(path) if path.as_str().starts_with('/') || path.as_str() == "*" => Ok(path),
        // `http://h?q`
        Some(path) => PathAndQuery::try_from(format!("/{}", path.as_str())).map_err(|_| Conflict::Target),
    }
}

/// RFC 9113 §8.2.3: Cookie fields are joined by `; ` before they leave HTTP/2.
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let mut joined = BytesMut::new();
    for crumb in headers.get_all(COOKIE) {
        if !joined.is_empty() {
            joined.put_slice(b"; ");
        }
        joined.put_slice(crumb.as_bytes());
    }
    if let Ok(joined) = HeaderValue::from_maybe_shared(joined.freeze()) {
        headers.insert(COOKIE, joined);
    }
}

#[cfg(test)]
mod tests;
