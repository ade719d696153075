//! The values that annotations and `injection.yaml` have in common: text in, a value or what would be right. Pure.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// One port or an inclusive range of them, as `weft-sidecar redirect` takes it: `80`, `9000-9010`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// The lowest port of the range.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The highest port of the range, itself included.
    pub fn last(self) -> u16 {
        self.last
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = |text: &str| text.trim().parse::<u16>().ok().filter(|&port| port != 0);
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (port(first), port(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Self { first, last }),
            _ => Err(format!("`{}` is not a port (1-65535) or a range such as 9000-9010", shortened(text))),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

/// One port: where a range would cost the control plane an entry for each of its ports.
pub fn port(text: &str) -> Result<u16, String> {
    text.trim()
        .parse()
        .ok()
        .filter(|&port| port != 0)
        .ok_or_else(|| format!("`{}` is not a port (1-65535; ranges are not taken here)", shortened(text.trim())))
}

/// `10.0.0.0/8`, or one address. The bits behind the prefix are cleared.
pub fn cidr(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map(|range| range.trunc())
        .map_err(|_| format!("`{}` is not an address range such as 10.0.0.0/8 or fd00::/8", shortened(text)))
}

/// The longest list: what the redirection takes in all.
pub const MAX_ENTRIES: usize = 256;

/// `a,b,c` with blanks and empty parts left out, each part read by `one`. Of more than [`MAX_ENTRIES`] parts none is.
pub fn list<T>(text: &str, one: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    let parts = || text.split(',').map(str::trim).filter(|part| !part.is_empty());
    at_most(parts().count())?;
    parts().map(one).collect()
}

/// Whether a list may have so many entries: an annotation has room for tens of thousands, and some are worked on for long.
pub fn at_most(entries: usize) -> Result<(), String> {
    if entries > MAX_ENTRIES {
        return Err(format!(
            "it has {entries} entries, and {MAX_ENTRIES} at most are taken: use ranges, or wider ones"
        ));
    }
    Ok(())
}

/// An amount as Kubernetes writes it (`100m`, `64Mi`, `1e3`): kept as written, compared by what it is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quantity {
    text: String,
    billionths: u128,
}

/// Exponents from which on an amount is no machine's.
const MAX_EXPONENT: u32 = 18;

impl Quantity {
    /// As written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it is not more than `other`.
    pub fn at_most(&self, other: &Self) -> bool {
        self.billionths <= other.billionths
    }
}

impl FromStr for Quantity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let billionths = billionths(text)
            .ok_or_else(|| format!("`{}` is not an amount such as 100m, 0.5 or 64Mi", shortened(text)))?;
        Ok(Self { text: text.to_owned(), billionths })
    }
}

/// `<digits>[.<digits>][suffix]` (Kubernetes API conventions, "quantity"). A negative amount is none of a resource.
fn billionths(text: &str) -> Option<u128> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || whole.len() > 18 || fraction.len() > 9 {
        return None;
    }
    let digits: u128 = format!("{whole}{fraction:0<9}").parse().ok()?;
    let binary = |power: u32| digits.checked_mul(1_u128 << (10 * power));
    let decimal = |power: u32| digits.checked_mul(10_u128.checked_pow(power)?);
    match suffix {
        "" => Some(digits),
        "n" => Some(digits.div_ceil(1_000_000_000)),
        "u" => Some(digits.div_ceil(1_000_000)),
        "m" => Some(digits.div_ceil(1_000)),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent: u32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            (exponent <= MAX_EXPONENT).then(|| decimal(exponent)).flatten()
        }
    }
}

/// The longest directives, in bytes, as the sidecar takes them.
const MAX_DIRECTIVES: usize = 512;

/// What to log: `error`, `warn`, `info`, `debug`, `trace`, or directives as the sidecar's `WEFT_LOG` takes them.
pub fn log_level(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.len() > MAX_DIRECTIVES {
        return Err(format!("it has {} bytes, and directives have {MAX_DIRECTIVES} at most", text.len()));
    }
    let wrong = || {
        format!(
            "`{}` is not a level (error, warn, info, debug, trace) or directives such as info,weft=debug",
            shortened(text)
        )
    };
    if text.is_empty() {
        return Err(wrong());
    }
    // No regular expressions: one of 30 bytes can become an automaton of gigabytes, and anybody may annotate a pod.
    tracing_subscriber::EnvFilter::builder().with_regex(false).parse(text).map_err(|_| wrong())?;
    // A single word that is no level would be taken as a module's name, and then nothing would be logged.
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    let word = !text.contains([',', '=']);
    if word && !levels.contains(&text.to_ascii_lowercase().as_str()) {
        return Err(wrong());
    }
    Ok(text.to_owned())
}

/// The share of requests that start a sampled trace: `1%`, `0.25%`.
pub fn percentage(text: &str) -> Result<String, String> {
    let text = text.trim();
    let number = text.strip_suffix('%').unwrap_or_default();
    let (whole, hundredths) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let whole = Some(whole).filter(|whole| digits(whole)).and_then(|whole| whole.parse::<u32>().ok());
    let nothing_more = hundredths.bytes().all(|b| b == b'0');
    match whole {
        Some(whole) if digits(hundredths) && hundredths.len() <= 2 && (whole < 100 || whole == 100 && nothing_more) => {
            Ok(text.to_owned())
        }
        _ => Err(format!("`{}` is not a percentage such as 1% or 0.25%, of 100% at most", shortened(text))),
    }
}

/// An image's name, which only a registry can really judge.
pub fn image(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(format!("`{}` is not the name of an image such as weft.dev/sidecar:0.1.0", shortened(text)));
    }
    Ok(text.to_owned())
}

/// Whether it is a label of a DNS name (RFC 1123), as a namespace's name is: lower-case letters, digits and `-`, 63 at most.
pub fn is_label(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 63
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Dotted labels.
pub fn dns_name(text: &str) -> Result<String, String> {
    if text.len() <= 253 && text.split('.').all(is_label) {
        Ok(text.to_owned())
    } else {
        Err(format!("`{}` is no DNS name", shortened(text)))
    }
}

/// A value in a message: an annotation may have 256 KiB.
pub(super) fn shortened(value: &str) -> String {
    match value.char_indices().nth(64) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_worth_what_kubernetes_says() {
        let rows: &[(&str, Option<u128>)] = &[
            ("1", Some(1_000_000_000)),
            ("100m", Some(100_000_000)),
            ("0.1", Some(100_000_000)),
            (".5", Some(500_000_000)),
            ("1.", Some(1_000_000_000)),
            ("5n", Some(5)),
            ("7u", Some(7_000)),
            ("64Mi", Some(64 * 1024 * 1024 * 1_000_000_000)),
            ("0.5Gi", Some(512 * 1024 * 1024 * 1_000_000_000)),
            ("1e3", Some(1_000_000_000_000)),
            ("1E3", Some(1_000_000_000_000)),
            ("2k", Some(2_000_000_000_000)),
            ("", None),
            (".", None),
            ("-1", None),
            ("1.2.3", None),
            ("64MB", None),
            ("64mi", None),
            ("1 Mi", None),
            ("ten", None),
            ("1e99", None),
            ("1e", None),
            ("9999999999999999999", None),
        ];
        for (text, worth) in rows {
            assert_eq!(billionths(text), *worth, "{text}");
        }
        let quantity = |text: &str| text.parse::<Quantity>().unwrap();
        assert!(quantity("100m").at_most(&quantity("0.1")) && quantity("0.1").at_most(&quantity("100m")));
        assert!(!quantity("1Gi").at_most(&quantity("1G")));
        assert_eq!(quantity(" 64Mi ").as_str(), "64Mi");
    }

    #[test]
    fn other_values_are_read_or_say_what_would_be_right() {
        type Read = fn(&str) -> Result<String, String>;
        let ports: Read = |text| Ok(format!("{}", list(text, |part| part.parse::<PortRange>())?.len()));
        let one_port: Read = |text| port(text).map(|port| port.to_string());
        let range: Read = |text| cidr(text).map(|range| range.to_string());
        let many = |ports: u16| (1..=ports).map(|port| port.to_string()).collect::<Vec<_>>().join(", ");
        let long = format!("weft{}=debug", "::x".repeat(170).get(1..).unwrap_or_default());
        let rows: &[(Read, &str, Result<&str, &str>)] = &[
            (ports, "5432, 9000-9010,", Ok("2")),
            (ports, "", Ok("0")),
            (ports, &many(256), Ok("256")),
            (ports, &many(257), Err("it has 257 entries, and 256 at most are taken")),
            (ports, "0", Err("a range such as 9000-9010")),
            (ports, "10-9", Err("a range such as 9000-9010")),
            (ports, "http", Err("`http` is not a port")),
            (one_port, " 80", Ok("80")),
            (one_port, "80-81", Err("ranges are not taken here")),
            (range, "10.9.8.7/8", Ok("10.0.0.0/8")),
            (range, "10.9.8.7", Ok("10.9.8.7/32")),
            (range, "fd00::1", Ok("fd00::1/128")),
            (range, "10.0.0.0/33", Err("such as 10.0.0.0/8")),
            (range, "example.com", Err("such as 10.0.0.0/8")),
            (log_level, "debug", Ok("debug")),
            (log_level, "info,weft_sidecar::http=trace", Ok("info,weft_sidecar::http=trace")),
            // What would be no regular expression is taken as it is, and what would be a bomb is not lit.
            (log_level, "[{x=a(}]=info", Ok("[{x=a(}]=info")),
            (log_level, "[{x=a.........................}]=info", Ok("[{x=a.........................}]=info")),
            (log_level, &long, Err("it has 519 bytes, and directives have 512 at most")),
            (log_level, "loud", Err("error, warn, info")),
            (log_level, "", Err("error, warn, info")),
            (log_level, "a=b=c", Err("error, warn, info")),
            (percentage, "1%", Ok("1%")),
            (percentage, "100%", Ok("100%")),
            (percentage, "100.00%", Ok("100.00%")),
            (percentage, "0.25%", Ok("0.25%")),
            (percentage, "100.01%", Err("of 100% at most")),
            (percentage, "0.125%", Err("such as 1%")),
            (percentage, "1", Err("such as 1%")),
            (percentage, "%", Err("such as 1%")),
            (percentage, "-1%", Err("such as 1%")),
            (image, "registry.example/weft/sidecar@sha256:00", Ok("registry.example/weft/sidecar@sha256:00")),
            (image, "a b", Err("such as weft.dev/sidecar")),
            (image, "", Err("such as weft.dev/sidecar")),
        ];
        for (read, text, expected) in rows {
            match (read(text), expected) {
                (Ok(value), Ok(expected)) => assert_eq!(value, *expected, "{text}"),
                (Err(why), Err(part)) => assert!(why.contains(part), "{text}: {why}"),
                (found, expected) => panic!("{text}: {found:?} is not {expected:?}"),
            }
        }
    }
}
