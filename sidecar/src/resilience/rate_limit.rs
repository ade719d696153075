//! Limits on the requests that come to this workload (RateLimit of `weft.dev`), compiled: which ports, what tells clients
//! apart, and the buckets themselves, which outlive a policy that says the same of them (SEMANTICS.md §3 "rate limit").

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use http::header::{HeaderMap, HeaderName};
use weft_proto::{SpiffeId, v1};

use super::compile::{CompileError, In};
use crate::resilience::{Buckets, Rate, Verdict};

/// One limit.
#[derive(Debug, Clone)]
pub struct RateLimit {
    /// `namespace/name` of the object.
    pub name: Box<str>,
    /// The ports whose requests it counts.
    pub ports: Box<[u16]>,
    key: Key,
    buckets: Arc<Buckets>,
}

/// Which requests share a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Key {
    All,
    Identity,
    SourceIp,
    Header(HeaderName),
}

impl PartialEq for RateLimit {
    /// Whether they say the same, however full the buckets are.
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.ports == other.ports && self.counts_as(other)
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

impl RateLimit {
    pub(super) fn compile(wire: &v1::RateLimit) -> Result<Self, CompileError> {
        let ports = wire.ports.iter().enumerate().map(|(index, port)| {
            let number = u16::try_from(*port).ok().filter(|port| *port != 0);
            let valid = number.ok_or_else(|| CompileError::new(format_args!("{port} is not a port")));
            valid.field(format_args!("ports[{index}]"))
        });
        let per = wire.per.as_ref().map_or(0, |per| per.value);
        let rate = Rate::new(wire.requests, std::time::Duration::from_millis(per), wire.burst);
        let key = match v1::RateKey::try_from(wire.key) {
            Ok(v1::RateKey::All) => Key::All,
            Ok(v1::RateKey::Identity) => Key::Identity,
            Ok(v1::RateKey::SourceIp) => Key::SourceIp,
            Ok(v1::RateKey::Header) => Key::Header(HeaderName::from_bytes(wire.header.as_bytes()).field("header")?),
            Err(_) => return Err(CompileError::new("not known to this version of the sidecar")).field("key"),
        };
        Ok(Self {
            name: (&*wire.name).into(),
            ports: ports.collect::<Result<_, CompileError>>()?,
            key,
            buckets: Arc::new(Buckets::new(rate.map_err(CompileError::new)?)),
        })
    }

    /// Goes on with the buckets of what it replaces, where that counts alike.
    pub(super) fn succeed(&mut self, before: &[Self]) {
        if let Some(before) = before.iter().find(|before| before.name == self.name && self.counts_as(before)) {
            self.buckets = Arc::clone(&before.buckets);
        }
    }

    fn counts_as(&self, other: &Self) -> bool {
        self.key == other.key && self.buckets.rate() == other.buckets.rate()
    }

    /// A request: whether it may pass, and what its client may be told.
    pub fn take(&self, asking: Asking<'_>, now: Instant) -> Verdict {
        match &self.key {
            Key::All => self.buckets.take(&(), now),
            // Who has no identity, or sends no such header, is one client with all others like that.
            Key::Identity => self.buckets.take(asking.peer.map_or("", SpiffeId::as_str), now),
            Key::SourceIp => self.buckets.take(&asking.client, now),
            Key::Header(name) => {
                let lines: smallvec::SmallVec<[&[u8]; 2]> =
                    asking.headers.get_all(name).iter().map(http::HeaderValue::as_bytes).collect();
                self.buckets.take(&*lines, now)
            }
        }
    }
}

impl std::fmt::Display for RateLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let of = match &self.key {
            Key::All => "of all clients together".to_owned(),
            Key::Identity => "of each identity".to_owned(),
            Key::SourceIp => "of each address".to_owned(),
            Key::Header(name) => format!("of each {name}"),
        };
        write!(
            f,
            "{}: {} {of}, {} known, ports {:?}",
            self.name,
            self.buckets.rate(),
            self.buckets.clients(),
            self.ports
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn wire() -> v1::RateLimit {
        v1::RateLimit {
            name: "shop/limit".into(),
            ports: vec![8080],
            requests: 10,
            per: Some(v1::Millis { value: 1_000 }),
            burst: 2,
            key: v1::RateKey::Header.into(),
            header: "X-User".into(),
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        type Break = fn(&mut v1::RateLimit);
        let rows: [(Break, &str); 7] = [
            (|l| l.ports.push(0), "ports[1]: 0 is not a port"),
            (|l| l.requests = 0, "0 requests in 1s, 2 at once, is no rate"),
            (|l| l.per = None, "10 requests in 0ns"),
            (|l| l.burst = 0, "10 requests in 1s, 0 at once"),
            (|l| l.key = 9, "key: not known to this version"),
            (|l| l.header = "a b".into(), "header: "),
            (|l| l.header.clear(), "header: "),
        ];
        for (change, says) in rows {
            let mut wrong = wire();
            change(&mut wrong);
            let error = RateLimit::compile(&wrong).unwrap_err().to_string();
            assert!(error.starts_with(says), "{error}");
        }
        assert_eq!(
            RateLimit::compile(&wire()).unwrap().to_string(),
            "shop/limit: 10 in 1s, 2 at once of each x-user, 0 known, ports [8080]"
        );
    }

    #[test]
    fn clients_are_told_apart_by_what_the_limit_says() {
        let peers: [SpiffeId; 2] = ["a", "b"].map(|name| SpiffeId::new("weft.local", "shop", name).unwrap());
        let headers = |lines: &[&str]| -> HeaderMap {
            lines.iter().map(|line| (HeaderName::from_static("x-user"), line.parse().unwrap())).collect()
        };
        let rows = [
            (v1::RateKey::All, [true, true, true, true, true]),
            (v1::RateKey::Identity, [true, false, false, true, true]),
            (v1::RateKey::SourceIp, [false, true, false, true, true]),
            (v1::RateKey::Header, [true, true, true, false, false]),
        ];
        for (key, shares) in rows {
            let limit = RateLimit::compile(&v1::RateLimit { key: key.into(), ..wire() }).unwrap();
            let now = Instant::now();
            let (ours, others) = (headers(&["u"]), headers(&["u", "u"]));
            let none = HeaderMap::new();
            let first = Asking { client: [10, 0, 0, 1].into(), peer: Some(&peers[0]), headers: &ours };
            limit.take(first, now);
            // Each beside the first, in one thing another.
            let rest = [
                Asking { client: [10, 0, 0, 2].into(), ..first },
                Asking { peer: Some(&peers[1]), ..first },
                Asking { client: [10, 0, 0, 3].into(), peer: None, ..first },
                Asking { headers: &others, ..first },
                Asking { headers: &none, ..first },
            ];
            for (asking, shares) in rest.into_iter().zip(shares) {
                let fresh = limit.clone();
                let limit = RateLimit { buckets: Arc::new(Buckets::new(fresh.buckets.rate())), ..fresh };
                limit.take(first, now);
                assert_eq!(limit.take(asking, now).remaining == 0, shares, "{key:?} {asking:?}");
            }
        }
    }

    #[test]
    fn a_policy_that_says_the_same_goes_on_with_the_buckets_it_finds() {
        let before = RateLimit::compile(&wire()).unwrap();
        let (now, headers) = (Instant::now(), HeaderMap::new());
        let asking = Asking { client: [10, 0, 0, 1].into(), peer: None, headers: &headers };
        before.take(asking, now);
        type Change = fn(&mut v1::RateLimit);
        let rows: [(&str, Change, bool); 5] = [
            ("the same", |_| {}, true),
            ("another port", |l| l.ports = vec![9090], true),
            ("another name", |l| l.name = "shop/other".into(), false),
            ("another rate", |l| l.requests = 20, false),
            ("by something else", |l| l.key = v1::RateKey::All.into(), false),
        ];
        for (row, change, kept) in rows {
            let mut wire = wire();
            change(&mut wire);
            let mut after = RateLimit::compile(&wire).unwrap();
            after.succeed(std::slice::from_ref(&before));
            assert_eq!(Arc::ptr_eq(&after.buckets, &before.buckets), kept, "{row}");
        }
        assert_eq!(before.take(asking, now + Duration::from_millis(1)).remaining, 0);
    }
}
