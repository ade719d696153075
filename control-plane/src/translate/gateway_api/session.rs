//! Session persistence of a rule, or of a backend, checked (GEP-1619). A rule's cookie is for the path that the rule matches, if that
//! is one path, so that rules do not take each other's sessions; a backend's has no path, since any may lead there. Its
//! name, where none is given, is made of the rule's or the backend's.

use http::HeaderName;
use weft_proto::headers::is_out_of_bounds;
use weft_proto::v1;

use super::precedence::prefix_of;
use super::rules::millis;
use super::short;
use crate::model::{HttpRouteRule, PathMatch, SessionPersistence};

/// `rule_name` is `namespace/name/rule`.
///
/// # Errors
/// Says what a session cannot have.
pub(super) fn wire_session(
    session: &SessionPersistence,
    rule: &HttpRouteRule,
    rule_name: &str,
) -> Result<v1::SessionPersistence, String> {
    let path = match &*rule.matches {
        [only] => match &only.path {
            PathMatch::Exact(path) => path,
            PathMatch::Prefix(path) => prefix_of(path),
            PathMatch::Regex(_) | PathMatch::Call(_) => "/",
        },
        _ => "/",
    };
    // A `;` would end it.
    let path = if path.contains(';') { "/" } else { path };
    checked(session, rule_name, path)
}

/// The same of a backend, `namespace/name:port`.
///
/// # Errors
/// As above.
pub(in super::super) fn wire_backend_session(
    session: &SessionPersistence,
    backend: &str,
) -> Result<v1::SessionPersistence, String> {
    checked(session, backend, "")
}

fn checked(session: &SessionPersistence, of: &str, path: &str) -> Result<v1::SessionPersistence, String> {
    let SessionPersistence { name, header, absolute_timeout, permanent } = session;
    let name = name.clone().unwrap_or_else(|| format!("weft-session-{:08x}", hash(of)));
    let is_name = HeaderName::from_bytes(name.as_bytes()).is_ok_and(|name| !is_out_of_bounds(name.as_str()));
    if !is_name {
        return Err(format!("sessionPersistence cannot have the name `{}`", short(&name)));
    }
    if *header && *permanent {
        return Err("sessionPersistence of type Header has no cookieConfig".to_owned());
    }
    let absolute_timeout = absolute_timeout.filter(|timeout| !timeout.is_zero());
    if *permanent && absolute_timeout.is_none() {
        return Err("sessionPersistence with a Permanent cookie needs an absoluteTimeout".to_owned());
    }
    Ok(v1::SessionPersistence {
        name,
        header: *header,
        absolute_timeout: absolute_timeout.map(millis),
        permanent: *permanent,
        path: if *header { String::new() } else { path.to_owned() },
    })
}

/// FNV-1a: equal on every replica and for ever.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
