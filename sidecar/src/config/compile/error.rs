//! What is wrong with a resource, and in which field: told to the control plane and to whoever reads its log.

use std::fmt;

use crate::backend_tls::InvalidBackendTls;
use crate::resilience::InvalidBudget;
use crate::route::{
    InvalidConnections, InvalidCors, InvalidFilter, InvalidHashBy, InvalidMatch, InvalidSession, InvalidShare,
    InvalidUrl,
};

/// What is wrong, and in which field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompileError {
    field: String,
    why: String,
}

impl CompileError {
    pub(in crate::config) fn new(why: impl fmt::Display) -> Self {
        Self { field: String::new(), why: why.to_string() }
    }
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() { f.write_str(&self.why) } else { write!(f, "{}: {}", self.field, self.why) }
    }
}

impl std::error::Error for CompileError {}

/// Names the field an error is in, from the inside out.
pub(in crate::config) trait In<T> {
    fn field(self, name: impl fmt::Display) -> Result<T, CompileError>;
}

impl<T, E: Into<CompileError>> In<T> for Result<T, E> {
    fn field(self, name: impl fmt::Display) -> Result<T, CompileError> {
        self.map_err(|error| {
            let mut error = error.into();
            error.field = match (name.to_string(), error.field) {
                (outer, inner) if inner.is_empty() => outer,
                (outer, inner) => format!("{outer}.{inner}"),
            };
            error
        })
    }
}

/// A foreign error is the reason; the field comes from [`In::field`].
macro_rules! reasons {
    ($($error:ty),*) => { $(impl From<$error> for CompileError {
        fn from(error: $error) -> Self { Self::new(error) }
    })* };
}
reasons!(
    std::net::AddrParseError,
    weft_proto::InvalidName,
    weft_proto::InvalidSpiffeId,
    ipnet::AddrParseError,
    http::header::InvalidHeaderName,
    http::header::InvalidHeaderValue,
    http::method::InvalidMethod,
    http::status::InvalidStatusCode,
    InvalidBackendTls,
    InvalidBudget,
    InvalidConnections,
    InvalidMatch,
    InvalidFilter,
    InvalidUrl,
    InvalidCors,
    InvalidShare,
    InvalidSession,
    InvalidHashBy
);
