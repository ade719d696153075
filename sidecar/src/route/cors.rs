//! Cross-origin requests (Gateway API `HTTPCORSFilter`, GEP-1767; the Fetch standard's "CORS protocol").
//!
//! A preflight (OPTIONS with `Origin` and `Access-Control-Request-Method`) is answered 204 here and never reaches the backend;
//! an origin that is not allowed gets the same without the headers, by which its browser knows. Any other request goes on:
//! CORS tells browsers what to let scripts read, it keeps nobody out. Its response says who may read it, in place of what
//! the app says: one policy counts, the route's.
//!
//! `*` stands for all, unless credentials are allowed: browsers do not take it then, so the request's own origin, method and
//! headers are named in its place, and `exposeHeaders: ["*"]`, for which there is nothing to name, is left out. Where the answer
//! depends on the origin, `Vary: Origin` says so to caches.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS as ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS as ALLOW_HEADERS,
    ACCESS_CONTROL_ALLOW_METHODS as ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN as ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS as EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE as MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS as REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD as REQUEST_METHOD, HeaderMap,
    HeaderName, HeaderValue, ORIGIN, VARY,
};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use weft_proto::{InvalidOrigin, OriginPattern};

use crate::http::hygiene;

const ANY: HeaderValue = HeaderValue::from_static("*");

/// Who may read responses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    origins: Box<[OriginPattern]>,
    credentials: bool,
    methods: List,
    headers: List,
    expose: Option<HeaderValue>,
    max_age: HeaderValue,
}

/// Methods or headers that are allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum List {
    None,
    Any,
    Named(HeaderValue),
}

/// As configured.
#[derive(Debug, Clone, Copy, Default)]
pub struct CorsConfig<'c> {
    /// `*` alone, or patterns.
    pub allow_origins: &'c [String],
    /// Whether requests may carry cookies and the like.
    pub allow_credentials: bool,
    /// `*` alone, or methods.
    pub allow_methods: &'c [String],
    /// `*` alone, or headers of requests.
    pub allow_headers: &'c [String],
    /// `*` alone, or headers of responses.
    pub expose_headers: &'c [String],
    /// Seconds for which a browser remembers a preflight.
    pub max_age: u32,
}

/// A policy cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCors {
    /// Not an origin.
    #[error("{0:?}: {1}")]
    Origin(String, InvalidOrigin),
    /// Not a method.
    #[error("{0:?} is not a method")]
    Method(String),
    /// Not a header.
    #[error("{0:?} is not the name of a header")]
    Header(String),
}

impl Cors {
    /// Compiles.
    ///
    /// # Errors
    /// Names what is no origin, method or header.
    pub fn new(config: CorsConfig<'_>) -> Result<Self, InvalidCors> {
        let origin = |text: &String| text.parse().map_err(|error| InvalidCors::Origin(text.clone(), error));
        for method in config.allow_methods {
            Method::from_bytes(method.as_bytes()).map_err(|_| InvalidCors::Method(method.clone()))?;
        }
        for header in config.allow_headers.iter().chain(config.expose_headers) {
            HeaderName::from_bytes(header.as_bytes()).map_err(|_| InvalidCors::Header(header.clone()))?;
        }
        let expose = match list(config.expose_headers) {
            List::Named(names) => Some(names),
            List::Any if !config.allow_credentials => Some(ANY),
            List::Any | List::None => None,
        };
        Ok(Self {
            origins: config.allow_origins.iter().map(origin).collect::<Result<_, _>>()?,
            credentials: config.allow_credentials,
            methods: list(config.allow_methods),
            headers: list(config.allow_headers),
            expose,
            max_age: config.max_age.into(),
        })
    }

    /// The answer, if the request is a preflight.
    pub fn preflight(&self, request: &Parts) -> Option<Response<()>> {
        let asked = request.headers.get(REQUEST_METHOD)?;
        if request.method != Method::OPTIONS || !request.headers.contains_key(ORIGIN) {
            return None;
        }
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        let shared = self.share(&request.headers);
        shared.apply(headers);
        if matches!(shared.with, With::Origin(_)) {
            let named = |list: &List, asked: Option<&HeaderValue>| match list {
                List::Named(names) => Some(names.clone()),
                List::Any if !self.credentials => Some(ANY),
                List::Any => asked.cloned(),
                List::None => None,
            };
            if let Some(methods) = named(&self.methods, Some(asked)) {
                headers.insert(ALLOW_METHODS, methods);
            }
            if let Some(names) = named(&self.headers, request.headers.get(REQUEST_HEADERS)) {
                headers.insert(ALLOW_HEADERS, names);
            }
            headers.insert(MAX_AGE, self.max_age.clone());
        }
        Some(response)
    }

    /// What the response to a request with these headers says of who may read it.
    pub fn share(&self, request: &HeaderMap) -> Shared {
        let all = self.origins.contains(&OriginPattern::Any) && !self.credentials;
        let with = match request.get(ORIGIN) {
            None => With::Unasked,
            Some(_) if all => With::Origin(ANY),
            Some(origin) => {
                let text = origin.to_str().ok();
                let allowed = text.is_some_and(|origin| self.origins.iter().any(|pattern| pattern.matches(origin)));
                if allowed { With::Origin(origin.clone()) } else { With::Nobody }
            }
        };
        Shared { with, varies: !all, credentials: self.credentials, expose: self.expose.clone() }
    }
}

fn list(items: &[String]) -> List {
    match items {
        [] => List::None,
        items if items.iter().any(|item| item == "*") => List::Any,
        // Tokens, all of them.
        items => HeaderValue::try_from(items.join(", ")).map_or(List::None, List::Named),
    }
}

/// Who may read one response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared {
    with: With,
    varies: bool,
    credentials: bool,
    expose: Option<HeaderValue>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum With {
    /// No browser asked: what the app says stays.
    Unasked,
    /// The origin is not allowed.
    Nobody,
    Origin(HeaderValue),
}

impl Shared {
    /// Says so in a response's headers.
    pub fn apply(&self, headers: &mut HeaderMap) {
        if self.varies && !hygiene::lists(headers, &VARY, "origin") && !hygiene::lists(headers, &VARY, "*") {
            headers.append(VARY, HeaderValue::from_static("origin"));
        }
        if self.with == With::Unasked {
            return;
        }
        for name in [ALLOW_ORIGIN, ALLOW_CREDENTIALS, EXPOSE_HEADERS] {
            headers.remove(name);
        }
        let With::Origin(origin) = &self.with else { return };
        headers.insert(ALLOW_ORIGIN, origin.clone());
        if self.credentials {
            headers.insert(ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        if let Some(expose) = &self.expose {
            headers.insert(EXPOSE_HEADERS, expose.clone());
        }
    }
}

#[cfg(test)]
mod tests;
