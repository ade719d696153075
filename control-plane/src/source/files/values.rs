//! The forms of single values: names, labels, addresses, durations, header names, paths. Each check says what would be
//! right, in the words of a message that follows a field's path.
//!
//! Names after RFC 1123/1035 as the API server applies them, durations after GEP-2257, paths and header names after
//! the patterns of the HTTPRoute CRD.

use std::net::IpAddr;
use std::time::Duration;

use super::decode::Origin;
use super::field::Field;

/// Largest automaton of one expression, in bytes, as proxies have it.
const MAX_EXPRESSION: usize = 512 * 1024;

const LABEL: &str = "must be a DNS label: at most 63 of a-z, 0-9 and `-`, a letter or digit at both ends";
const SUBDOMAIN: &str =
    "must be a DNS name: at most 253 of a-z, 0-9, `-` and `.`, a letter or digit at both ends of each part";

/// An RFC 1123 label (namespaces, Services, port names of Services).
pub(super) fn dns_label<'a>(field: &Field<'a>) -> Option<&'a str> {
    let text = field.text()?;
    if is_label(text) {
        return Some(text);
    }
    field.error(LABEL);
    None
}

/// An RFC 1123 subdomain (names of most objects).
pub(super) fn dns_subdomain<'a>(field: &Field<'a>) -> Option<&'a str> {
    let text = field.text()?;
    if is_subdomain(text) {
        return Some(text);
    }
    field.error(SUBDOMAIN);
    None
}

pub(super) fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

pub(super) fn is_subdomain(text: &str) -> bool {
    // The whole has a limit; its parts have none in Kubernetes, whose pattern this is.
    text.len() <= 253
        && text.split('.').all(|part| {
            let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
            edge(part.chars().next())
                && edge(part.chars().next_back())
                && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        })
}

/// The name of a container port or a `targetPort` (IANA service name).
pub(super) fn port_name<'a>(field: &Field<'a>) -> Option<&'a str> {
    let text = field.text()?;
    let allowed = text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    let letter = text.contains(|c: char| c.is_ascii_lowercase());
    if allowed && letter && text.len() <= 15 && !text.starts_with('-') && !text.ends_with('-') && !text.contains("--") {
        return Some(text);
    }
    field.error("must be a port name: at most 15 of a-z, 0-9 and single `-` inside, with a letter");
    None
}

/// Whether a key of a label or annotation is `[prefix/]name`.
pub(super) fn is_qualified(key: &str) -> bool {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    prefix.is_none_or(|prefix| is_subdomain(&prefix.to_ascii_lowercase())) && !name.is_empty() && is_label_value(name)
}

/// Whether a text is a label's value.
pub(super) fn is_label_value(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.is_empty()
        || (text.len() <= 63
            && edge(text.chars().next())
            && edge(text.chars().next_back())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')))
}

/// An IP address.
pub(super) fn ip(field: &Field<'_>) -> Option<IpAddr> {
    let text = field.text()?;
    let parsed = text.parse().ok();
    if parsed.is_none() {
        field.error(format_args!("must be an IP address, not {text:?}"));
    }
    parsed
}

/// A GEP-2257 duration: up to four of a number and `h`, `m`, `s` or `ms`.
pub(super) fn duration(field: &Field<'_>) -> Option<Duration> {
    let text = field.text()?;
    let parsed = parse_duration(text);
    if parsed.is_none() {
        field.error(format_args!("must be a duration such as 500ms, 10s or 1h30m (GEP-2257), not {text:?}"));
    }
    parsed
}

fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        if digits == 0 || digits > 5 {
            return None;
        }
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (unit_millis, unit) = match rest.as_bytes() {
            [b'm', b's', ..] => (1, 2),
            [b'h', ..] => (3_600_000, 1),
            [b'm', ..] => (60_000, 1),
            [b's', ..] => (1_000, 1),
            _ => return None,
        };
        rest = &rest[unit..];
        total += Duration::from_millis(number * unit_millis);
        parts += 1;
    }
    (1..=4).contains(&parts).then_some(total)
}

/// A header name (RFC 9110 token), lower case.
pub(super) fn header_name(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if (1..=256).contains(&text.len()) && text.chars().all(token) {
        return Some(text.to_ascii_lowercase());
    }
    field.error(format_args!("must be a header name (letters, digits and !#$%&'*+-.^_`|~), not {text:?}"));
    None
}

/// A header value that can stand in a message: no control characters but tab, no white space around it.
pub(super) fn header_value<'a>(field: &Field<'a>) -> Option<&'a str> {
    let text = text_of(field, 4096)?;
    if text.chars().any(|c| c.is_control() && c != '\t') {
        field.error("must not hold control characters or line breaks");
        return None;
    }
    if text.trim_matches([' ', '\t']) != text {
        field.error("must not begin or end with white space");
        return None;
    }
    Some(text)
}

/// Text of 1 to `max` characters.
pub(super) fn text_of<'a>(field: &Field<'a>, max: usize) -> Option<&'a str> {
    let text = field.text()?;
    if text.is_empty() || text.chars().count() > max {
        field.error(format_args!("must have 1 to {max} characters"));
        return None;
    }
    Some(text)
}

/// An RE2 expression. The `regex` crate reads RE2's syntax and runs in linear time as RE2 does. An API server looks at none:
/// what it lets pass is checked by `translate/`, which says in status what is wrong.
pub(super) fn regex<'a>(field: &Field<'a>, max: usize, origin: Origin) -> Option<&'a str> {
    let text = text_of(field, max)?;
    if origin == Origin::ApiServer {
        return Some(text);
    }
    // A small program limit: what a route compiles on every proxy must not cost megabytes. As a proxy does it, ASCII
    // classes first.
    let compile = |unicode| regex::bytes::RegexBuilder::new(text).unicode(unicode).size_limit(MAX_EXPRESSION).build();
    match compile(false).or_else(|_| compile(true)) {
        Ok(_) => Some(text),
        Err(regex::Error::CompiledTooBig(_)) => {
            field.error(format_args!(
                "must be a regular expression of at most {MAX_EXPRESSION} bytes when compiled: are there large repetitions in it?"
            ));
            None
        }
        Err(error) => {
            let reason = error.to_string();
            let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ");
            field.error(format_args!("must be a regular expression (RE2): {reason}"));
            None
        }
    }
}

/// A path of an Exact or PathPrefix match, after the rules of the CRD.
pub(super) fn path<'a>(field: &Field<'a>) -> Option<&'a str> {
    let text = text_of(field, 1024)?;
    let wrong = if !text.starts_with('/') {
        Some("must start with /".to_owned())
    } else if let Some(part) = ["//", "/./", "/../", "%2f", "%2F", "#"].into_iter().find(|part| text.contains(part)) {
        Some(format!("must not contain {part:?}"))
    } else if let Some(end) = ["/..", "/."].into_iter().find(|end| text.ends_with(end)) {
        Some(format!("must not end with {end:?}"))
    } else if !is_path_text(text) {
        Some("must hold only characters of a URL's path, others percent-encoded".to_owned())
    } else {
        None
    };
    if let Some(wrong) = wrong {
        field.error(wrong);
        return None;
    }
    Some(text)
}

fn is_path_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut i = 0;
    while let Some(byte) = bytes.get(i) {
        match byte {
            b'%' if bytes.get(i + 1..i + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)) => i += 3,
            b if b.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@".contains(b) => i += 1,
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_follow_gep_2257() {
        let ms = |n| Some(Duration::from_millis(n));
        let rows: &[(&str, Option<Duration>)] = &[
            ("0s", ms(0)),
            ("500ms", ms(500)),
            ("10s", ms(10_000)),
            ("1h30m", ms(5_400_000)),
            ("1h1m1s1ms", ms(3_661_001)),
            ("99999h", ms(99_999 * 3_600_000)),
            ("", None),
            ("10", None),
            ("1.5s", None),
            ("-1s", None),
            ("100000s", None),
            ("1d", None),
            ("1us", None),
            ("s", None),
            ("1s1s1s1s1s", None),
            ("1s ", None),
        ];
        for (text, expected) in rows {
            assert_eq!(parse_duration(text), *expected, "{text:?}");
        }
    }

    #[test]
    fn names_follow_the_api_server() {
        let rows: &[(&str, bool, bool)] = &[
            ("a", true, true),
            ("a-b", true, true),
            ("1a", true, true),
            ("a.b", false, true),
            ("A", false, false),
            ("-a", false, false),
            ("a-", false, false),
            ("a_b", false, false),
            ("a..b", false, false),
            ("", false, false),
        ];
        for (text, label, subdomain) in rows {
            assert_eq!((is_label(text), is_subdomain(text)), (*label, *subdomain), "{text:?}");
        }
        assert!(!is_label(&"a".repeat(64)) && is_subdomain(&"a".repeat(64)) && !is_subdomain(&"a".repeat(254)));
        assert!(
            is_qualified("app") && is_qualified("weft.dev/inject") && !is_qualified("a/b/c") && !is_qualified("/a")
        );
    }
}
