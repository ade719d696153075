//! One value of a flag each: text in, a value or what is wrong with it and what would be right. Pure.

use std::net::SocketAddr;
use std::time::Duration;

use weft_proto::v1::OutboundPolicy;

pub(super) fn outbound_policy(text: &str) -> Result<OutboundPolicy, String> {
    match text {
        "allow-any" => Ok(OutboundPolicy::AllowAny),
        "registry-only" => Ok(OutboundPolicy::RegistryOnly),
        other => Err(format!("`{other}` is not one of: allow-any, registry-only")),
    }
}

pub(super) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("`{text}` is not ADDRESS:PORT, such as 0.0.0.0:15012 or [::]:15012"))
}

pub(super) fn dns_name(text: &str) -> Result<String, String> {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if text.len() <= 253 && text.split('.').all(label) {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is no DNS name"))
    }
}

/// `1%`, `0.25%`: parts of 10,000.
pub(super) fn per_10000(text: &str) -> Result<u32, String> {
    let wrong = || format!("`{text}` is not a percentage such as 1% or 0.25%");
    let number = text.strip_suffix('%').ok_or_else(wrong)?;
    let (whole, hundredths) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(hundredths) || hundredths.len() > 2 {
        return Err(wrong());
    }
    let whole: u32 = whole.parse().map_err(|_| wrong())?;
    let hundredths: u32 = format!("{hundredths:0<2}").parse().map_err(|_| wrong())?;
    whole.checked_mul(100).map(|all| all + hundredths).filter(|&all| all <= 10_000).ok_or_else(wrong)
}

pub(super) fn duration_within(text: &str, (least, most): (Duration, Duration)) -> Result<Duration, String> {
    let duration = duration(text).ok_or_else(|| format!("`{text}` is not a duration such as 24h, 1h30m or 20s"))?;
    if (least..=most).contains(&duration) {
        Ok(duration)
    } else {
        Err(format!("`{text}` is not within {}s and {}h", least.as_secs(), most.as_secs() / 3600))
    }
}

/// Whole numbers with units, largest first is customary but not asked for: `1h30m`, `20s`, `500ms`, `7d`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let number: u64 = number.parse().ok()?;
        let part = match unit {
            "ms" => Duration::from_millis(number),
            "s" => Duration::from_secs(number),
            "m" => Duration::from_secs(number.checked_mul(60)?),
            "h" => Duration::from_secs(number.checked_mul(3600)?),
            "d" => Duration::from_secs(number.checked_mul(24 * 3600)?),
            _ => return None,
        };
        total = total.checked_add(part)?;
        rest = after;
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, seconds) in [
            ("20s", Some(20)),
            ("24h", Some(86_400)),
            ("1h30m", Some(5_400)),
            ("2d", Some(172_800)),
            ("1000ms", Some(1)),
        ] {
            assert_eq!(duration(text).map(|d| d.as_secs()), seconds, "{text}");
        }
        for text in ["", "20", "s", "1.5h", "-1s", "1 h", "1w", "99999999999999999999s", "18446744073709551615h"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn percentages_are_parts_of_ten_thousand() {
        for (text, parts) in [
            ("1%", Some(100)),
            ("0%", Some(0)),
            ("100%", Some(10_000)),
            ("0.25%", Some(25)),
            ("0.5%", Some(50)),
            ("100.01%", None),
            ("0.001%", None),
            (".5%", None),
            ("1", None),
            ("-1%", None),
            ("%", None),
            ("1%%", None),
            ("4294967295%", None),
        ] {
            assert_eq!(per_10000(text).ok(), parts, "{text}");
        }
    }
}
