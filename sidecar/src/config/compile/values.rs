//! Single fields that more than one resource has: numbers, names and enums of the wire, checked.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use weft_proto::v1;

use super::error::{CompileError, In};
use crate::balance::Health;
use crate::config::model::Protocol;

/// Longest time span a resource may hold: beyond it lie typing errors and clock overflow.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

pub(super) fn status_codes(codes: &[u32]) -> Result<Arc<[StatusCode]>, CompileError> {
    let compile = |(index, &code): (usize, &u32)| {
        let valid = u16::try_from(code).ok().filter(|code| (100..600).contains(code));
        let valid = valid.ok_or_else(|| CompileError::new(format_args!("{code} is not an HTTP status")));
        valid.and_then(|code| Ok(StatusCode::from_u16(code)?)).field(format_args!("status_codes[{index}]"))
    };
    codes.iter().enumerate().map(compile).collect()
}

/// A time span; `None` when it is not set.
pub(super) fn span(span: Option<&v1::Millis>) -> Result<Option<Duration>, CompileError> {
    let Some(span) = span else { return Ok(None) };
    let span = Duration::from_millis(span.value);
    if span > LONGEST { Err(CompileError::new("longer than a year")) } else { Ok(Some(span)) }
}

pub(super) fn at_least_1_ms(millis: Option<&v1::Millis>) -> Result<Option<Duration>, CompileError> {
    match span(millis)? {
        Some(Duration::ZERO) => Err(CompileError::new("zero")),
        other => Ok(other),
    }
}

pub(super) fn health(health: i32) -> Result<Health, CompileError> {
    match v1::Health::try_from(health) {
        Ok(v1::Health::Ready) => Ok(Health::Ready),
        Ok(v1::Health::Draining) => Ok(Health::Draining),
        Ok(v1::Health::NotReady) => Ok(Health::NotReady),
        Err(_) => Err(unknown(health)),
    }
}

pub(super) fn protocol(protocol: i32) -> Result<Protocol, CompileError> {
    match v1::Protocol::try_from(protocol) {
        Ok(v1::Protocol::Auto) => Ok(Protocol::Auto),
        Ok(v1::Protocol::Http) => Ok(Protocol::Http),
        Ok(v1::Protocol::Http2) => Ok(Protocol::Http2),
        Ok(v1::Protocol::Grpc) => Ok(Protocol::Grpc),
        Ok(v1::Protocol::Tls) => Ok(Protocol::Tls),
        Ok(v1::Protocol::Tcp) => Ok(Protocol::Tcp),
        Err(_) => Err(unknown(protocol)),
    }
}

pub(super) fn unknown(value: i32) -> CompileError {
    CompileError::new(format_args!("{value} is not known to this version of the sidecar"))
}

pub(super) fn port_number(port: u32) -> Result<u16, CompileError> {
    let valid = u16::try_from(port).ok().filter(|&port| port != 0);
    valid.ok_or_else(|| CompileError::new(format_args!("{port} is not a port")))
}

/// A DNS name (RFC 1123): what is neither this nor an address is a typing error, not something to look up.
pub(super) fn host_name(text: &str) -> Result<Box<str>, CompileError> {
    let name = text.trim_end_matches('.').to_ascii_lowercase();
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // All-numeric last labels are addresses gone wrong (RFC 3696 §2).
    let numeric = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    if name.len() <= 253 && !numeric && name.split('.').all(label) {
        Ok(name.into())
    } else {
        Err(CompileError::new(format_args!("`{text}` is neither an address nor a DNS name")))
    }
}
