//! How a pod's life ends, and that no request is lost over it (SEMANTICS.md §3 "drain"). A pod is deleted at 0:
//!
//! ```text
//!        native (kubelet ends us after the app)            classic (kubelet ends both at once)
//!   0    the API marks the pod; its endpoints become draining: peers hear of it within a second or two, and
//!        until they do they send us requests and open connections
//!   0    SIGTERM to the app                                SIGTERM to the app and to us
//!  +0.1  preStop: `weft-sidecar drain`
//!        ── [`Drains::begin`]: inbound drains ───────────────────────────────────────────────────────────────
//!        peers get GOAWAY and plain clients `Connection: close` with the next answer; listeners keep accepting;
//!        every request to the app goes out on a fresh connection (`inbound/request.rs`)
//!        outbound serves the app as ever                   outbound serves the app as ever
//!        the app ends
//!        SIGTERM to us                                     no socket of the app is left (`app.rs`)
//!        ── [`Drains::finish`]: outbound closes; inbound closes [`SETTLE`] after it began ────────────────────
//!        no connection is left: accept queues are emptied, what was in them is served, we exit
//! ```
//!
//! What arrives between, and what becomes of it:
//!
//! | a request arrives | and the app | it |
//! |---|---|---|
//! | on a peer's open connection, or a new one | still accepts | is served; a new connection is told to go only after half a second, or a stale peer would dial for every request |
//! | | has closed its listener | `REFUSED_STREAM`, provably not processed: the peer's sidecar sends it elsewhere, POST too |
//! | on an idle connection to the app, in the 0.1 s before we know | closes that connection just now | `http/h1/unread.rs` tells a request the app never read from one it may have read: the first is `REFUSED_STREAM` too |
//! | on a fresh one | closes its listener before it accepts it | the same |
//! | from a plain client | has closed its listener | 503, `Connection: close`: there is no sidecar to send it elsewhere |
//! | from a plain client, on a connection that has been idle | still accepts | is served, with `Connection: close`: idle ones stay until we close, since a close could meet a request on its way |
//!
//! A request whose body is still coming finishes as long as the app reads it. What the app itself sends is never cut short
//! by a drain: outbound ends when the app has.
//!
//! Limits: `--drain-seconds` after the beginning connections are cut, though never sooner than [`LEAST`] after SIGTERM, which
//! is what kubelet leaves a sidecar at the least. When nothing is left we exit, so that kubelet does not wait for us. A second
//! SIGTERM cuts at once.

use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::Instant;

use super::{app, worker};
use crate::listen::drain;
use crate::settings::Mode;

/// A drain lasts at least this long: endpoints are withdrawn by the control plane meanwhile, and what arrives on its old
/// word is still answered.
const SETTLE: Duration = Duration::from_secs(1);
/// After SIGTERM there is at least this long, whenever the drain began.
const LEAST: Duration = Duration::from_secs(2);

/// Both directions' drains.
pub(crate) struct Drains {
    pub(crate) inbound: drain::Signal,
    pub(crate) outbound: drain::Signal,
    began: OnceLock<Instant>,
}

impl Drains {
    pub(crate) fn new(inbound: drain::Signal, outbound: drain::Signal) -> Self {
        Self { inbound, outbound, began: OnceLock::new() }
    }

    /// The pod is being ended; doing so again changes nothing.
    pub(crate) fn begin(&self) -> Instant {
        let began = *self.began.get_or_init(Instant::now);
        self.inbound.start();
        began
    }

    /// SIGTERM: finishes what is in flight, then empties the accept queues, then is over.
    pub(super) async fn finish(&self, mode: Mode, at_most: Duration, workers: &worker::Workers) {
        let began = self.begin();
        let drained = async {
            if mode == Mode::Classic {
                app::gone().await;
            }
            self.outbound.close();
            tokio::time::sleep_until(began + SETTLE).await;
            tokio::join!(self.inbound.drain(), self.outbound.drain());
            workers.stop_accepting().await;
            tokio::join!(self.inbound.drain(), self.outbound.drain());
        };
        let deadline = deadline(began, Instant::now(), at_most);
        if tokio::time::timeout_at(deadline, drained).await.is_err() {
            let (inbound, outbound) = (self.inbound.held(), self.outbound.held());
            tracing::warn!(inbound, outbound, "connections were cut: they outlived --drain-seconds");
        }
    }
}

/// When connections are cut.
fn deadline(began: Instant, now: Instant, at_most: Duration) -> Instant {
    (began + at_most).max(now + at_most.min(LEAST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_grace_period_began_with_the_drain_and_leaves_a_little_in_any_case() {
        let began = Instant::now();
        let at = |seconds: f32| began + Duration::from_secs_f32(seconds);
        for (what, sigterm, at_most, expected) in [
            ("no preStop ran", 0.0, 28, 28.0),
            ("the app took a while", 9.0, 28, 28.0),
            ("the app took nearly all of it", 27.5, 28, 29.5),
            ("somebody drained by hand an hour ago", 3600.0, 28, 3602.0),
            ("a short grace period", 0.0, 1, 1.0),
            ("none", 0.0, 0, 0.0),
        ] {
            assert_eq!(deadline(began, at(sigterm), Duration::from_secs(at_most)), at(expected), "{what}");
        }
    }
}
