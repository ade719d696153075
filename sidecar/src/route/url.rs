//! Where a request is redirected to, and what it is rewritten to (Gateway API `HTTPRequestRedirectFilter`,
//! `HTTPURLRewriteFilter`, `HTTPPathModifier`).
//!
//! - The query is always kept.
//! - A prefix is replaced by segments, as it is matched: of prefix and replacement a trailing slash is ignored, and what is
//!   left empty is `/`. The specification's table is this file's test. Prefix `/` and path `/` are the whole path.
//! - The port of a redirect: the one given; else the scheme's own, where a scheme is given; else the port that the client called,
//!   which stands for the Gateway's listener. The ports 80 of http and 443 of https are left out.
//! - What apps say to their sidecar is http, so that is the scheme of a redirect that names none.
//! - A request that names no host (HTTP/1.0 may) is redirected by a relative reference, unless the filter has a host.
//! - The rewritten host is what the server sees, in Host and `:authority` alike. It is no destination: which endpoint
//!   is asked, and which identity it has to prove, has been settled by the rule's backends.

use std::borrow::Cow;

use http::header::{HOST, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, Method, StatusCode, Uri};

use crate::http::h1::target;

/// What becomes of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathEdit {
    /// The whole of it is replaced.
    Full(Box<str>),
    /// What a prefix has matched is replaced.
    Prefix {
        /// Without a trailing slash, so that `/` is empty.
        matched: Box<str>,
        /// Likewise.
        replacement: Box<str>,
    },
}

/// A path or host that no request can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUrl {
    /// A path.
    #[error("path {0:?} has to start with /, and to be without ? and # and blanks")]
    Path(String),
    /// A host.
    #[error("{0:?} is not the name of a host")]
    Host(String),
    /// A redirect's status.
    #[error("{0} is not 301, 302, 303, 307 or 308")]
    Status(u32),
    /// A redirect's scheme.
    #[error("{0:?} is neither http nor https")]
    Scheme(String),
}

/// What came out is longer than a request target can be, or there is none to edit (CONNECT).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the route changes this request's target to one that cannot be sent")]
pub struct Unsendable;

impl PathEdit {
    /// `path` instead of the whole.
    ///
    /// # Errors
    /// When no path can be that.
    pub fn full(path: &str) -> Result<Self, InvalidUrl> {
        Ok(Self::Full(checked(path)?.into()))
    }

    /// `replacement`, which may be empty, instead of `matched`.
    ///
    /// # Errors
    /// When no path can be either.
    pub fn prefix(matched: &str, replacement: &str) -> Result<Self, InvalidUrl> {
        let replacement = if replacement.is_empty() { "" } else { unslashed(checked(replacement)?) };
        Ok(Self::Prefix { matched: unslashed(checked(matched)?).into(), replacement: replacement.into() })
    }

    /// The new path. One that the prefix does not match stays as it is: its rule would not have matched it.
    fn apply<'p>(&'p self, path: &'p str) -> Cow<'p, str> {
        let (matched, replacement) = match self {
            Self::Full(path) => return Cow::Borrowed(path),
            Self::Prefix { matched, replacement } => (&**matched, &**replacement),
        };
        let rest = match path.strip_prefix(matched) {
            Some("/") if matched.is_empty() => "",
            Some(rest) if rest.is_empty() || rest.starts_with('/') => rest,
            _ => return Cow::Borrowed(path),
        };
        match (replacement, rest) {
            ("", "") => Cow::Borrowed("/"),
            ("", rest) => Cow::Borrowed(rest),
            (replacement, "") => Cow::Borrowed(replacement),
            (replacement, rest) => Cow::Owned(format!("{replacement}{rest}")),
        }
    }
}

fn checked(path: &str) -> Result<&str, InvalidUrl> {
    let legal = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#');
    let is_path = path.starts_with('/') && path.bytes().all(legal);
    if is_path && PathAndQuery::try_from(path).is_ok() { Ok(path) } else { Err(InvalidUrl::Path(path.to_owned())) }
}

fn unslashed(path: &str) -> &str {
    path.strip_suffix('/').unwrap_or(path)
}

/// Changes what the server is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    host: Option<(Authority, HeaderValue)>,
    path: Option<PathEdit>,
}

impl Rewrite {
    /// An empty `hostname` stays as it is.
    ///
    /// # Errors
    /// When `hostname` is no host.
    pub fn new(hostname: &str, path: Option<PathEdit>) -> Result<Self, InvalidUrl> {
        Ok(Self { host: host(hostname)?, path })
    }

    /// Does it.
    ///
    /// # Errors
    /// [`Unsendable`]: answer 400.
    pub fn apply(&self, request: &mut Parts) -> Result<(), Unsendable> {
        if request.method == Method::CONNECT {
            // Its target is a host, and the one who is to be connected to.
            return Err(Unsendable);
        }
        if let Some(path) = &self.path {
            let new = with_query(&path.apply(request.uri.path()), request.uri.query())?;
            change(&mut request.uri, |parts| parts.path_and_query = Some(new))?;
        }
        if let Some((authority, value)) = &self.host {
            set_host(request, authority.clone(), value.clone())?;
        }
        Ok(())
    }
}

/// Over HTTP/2 a host is in `:authority`, and Host need not be there; in HTTP/1 it is the other way round. Where both are they
/// have to agree.
fn set_host(request: &mut Parts, authority: Authority, value: HeaderValue) -> Result<(), Unsendable> {
    let in_uri = request.uri.authority().is_some();
    if in_uri {
        change(&mut request.uri, |parts| parts.authority = Some(authority))?;
    }
    if !in_uri || request.headers.contains_key(HOST) {
        request.headers.insert(HOST, value);
    }
    Ok(())
}

/// Host has been edited like any other header: where the host is in the target as well, it becomes the same.
pub(super) fn host_edited(request: &mut Parts) {
    if request.uri.authority().is_none() || request.method == Method::CONNECT {
        return;
    }
    let edited = request.headers.get(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    if let Some(authority) = edited {
        // One that cannot be is left to disagree with Host, and is answered 400.
        let _ = change(&mut request.uri, |parts| parts.authority = Some(authority));
    }
}

fn change(uri: &mut Uri, edit: impl FnOnce(&mut http::uri::Parts)) -> Result<(), Unsendable> {
    let mut parts = std::mem::take(uri).into_parts();
    edit(&mut parts);
    *uri = Uri::from_parts(parts).map_err(|_| Unsendable)?;
    Ok(())
}

fn with_query(path: &str, query: Option<&str>) -> Result<PathAndQuery, Unsendable> {
    let whole = match query {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
        None => PathAndQuery::try_from(path),
    };
    whole.map_err(|_| Unsendable)
}

fn host(name: &str) -> Result<Option<(Authority, HeaderValue)>, InvalidUrl> {
    if name.is_empty() {
        return Ok(None);
    }
    let refused = || InvalidUrl::Host(name.to_owned());
    if !target::is_host(name.as_bytes()) {
        return Err(refused());
    }
    let authority = Authority::try_from(name).map_err(|_| refused())?;
    Ok(Some((authority, HeaderValue::try_from(name).map_err(|_| refused())?)))
}

/// Answers with another place to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// Whether it leads to https; `None`: as the request.
    https: Option<bool>,
    host: Option<Box<str>>,
    path: Option<PathEdit>,
    port: u16,
    status: StatusCode,
}

impl Redirect {
    /// `scheme` and `hostname` may be empty; `port` zero says that there is none; `called` is the port that clients call.
    ///
    /// # Errors
    /// Names what no redirect can have.
    pub fn new(
        scheme: &str,
        hostname: &str,
        path: Option<PathEdit>,
        port: u16,
        status: u32,
        called: u16,
    ) -> Result<Self, InvalidUrl> {
        let https = match scheme {
            "" => None,
            "http" => Some(false),
            "https" => Some(true),
            other => return Err(InvalidUrl::Scheme(other.to_owned())),
        };
        let known = matches!(status, 301 | 302 | 303 | 307 | 308);
        let code = u16::try_from(status).ok().filter(|_| known).and_then(|status| StatusCode::from_u16(status).ok());
        let status = code.ok_or(InvalidUrl::Status(status))?;
        let port = match (port, https) {
            (0, Some(true)) => 443,
            (0, Some(false)) => 80,
            (0, None) => called,
            (port, _) => port,
        };
        Ok(Self { https, host: host(hostname)?.map(|(host, _)| host.as_str().into()), path, port, status })
    }

    /// The answer's status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Where to.
    ///
    /// # Errors
    /// [`Unsendable`]: answer 400.
    pub fn location(&self, request: &Parts) -> Result<HeaderValue, Unsendable> {
        let path = match request.uri.path() {
            // CONNECT has no path, and `OPTIONS *` asks the server itself.
            "" | "*" => "/",
            path => path,
        };
        let path = self.path.as_ref().map_or(Cow::Borrowed(path), |edit| edit.apply(path));
        let https = self.https.unwrap_or(false);
        let mut location = String::with_capacity(256);
        match self.host.as_deref().or_else(|| host_of(&request.uri, &request.headers)) {
            Some(host) => {
                location.push_str(if https { "https://" } else { "http://" });
                location.push_str(host);
                if self.port != if https { 443 } else { 80 } {
                    location.push_str(&format!(":{}", self.port));
                }
            }
            // A path of `//` would be read as a host.
            None if path.starts_with("//") => location.push_str("/."),
            None => {}
        }
        location.push_str(&path);
        if let Some(query) = request.uri.query() {
            location.push('?');
            location.push_str(query);
        }
        HeaderValue::try_from(location).map_err(|_| Unsendable)
    }
}

/// The host a request asks for, without its port.
fn host_of<'r>(uri: &'r Uri, headers: &'r HeaderMap) -> Option<&'r str> {
    match uri.authority() {
        Some(authority) => target::host_of(authority.as_str()),
        None => target::host_of(headers.get(HOST)?.to_str().ok()?),
    }
}

#[cfg(test)]
mod tests;
