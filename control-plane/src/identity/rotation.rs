//! Root rotation as a routine (SEMANTICS.md §4): which step follows when. Pure; `cluster.rs` writes what is decided here.
//!
//! ```text
//!         asked              all ACKed, and waited        settled               longest leaf
//! Stable ────────► Distributing ────────► Switched ────────► Retiring ────────► Stable
//! trusted: a       a, b                    b, a              b, a                b
//! signs:   a       a                       b, a where unseen b                   b
//! ```
//!
//! Why each wait: in **Distributing** everybody must trust `b` before anybody shows a leaf by it. Connected proxies say so by
//! their ACK; those that are only starting read a mounted ConfigMap, which kubelet refreshes within about two minutes,
//! hence a least wait. In **Switched** another replica may not have seen the switch and still signs with `a`: the last leaf by
//! `a` ends the longest leaf's life after *all* have switched, so that clock starts in **Retiring**.
//!
//! A proxy that never ACKs holds a rotation in Distributing, where everything works, but not for ever: one workload must not keep
//! the mesh from leaving a root that may be known to others. Once a leaf's longest life has passed since every replica has
//! known of `b` ([`Times::patience`]), each leaf still good was issued by a replica that did, and `Certify` sends the roots with it:
//! whoever speaks for the mesh has been given `b`, ACK or not. Then it goes on, and says who has not ACKed.
//!
//! Bound: one rotation at a time, so at most two roots; what is asked meanwhile begins when the present one has ended.

use std::time::{Duration, SystemTime};

use super::issuing::BACKDATE;

/// Set by `weft identity rotate`; each new value asks for one rotation.
pub const ROTATE: &str = "weft.dev/rotate";
/// The value of [`ROTATE`] that the last rotation was for.
pub const ANSWERED: &str = "weft.dev/rotation-answers";
/// [`Rotation::word`].
pub const STEP: &str = "weft.dev/rotation-step";
/// When that step began (RFC 3339).
pub const SINCE: &str = "weft.dev/rotation-since";
/// In `retiring`: when the old root will be withdrawn (RFC 3339).
pub const WITHDRAW_AT: &str = "weft.dev/rotation-withdraw-at";

/// The waits of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// The least time in Distributing. Default 3 min: kubelet takes up to about two to refresh a mounted ConfigMap.
    pub distribute: Duration,
    /// From the switch until every replica has seen it. Default 3 min: each reads the Secret every minute, whatever its
    /// watch says.
    pub settle: Duration,
    /// The longest life a leaf was given (`--certificate-ttl`; the longer of the two, if it was changed lately).
    pub longest_leaf: Duration,
    /// How far the clocks of a cluster may be apart. Default 60 s, as much as certificates are backdated by.
    pub clock_skew: Duration,
}

impl Times {
    /// The defaults, for leaves that live up to `longest_leaf`.
    pub fn new(longest_leaf: Duration) -> Self {
        Self {
            distribute: Duration::from_secs(180),
            settle: Duration::from_secs(180),
            longest_leaf,
            clock_skew: BACKDATE,
        }
    }

    /// The longest time in Distributing: whatever leaf is good after it came with the new root.
    pub fn patience(&self) -> Duration {
        self.distribute.max(self.settle + self.longest_leaf + self.clock_skew)
    }
}

/// How far the proxies connected to any replica are with the trust bundle in force.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acked {
    /// Whether all of them have ACKed it.
    pub all: bool,
    /// If not, some who have not: pods, and replicas that do not say how far theirs are.
    pub laggards: Vec<String>,
}

/// Where a rotation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rotation {
    /// One root.
    Stable {
        /// When it began.
        since: SystemTime,
    },
    /// The next root is trusted and does not sign.
    Distributing {
        /// When it began.
        since: SystemTime,
    },
    /// The new root signs; a replica that has not seen it yet may sign with the old one.
    Switched {
        /// When it began.
        since: SystemTime,
    },
    /// Nobody signs with the old root; what it signed is still good.
    Retiring {
        /// When it began.
        since: SystemTime,
        /// When nothing is left that it signed.
        withdraw_at: SystemTime,
    },
}

/// What the decision is made from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    /// The wall clock, because steps outlive processes.
    pub now: SystemTime,
    /// Whether a rotation is asked for that has not been begun.
    pub asked: bool,
    /// Whether every proxy connected to any replica has ACKed the bundle as it is now.
    pub all_acked: bool,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing before this moment, or before a fact changes.
    Wait(Option<SystemTime>),
    /// Make a root and let everybody trust it.
    Distribute,
    /// Sign with it.
    Switch,
    /// Begin to wait for the old root's last leaf.
    Retire {
        /// When that has ended.
        withdraw_at: SystemTime,
    },
    /// Withdraw the old root.
    Withdraw,
}

impl Rotation {
    /// The step's name in annotations.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Rotation::Stable { .. } => "stable",
            Rotation::Distributing { .. } => "distributing",
            Rotation::Switched { .. } => "switched",
            Rotation::Retiring { .. } => "retiring",
        }
    }

    /// When it began.
    pub(super) fn since(&self) -> SystemTime {
        match *self {
            Rotation::Stable { since }
            | Rotation::Distributing { since }
            | Rotation::Switched { since }
            | Rotation::Retiring { since, .. } => since,
        }
    }

    /// What follows.
    pub(super) fn next(&self, facts: &Facts, times: &Times) -> Next {
        let after = |due: SystemTime, step: Next| if facts.now < due { Next::Wait(Some(due)) } else { step };
        match *self {
            Rotation::Stable { .. } if facts.asked => Next::Distribute,
            Rotation::Stable { .. } => Next::Wait(None),
            Rotation::Distributing { since } if facts.all_acked => after(since + times.distribute, Next::Switch),
            Rotation::Distributing { since } => after(since + times.patience(), Next::Switch),
            Rotation::Switched { since } => {
                let withdraw_at = facts.now + times.longest_leaf + times.clock_skew;
                after(since + times.settle, Next::Retire { withdraw_at })
            }
            Rotation::Retiring { withdraw_at, .. } => after(withdraw_at, Next::Withdraw),
        }
    }

    /// The step after `next`; itself when that says to wait.
    pub(super) fn after(self, next: Next, now: SystemTime) -> Self {
        match next {
            Next::Wait(_) => self,
            Next::Distribute => Rotation::Distributing { since: now },
            Next::Switch => Rotation::Switched { since: now },
            Next::Retire { withdraw_at } => Rotation::Retiring { since: now, withdraw_at },
            Next::Withdraw => Rotation::Stable { since: now },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIMES: Times = Times {
        distribute: Duration::from_secs(10),
        settle: Duration::from_secs(5),
        longest_leaf: Duration::from_secs(100),
        clock_skew: Duration::from_secs(60),
    };

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
    }

    #[test]
    fn each_step_waits_for_what_it_must() {
        let stable = Rotation::Stable { since: at(0) };
        let distributing = Rotation::Distributing { since: at(0) };
        let switched = Rotation::Switched { since: at(0) };
        let retiring = Rotation::Retiring { since: at(0), withdraw_at: at(160) };
        let (yes, no) = (true, false);
        #[rustfmt::skip]
        let rows = [
            ("nobody asked",                     stable,       50,  no,  yes, Next::Wait(None)),
            ("somebody asked",                   stable,       0,   yes, no,  Next::Distribute),
            ("ACKed at once: pods still mount",  distributing, 9,   no,  yes, Next::Wait(Some(at(10)))),
            ("waited, and one has not ACKed",    distributing, 164, no,  no,  Next::Wait(Some(at(165)))),
            ("and no leaf is left from before",  distributing, 165, no,  no,  Next::Switch),
            ("waited and ACKed",                 distributing, 10,  no,  yes, Next::Switch),
            ("asked again meanwhile",            distributing, 0,   yes, yes, Next::Wait(Some(at(10)))),
            ("others may not have seen it",      switched,     4,   no,  yes, Next::Wait(Some(at(5)))),
            ("a late ACK means nothing now",     switched,     5,   no,  no,  Next::Retire { withdraw_at: at(165) }),
            ("the leader was away for an hour",  switched,     3600, no, yes, Next::Retire { withdraw_at: at(3760) }),
            ("an old leaf may live",             retiring,     159, yes, yes, Next::Wait(Some(at(160)))),
            ("none is left",                     retiring,     160, no,  no,  Next::Withdraw),
        ];
        for (row, rotation, now, asked, all_acked, expected) in rows {
            assert_eq!(rotation.next(&Facts { now: at(now), asked, all_acked }, &TIMES), expected, "{row}");
        }
        // The clock went back: it waits longer, never shorter.
        let facts = Facts { now: at(0) - Duration::from_secs(3600), asked: false, all_acked: true };
        assert_eq!(distributing.next(&facts, &TIMES), Next::Wait(Some(at(10))));
    }

    proptest! {
        /// Three replicas that see each step late (though within `settle`), issuing all the time: no leaf is ever shown to
        /// somebody who does not trust its root, and none outlives its root's trust.
        #[test]
        fn no_leaf_outlives_the_trust_in_its_root(
            pauses in prop::collection::vec((1..8_u64, any::<bool>(), any::<bool>(), [0..5_u64, 0..5, 0..5]), 50..400),
            one_never_acks in any::<bool>(),
        ) {
            let mut now = 0;
            let (mut rotation, mut signer, mut trusted) = (Rotation::Stable { since: at(0) }, 0_u32, vec![0_u32]);
            // What each replica signs with, and what it will sign with from when.
            let mut replicas = [(0_u32, 0_u32, 0_u64); 3];
            // From when each gives the newest root out with a leaf.
            let mut knows = [0_u64; 3];
            // (root, end, whether it came with the newest root)
            let mut leaves: Vec<(u32, SystemTime, bool)> = Vec::new();
            for (pause, asked, all_acked, lags) in pauses {
                now += pause;
                let all_acked = all_acked && !one_never_acks;
                let next = rotation.next(&Facts { now: at(now), asked, all_acked }, &TIMES);
                match next {
                    Next::Wait(until) => prop_assert!(until.is_none_or(|until| until > at(now))),
                    Next::Distribute => {
                        trusted.push(signer + 1);
                        leaves.iter_mut().for_each(|(_, _, newest)| *newest = false);
                        knows = lags.map(|lag| now + lag);
                    }
                    Next::Switch => {
                        let patient = at(now) >= rotation.since() + TIMES.patience();
                        prop_assert!(all_acked || (patient && leaves.iter().all(|(_, _, both)| *both)));
                        signer += 1;
                        for (replica, lag) in replicas.iter_mut().zip(lags) {
                            *replica = (replica.1, signer, now + lag);
                        }
                    }
                    Next::Retire { .. } => {}
                    Next::Withdraw => trusted.retain(|root| *root == signer),
                }
                rotation = rotation.after(next, at(now));
                prop_assert!(trusted.len() <= 2);
                for ((before, then, from), knows) in replicas.into_iter().zip(knows) {
                    let root = if now >= from { then } else { before };
                    prop_assert!(trusted.contains(&root), "signs with what is not trusted");
                    leaves.push((root, at(now) + TIMES.longest_leaf, now >= knows));
                }
                leaves.retain(|(_, end, _)| *end > at(now));
                for (root, ..) in &leaves {
                    prop_assert!(trusted.contains(root), "a living leaf's root was withdrawn");
                }
            }
        }
    }
}
