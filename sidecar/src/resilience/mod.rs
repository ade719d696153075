//! What happens when a try does not go well: retries and their budget, timeouts and deadlines, limits
//! (SEMANTICS.md §3).
//!
//! | file | decides |
//! |---|---|
//! | `retry.rs` | whether and when a request is tried again |
//! | `budget.rs` | whether the backend can bear another retry |
//! | `recent.rs` | the same, by what was asked lately, where an object asks for that |
//! | `timeout.rs` | how long a request and a try may take, and what is passed on of it |
//! | `limits.rs` | whether one more connection or request is let through |
//! | `rate.rs` | whether a client has asked too often |
//! | `rate_limit.rs` | who is a client, and which limits count together |
//! | `places.rs` | who gets the place of a connection that has closed |
//! | `count.rs` | what these two count by |
//!
//! Pure: `now` and the random source are arguments; sleeping and dialling is `outbound/`'s. The counters are atomics
//! that workers share, given out as guards, so that a count cannot outlive what it counts.
//!
//! Not here: which endpoint the next try goes to (`balance/`, by `PickRequest::avoid`), the body kept for it (`http/`),
//! the answer's reason and status (`reason.rs`).
//!
//! Bound: four words per backend for the budget (and thirty where an object asks for one), six for the limits, and one per pool that holds its connections; of each rate
//! limit as many clients as [`MAX_BUCKETS`].

mod budget;
mod count;
mod limits;
mod places;
mod rate;
mod rate_limit;
mod recent;
mod retry;
mod timeout;

pub use budget::{ActiveGuard, Budget, BudgetPolicy, RetryPermit};
pub use count::{Limit, Overflow};
pub use limits::{Limiter, Limits, PendingGuard, RequestGuard};
pub use places::{ConnectionGuard, Holder};
pub use rate::{Buckets, InvalidRate, MAX_BUCKETS, Rate, Verdict};
pub use rate_limit::{Asking, KnownLimits, RateKey, RateLimit};
pub use recent::{InvalidBudget, RecentPolicy};
pub use retry::{NextTry, Outcome, Retry, RetryOverride, RetryPolicy};
pub use timeout::{Deadline, InvalidTimeout, Timeouts, format_grpc_timeout, parse_deadline_ms, parse_grpc_timeout};
