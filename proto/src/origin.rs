//! Origins that a CORS filter allows (HTTPCORSFilter `allowOrigins`): what the control plane checks is what a proxy compiles.
//!
//! A pattern is `*`, or `scheme://host[:port]` with scheme `http` or `https`, whose host may be `*`, or start with `*.`, which
//! stands for any number of labels. A port left out is the scheme's own. Hosts are compared without case (RFC 6454 §4).

/// Which origins are allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginPattern {
    /// `*`: all of them, `null` among them.
    Any,
    /// Those with this scheme, host and port.
    Like {
        /// Whether it is `https`.
        https: bool,
        /// The host, and whether more may stand before it: `.example.com` of `*.example.com`, empty of `*`.
        host: (Box<str>, bool),
        /// The port.
        port: u16,
    },
}

/// It is no origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an origin is `*`, or http:// or https:// and a host (which may start with `*.`), and a port if need be")]
pub struct InvalidOrigin;

impl std::str::FromStr for OriginPattern {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let (https, host, port) = parts(text).ok_or(InvalidOrigin)?;
        let (name, more) = match host.strip_prefix('*') {
            Some("") => ("", true),
            Some(rest) => (rest.starts_with('.').then_some(rest).ok_or(InvalidOrigin)?, true),
            None => (host, false),
        };
        let label = |label: &str| {
            !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        let labels = if more { name.strip_prefix('.') } else { Some(name) };
        if labels.is_some_and(|labels| !labels.split('.').all(label)) {
            return Err(InvalidOrigin);
        }
        Ok(Self::Like { https, host: (name.into(), more), port })
    }
}

impl OriginPattern {
    /// Whether the value of an `Origin` header is one of them.
    pub fn matches(&self, origin: &str) -> bool {
        let Self::Like { https, host: (name, more), port } = self else { return true };
        let Some((of_https, host, of_port)) = parts(origin) else { return false };
        let ends = host.len().checked_sub(name.len()).and_then(|at| Some((at, host.get(at..)?)));
        of_https == *https
            && of_port == *port
            && ends.is_some_and(|(at, end)| end.eq_ignore_ascii_case(name) && if *more { at > 0 } else { at == 0 })
    }
}

/// `scheme://host[:port]`: whether it is https, the host, and the port.
fn parts(origin: &str) -> Option<(bool, &str, u16)> {
    let (scheme, rest) = origin.split_once("://")?;
    let https = match scheme {
        _ if scheme.eq_ignore_ascii_case("http") => false,
        _ if scheme.eq_ignore_ascii_case("https") => true,
        _ => return None,
    };
    // The colons of an IPv6 address are inside its brackets.
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (rest, None),
    };
    let port = match port {
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => port.parse().ok().filter(|port| *port > 0)?,
        Some(_) => return None,
        None if https => 443,
        None => 80,
    };
    let sane = !host.is_empty() && !host.contains(['/', '?', '#', '@']);
    sane.then_some((https, host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_row_by_row() {
        for (pattern, origin, want) in [
            ("*", "https://a.example", true),
            ("*", "null", true),
            ("https://a.example", "https://a.example", true),
            ("https://a.example", "https://A.Example", true),
            ("https://a.example", "http://a.example", false),
            ("https://a.example", "https://a.example:443", true),
            ("https://a.example:443", "https://a.example", true),
            ("https://a.example", "https://a.example:8443", false),
            ("http://a.example:8080", "http://a.example:8080", true),
            ("http://a.example", "http://a.example:80", true),
            ("https://a.example", "https://b.a.example", false),
            ("https://a.example", "null", false),
            ("https://a.example", "https://a.example.evil", false),
            ("https://a.example", "https://xa.example", false),
            ("https://*.bar.com", "https://www.bar.com", true),
            ("https://*.bar.com", "https://xpto.www.bar.com", true),
            ("https://*.bar.com", "https://bar.com", false),
            ("https://*.bar.com", "https://.bar.com", false),
            ("https://*.bar.com", "https://foobar.com", false),
            ("https://*.bar.com", "https://www.bar.com:444", false),
            ("https://*.bar.com", "https://evil/www.bar.com", false),
            ("https://*.bar.com", "https://evil@www.bar.com", false),
            ("https://*", "https://anything", true),
            ("https://*", "http://anything", false),
            ("http://*:8080", "http://x:8080", true),
            ("http://*", "http://[fd00::1]:80", true),
            ("http://*", "http://[fd00::1]", true),
            ("http://*", "http://x:99999", false),
        ] {
            let parsed: OriginPattern = pattern.parse().unwrap();
            assert_eq!(parsed.matches(origin), want, "{pattern} {origin}");
        }
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for text in [
            "",
            "a.example",
            "ftp://a",
            "https://",
            "https://a/",
            "https://a:0",
            "https://a:x",
            "https://*a.b",
            "https://a.*.b",
            "https://a..b",
            "https://*.",
            "https://a b",
            "**",
            "https://a:65536",
        ] {
            assert_eq!(text.parse::<OriginPattern>(), Err(InvalidOrigin), "{text}");
        }
    }
}
