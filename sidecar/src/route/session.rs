//! Sessions that stay with an endpoint (Gateway API `SessionPersistence`, GEP-1619).
//!
//! The client holds the session: a token in a cookie, or in a header that it sends back. The token says which backend of the rule and
//! which endpoint of it answered first, and when; so every proxy reads it, nothing is remembered, and a backend whose
//! weight went to zero keeps the sessions it has. With an endpoint that is gone its sessions are: they are balanced anew. Where it
//! is not ready, ejected, or a try fails there, another one of the same backend answers. Each time the client gets a new token.
//!
//! Names and addresses are hashed (FNV-1a), since cookies wander: what a client can make of a token is to ask for another
//! endpoint of the same rule.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::header::{COOKIE, HeaderMap, HeaderName, HeaderValue, SET_COOKIE};

/// How a rule's sessions are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Cookie or header.
    name: HeaderName,
    as_written: Box<str>,
    /// What follows a cookie's value; `None`: it is a header.
    attributes: Option<Box<str>>,
    /// Seconds from the first answer on.
    lasts: Option<u64>,
}

/// A session cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSession {
    /// Not the name of a cookie or header.
    #[error("{0:?} is not the name of a cookie or header")]
    Name(String),
    /// Cannot be said in a cookie.
    #[error("{0:?} is not a cookie's path")]
    Path(String),
    /// A cookie that outlives the browser has to end some time.
    #[error("a permanent cookie needs a time")]
    Endless,
}

/// Where a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    backend: u64,
    endpoint: u64,
    /// Seconds since 1970.
    issued: u64,
}

impl Token {
    /// For what `endpoint` of `backend` has answered.
    pub fn new(backend: &str, endpoint: SocketAddr, issued: u64) -> Self {
        Self { backend: hash(backend.as_bytes()), endpoint: hash_of(endpoint), issued }
    }

    /// Whether it is of this backend.
    pub fn is_of(&self, backend: &str) -> bool {
        self.backend == hash(backend.as_bytes())
    }

    /// Whether it is at this endpoint.
    pub fn is_at(&self, endpoint: SocketAddr) -> bool {
        self.endpoint == hash_of(endpoint)
    }

    fn text(self) -> String {
        format!("{:016x}{:016x}{:x}", self.backend, self.endpoint, self.issued)
    }

    fn parse(text: &str) -> Option<Self> {
        let hex = |range| u64::from_str_radix(text.get(range)?, 16).ok();
        let legal = text.len() <= 48 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let token = Self { backend: hex(0..16)?, endpoint: hex(16..32)?, issued: hex(32..text.len())? };
        legal.then_some(token)
    }
}

impl std::fmt::Display for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = if self.attributes.is_some() { "cookie" } else { "header" };
        write!(f, "sessions by {what} {}", self.as_written)
    }
}

impl Session {
    /// In a cookie for this path; `permanent`: which outlives the browser, for as long as `lasts` says.
    ///
    /// # Errors
    /// Says what no cookie can have.
    pub fn cookie(name: &str, path: &str, lasts: Option<Duration>, permanent: bool) -> Result<Self, InvalidSession> {
        let legal = |byte: u8| byte.is_ascii_graphic() && byte != b';';
        if !path.starts_with('/') || !path.bytes().all(legal) {
            return Err(InvalidSession::Path(path.to_owned()));
        }
        Self::with_attributes(name, &format!("; Path={path}"), lasts, permanent)
    }

    /// The same without a path: the client keeps it for what is beside the path that it asked for (RFC 6265 §5.1.4).
    ///
    /// # Errors
    /// Says what no cookie can have.
    pub fn cookie_for_any_path(name: &str, lasts: Option<Duration>, permanent: bool) -> Result<Self, InvalidSession> {
        Self::with_attributes(name, "", lasts, permanent)
    }

    fn with_attributes(
        name: &str,
        path: &str,
        lasts: Option<Duration>,
        permanent: bool,
    ) -> Result<Self, InvalidSession> {
        let max_age = match (permanent, lasts) {
            (false, _) => String::new(),
            (true, Some(lasts)) => format!("; Max-Age={}", lasts.as_secs().max(1)),
            (true, None) => return Err(InvalidSession::Endless),
        };
        let attributes = Some(format!("{path}; HttpOnly; SameSite=Lax{max_age}").into());
        Ok(Self { attributes, ..Self::header(name, lasts)? })
    }

    /// In a header.
    ///
    /// # Errors
    /// When `name` is none.
    pub fn header(name: &str, lasts: Option<Duration>) -> Result<Self, InvalidSession> {
        let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| InvalidSession::Name(name.to_owned()))?;
        if weft_proto::headers::is_out_of_bounds(parsed.as_str()) {
            return Err(InvalidSession::Name(name.to_owned()));
        }
        let lasts = lasts.map(|lasts| lasts.as_secs().max(1));
        Ok(Self { name: parsed, as_written: name.into(), attributes: None, lasts })
    }

    /// The session of a request with these headers, unless its time is over.
    pub fn read(&self, headers: &HeaderMap, now: u64) -> Option<Token> {
        let mut found = if self.attributes.is_some() {
            let crumbs = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
            let mut values = crumbs.flat_map(|line| line.split(';')).filter_map(|crumb| crumb.trim().split_once('='));
            values.find(|(name, _)| **name == *self.as_written).and_then(|(_, value)| Token::parse(value))
        } else {
            Token::parse(headers.get(&self.name)?.to_str().ok()?)
        };
        if let (Some(token), Some(lasts)) = (&found, self.lasts) {
            // One from the future was not made here.
            let age = now.checked_sub(token.issued);
            if age.is_none_or(|age| age >= lasts) {
                found = None;
            }
        }
        found
    }

    /// Gives the client its session.
    pub fn write(&self, token: Token, headers: &mut HeaderMap) {
        let text = token.text();
        match &self.attributes {
            Some(attributes) => {
                if let Ok(value) = HeaderValue::try_from(format!("{}={text}{attributes}", self.as_written)) {
                    headers.append(SET_COOKIE, value);
                }
            }
            None => {
                if let Ok(value) = HeaderValue::try_from(text) {
                    headers.insert(&self.name, value);
                }
            }
        }
    }
}

fn hash_of(endpoint: SocketAddr) -> u64 {
    let port = endpoint.port().to_be_bytes();
    match endpoint.ip() {
        IpAddr::V4(ip) => more(hash(&ip.octets()), &port),
        IpAddr::V6(ip) => more(hash(&ip.octets()), &port),
    }
}

fn hash(bytes: &[u8]) -> u64 {
    more(0xcbf2_9ce4_8422_2325, bytes)
}

fn more(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// What a client sends after an answer with these headers.
    fn sent_back(answer: &HeaderMap, header: &str) -> HeaderMap {
        let mut request = HeaderMap::new();
        if let Some(cookie) = answer.get(SET_COOKIE) {
            let crumb = cookie.to_str().unwrap().split(';').next().unwrap().to_owned();
            request.append(COOKIE, HeaderValue::from_static("a=b; session=other"));
            request.append(COOKIE, HeaderValue::try_from(format!("c=d; {crumb}")).unwrap());
        }
        if let Some(value) = answer.get(header) {
            request.insert(HeaderName::try_from(header).unwrap(), value.clone());
        }
        request
    }

    #[test]
    fn a_token_comes_back_as_it_was_given() {
        let token = Token::new("shop/v2:80", at("10.1.0.7:8080"), 1_700_000_000);
        for session in [Session::cookie("Weft-S", "/", None, false).unwrap(), Session::header("X-S", None).unwrap()] {
            let mut answer = HeaderMap::new();
            session.write(token, &mut answer);
            assert_eq!(session.read(&sent_back(&answer, "x-s"), 0), Some(token), "{answer:?}");
        }
        assert!(token.is_of("shop/v2:80") && !token.is_of("shop/v1:80"));
        assert!(
            token.is_at(at("10.1.0.7:8080")) && !token.is_at(at("10.1.0.7:8081")) && !token.is_at(at("10.1.0.8:8080"))
        );
    }

    #[test]
    fn a_cookie_says_where_it_belongs_and_how_long_it_lasts() {
        let token = Token::new("b", at("[fd00::1]:80"), 1);
        let said = |session: Session| {
            let mut answer = HeaderMap::new();
            session.write(token, &mut answer);
            answer[SET_COOKIE].to_str().unwrap().split_once("; ").unwrap().1.to_owned()
        };
        let hour = Some(Duration::from_secs(3600));
        assert_eq!(said(Session::cookie("s", "/a", hour, false).unwrap()), "Path=/a; HttpOnly; SameSite=Lax");
        assert_eq!(
            said(Session::cookie("s", "/", hour, true).unwrap()),
            "Path=/; HttpOnly; SameSite=Lax; Max-Age=3600"
        );
        assert_eq!(said(Session::cookie_for_any_path("s", None, false).unwrap()), "HttpOnly; SameSite=Lax");
    }

    #[test]
    fn a_session_ends_when_its_time_is_over() {
        let session = Session::header("x-s", Some(Duration::from_secs(60))).unwrap();
        let mut headers = HeaderMap::new();
        session.write(Token::new("b", at("10.0.0.1:80"), 1_000), &mut headers);
        for (now, alive) in [(1_000, true), (1_059, true), (1_060, false), (999, false)] {
            assert_eq!(session.read(&headers, now).is_some(), alive, "{now}");
        }
    }

    #[test]
    fn what_is_no_token_is_none() {
        let session = Session::header("x-s", None).unwrap();
        let good = Token::new("b", at("10.0.0.1:80"), 1).text();
        for text in ["", "x", &good[1..32], &good[..32], &format!("{good}g"), &format!("+{good}"), &"0".repeat(64)] {
            let mut headers = HeaderMap::new();
            headers.insert("x-s", HeaderValue::try_from(text).unwrap());
            assert_eq!(session.read(&headers, 0), None, "{text:?}");
        }
        assert_eq!(session.read(&HeaderMap::new(), 0), None);
    }

    #[test]
    fn what_no_session_can_have_is_refused_by_name() {
        assert_eq!(Session::header("a b", None), Err(InvalidSession::Name("a b".to_owned())));
        assert_eq!(Session::header("connection", None), Err(InvalidSession::Name("connection".to_owned())));
        assert_eq!(Session::cookie("s", "a", None, false), Err(InvalidSession::Path("a".to_owned())));
        assert_eq!(Session::cookie("s", "/a;b", None, false), Err(InvalidSession::Path("/a;b".to_owned())));
        assert_eq!(Session::cookie("s", "/", None, true), Err(InvalidSession::Endless));
        assert_eq!(Session::cookie_for_any_path("s", None, true), Err(InvalidSession::Endless));
    }
}
