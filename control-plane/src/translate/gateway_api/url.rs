//! RequestRedirect and URLRewrite, checked: hosts, and paths that a request can have.
//!
//! ReplacePrefixMatch says what stands where the match's prefix stood, so that the rule must have one match, a PathPrefix
//! (HTTPPathModifier): with another it would not be known what to replace. The prefix travels with the filter.

use weft_proto::v1::path_modifier::Kind;
use weft_proto::v1::{self, PrefixReplacement};

use super::precedence::prefix_of;
use super::rules::Wrong;
use super::short;
use crate::model::{HttpRouteMatch, PathMatch, PathModifier, Redirect, UrlRewrite};

pub(super) fn redirect(redirect: &Redirect, matches: &[HttpRouteMatch]) -> Result<v1::Redirect, Wrong> {
    if let Some(scheme) = &redirect.scheme
        && !matches!(&**scheme, "http" | "https")
    {
        return Err(format!("RequestRedirect cannot lead to scheme `{}`, only to http and https", short(scheme)).into());
    }
    if !matches!(redirect.status, 301 | 302 | 303 | 307 | 308) {
        return Err(
            format!("RequestRedirect cannot answer {}: 301, 302, 303, 307, 308 redirect", redirect.status).into()
        );
    }
    Ok(v1::Redirect {
        scheme: redirect.scheme.clone().unwrap_or_default(),
        hostname: hostname(redirect.hostname.as_deref())?,
        path: path(redirect.path.as_ref(), matches)?,
        port: redirect.port.unwrap_or_default().into(),
        status: redirect.status.into(),
    })
}

pub(super) fn rewrite(rewrite: &UrlRewrite, matches: &[HttpRouteMatch]) -> Result<v1::UrlRewrite, Wrong> {
    Ok(v1::UrlRewrite { hostname: hostname(rewrite.hostname.as_deref())?, path: path(rewrite.path.as_ref(), matches)? })
}

/// Empty where there is none.
fn hostname(name: Option<&str>) -> Result<String, Wrong> {
    let Some(name) = name else { return Ok(String::new()) };
    let label = |label: &str| {
        let inside = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        inside && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
    };
    if name.len() > 253 || !name.split('.').all(label) {
        return Err(format!("`{}` is not a host name (it has no port and no `*`)", short(name)).into());
    }
    Ok(name.to_ascii_lowercase())
}

fn path(modifier: Option<&PathModifier>, matches: &[HttpRouteMatch]) -> Result<Option<v1::PathModifier>, Wrong> {
    let kind = match modifier {
        None => return Ok(None),
        // An empty path is written `/`.
        Some(PathModifier::Full(text)) if text.is_empty() => Kind::Full("/".to_owned()),
        Some(PathModifier::Full(text)) => Kind::Full(new_path(text)?.to_owned()),
        Some(PathModifier::Prefix(text)) => {
            let [HttpRouteMatch { path: PathMatch::Prefix(prefix), .. }] = matches else {
                let message = "replacePrefixMatch needs a rule with one match, of type PathPrefix: make a rule for each \
                               match, or use replaceFullPath";
                return Err(message.to_owned().into());
            };
            let replacement = if text.is_empty() { text } else { new_path(text)? };
            let matched = prefix_of(prefix).to_owned();
            Kind::Prefix(PrefixReplacement { matched, replacement: replacement.to_owned() })
        }
    };
    Ok(Some(v1::PathModifier { kind: Some(kind) }))
}

fn new_path(text: &str) -> Result<&str, String> {
    let visible = text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b'"' | b'<' | b'>'));
    if text.starts_with('/') && visible && !text.contains("//") {
        Ok(text)
    } else {
        Err(format!(
            "path `{}` must start with `/`, have no `//`, `?` or `#`, and the rest percent-encoded",
            short(text)
        ))
    }
}
