//! Lengths of time, as people write and read them. Pure.

use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::macros::format_description;

/// Nobody waits for longer, and clocks can be added to it.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// Reads `60s`, `5m`, `1m30s`, `500ms`, or seconds without a unit.
///
/// # Errors
/// When it is none of these.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{text}` is not a duration such as 60s, 5m or 1m30s, and at most a year");
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds)).filter(|length| *length <= LONGEST).ok_or_else(bad);
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?);
        let (unit, after) = after.split_at(after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len()));
        let number: u64 = number.parse().map_err(|_| bad())?;
        let part = match unit {
            "ms" => Some(Duration::from_millis(number)),
            "s" => Some(Duration::from_secs(number)),
            "m" => number.checked_mul(60).map(Duration::from_secs),
            "h" => number.checked_mul(3600).map(Duration::from_secs),
            _ => None,
        };
        total = part.and_then(|part| total.checked_add(part)).ok_or_else(bad)?;
        rest = after;
    }
    if text.is_empty() || total > LONGEST { Err(bad()) } else { Ok(total) }
}

/// The two largest units: `3 d 4 h`, `12 min`, `45 s`.
pub(crate) fn show(length: Duration) -> String {
    let seconds = length.as_secs();
    let units = [(86_400, "d"), (3600, "h"), (60, "min"), (1, "s")];
    let parts: Vec<String> = units
        .iter()
        .scan(seconds, |rest, (size, unit)| {
            let count = *rest / size;
            *rest %= size;
            Some((count, unit))
        })
        .skip_while(|(count, _)| *count == 0)
        .take(2)
        .filter(|(count, _)| *count > 0)
        .map(|(count, unit)| format!("{count} {unit}"))
        .collect();
    if parts.is_empty() { "0 s".to_owned() } else { parts.join(" ") }
}

/// How long ago, or how soon.
pub(crate) fn relative(at: SystemTime, now: SystemTime) -> String {
    match now.duration_since(at) {
        Ok(ago) => format!("{} ago", show(ago)),
        Err(ahead) => format!("in {}", show(ahead.duration())),
    }
}

/// `2026-11-25 20:15:00Z`.
pub(crate) fn stamp(at: SystemTime) -> String {
    let form = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]Z");
    OffsetDateTime::from(at).format(&form).unwrap_or_default()
}

/// `2026-11-25`.
pub(crate) fn day(at: SystemTime) -> String {
    OffsetDateTime::from(at).format(&format_description!("[year]-[month]-[day]")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_or_without_units() {
        for (text, expected) in [
            ("60", Some(60_000)),
            ("60s", Some(60_000)),
            ("1m30s", Some(90_000)),
            ("500ms", Some(500)),
            ("2h", Some(7_200_000)),
            ("", None),
            ("s", None),
            ("-1s", None),
            ("1.5m", None),
            ("1 m", None),
            ("5w", None),
            ("99999999999999999999s", None),
            ("18446744073709551615h", None),
            ("8760h", Some(31_536_000_000)),
            ("8761h", None),
            ("18446744073709551615", None),
        ] {
            assert_eq!(parse(text).ok(), expected.map(Duration::from_millis), "{text:?}");
        }
    }

    #[test]
    fn two_units_are_enough_for_people() {
        for (seconds, expected) in [
            (0, "0 s"),
            (45, "45 s"),
            (60, "1 min"),
            (3605, "1 h"),
            (3660, "1 h 1 min"),
            (90_061, "1 d 1 h"),
            (86_400 * 400, "400 d"),
        ] {
            assert_eq!(show(Duration::from_secs(seconds)), expected, "{seconds}");
        }
    }
}
