//! Who gets into port 15012 when more want to than there is room for (`weft_proto::places` says by which rule).
//!
//! | | room | one too many |
//! |---|---|---|
//! | handshakes under way | [`Bounds::handshakes`] | its address's oldest ends; when all is taken, the oldest of whoever has most; where nobody has many, it waits |
//! | connections without a certificate | [`Bounds::anonymous`] | the same, but it is refused instead of waiting |
//! | connections with one | [`Bounds::known`] | is refused |
//!
//! The first two are counted by source address, because nobody is known yet; a connection with a certificate never is: many
//! pods may share an address (NAT, their node's network). So whoever has no certificate can keep out others without one who
//! come from the same address, for as long as it goes on, and nobody else. Those who wait or are refused come back: the
//! kernel's queue holds the former, their sidecars' back-off the latter, and a Service leads them to another replica.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use weft_proto::places::{Limits, Place, Places};

use crate::identity::Peer;

/// How many at once. Not flags: each is more than an honest mesh needs of one replica, and tests shorten them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Unfinished handshakes, each some 20 KiB. One address may have as many as a node has pods, all behind its address.
    pub(super) handshakes: Limits,
    /// Connections without a certificate, each good for one `Certify`, some 100 KiB at worst.
    pub(super) anonymous: Limits,
    /// Connections with one: proxies, replicas, some that are about to end.
    pub(super) known: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            handshakes: Limits { total: 1_024, per_source: 256, kept: 16 },
            anonymous: Limits { total: 1_024, per_source: 256, kept: 16 },
            known: 10_000,
        }
    }
}

/// Gives its place up when it is dropped.
type Evict = oneshot::Sender<()>;

/// The room there is.
pub(super) struct Entrance {
    handshakes: Places<Evict>,
    /// That a handshake has ended.
    freed: Notify,
    anonymous: Places<Evict>,
    known: Arc<Semaphore>,
}

/// A handshake under way.
pub(super) struct Handshake {
    entrance: Arc<Entrance>,
    /// `None` only while it is dropped.
    place: Option<Place<Evict>>,
    evicted: oneshot::Receiver<()>,
}

/// A connection whose handshake is done.
pub(super) enum Stay {
    /// With a certificate.
    Known { _permit: OwnedSemaphorePermit },
    /// Without one.
    Anonymous { _place: Place<Evict>, evicted: oneshot::Receiver<()> },
}

/// Why there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoRoom {
    /// As many connections with a certificate as may be.
    #[error("this replica has as many proxies as it takes: add replicas (`controlPlane.replicas`)")]
    Known,
    /// As many without one.
    #[error("too many connections without a certificate; those who are honest come back")]
    Anonymous,
}

impl Entrance {
    pub(super) fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            handshakes: Places::new(bounds.handshakes),
            freed: Notify::new(),
            anonymous: Places::new(bounds.anonymous),
            known: Arc::new(Semaphore::new(bounds.known)),
        })
    }

    /// Room for a handshake, waiting for it where that is fair. One caller at a time. Cancel safe.
    pub(super) async fn begin(self: &Arc<Self>, source: IpAddr) -> Handshake {
        loop {
            let (evict, evicted) = oneshot::channel();
            if let Ok(place) = self.handshakes.enter(source, evict) {
                return Handshake { entrance: Arc::clone(self), place: Some(place), evicted };
            }
            // One that ended since we looked is remembered.
            self.freed.notified().await;
        }
    }

    /// Room for a connection of `peer`.
    ///
    /// # Errors
    /// That there is none.
    pub(super) fn stay(&self, source: IpAddr, peer: Option<&Peer>) -> Result<Stay, NoRoom> {
        if peer.is_some() {
            let permit = Arc::clone(&self.known).try_acquire_owned();
            return permit.map(|_permit| Stay::Known { _permit }).map_err(|_| NoRoom::Known);
        }
        let (evict, evicted) = oneshot::channel();
        let _place = self.anonymous.enter(source, evict).map_err(|_| NoRoom::Anonymous)?;
        Ok(Stay::Anonymous { _place, evicted })
    }
}

impl Handshake {
    /// Does `work`, unless the place is given up before it is done.
    pub(super) async fn within<T>(mut self, work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
        tokio::select! {
            done = work => done,
            _ = &mut self.evicted => Err("too many handshakes from this address; the oldest was ended".to_owned()),
        }
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        drop(self.place.take());
        self.entrance.freed.notify_one();
    }
}

impl Stay {
    /// Waits until the place is given up. Once only.
    pub(super) async fn over(&mut self) {
        match self {
            Stay::Known { .. } => std::future::pending().await,
            // An error is how it says so.
            Stay::Anonymous { evicted, .. } => drop(evicted.await),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use futures_util::FutureExt as _;

    use super::*;

    const BOUNDS: Bounds = Bounds {
        handshakes: Limits { total: 4, per_source: 3, kept: 1 },
        anonymous: Limits { total: 4, per_source: 3, kept: 1 },
        known: 5,
    };

    fn source(number: u8) -> IpAddr {
        [10, 0, 0, number].into()
    }

    fn peer() -> Peer {
        Peer { id: "spiffe://weft.local/ns/shop/sa/web".parse().unwrap(), not_after: SystemTime::UNIX_EPOCH }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_holds_many_handshakes_loses_them_and_a_herd_waits_its_turn() {
        let entrance = Entrance::new(BOUNDS);
        let silent = || std::future::pending::<Result<(), String>>();
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(tokio::spawn(entrance.begin(source(1)).await.within(silent())));
        }
        let _other = entrance.begin(source(2)).await;
        // All are taken, and one has most of them: a third gets in.
        let third = entrance.begin(source(3)).now_or_never().unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(held.remove(0).await.unwrap().is_err(), "the oldest of whoever had most");
        assert!(!held[0].is_finished());
        let fourth = entrance.begin(source(4)).now_or_never().unwrap();
        // Now everybody has one. A fifth waits for whoever ends first.
        let mut fifth = Box::pin(entrance.begin(source(5)));
        assert!(fifth.as_mut().now_or_never().is_none());
        assert!(third.within(async { Ok(7) }).await == Ok(7));
        assert!(fifth.now_or_never().is_some());
        drop(fourth);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_no_certificate_is_counted_by_address_and_who_has_one_is_not() {
        let entrance = Entrance::new(BOUNDS);
        let mut anonymous: Vec<_> = (0..4).map(|_| entrance.stay(source(1), None).unwrap()).collect();
        let over: Vec<_> = anonymous.iter_mut().map(|stay| stay.over().now_or_never().is_some()).collect();
        assert_eq!(over, [true, false, false, false], "its own oldest");
        let known: Vec<_> = (0..5).map(|_| entrance.stay(source(1), Some(&peer())).unwrap()).collect();
        assert_eq!(entrance.stay(source(2), Some(&peer())).err(), Some(NoRoom::Known));
        assert!(entrance.stay(source(2), None).is_ok(), "they take nothing from each other");
        drop(known);
        assert!(entrance.stay(source(2), Some(&peer())).is_ok());
        let _herd: Vec<_> = (3..=7).map(|number| entrance.stay(source(number), None)).collect();
        assert_eq!(entrance.stay(source(8), None).err(), Some(NoRoom::Anonymous), "nobody has more than it keeps");
    }
}
