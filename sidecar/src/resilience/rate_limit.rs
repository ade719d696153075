//! Limits on how often clients may ask (RateLimit of `weft.dev`): what tells clients apart, and the buckets themselves, which
//! outlive a resource that says the same of them (SEMANTICS.md §3 "rate limit").
//!
//! Limits of this workload's own ports follow one another ([`RateLimit::succeed`]). Those of a route are on each of its rules, at
//! each Service it acts on, and on rules of other routes that the same object names; they count together ([`KnownLimits`]).
//!
//! Bound: [`MAX_BUCKETS`](super::MAX_BUCKETS) clients of a limit, and the limits in use.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Instant;

use http::header::{HeaderMap, HeaderName};
use parking_lot::Mutex;
use weft_proto::SpiffeId;

use super::rate::{Buckets, Rate, Verdict};

/// One limit.
#[derive(Debug, Clone)]
pub struct RateLimit {
    /// `namespace/name` of the object.
    pub name: Box<str>,
    /// The ports whose requests it counts; none of a rule's.
    pub ports: Box<[u16]>,
    counted: Arc<Counted>,
}

/// What has been used, and by whom.
#[derive(Debug)]
struct Counted {
    key: RateKey,
    buckets: Buckets,
}

/// Which requests share a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RateKey {
    /// All of them.
    All,
    /// Those of one identity.
    Identity,
    /// Those from one address.
    SourceIp,
    /// Those with one value of this header.
    Header(HeaderName),
}

impl PartialEq for RateLimit {
    /// Whether they say the same, however full the buckets are.
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.ports == other.ports && self.counted.is_like(&other.counted)
    }
}

impl Eq for RateLimit {}

/// Who asks, and with what.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// From where.
    pub client: IpAddr,
    /// Who; `None` who has not proved it.
    pub peer: Option<&'a SpiffeId>,
    /// The request's.
    pub headers: &'a HeaderMap,
}

impl Counted {
    fn is_like(&self, other: &Self) -> bool {
        self.key == other.key && self.buckets.rate() == other.buckets.rate()
    }
}

impl RateLimit {
    /// With nothing used.
    pub fn new(name: impl Into<Box<str>>, ports: Box<[u16]>, key: RateKey, rate: Rate) -> Self {
        Self { name: name.into(), ports, counted: Arc::new(Counted { key, buckets: Buckets::new(rate) }) }
    }

    /// Goes on with the buckets of what it replaces, where that counts alike.
    pub fn succeed(&mut self, before: &[Self]) {
        let mut before = before.iter();
        if let Some(before) = before.find(|before| before.name == self.name && before.counted.is_like(&self.counted)) {
            self.counted = Arc::clone(&before.counted);
        }
    }

    /// A request: whether it may pass, and what its client may be told.
    pub fn take(&self, asking: Asking<'_>, now: Instant) -> Verdict {
        let Counted { key, buckets } = &*self.counted;
        match key {
            RateKey::All => buckets.take(&(), now),
            // Who has no identity, or sends no such header, is one client with all others like that.
            RateKey::Identity => buckets.take(asking.peer.map_or("", SpiffeId::as_str), now),
            RateKey::SourceIp => buckets.take(&asking.client, now),
            RateKey::Header(name) => {
                let lines: smallvec::SmallVec<[&[u8]; 2]> =
                    asking.headers.get_all(name).iter().map(http::HeaderValue::as_bytes).collect();
                buckets.take(&*lines, now)
            }
        }
    }
}

impl std::fmt::Display for RateLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Counted { key, buckets } = &*self.counted;
        let of = match key {
            RateKey::All => "of all clients together".to_owned(),
            RateKey::Identity => "of each identity".to_owned(),
            RateKey::SourceIp => "of each address".to_owned(),
            RateKey::Header(name) => format!("of each {name}"),
        };
        write!(f, "{}: {} {of}, {} known", self.name, buckets.rate(), buckets.clients())?;
        if self.ports.is_empty() { Ok(()) } else { write!(f, ", ports {:?}", self.ports) }
    }
}

impl serde::Serialize for RateLimit {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The limits that rules have, by name, so that all of one name which count alike count together.
#[derive(Debug, Default)]
pub struct KnownLimits(Mutex<HashMap<Box<str>, Vec<Weak<Counted>>>>);

impl KnownLimits {
    /// Has a limit go on with what is counted under its name, as long as some rule has that.
    pub fn join(&self, mut limit: RateLimit) -> RateLimit {
        let mut known = self.0.lock();
        let of_the_name = known.get(&limit.name).into_iter().flatten();
        if let Some(counted) = of_the_name.filter_map(Weak::upgrade).find(|counted| counted.is_like(&limit.counted)) {
            limit.counted = counted;
            return limit;
        }
        // Now and then, what no rule has any more goes: there are never more than twice those in use.
        if known.len().is_power_of_two() {
            known.retain(|_, all| all.iter().any(|counted| counted.strong_count() > 0));
        }
        let of_the_name = known.entry(limit.name.clone()).or_default();
        of_the_name.retain(|counted| counted.strong_count() > 0);
        of_the_name.push(Arc::downgrade(&limit.counted));
        limit
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn limit_by(key: RateKey) -> RateLimit {
        let rate = Rate::new(10, Duration::from_secs(1), 2).unwrap();
        RateLimit::new("shop/limit", [8080].into(), key, rate)
    }

    fn by_user() -> RateKey {
        RateKey::Header(HeaderName::from_static("x-user"))
    }

    #[test]
    fn clients_are_told_apart_by_what_the_limit_says() {
        let peers: [SpiffeId; 2] = ["a", "b"].map(|name| SpiffeId::new("weft.local", "shop", name).unwrap());
        let headers = |lines: &[&str]| -> HeaderMap {
            lines.iter().map(|line| (HeaderName::from_static("x-user"), line.parse().unwrap())).collect()
        };
        let rows = [
            (RateKey::All, [true, true, true, true, true]),
            (RateKey::Identity, [true, false, false, true, true]),
            (RateKey::SourceIp, [false, true, false, true, true]),
            (by_user(), [true, true, true, false, false]),
        ];
        for (key, shares) in rows {
            let now = Instant::now();
            let (ours, others) = (headers(&["u"]), headers(&["u", "u"]));
            let none = HeaderMap::new();
            let first = Asking { client: [10, 0, 0, 1].into(), peer: Some(&peers[0]), headers: &ours };
            // Each beside the first, in one thing another.
            let rest = [
                Asking { client: [10, 0, 0, 2].into(), ..first },
                Asking { peer: Some(&peers[1]), ..first },
                Asking { client: [10, 0, 0, 3].into(), peer: None, ..first },
                Asking { headers: &others, ..first },
                Asking { headers: &none, ..first },
            ];
            for (asking, shares) in rest.into_iter().zip(shares) {
                let limit = limit_by(key.clone());
                limit.take(first, now);
                assert_eq!(limit.take(asking, now).remaining == 0, shares, "{key:?} {asking:?}");
            }
        }
    }

    fn alike() -> [(&'static str, RateLimit, bool); 5] {
        let rate = Rate::new(20, Duration::from_secs(1), 2).unwrap();
        [
            ("the same", limit_by(by_user()), true),
            ("another port", RateLimit { ports: [9090].into(), ..limit_by(by_user()) }, true),
            ("another name", RateLimit { name: "shop/other".into(), ..limit_by(by_user()) }, false),
            ("another rate", RateLimit::new("shop/limit", Box::default(), by_user(), rate), false),
            ("by something else", limit_by(RateKey::All), false),
        ]
    }

    #[test]
    fn a_policy_that_says_the_same_goes_on_with_the_buckets_it_finds() {
        let before = limit_by(by_user());
        let (now, headers) = (Instant::now(), HeaderMap::new());
        let asking = Asking { client: [10, 0, 0, 1].into(), peer: None, headers: &headers };
        before.take(asking, now);
        for (row, mut after, kept) in alike() {
            after.succeed(std::slice::from_ref(&before));
            assert_eq!(Arc::ptr_eq(&after.counted, &before.counted), kept, "{row}");
        }
        assert_eq!(before.take(asking, now + Duration::from_millis(1)).remaining, 0);
    }

    #[test]
    fn limits_of_one_name_that_count_alike_count_together_while_a_rule_has_one() {
        let known = KnownLimits::default();
        let first = known.join(limit_by(by_user()));
        for (row, other, together) in alike() {
            assert_eq!(Arc::ptr_eq(&known.join(other).counted, &first.counted), together, "{row}");
        }
        // An edit that is taken back before the last of the former rules is gone.
        let edited = known.join(limit_by(RateKey::All));
        assert!(Arc::ptr_eq(&known.join(limit_by(by_user())).counted, &first.counted));
        drop((first, edited));
        let weak = Arc::downgrade(&known.join(limit_by(by_user())).counted);
        assert_eq!(weak.strong_count(), 0, "nobody keeps what no rule has");
    }

    #[test]
    fn what_no_rule_has_is_forgotten() {
        let known = KnownLimits::default();
        let kept = known.join(limit_by(RateKey::All));
        for n in 0..1_000 {
            drop(known.join(RateLimit { name: format!("shop/{n}").into(), ..limit_by(RateKey::All) }));
        }
        assert!(known.0.lock().len() <= 2, "{}", known.0.lock().len());
        assert!(Arc::ptr_eq(&known.join(limit_by(RateKey::All)).counted, &kept.counted));
    }
}
