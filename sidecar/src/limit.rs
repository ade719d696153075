//! Rate limits, met or not: of this workload's own ports, asked for each request before the app is, and of a route's rule, asked of
//! each request that matches before its filters (SEMANTICS.md §3 "rate limit").
//!
//! A request has to pass every limit. They are asked in the order of their names, and the first that refuses ends it: what
//! those before it have taken stays taken.

use std::time::{Duration, Instant};

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue, RETRY_AFTER};

use crate::answer::OwnAnswer;
use crate::reason::Reason;
use crate::resilience::{Asking, RateLimit, Verdict};

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// Whether a request may go on; the verdict of the limit that is the tightest, if there is any.
pub(crate) fn ask<'a>(
    limits: impl IntoIterator<Item = &'a RateLimit>,
    asking: Asking<'_>,
    now: Instant,
) -> (Option<Verdict>, Result<(), OwnAnswer>) {
    let mut tightest: Option<Verdict> = None;
    for limit in limits {
        let verdict = limit.take(asking, now);
        tightest = Some(tightest.map_or(verdict, |other| verdict.tighter(other)));
        if verdict.wait.is_some() {
            let detail = format!("RateLimit {}: too many requests for now", limit.name);
            let own = OwnAnswer::new(Reason::RateLimited, detail).with_context(format!("limit={}", limit.name));
            return (tightest, Err(own));
        }
    }
    (tightest, Ok(()))
}

/// Tells the client. What the app, or the server's sidecar, says of limits stays.
pub(crate) fn tell(verdict: Verdict, headers: &mut HeaderMap) {
    if let Some(wait) = verdict.wait {
        headers.insert(RETRY_AFTER, seconds(wait));
    }
    for (name, value) in [
        (LIMIT, HeaderValue::from(verdict.limit)),
        (REMAINING, HeaderValue::from(verdict.remaining)),
        (RESET, seconds(verdict.full_in)),
    ] {
        headers.entry(name).or_insert(value);
    }
}

/// Rounded up: who comes back then is let in.
fn seconds(time: Duration) -> HeaderValue {
    HeaderValue::from(time.as_secs() + u64::from(time.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_told_in_whole_seconds_and_not_over_the_app() {
        let verdict = Verdict { limit: 9, remaining: 3, full_in: Duration::from_millis(1_001), wait: None };
        let mut headers = HeaderMap::new();
        headers.insert(REMAINING, HeaderValue::from_static("the app's"));
        tell(verdict, &mut headers);
        assert_eq!(
            (&headers[LIMIT], &headers[REMAINING], &headers[RESET]),
            (&"9".parse().unwrap(), &"the app's".parse().unwrap(), &"2".parse().unwrap())
        );
        assert!(!headers.contains_key(RETRY_AFTER));
        let refused = Verdict { wait: Some(Duration::from_millis(3_000)), ..verdict };
        tell(refused, &mut headers);
        assert_eq!(headers[RETRY_AFTER], "3");
    }
}
