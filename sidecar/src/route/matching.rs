//! Whether a request fulfils one match (Gateway API `HTTPRouteMatch`, `GRPCRouteMatch`).
//!
//! What the specification leaves open is decided so:
//! - **Paths** are compared as received: case matters, nothing is percent-decoded, `//` and `..` are not merged. The
//!   server gets those very bytes, and a router that reads them otherwise than the server does is a way around a rule.
//! - **Prefixes** end at a segment, and a trailing slash of theirs is ignored: `/a/` is `/a`, and matches `/a`, `/a/`
//!   and `/a/b` but not `/ab`. The prefix `/` is "any path", including the `*` of `OPTIONS *`.
//! - **Regular expressions** must match the whole path or value. Classes such as `\w` are ASCII, as in RE2; a pattern
//!   that needs Unicode classes gets them.
//! - **Calls** of gRPC are paths of two segments, `/SERVICE/METHOD`, and each expression must match the whole of its own. A
//!   call whose service and method are known is an exact path, of which service alone a prefix: those are compared faster.
//! - **Headers**: several lines of one name are joined by `,` (RFC 9110 §5.2), those of `cookie` by `; ` (RFC 9113
//!   §8.2.3). Values are compared as bytes; case matters.
//! - **Query parameters**: the first of equal names counts. Name and value are percent-decoded before they are
//!   compared; `+` stays `+`, an escape that is none stays as it is. `?a` is `a` with an empty value.
//! - **Two conditions on one name**: the first counts, the others are ignored (`HTTPHeaderMatch.name`).

use std::borrow::Cow;

use http::Method;
use http::header::{COOKIE, HeaderMap, HeaderName, HeaderValue};
use regex::bytes::{Regex, RegexBuilder};

/// Largest automaton of one expression, in bytes. A pattern of the length that the Gateway API allows stays far below,
/// unless it repeats a class hundreds of times.
const REGEX_SIZE_LIMIT: usize = 512 * 1024;

/// Longest pattern: the Gateway API's limit for a header value.
const PATTERN_LIMIT: usize = 4096;

/// What a match looks at.
#[derive(Debug, Clone, Copy)]
pub struct RequestView<'a> {
    /// The method.
    pub method: &'a Method,
    /// The path as received, without the query.
    pub path: &'a str,
    /// What follows the first `?`, as received.
    pub query: Option<&'a str>,
    /// The headers.
    pub headers: &'a HeaderMap,
}

/// A condition on the path, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatch {
    /// These very bytes.
    Exact(String),
    /// By segment, a trailing slash ignored.
    Prefix(String),
    /// RE2 syntax, matched against the whole path.
    Regex(String),
    /// `/SERVICE/METHOD`; `None` is any.
    Call {
        /// The first segment.
        service: Option<ValueMatch>,
        /// The second, and last.
        method: Option<ValueMatch>,
    },
}

/// A condition on a value, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueMatch {
    /// These very bytes.
    Exact(String),
    /// RE2 syntax, matched against the whole value.
    Regex(String),
}

/// A condition on a header or query parameter, as configured. One that is absent fulfils none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyMatch {
    /// Of headers in any case; of query parameters exact.
    pub name: String,
    /// What its value has to be.
    pub value: ValueMatch,
}

/// A match cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMatch {
    /// An exact path or a prefix that no path can equal.
    #[error("path {0:?} has to start with /, and to be without ? and #")]
    Path(String),
    /// Not the name of a header.
    #[error("{0:?} is not the name of a header")]
    HeaderName(String),
    /// A query parameter without a name.
    #[error("a query parameter needs a name")]
    QueryName,
    /// Not a regular expression, or too large a one.
    #[error("regular expression {pattern:?}: {detail}")]
    Regex {
        /// As configured, shortened.
        pattern: String,
        /// What is wrong with it.
        detail: String,
    },
}

/// A compiled match: all its conditions must hold.
#[derive(Debug, Clone)]
pub struct Match {
    path: Path,
    method: Option<Method>,
    headers: Box<[(HeaderName, Value)]>,
    query: Box<[(Box<str>, Value)]>,
}

#[derive(Debug, Clone)]
enum Path {
    Any,
    Exact(Box<str>),
    /// Without a trailing slash, and never empty.
    Prefix(Box<str>),
    Regex(Regex),
    Call {
        service: Option<Value>,
        method: Option<Value>,
    },
}

#[derive(Debug, Clone)]
enum Value {
    Exact(Box<[u8]>),
    Regex(Regex),
}

impl Match {
    /// Compiles. `None` and empty lists are no condition.
    ///
    /// # Errors
    /// Names the condition that cannot hold or cannot be understood.
    pub fn new(
        path: Option<PathMatch>,
        method: Option<Method>,
        headers: Vec<KeyMatch>,
        query: Vec<KeyMatch>,
    ) -> Result<Self, InvalidMatch> {
        let mut by_header: Vec<(HeaderName, Value)> = Vec::with_capacity(headers.len());
        for KeyMatch { name, value } in headers {
            let Ok(parsed) = HeaderName::from_bytes(name.as_bytes()) else {
                return Err(InvalidMatch::HeaderName(name));
            };
            let value = Value::compile(value)?;
            if by_header.iter().all(|(name, _)| *name != parsed) {
                by_header.push((parsed, value));
            }
        }
        let mut by_param: Vec<(Box<str>, Value)> = Vec::with_capacity(query.len());
        for KeyMatch { name, value } in query {
            if name.is_empty() {
                return Err(InvalidMatch::QueryName);
            }
            let value = Value::compile(value)?;
            if by_param.iter().all(|(known, _)| **known != *name) {
                by_param.push((name.into(), value));
            }
        }
        let path = path.map_or(Ok(Path::Any), Path::compile)?;
        Ok(Self { path, method, headers: by_header.into(), query: by_param.into() })
    }

    /// Whether all conditions hold.
    pub fn matches(&self, request: &RequestView<'_>) -> bool {
        self.path.matches(request.path) && self.matches_but_path(request)
    }

    /// Where an index files it.
    pub(super) fn path_kind(&self) -> PathKind<'_> {
        match &self.path {
            Path::Exact(path) => PathKind::Exact(path),
            Path::Prefix(path) => PathKind::Prefix(path),
            Path::Any => PathKind::Any,
            Path::Regex(_) | Path::Call { .. } => PathKind::Expression,
        }
    }

    /// The headers that must have one very value.
    pub(super) fn plain_headers(&self) -> impl Iterator<Item = (&HeaderName, &[u8])> {
        self.headers.iter().filter_map(|(name, value)| match value {
            Value::Exact(exact) => Some((name, &**exact)),
            Value::Regex(_) => None,
        })
    }

    /// Whether all conditions but the path's hold.
    pub(super) fn matches_but_path(&self, request: &RequestView<'_>) -> bool {
        self.method.as_ref().is_none_or(|method| method == request.method)
            && self.headers.iter().all(|(name, value)| header_matches(request.headers, name, value))
            && self.query.iter().all(|(name, value)| query_matches(request.query, name, value))
    }
}

/// What an index can know of a path condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PathKind<'a> {
    /// This one.
    Exact(&'a str),
    /// This one, and all that go on with a slash after it.
    Prefix(&'a str),
    /// Whatever it is.
    Any,
    /// What an expression says.
    Expression,
}

impl Path {
    fn compile(path: PathMatch) -> Result<Self, InvalidMatch> {
        let usable = |path: &str| path.starts_with('/') && !path.contains(['?', '#']);
        match path {
            PathMatch::Exact(path) if usable(&path) => Ok(Self::Exact(path.into())),
            PathMatch::Prefix(path) if usable(&path) => {
                let prefix = path.strip_suffix('/').unwrap_or(&path);
                Ok(if prefix.is_empty() { Self::Any } else { Self::Prefix(prefix.into()) })
            }
            PathMatch::Exact(path) | PathMatch::Prefix(path) => Err(InvalidMatch::Path(path)),
            PathMatch::Regex(pattern) => compile_regex(&pattern).map(Self::Regex),
            PathMatch::Call { service, method } => {
                let part = |part: Option<ValueMatch>| part.map(Value::compile).transpose();
                Ok(Self::Call { service: part(service)?, method: part(method)? })
            }
        }
    }

    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => **exact == *path,
            Self::Prefix(prefix) => {
                path.strip_prefix(&**prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Self::Regex(regex) => regex.is_match(path.as_bytes()),
            Self::Call { service, method } => {
                let is = |wanted: &Option<Value>, part: &str| {
                    wanted.as_ref().is_none_or(|wanted| wanted.matches(part.as_bytes()))
                };
                let parts = path.strip_prefix('/').and_then(|path| path.split_once('/'));
                // The method first: an expression for the service is what takes longest.
                parts.is_some_and(|(of, called)| !called.contains('/') && is(method, called) && is(service, of))
            }
        }
    }
}

impl Value {
    fn compile(value: ValueMatch) -> Result<Self, InvalidMatch> {
        Ok(match value {
            ValueMatch::Exact(exact) => Self::Exact(exact.into_bytes().into()),
            ValueMatch::Regex(pattern) => Self::Regex(compile_regex(&pattern)?),
        })
    }

    fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => **exact == *value,
            Self::Regex(regex) => regex.is_match(value),
        }
    }
}

fn compile_regex(pattern: &str) -> Result<Regex, InvalidMatch> {
    let invalid = |detail: String| {
        let pattern = pattern.chars().take(80).collect();
        Err(InvalidMatch::Regex { pattern, detail })
    };
    if pattern.len() > PATTERN_LIMIT {
        return invalid(format!("longer than {PATTERN_LIMIT} bytes"));
    }
    let compile = |pattern: &str, unicode: bool| {
        RegexBuilder::new(pattern)
            .unicode(unicode)
            .size_limit(REGEX_SIZE_LIMIT)
            .dfa_size_limit(REGEX_SIZE_LIMIT)
            .build()
    };
    // The pattern by itself first: wrapped, `a)|(b` would be an expression and mean something else. ASCII classes
    // first: they are what RE2 means, and a hundredth of the size.
    let unicode = compile(pattern, false).is_err();
    if unicode && let Err(error) = compile(pattern, true) {
        return invalid(described(&error));
    }
    let whole = format!("\\A(?:{pattern})\\z");
    compile(&whole, unicode).or_else(|error| invalid(described(&error)))
}

fn described(error: &regex::Error) -> String {
    if let regex::Error::CompiledTooBig(limit) = error {
        return format!("larger than {limit} bytes when compiled: are there large repetitions in it?");
    }
    // The parser draws the pattern and a caret over several lines; the last one says what is wrong.
    let message = error.to_string();
    let line = message.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

fn header_matches(headers: &HeaderMap, name: &HeaderName, value: &Value) -> bool {
    header_value(headers, name).is_some_and(|sent| value.matches(&sent))
}

/// What a header says, its lines joined.
pub(super) fn header_value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next()?.as_bytes();
    let Some(second) = lines.next() else { return Some(Cow::Borrowed(first)) };
    let separator: &[u8] = if *name == COOKIE { b"; " } else { b"," };
    let mut joined = first.to_vec();
    for line in std::iter::once(second).chain(lines).map(HeaderValue::as_bytes) {
        joined.extend_from_slice(separator);
        joined.extend_from_slice(line);
    }
    Some(Cow::Owned(joined))
}

fn query_matches(query: Option<&str>, name: &str, value: &Value) -> bool {
    query_value(query, name).is_some_and(|sent| value.matches(&sent))
}

/// The value of the first parameter of that name, percent-decoded.
pub(super) fn query_value<'q>(query: Option<&'q str>, name: &str) -> Option<Cow<'q, [u8]>> {
    let first = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (*percent_decoded(key) == *name.as_bytes()).then_some(value)
    });
    first.map(percent_decoded)
}

fn percent_decoded(text: &str) -> Cow<'_, [u8]> {
    let bytes = text.as_bytes();
    if !bytes.contains(&b'%') {
        return Cow::Borrowed(bytes);
    }
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        match (byte, tail) {
            (b'%', [high, low, after @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    decoded.push(high << 4 | low);
                    rest = after;
                }
                _ => decoded.push(b'%'),
            },
            _ => decoded.push(*byte),
        }
    }
    Cow::Owned(decoded)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}
