//! What of a request ring hash and Maglev go by, so that like requests stay with one endpoint (Istio `consistentHash`, Envoy
//! `hash_policy`; SEMANTICS.md §3 "balancing").
//!
//! | by | key | without one |
//! |---|---|---|
//! | header | all its values, in any order | any endpoint |
//! | cookie | the value of the first of that name | any endpoint; if the policy says how long it lasts, the client is given one |
//! | client | its address, without the port | |
//! | query parameter | the value of the first of that name, percent-decoded | any endpoint |
//!
//! A cookie that is made here is random: nothing is remembered, and the request that it is made for goes where those that
//! bring it will. It is given only with an answer of an app.
//!
//! An empty value is a key like any other, since the client has said something.
//! Bound: one pass over the request's headers or query; what is hashed is as long as the request head at most.

use std::net::IpAddr;
use std::time::Duration;

use http::Uri;
use http::header::{COOKIE, HeaderMap, HeaderName, HeaderValue};
use rand::Rng;

use super::matching::query_value;
use crate::balance::{hash_bytes, hash_client};

/// What of a request is the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashBy {
    /// A header.
    Header(HeaderName),
    /// A cookie.
    Cookie(HashCookie),
    /// The client's address.
    Client,
    /// A query parameter.
    Query(Box<str>),
}

/// A cookie that is a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashCookie {
    name: Box<str>,
    /// What follows the value of one made here; `None`: none is made.
    attributes: Option<Box<str>>,
}

/// A source of keys cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHashBy {
    /// Not the name of a header.
    #[error("{0:?} is not the name of a header")]
    Header(String),
    /// Not the name of a cookie.
    #[error("{0:?} is not the name of a cookie")]
    Cookie(String),
    /// Cannot be said in a cookie.
    #[error("{0:?} is not a cookie's path: it starts with `/` and has no `;` and no space")]
    Path(String),
    /// A query parameter without a name.
    #[error("a query parameter needs a name")]
    Query,
}

/// A request's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashKey {
    /// For [`PickRequest::hash`](crate::balance::PickRequest::hash).
    pub hash: u64,
    /// For the client: `set-cookie`.
    pub cookie: Option<HeaderValue>,
}

impl From<u64> for HashKey {
    fn from(hash: u64) -> Self {
        Self { hash, cookie: None }
    }
}

impl HashBy {
    /// By a header.
    ///
    /// # Errors
    /// When `name` is none.
    pub fn header(name: &str) -> Result<Self, InvalidHashBy> {
        HeaderName::from_bytes(name.as_bytes()).map(Self::Header).map_err(|_| InvalidHashBy::Header(name.to_owned()))
    }

    /// By a cookie. One that is not there is made if `lasts` is given: zero is until the browser is closed. `path` may be
    /// empty.
    ///
    /// # Errors
    /// Says what no cookie can have.
    pub fn cookie(name: &str, path: &str, lasts: Option<Duration>) -> Result<Self, InvalidHashBy> {
        // A cookie's name is a token, as a header's is (RFC 6265 §4.1.1), but of either case.
        if HeaderName::from_bytes(name.as_bytes()).is_err() {
            return Err(InvalidHashBy::Cookie(name.to_owned()));
        }
        let legal = |byte: u8| byte.is_ascii_graphic() && byte != b';';
        if !(path.is_empty() || path.starts_with('/')) || !path.bytes().all(legal) {
            return Err(InvalidHashBy::Path(path.to_owned()));
        }
        let attributes = lasts.map(|lasts| {
            let max_age = match lasts {
                Duration::ZERO => String::new(),
                // Rounded up: zero would end the cookie at once.
                lasts => format!("; Max-Age={}", lasts.as_millis().div_ceil(1000)),
            };
            let path = if path.is_empty() { String::new() } else { format!("; Path={path}") };
            format!("{max_age}{path}; HttpOnly").into()
        });
        Ok(Self::Cookie(HashCookie { name: name.into(), attributes }))
    }

    /// By a query parameter.
    ///
    /// # Errors
    /// When `name` is empty.
    pub fn query(name: &str) -> Result<Self, InvalidHashBy> {
        if name.is_empty() { Err(InvalidHashBy::Query) } else { Ok(Self::Query(name.into())) }
    }

    /// The key of a request; `None`: it has none, and any endpoint may answer it.
    pub fn key<R: Rng + ?Sized>(&self, headers: &HeaderMap, uri: &Uri, client: IpAddr, rng: &mut R) -> Option<HashKey> {
        match self {
            Self::Header(name) => of_header(headers, name).map(HashKey::from),
            Self::Cookie(cookie) => cookie.key(headers, rng),
            Self::Client => self.of_connection(client).map(HashKey::from),
            Self::Query(name) => query_value(uri.query(), name).map(|value| hash_bytes(&value).into()),
        }
    }

    /// The key of a connection whose bytes are not looked into.
    pub fn of_connection(&self, client: IpAddr) -> Option<u64> {
        matches!(self, Self::Client).then(|| hash_client(client))
    }
}

/// The order in which proxies on the way keep several values is not the client's.
fn of_header(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    let mut values = headers.get_all(name).iter();
    let first = hash_bytes(values.next()?.as_bytes());
    Some(values.fold(first, |hash, value| hash.wrapping_add(hash_bytes(value.as_bytes()))))
}

impl HashCookie {
    fn key<R: Rng + ?Sized>(&self, headers: &HeaderMap, rng: &mut R) -> Option<HashKey> {
        let crumbs = headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
        let mut values = crumbs.filter_map(|crumb| {
            let crumb = crumb.trim_ascii();
            let (name, value) = crumb.split_at_checked(self.name.len())?;
            (name == self.name.as_bytes()).then_some(value)?.strip_prefix(b"=")
        });
        if let Some(value) = values.next() {
            return Some(hash_bytes(value).into());
        }
        let attributes = self.attributes.as_deref()?;
        let value = format!("{:032x}", rng.random::<u128>());
        let cookie = HeaderValue::try_from(format!("{}={value}{attributes}", self.name)).ok();
        Some(HashKey { hash: hash_bytes(value.as_bytes()), cookie })
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
            .collect::<Vec<_>>()
            .into_iter()
            .fold(HeaderMap::new(), |mut all, (name, value): (HeaderName, _)| {
                all.append(name, value);
                all
            })
    }

    fn client() -> IpAddr {
        "10.1.0.7".parse().unwrap()
    }

    fn key(by: &HashBy, lines: &[(&'static str, &'static str)], uri: &str) -> Option<HashKey> {
        by.key(&headers(lines), &uri.parse().unwrap(), client(), &mut SmallRng::seed_from_u64(1))
    }

    #[test]
    fn where_the_key_comes_from_row_by_row() {
        let header = || HashBy::header("X-User").unwrap();
        let cookie = || HashBy::cookie("user", "", None).unwrap();
        let query = || HashBy::query("u").unwrap();
        let of = |text: &str| Some(hash_bytes(text.as_bytes()));
        type Row<'a> = (&'a str, HashBy, &'a [(&'a str, &'a str)], &'a str, Option<u64>);
        #[rustfmt::skip]
        let rows: [Row<'_>; 13] = [
            ("a header",                  header(), &[("x-user", "ann")],                       "/",          of("ann")),
            ("an empty header",           header(), &[("x-user", "")],                          "/",          of("")),
            ("no such header",            header(), &[("x-other", "ann")],                      "/",          None),
            ("a cookie",                  cookie(), &[("cookie", "a=b; user=ann; c=d")],        "/",          of("ann")),
            ("the first of a name",       cookie(), &[("cookie", "user=ann; user=bob")],        "/",          of("ann")),
            ("a cookie in crumbs",        cookie(), &[("cookie", "a=b"), ("cookie", "user=ann")], "/",        of("ann")),
            ("a cookie's case matters",   cookie(), &[("cookie", "User=ann")],                  "/",          None),
            ("the name's beginning",      cookie(), &[("cookie", "users=ann; user")],           "/",          None),
            ("a parameter",               query(),  &[],                                        "/?a=b&u=ann", of("ann")),
            ("a parameter is decoded",    query(),  &[],                                        "/?u=%61nn",  of("ann")),
            ("no such parameter",         query(),  &[],                                        "/?v=ann",    None),
            ("no query",                  query(),  &[],                                        "/",          None),
            ("the client",                HashBy::Client, &[],                                  "/",          Some(hash_client(client()))),
        ];
        for (what, by, lines, uri, want) in rows {
            assert_eq!(key(&by, lines, uri), want.map(HashKey::from), "{what}");
        }
    }

    #[test]
    fn several_values_of_a_header_count_in_any_order() {
        let by = HashBy::header("x-user").unwrap();
        let both = key(&by, &[("x-user", "ann"), ("x-user", "bob")], "/");
        assert_eq!(both, key(&by, &[("x-user", "bob"), ("x-user", "ann")], "/"));
        assert_ne!(both, key(&by, &[("x-user", "ann")], "/"));
    }

    #[test]
    fn a_cookie_that_is_made_leads_where_it_was_made_for() {
        for (path, lasts, attributes) in [
            ("", Duration::ZERO, "; HttpOnly"),
            ("/shop", Duration::from_millis(1), "; Max-Age=1; Path=/shop; HttpOnly"),
            ("/", Duration::from_secs(3600), "; Max-Age=3600; Path=/; HttpOnly"),
        ] {
            let by = HashBy::cookie("user", path, Some(lasts)).unwrap();
            let made = key(&by, &[("cookie", "a=b")], "/").unwrap();
            let cookie = made.cookie.unwrap().to_str().unwrap().to_owned();
            let crumb = cookie.strip_suffix(attributes).unwrap_or_else(|| panic!("{cookie} for {attributes}"));
            let mut back = HeaderMap::new();
            back.insert(COOKIE, crumb.parse().unwrap());
            let kept = by.key(&back, &Uri::from_static("/"), client(), &mut SmallRng::seed_from_u64(2));
            assert_eq!(kept, Some(HashKey::from(made.hash)));
        }
    }

    #[test]
    fn a_connection_is_known_by_its_client_alone() {
        assert_eq!(HashBy::Client.of_connection(client()), Some(hash_client(client())));
        assert_eq!(HashBy::header("x-user").unwrap().of_connection(client()), None);
    }

    #[test]
    fn what_names_nothing_is_refused() {
        assert!(matches!(HashBy::header("a b"), Err(InvalidHashBy::Header(_))));
        assert!(matches!(HashBy::cookie("a;b", "/", None), Err(InvalidHashBy::Cookie(_))));
        assert!(matches!(HashBy::cookie("", "/", None), Err(InvalidHashBy::Cookie(_))));
        assert!(matches!(HashBy::cookie("a", "b", None), Err(InvalidHashBy::Path(_))));
        assert!(matches!(HashBy::cookie("a", "/b; Domain=c", None), Err(InvalidHashBy::Path(_))));
        assert_eq!(HashBy::query(""), Err(InvalidHashBy::Query));
    }
}
