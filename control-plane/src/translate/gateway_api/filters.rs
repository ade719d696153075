//! Filters of rules and backendRefs, checked. Only header modifiers are done by this version; any other is an error here, and its
//! rule or share answers 500: skipping it would let requests through that it was meant to change.
//!
//! Refused as well, as in a proxy (sidecar `route/filters.rs`): changing headers that frame the message or belong to one
//! connection, and the mesh's own.

use http::{HeaderName, HeaderValue};
use weft_proto::headers::is_out_of_bounds;
use weft_proto::v1::{self, filter::Kind};

use super::short;
use crate::model::{HeaderModifier, HttpRouteFilter};

/// Filters in their order.
///
/// # Errors
/// Says which filter cannot be done, and why.
pub(super) fn wire_filters(filters: &[HttpRouteFilter]) -> Result<Vec<v1::Filter>, String> {
    let wire = filters.iter().map(|filter| {
        let kind = match filter {
            HttpRouteFilter::RequestHeaders(modifier) => Kind::RequestHeaders(header_modifier(modifier)?),
            HttpRouteFilter::ResponseHeaders(modifier) => Kind::ResponseHeaders(header_modifier(modifier)?),
            HttpRouteFilter::Unsupported(kind) => {
                return Err(format!("filter {kind} is not supported by this version"));
            }
        };
        Ok(v1::Filter { kind: Some(kind) })
    });
    wire.collect()
}

/// A header's name in lower case.
///
/// # Errors
/// When it is none.
pub(super) fn header_name(name: &str) -> Result<String, String> {
    let valid =
        HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("`{}` is not a header name", short(name)))?;
    Ok(valid.as_str().to_owned())
}

fn header_modifier(modifier: &HeaderModifier) -> Result<v1::HeaderModifier, String> {
    // Of entries with equivalent names the first counts (HTTPHeaderFilter).
    let headers = |list: &[(String, String)]| {
        let mut headers: Vec<v1::Header> = Vec::new();
        for (name, value) in list {
            let name = changeable(name)?;
            HeaderValue::from_bytes(value.as_bytes())
                .map_err(|_| format!("header {name} cannot have the value `{}`", short(value)))?;
            if !headers.iter().any(|header| header.name == name) {
                headers.push(v1::Header { name, value: value.clone() });
            }
        }
        Ok::<_, String>(headers)
    };
    let remove = modifier.remove.iter().map(|name| changeable(name)).collect::<Result<_, _>>()?;
    Ok(v1::HeaderModifier { set: headers(&modifier.set)?, add: headers(&modifier.add)?, remove })
}

fn changeable(name: &str) -> Result<String, String> {
    let name = header_name(name)?;
    if is_out_of_bounds(&name) {
        return Err(format!("header {name} frames the message or is the mesh's own: a filter cannot change it"));
    }
    Ok(name)
}
