//! Which of several matches is tried first (HTTPRoute `matches`): exact path, then the longest prefix, then regular
//! expressions, then matches without a path condition; then those with a method, with more header conditions, with more
//! query conditions. Ties are the caller's: oldest route, `namespace/name`, first rule.
//!
//! Calls of gRPC (GRPCRoute `matches`) are never among paths: the longest service, then the longest method, then header
//! conditions. An expression is as long as it is written: the specification counts characters and says no more.
//!
//! The specification leaves the rank of regular expressions to us. They come after every prefix that says something, and
//! before `/`, which says nothing and is also what an omitted path means: else no expression could win beside a catch-all.

use std::cmp::Reverse;

use crate::model::{HttpRouteMatch, PathMatch};

/// Compares less when it is tried earlier.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Precedence {
    path: Path,
    method: Reverse<bool>,
    headers: Reverse<usize>,
    query_params: Reverse<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Path {
    Exact,
    Prefix { characters: Reverse<usize> },
    Regex,
    Call { service: Reverse<usize>, method: Reverse<usize> },
    Any,
}

impl Precedence {
    pub(super) fn of(condition: &HttpRouteMatch) -> Self {
        let path = match &condition.path {
            PathMatch::Exact(_) => Path::Exact,
            PathMatch::Prefix(prefix) => match prefix_of(prefix) {
                "/" => Path::Any,
                prefix => Path::Prefix { characters: Reverse(prefix.chars().count()) },
            },
            PathMatch::Regex(_) => Path::Regex,
            PathMatch::Call(call) => {
                let characters = |name: &Option<String>| Reverse(name.as_ref().map_or(0, |name| name.chars().count()));
                Path::Call { service: characters(&call.service), method: characters(&call.method) }
            }
        };
        Self {
            path,
            method: Reverse(condition.method.is_some()),
            headers: Reverse(condition.headers.len()),
            query_params: Reverse(condition.query_params.len()),
        }
    }
}

/// A prefix as it counts: a trailing slash is ignored.
pub(super) fn prefix_of(prefix: &str) -> &str {
    match prefix.strip_suffix('/') {
        Some("") | None => prefix,
        Some(rest) => rest,
    }
}
