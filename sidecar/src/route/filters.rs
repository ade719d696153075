//! The filters of a rule or of one of its targets, and doing what they say (Gateway API `HTTPRouteFilter`), in the order listed.
//!
//! | filter | where |
//! |---|---|
//! | header modifiers (`HTTPHeaderFilter`: remove, set, add) | here |
//! | redirect, rewrite | `url.rs` |
//! | CORS | `cors.rs`; whatever its place it is asked first, or a redirect would answer preflights |
//! | mirror | here it is decided whether this request is copied, and its head is, as it is at that place in the list |
//! | FaultInjection | `fault.rs`; the waiting is left to whoever asked |
//!
//! Refused when compiled: changing headers that frame the message or belong to one connection, and ours. A filter that could
//! write `transfer-encoding` could smuggle a request past the next proxy.
//!
//! `host` may be set. It is written as a header like any other, and where the host is in the target as well (HTTP/2), it
//! becomes the same there.
//!
//! A rule without filters costs a look at two empty lists.

use std::time::Duration;

use http::Response;
use http::header::{HOST, HeaderMap, HeaderName, HeaderValue, LOCATION};
use http::request::Parts;
use rand::Rng;
use weft_proto::headers::is_out_of_bounds;

use super::cors::{Cors, Shared};
use super::fault::{Abort, Fault, Injected};
use super::fraction::Fraction;
use super::url::{Redirect, Rewrite, Unsendable, host_edited};
use crate::resilience::Verdict;

/// One filter's edits, in this order: remove, set, add.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderEdit {
    remove: Box<[HeaderName]>,
    set: Box<[(HeaderName, HeaderValue)]>,
    add: Box<[(HeaderName, HeaderValue)]>,
    /// It may change which host a request names.
    host: bool,
}

/// A filter cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFilter {
    /// Not the name of a header.
    #[error("{0:?} is not the name of a header")]
    Name(String),
    /// A value with a character that no header may carry.
    #[error("the value of header {0} has a character that a header cannot carry")]
    Value(HeaderName),
    /// Not for filters.
    #[error("header {0} frames the message or is the mesh's own: a filter cannot change it")]
    Refused(HeaderName),
}

impl HeaderEdit {
    /// Compiles. Names are taken in any case.
    ///
    /// # Errors
    /// Names the header that cannot be edited, or not with this value.
    pub fn new<'a>(
        remove: impl IntoIterator<Item = &'a str>,
        set: impl IntoIterator<Item = (&'a str, &'a str)>,
        add: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, InvalidFilter> {
        let remove = remove.into_iter().map(name).collect::<Result<_, _>>()?;
        let set: Box<[_]> = set.into_iter().map(pair).collect::<Result<_, _>>()?;
        let add: Box<[_]> = add.into_iter().map(pair).collect::<Result<_, _>>()?;
        let host = set.iter().chain(&add).any(|(name, _)| name == HOST);
        Ok(Self { remove, set, add, host })
    }

    fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }
}

fn name(text: &str) -> Result<HeaderName, InvalidFilter> {
    let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| InvalidFilter::Name(text.to_owned()))?;
    if is_out_of_bounds(name.as_str()) {
        return Err(InvalidFilter::Refused(name));
    }
    Ok(name)
}

fn pair((key, value): (&str, &str)) -> Result<(HeaderName, HeaderValue), InvalidFilter> {
    let name = name(key)?;
    match HeaderValue::from_bytes(value.as_bytes()) {
        Ok(value) => Ok((name, value)),
        Err(_) => Err(InvalidFilter::Value(name)),
    }
}

/// Copies some requests to another backend. `B` is the handle of a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror<B> {
    /// Who gets the copies.
    pub backend: B,
    /// Of which requests.
    pub share: Fraction,
}

/// One thing to do to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestFilter<B> {
    /// RequestHeaderModifier
    Headers(HeaderEdit),
    /// RequestRedirect
    Redirect(Redirect),
    /// URLRewrite
    Rewrite(Rewrite),
    /// RequestMirror
    Mirror(Mirror<B>),
    /// CORS
    Cors(Box<Cors>),
    /// FaultInjection, by ExtensionRef
    Fault(Box<Fault>),
}

/// The filters of a rule or of one of its targets, in the order listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filters<B> {
    request: Box<[RequestFilter<B>]>,
    response: Box<[HeaderEdit]>,
}

impl<B> Default for Filters<B> {
    fn default() -> Self {
        Self { request: Box::default(), response: Box::default() }
    }
}

/// What filters leave to be done when they have seen a request.
#[derive(Debug)]
pub struct After<B> {
    /// Heads of copies, and who gets them.
    pub copies: Vec<(B, Parts)>,
    /// What the response says of who may read it, whoever makes it.
    pub shared: Option<Box<Shared>>,
    /// How long it has to wait before anything else happens, this answer included; zero is not at all.
    pub delay: Duration,
    /// What the response tells of the rule's rate limits, whoever makes it.
    pub limited: Option<Box<Verdict>>,
}

impl<B> Default for After<B> {
    fn default() -> Self {
        Self { copies: Vec::new(), shared: None, delay: Duration::ZERO, limited: None }
    }
}

/// An answer that a filter makes.
#[derive(Debug)]
pub enum Made {
    /// Another place to ask.
    Redirect(Response<()>),
    /// To a browser that asks whether it may ask. Complete: nothing is to be added.
    Preflight(Response<()>),
    /// A failure that was asked for.
    Abort(Abort),
}

impl<B: Clone> Filters<B> {
    /// Each in the order listed.
    pub fn new(mut request: Vec<RequestFilter<B>>, response: Vec<HeaderEdit>) -> Self {
        request.sort_by_key(|filter| !matches!(filter, RequestFilter::Cors(_)));
        Self { request: request.into(), response: response.into() }
    }

    /// Does to a request what they say. A rule's filters come before its target's. `Some`: the answer, and the request goes
    /// no further.
    ///
    /// # Errors
    /// [`Unsendable`]: answer 400.
    pub fn apply_request(
        &self,
        request: &mut Parts,
        rng: &mut (impl Rng + ?Sized),
        after: &mut After<B>,
    ) -> Result<Option<Made>, Unsendable> {
        for filter in &self.request {
            match filter {
                RequestFilter::Headers(edit) => {
                    edit.apply(&mut request.headers);
                    if edit.host {
                        host_edited(request);
                    }
                }
                RequestFilter::Redirect(redirect) => {
                    let mut response = Response::new(());
                    *response.status_mut() = redirect.status();
                    response.headers_mut().insert(LOCATION, redirect.location(request)?);
                    return Ok(Some(Made::Redirect(response)));
                }
                RequestFilter::Rewrite(rewrite) => rewrite.apply(request)?,
                RequestFilter::Mirror(mirror) if mirror.share.draws(rng) => {
                    after.copies.push((mirror.backend.clone(), head_of(request)));
                }
                RequestFilter::Mirror(_) => {}
                RequestFilter::Cors(cors) => {
                    if let Some(response) = cors.preflight(request) {
                        return Ok(Some(Made::Preflight(response)));
                    }
                    after.shared = Some(Box::new(cors.share(&request.headers)));
                }
                RequestFilter::Fault(fault) => {
                    let Injected { delay, abort } = fault.draw(rng);
                    after.delay = after.delay.saturating_add(delay);
                    if let Some(abort) = abort {
                        return Ok(Some(Made::Abort(abort.clone())));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Edits a response's headers. The target's filters come before its rule's: the way back.
    pub fn apply_response(&self, headers: &mut HeaderMap) {
        self.response.iter().for_each(|edit| edit.apply(headers));
    }
}

/// A copy of a request's head, without what belongs to its connection's server.
fn head_of(request: &Parts) -> Parts {
    let (mut head, ()) = http::Request::new(()).into_parts();
    head.method.clone_from(&request.method);
    head.uri.clone_from(&request.uri);
    head.version = request.version;
    head.headers.clone_from(&request.headers);
    head
}

#[cfg(test)]
mod tests;
