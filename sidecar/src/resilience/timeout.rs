//! How long a request and a try may take, and what is passed on of it (SEMANTICS.md §3 "per-try timeout", "request
//! timeout", "deadlines").
//!
//! - A **timeout** is a length, a **deadline** a moment. A request has one deadline: the earliest of its rule's request
//!   timeout, its `grpc-timeout` and its `x-weft-deadline-ms`. It covers all tries, the back-off between them and the
//!   response to its last byte.
//! - What is passed on is the time left at that moment, so that no hop waits longer than the client does.
//! - A deadline header that cannot be read is passed on untouched and otherwise ignored: it is the app's own mistake,
//!   and refusing the request would break what works without a mesh.
//!
//! Formats: gRPC over HTTP/2, "Timeout" (1 to 8 digits and a unit of `HMSmun`); `x-weft-deadline-ms` is 1 to 10 digits.
//!
//! Not here: sleeping (`outbound/`).

use std::time::{Duration, Instant};

use http::header::{HeaderMap, HeaderName, HeaderValue};

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const DEADLINE: HeaderName = HeaderName::from_static("x-weft-deadline-ms");

/// gRPC allows 8 digits.
const GRPC_DIGITS: usize = 8;
/// Enough for 115 days.
const DEADLINE_DIGITS: usize = 10;
const DEADLINE_MAX_MS: u64 = 9_999_999_999;

/// A rule's timeouts. `None` is off, and the default of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timeouts {
    /// All tries and the back-off between them (`timeouts.request`).
    pub request: Option<Duration>,
    /// One try, until its response head (`timeouts.backendRequest`).
    pub per_try: Option<Duration>,
}

/// A client's own deadline says nothing of an endpoint that had less than this: it may be shorter than the app ever was.
const FAIR: Duration = Duration::from_secs(1);

/// The moment a request is given up. The default is never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Deadline(Option<Moment>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Moment {
    at: Instant,
    since: Instant,
    /// The client set it, and not the rule.
    by_client: bool,
}

impl Deadline {
    /// Never.
    pub const NONE: Self = Self(None);

    /// `timeout` from now; `None`, and what no clock can hold, is never.
    pub fn after(now: Instant, timeout: Option<Duration>) -> Self {
        Self::set(now, timeout, false)
    }

    fn set(since: Instant, timeout: Option<Duration>, by_client: bool) -> Self {
        let at = timeout.and_then(|timeout| since.checked_add(timeout));
        Self(at.map(|at| Moment { at, since, by_client }))
    }

    /// The deadline of a request that arrives now: the earliest of the timeout and the two headers, in whatever number.
    pub fn of_request(now: Instant, timeout: Option<Duration>, headers: &HeaderMap) -> Self {
        // One pass over the few names there are is cheaper than looking for each of the two.
        if !headers.keys().any(|name| *name == GRPC_TIMEOUT || *name == DEADLINE) {
            return Self::after(now, timeout);
        }
        let by_client = headers.iter().filter_map(|(name, value)| match name.as_str() {
            "grpc-timeout" => parse_grpc_timeout(value).ok(),
            "x-weft-deadline-ms" => parse_deadline_ms(value).ok(),
            _ => None,
        });
        by_client.fold(Self::after(now, timeout), |deadline, left| deadline.earlier(Self::set(now, Some(left), true)))
    }

    /// The earlier of the two.
    #[must_use]
    pub fn earlier(self, other: Self) -> Self {
        match (self.0, other.0) {
            (Some(a), Some(b)) => Self(Some(if b.at < a.at { b } else { a })),
            (a, b) => Self(a.or(b)),
        }
    }

    /// The moment, if there is one.
    pub fn at(self) -> Option<Instant> {
        self.0.map(|moment| moment.at)
    }

    /// The time left: zero when it is spent, `None` when there is no deadline.
    pub fn remaining(self, now: Instant) -> Option<Duration> {
        self.at().map(|at| at.saturating_duration_since(now))
    }

    /// Whether it has passed: the answer is 504 without calling.
    pub fn is_spent(self, now: Instant) -> bool {
        self.at().is_some_and(|at| at <= now)
    }

    /// Whether the deadline counts against an endpoint that was asked at `began` and has not answered when it passes:
    /// where it had at least half of the request's time, for what an earlier try took is not its fault; and of a
    /// deadline that the client set itself, at least a second.
    pub fn blames(self, began: Instant) -> bool {
        self.0.is_some_and(|Moment { at, since, by_client }| {
            let had = at.saturating_duration_since(began);
            had * 2 >= at.saturating_duration_since(since) && (!by_client || had >= FAIR)
        })
    }

    /// When a try that starts now has to have its response head, and whether it is the try's own timeout that comes
    /// first: then it is a [`PerTryTimeout`](super::Outcome::PerTryTimeout), otherwise the request is over.
    pub fn of_try(self, now: Instant, per_try: Option<Duration>) -> (Self, bool) {
        let own = Self::after(now, per_try);
        let first = match (own.at(), self.at()) {
            (Some(own), Some(request)) => own < request,
            (own, None) => own.is_some(),
            (None, Some(_)) => false,
        };
        (self.earlier(own), first)
    }

    /// Shortens whichever of the two headers a request carries to the time left, for a try that starts now. Headers
    /// that are absent or cannot be read are left as they are.
    pub fn shorten_headers(self, now: Instant, headers: &mut HeaderMap) {
        let Some(left) = self.remaining(now) else { return };
        if headers.get(GRPC_TIMEOUT).is_some_and(|value| parse_grpc_timeout(value).is_ok_and(|sent| left < sent)) {
            headers.insert(GRPC_TIMEOUT, format_grpc_timeout(left));
        }
        if headers.get(DEADLINE).is_some_and(|value| parse_deadline_ms(value).is_ok_and(|sent| left < sent)) {
            let ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).min(DEADLINE_MAX_MS);
            headers.insert(DEADLINE, HeaderValue::from(ms));
        }
    }
}

/// A timeout header cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTimeout {
    /// No digits, too many, or something else among them.
    #[error("expected 1 to {0} digits")]
    Digits(usize),
    /// The unit is none of gRPC's.
    #[error("the unit has to be one of H, M, S, m, u, n")]
    Unit,
}

/// Reads `grpc-timeout`.
///
/// # Errors
/// When it is not 1 to 8 digits and a unit.
pub fn parse_grpc_timeout(value: &HeaderValue) -> Result<Duration, InvalidTimeout> {
    let (unit, number) = value.as_bytes().split_last().ok_or(InvalidTimeout::Digits(GRPC_DIGITS))?;
    let number = digits(number, GRPC_DIGITS)?;
    // Eight digits of hours are 3.6·10¹¹ seconds: no overflow.
    Ok(match unit {
        b'H' => Duration::from_secs(number * 3_600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return Err(InvalidTimeout::Unit),
    })
}

/// Writes `grpc-timeout` in the finest unit that eight digits hold, rounded down: a hop never promises more time than
/// is left. Beyond eight digits of hours it is that many.
pub fn format_grpc_timeout(timeout: Duration) -> HeaderValue {
    const MOST: u128 = 99_999_999;
    let units = [
        (timeout.as_nanos(), 'n'),
        (timeout.as_micros(), 'u'),
        (timeout.as_millis(), 'm'),
        (u128::from(timeout.as_secs()), 'S'),
        (u128::from(timeout.as_secs() / 60), 'M'),
    ];
    let (number, unit) = units
        .into_iter()
        .find(|(number, _)| *number <= MOST)
        .unwrap_or((u128::from(timeout.as_secs() / 3_600).min(MOST), 'H'));
    HeaderValue::try_from(format!("{number}{unit}")).unwrap_or(HeaderValue::from_static("0n"))
}

/// Reads `x-weft-deadline-ms`.
///
/// # Errors
/// When it is not 1 to 10 digits.
pub fn parse_deadline_ms(value: &HeaderValue) -> Result<Duration, InvalidTimeout> {
    digits(value.as_bytes(), DEADLINE_DIGITS).map(Duration::from_millis)
}

fn digits(bytes: &[u8], most: usize) -> Result<u64, InvalidTimeout> {
    if bytes.is_empty() || bytes.len() > most || !bytes.iter().all(u8::is_ascii_digit) {
        return Err(InvalidTimeout::Digits(most));
    }
    Ok(bytes.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value(text: &str) -> HeaderValue {
        HeaderValue::from_str(text).expect("a header value")
    }

    fn headers(rows: &[(HeaderName, &str)]) -> HeaderMap {
        rows.iter().map(|(name, text)| (name.clone(), value(text))).collect()
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_header_is_the_one_of_the_wire_contract() {
        assert_eq!(DEADLINE.as_str(), weft_proto::headers::DEADLINE);
    }

    #[test]
    fn every_unit_of_grpc_timeout() {
        let rows = [
            ("1H", Ok(Duration::from_secs(3_600))),
            ("2M", Ok(Duration::from_secs(120))),
            ("3S", Ok(Duration::from_secs(3))),
            ("4m", Ok(ms(4))),
            ("5u", Ok(Duration::from_micros(5))),
            ("6n", Ok(Duration::from_nanos(6))),
            ("0n", Ok(Duration::ZERO)),
            ("99999999H", Ok(Duration::from_secs(99_999_999 * 3_600))),
            ("100000000n", Err(InvalidTimeout::Digits(8))),
            ("", Err(InvalidTimeout::Digits(8))),
            ("S", Err(InvalidTimeout::Digits(8))),
            ("1", Err(InvalidTimeout::Digits(8))),
            ("1h", Err(InvalidTimeout::Unit)),
            ("-1S", Err(InvalidTimeout::Digits(8))),
            ("1.5S", Err(InvalidTimeout::Digits(8))),
            (" 1S", Err(InvalidTimeout::Digits(8))),
        ];
        for (text, want) in rows {
            assert_eq!(parse_grpc_timeout(&value(text)), want, "{text:?}");
        }
    }

    #[test]
    fn a_deadline_header_is_a_plain_number() {
        let rows = [("0", Some(ms(0))), ("250", Some(ms(250))), ("9999999999", Some(ms(9_999_999_999)))];
        for (text, want) in rows {
            assert_eq!(parse_deadline_ms(&value(text)).ok(), want, "{text:?}");
        }
        for text in ["", "-1", "1.5", "10000000000", "1s", "0x10", "+1"] {
            assert_eq!(parse_deadline_ms(&value(text)), Err(InvalidTimeout::Digits(10)), "{text:?}");
        }
    }

    #[test]
    fn the_earliest_of_timeout_and_headers_counts() {
        let now = Instant::now();
        type Sent<'a> = &'a [(HeaderName, &'a str)];
        let rows: [(&str, Option<Duration>, Sent<'_>, Option<Duration>); 6] = [
            ("nothing is never", None, &[], None),
            ("the rule's timeout", Some(ms(500)), &[], Some(ms(500))),
            ("an earlier grpc-timeout", Some(ms(500)), &[(GRPC_TIMEOUT, "300m")], Some(ms(300))),
            ("a later grpc-timeout", Some(ms(500)), &[(GRPC_TIMEOUT, "3S")], Some(ms(500))),
            ("the earlier header", None, &[(GRPC_TIMEOUT, "3S"), (DEADLINE, "40")], Some(ms(40))),
            ("one that cannot be read", Some(ms(500)), &[(DEADLINE, "soon")], Some(ms(500))),
        ];
        for (row, timeout, sent, want) in rows {
            assert_eq!(Deadline::of_request(now, timeout, &headers(sent)).remaining(now), want, "{row}");
        }
    }

    #[test]
    fn headers_are_shortened_by_the_time_that_has_passed() {
        let now = Instant::now();
        let mut sent = headers(&[(GRPC_TIMEOUT, "1S"), (DEADLINE, "900")]);
        let deadline = Deadline::of_request(now, None, &sent);
        deadline.shorten_headers(now + ms(400), &mut sent);
        assert_eq!(parse_grpc_timeout(&sent[GRPC_TIMEOUT]), Ok(ms(500)));
        assert_eq!(sent[DEADLINE], "500");
        deadline.shorten_headers(now + ms(2_000), &mut sent);
        assert_eq!((&sent[GRPC_TIMEOUT], &sent[DEADLINE]), (&value("0n"), &value("0")));
        assert!(deadline.is_spent(now + ms(900)) && !deadline.is_spent(now + ms(899)));
    }

    #[test]
    fn headers_nobody_sent_are_not_invented_and_bad_ones_are_left_alone() {
        let now = Instant::now();
        let mut sent = headers(&[(DEADLINE, "soon")]);
        Deadline::after(now, Some(ms(100))).shorten_headers(now + ms(10), &mut sent);
        assert_eq!(sent, headers(&[(DEADLINE, "soon")]));
        Deadline::NONE.shorten_headers(now, &mut sent);
        assert_eq!(sent, headers(&[(DEADLINE, "soon")]));
    }

    #[test]
    fn a_try_ends_by_its_own_timeout_or_by_the_requests() {
        let now = Instant::now();
        let rows = [
            ("neither", None, None, None, false),
            ("only the try's", None, Some(ms(50)), Some(ms(50)), true),
            ("only the request's", Some(ms(80)), None, Some(ms(80)), false),
            ("the try's first", Some(ms(80)), Some(ms(50)), Some(ms(50)), true),
            ("the request's first", Some(ms(30)), Some(ms(50)), Some(ms(30)), false),
            ("both at once is the request's", Some(ms(50)), Some(ms(50)), Some(ms(50)), false),
        ];
        for (row, request, per_try, want, own) in rows {
            let (deadline, got_own) = Deadline::after(now, request).of_try(now, per_try);
            assert_eq!((deadline.remaining(now), got_own), (want, own), "{row}");
        }
    }

    #[test]
    fn an_endpoint_is_to_blame_for_the_time_it_had() {
        let now = Instant::now();
        let sent = |name: HeaderName, text: &str| headers(&[(name, text)]);
        let rows = [
            ("the whole of it", Some(ms(100)), HeaderMap::new(), 0, true),
            ("half", Some(ms(100)), HeaderMap::new(), 50, true),
            ("less: an earlier try had the rest", Some(ms(100)), HeaderMap::new(), 51, false),
            ("a client in a hurry", None, sent(DEADLINE, "100"), 0, false),
            ("a client in a hurry, in gRPC", Some(ms(200)), sent(GRPC_TIMEOUT, "100m"), 0, false),
            ("a client that has patience", None, sent(GRPC_TIMEOUT, "2S"), 900, true),
            ("the rule was faster than its client", Some(ms(100)), sent(DEADLINE, "101"), 0, true),
            ("no deadline", None, HeaderMap::new(), 0, false),
        ];
        for (row, timeout, headers, began, want) in rows {
            let deadline = Deadline::of_request(now, timeout, &headers);
            assert_eq!(deadline.blames(now + ms(began)), want, "{row}");
        }
    }

    #[test]
    fn a_timeout_beyond_the_clock_is_never() {
        let now = Instant::now();
        assert_eq!(Deadline::after(now, Some(Duration::MAX)), Deadline::NONE);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn what_is_written_reads_back_as_no_more_and_hardly_less(secs in 0u64..=359_999_996_400, nanos in 0u32..1_000_000_000, shift in 0u32..40) {
            let timeout = Duration::new(secs >> shift, nanos);
            let read = parse_grpc_timeout(&format_grpc_timeout(timeout)).expect("we can read what we write");
            prop_assert!(read <= timeout);
            // A unit is a thousand of the next finer one, which needed more than eight digits: five are left.
            prop_assert!(timeout - read <= timeout / 99_999, "{timeout:?} {read:?}");
        }
    }
}
