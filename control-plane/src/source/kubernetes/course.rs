//! What a failure of a watch means, what to tell the operator, and when and how to go on. Pure: `now` and a random number
//! are passed in.
//!
//! | the API server | then |
//! |---|---|
//! | does not answer, or with 5xx | again after 100 ms doubling to 1 s: proxies may have stale endpoints meanwhile |
//! | 429, 401, 403 | the same, since one that starts says so until it knows its rules; from the [`STARTING`]th in a row on every 5 s: asking more often does not help, and somebody may be mending it |
//! | 410, or refuses three times to go on from where we were (etcd was restored) | list anew |
//! | refuses a streaming list, or has not begun one within [`LIST_SILENCE`] (it is older than 1.27) | list in pages from now on |
//! | 404 on a kind of a CRD | the next version; when all are tried, and for [`DOUBT`] if there were objects, it is absent; asked for again every [`LOOK`] |
//!
//! A wait is less by up to half, so that replicas do not come at once. What it says is said once, and again every
//! [`REMIND`] while it lasts.

use std::time::{Duration, Instant};

use kube::runtime::watcher;

use super::kinds::Row;

/// Silence during a list before it is given up.
pub(super) const LIST_SILENCE: Duration = Duration::from_secs(10);
/// Between two questions for a kind that was absent, all versions counted.
const LOOK: Duration = Duration::from_secs(2);
/// A starting API server may not know its CRDs yet: objects are not given up for less.
const DOUBT: Duration = Duration::from_secs(5);
const REMIND: Duration = Duration::from_secs(60);
const FIRST: Duration = Duration::from_millis(100);
const LAST: Duration = Duration::from_secs(1);
const LAST_REFUSED: Duration = Duration::from_secs(5);
/// So many 429, 401 and 403 in a row, about a second apart, may come from an API server that starts.
const STARTING: u32 = 15;
/// So many refusals in a row to go on from where we were mean that it never will.
const REFUSALS: u32 = 3;

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    #[error("the API server does not answer: {0} (is it running, and does a network policy allow it?)")]
    Unreachable(String),
    #[error("no word from the API server for {LIST_SILENCE:?} while listing")]
    Silent,
    #[error("forbidden: the ClusterRole lacks {verb} on {resource}: {message}")]
    Forbidden { verb: &'static str, resource: String, message: String },
    #[error(
        "unauthorized: the API server does not accept our token (expired, or the ServiceAccount was deleted?): {0}"
    )]
    Unauthorized(String),
    #[error("the API server is busy: {0}")]
    Busy(String),
    #[error("the API server answers {code}: {message}")]
    Server { code: u16, message: String },
    #[error("not served: {0}")]
    NotServed(String),
    #[error("the place in history where we were is gone, everything is listed anew: {0}")]
    Gone(String),
    #[error("streaming lists are not served, pages are taken instead: {0}")]
    NoStreaming(String),
    #[error("an answer that cannot be read: {0}")]
    Garbled(String),
}

impl Failure {
    /// What a watcher's error means for this kind.
    pub(super) fn of(error: &watcher::Error, row: &Row, streaming: bool) -> Self {
        let (verb, began, cause) = match error {
            watcher::Error::InitialListFailed(cause) => ("list", true, cause),
            watcher::Error::WatchStartFailed(cause) => ("watch", true, cause),
            watcher::Error::WatchFailed(cause) => ("watch", false, cause),
            watcher::Error::WatchError(status) => return Self::answered(status, "watch", row, false),
            watcher::Error::NoResourceVersion => return Self::Garbled(error.to_string()),
        };
        match cause {
            kube::Error::Api(status) => Self::answered(status, verb, row, began && streaming && verb == "watch"),
            kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => Self::Garbled(cause.to_string()),
            _ => Self::Unreachable(chain(cause)),
        }
    }

    fn answered(status: &kube::core::Status, verb: &'static str, row: &Row, may_be_streaming: bool) -> Self {
        let message = status.message.clone();
        match status.code {
            400 | 422 if may_be_streaming => Self::NoStreaming(message),
            401 => Self::Unauthorized(message),
            403 => Self::Forbidden { verb, resource: row.resource_name(), message },
            404 => Self::NotServed(message),
            410 => Self::Gone(message),
            429 => Self::Busy(message),
            code => Self::Server { code, message },
        }
    }

    /// For a metric.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Silent => "silent",
            Self::Forbidden { .. } => "forbidden",
            Self::Unauthorized(_) => "unauthorized",
            Self::Busy(_) => "busy",
            Self::Server { .. } => "server",
            Self::NotServed(_) => "not-served",
            Self::Gone(_) => "gone",
            Self::NoStreaming(_) => "no-streaming",
            Self::Garbled(_) => "garbled",
        }
    }
}

/// An error with what caused it: kube's own text stops at "ServiceError".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

/// How to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) wait: Duration,
    pub(super) then: Then,
}

/// What to go on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// The same watcher, which knows where it was.
    Resume,
    /// Another watcher, which lists.
    ListAnew,
    /// The same, and the kind is not served: its objects are gone.
    Absent,
}

/// Where the watch of one kind stands.
#[derive(Debug)]
pub(super) struct Course {
    row: &'static Row,
    version: usize,
    streaming: bool,
    /// In a row.
    failures: u32,
    /// How many of them turned us away, though somebody was there.
    turned_away: u32,
    refusals: u32,
    unserved: u32,
    unserved_since: Option<Instant>,
    /// Whether it was listed and may have objects.
    listed: bool,
    said: Option<(&'static str, Instant)>,
}

impl Course {
    pub(super) fn new(row: &'static Row) -> Self {
        Self {
            row,
            version: 0,
            streaming: true,
            failures: 0,
            turned_away: 0,
            refusals: 0,
            unserved: 0,
            unserved_since: None,
            listed: false,
            said: None,
        }
    }

    /// The version to ask for.
    pub(super) fn version(&self) -> &'static str {
        self.row.versions.get(self.version).copied().unwrap_or("v1")
    }

    /// Whether to ask for a streaming list.
    pub(super) fn streaming(&self) -> bool {
        self.streaming
    }

    /// Something came. Returns whether it had failed before.
    pub(super) fn on_progress(&mut self, list_complete: bool) -> bool {
        (self.failures, self.turned_away, self.refusals) = (0, 0, 0);
        (self.unserved, self.unserved_since) = (0, None);
        self.listed |= list_complete;
        self.said.take().is_some()
    }

    /// Something failed. `random` is from 0 to 1.
    pub(super) fn on_failure(&mut self, failure: &Failure, now: Instant, random: f64) -> Next {
        let less = |wait: Duration| wait.mul_f64(1.0 - random.clamp(0.0, 1.0) / 2.0);
        let backoff = |failures: u32, last: Duration| less(FIRST.saturating_mul(1 << failures.min(10)).min(last));
        if let Failure::NotServed(_) = failure
            && self.row.optional
        {
            return self.on_unserved(now, less);
        }
        (self.unserved, self.unserved_since) = (0, None);
        let failures = self.failures;
        self.failures = failures.saturating_add(1);
        let (wait, then) = match failure {
            Failure::NoStreaming(_) => {
                self.streaming = false;
                (Duration::ZERO, Then::ListAnew)
            }
            Failure::Silent => {
                self.streaming = false;
                (backoff(failures, LAST), Then::ListAnew)
            }
            Failure::Gone(_) => (backoff(failures, LAST), Then::ListAnew),
            Failure::Unreachable(_) => (backoff(failures, LAST), Then::Resume),
            Failure::Server { .. } | Failure::NotServed(_) | Failure::Garbled(_) => {
                self.refusals += 1;
                let anew = self.refusals >= REFUSALS;
                self.refusals = if anew { 0 } else { self.refusals };
                (backoff(failures, LAST), if anew { Then::ListAnew } else { Then::Resume })
            }
            Failure::Forbidden { .. } | Failure::Unauthorized(_) | Failure::Busy(_) => {
                self.turned_away = self.turned_away.saturating_add(1);
                // An API server that was away turns everybody away while it starts: not to be waited for any longer than
                // one that does not answer.
                let last = if self.turned_away < STARTING { LAST } else { LAST_REFUSED };
                (backoff(failures, last), Then::Resume)
            }
        };
        Next { wait, then }
    }

    fn on_unserved(&mut self, now: Instant, less: impl Fn(Duration) -> Duration) -> Next {
        let versions = self.row.versions.len().max(1);
        let since = *self.unserved_since.get_or_insert(now);
        self.unserved = self.unserved.saturating_add(1);
        self.version = (self.version + 1) % versions;
        let all_tried = usize::try_from(self.unserved).is_ok_and(|tried| tried >= versions);
        let sure = all_tried && (!self.listed || now.saturating_duration_since(since) >= DOUBT);
        if sure {
            self.listed = false;
        }
        // The first round is quick: a start waits for it.
        let share = u32::try_from(versions).unwrap_or(1);
        let wait = if all_tried { less(LOOK / share) } else { Duration::ZERO };
        Next { wait, then: if sure { Then::Absent } else { Then::ListAnew } }
    }

    /// Whether to log this failure, or it was said already.
    pub(super) fn says(&mut self, failure: &Failure, now: Instant) -> bool {
        let reason = failure.reason();
        let known = self.said.is_some_and(|(said, at)| said == reason && now.saturating_duration_since(at) < REMIND);
        if !known {
            self.said = Some((reason, now));
        }
        !known
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;
    use crate::source::kubernetes::kinds::KINDS;

    const SERVICE: &Row = &KINDS[1].1;
    const ROUTE: &Row = &KINDS[5].1;

    fn api(code: u16) -> kube::Error {
        kube::Error::Api(Status::failure("said so", "Reason").with_code(code).boxed())
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_failure_says_what_to_check() {
        use watcher::Error::{InitialListFailed, WatchError, WatchStartFailed};
        let in_stream = WatchError(Status::failure("too old", "Expired").with_code(410).boxed());
        let closed = std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "connection refused");
        let rows = [
            (
                InitialListFailed(api(403)),
                false,
                "forbidden",
                "the ClusterRole lacks list on httproutes.gateway.networking.k8s.io",
            ),
            (WatchStartFailed(api(403)), true, "forbidden", "the ClusterRole lacks watch on httproutes"),
            (InitialListFailed(api(401)), false, "unauthorized", "expired"),
            (WatchStartFailed(api(422)), true, "no-streaming", "pages are taken"),
            (WatchStartFailed(api(400)), true, "no-streaming", "pages are taken"),
            (WatchStartFailed(api(422)), false, "server", "answers 422"),
            (in_stream, true, "gone", "listed anew"),
            (WatchStartFailed(api(410)), true, "gone", "listed anew"),
            (WatchStartFailed(api(404)), true, "not-served", "said so"),
            (InitialListFailed(api(503)), true, "server", "answers 503"),
            (WatchStartFailed(api(429)), true, "busy", "said so"),
            (WatchStartFailed(kube::Error::Service(closed.into())), true, "unreachable", "connection refused"),
        ];
        for (error, streaming, reason, text) in rows {
            let failure = Failure::of(&error, ROUTE, streaming);
            assert_eq!(failure.reason(), reason, "{error}");
            assert!(failure.to_string().contains(text), "{failure}");
        }
    }

    #[test]
    fn waits_grow_to_a_second_and_much_later_to_five_where_asking_does_not_help() {
        let now = Instant::now();
        let unreachable = Failure::Unreachable(String::new());
        let mut course = Course::new(SERVICE);
        let mut waits = || course.on_failure(&unreachable, now, 0.0).wait;
        assert_eq!([waits(), waits(), waits(), waits(), waits(), waits()], [100, 200, 400, 800, 1000, 1000].map(ms));
        let forbidden = Failure::Forbidden { verb: "watch", resource: "services".to_owned(), message: String::new() };
        for _ in 1..STARTING {
            assert_eq!(course.on_failure(&forbidden, now, 0.0).wait, ms(1000), "it was away, and starts now");
        }
        assert_eq!(course.on_failure(&Failure::Busy(String::new()), now, 0.0).wait, ms(5000));
        assert_eq!(course.on_failure(&unreachable, now, 1.0).wait, ms(500), "less up to half");
        assert!(!course.on_progress(true));
        assert_eq!(course.on_failure(&unreachable, now, 0.0), Next { wait: ms(100), then: Then::Resume });
    }

    #[test]
    fn what_does_not_get_better_is_listed_anew() {
        let now = Instant::now();
        let mut course = Course::new(SERVICE);
        let mut then = |failure: &Failure| course.on_failure(failure, now, 0.0).then;
        assert_eq!(then(&Failure::Gone(String::new())), Then::ListAnew);
        let refused = Failure::Server { code: 504, message: "too large resource version".to_owned() };
        let thens = [then(&refused), then(&refused), then(&refused), then(&refused)];
        assert_eq!(thens, [Then::Resume, Then::Resume, Then::ListAnew, Then::Resume]);
        let not_served = Failure::NotServed(String::new());
        assert!((0..20).all(|_| then(&not_served) != Then::Absent), "a core kind is always served");
    }

    #[test]
    fn a_refused_streaming_list_is_taken_in_pages_ever_after() {
        let now = Instant::now();
        for failure in [Failure::NoStreaming(String::new()), Failure::Silent] {
            let mut course = Course::new(SERVICE);
            assert!(course.streaming());
            assert_eq!(course.on_failure(&failure, now, 0.0).then, Then::ListAnew);
            assert!(!course.streaming());
        }
    }

    #[test]
    fn a_kind_is_absent_when_no_version_is_served_and_for_a_while_if_it_had_objects() {
        let start = Instant::now();
        let gone = Failure::NotServed(String::new());
        let mut course = Course::new(ROUTE);
        assert_eq!(course.version(), "v1");
        assert_eq!(course.on_failure(&gone, start, 0.0), Next { wait: ms(0), then: Then::ListAnew });
        assert_eq!(course.version(), "v1beta1");
        assert_eq!(course.on_failure(&gone, start, 0.0), Next { wait: ms(1000), then: Then::Absent });
        assert_eq!(course.version(), "v1");
        course.on_progress(true);
        // It was served: the CRDs of an API server that starts are known a little later.
        let mut then = |at: u64| course.on_failure(&gone, start + ms(at), 0.0).then;
        assert_eq!([then(0), then(0), then(1000), then(4999)], [Then::ListAnew; 4]);
        assert_eq!([then(5000), then(6000)], [Then::Absent; 2]);
        course.on_progress(true);
        assert_eq!(course.on_failure(&gone, start + ms(7000), 0.0).then, Then::ListAnew);
    }

    #[test]
    fn the_same_is_said_once_a_minute() {
        let start = Instant::now();
        let (busy, gone) = (Failure::Busy(String::new()), Failure::Gone(String::new()));
        let mut course = Course::new(SERVICE);
        let says = [(&busy, 0, true), (&busy, 1, false), (&gone, 2, true), (&gone, 61, false), (&gone, 62, true)];
        for (failure, at, expected) in says {
            assert_eq!(course.says(failure, start + Duration::from_secs(at)), expected, "{at}");
        }
        assert!(course.on_progress(false));
        assert!(course.says(&gone, start + Duration::from_secs(63)));
    }
}
