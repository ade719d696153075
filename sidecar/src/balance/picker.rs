//! The other rules than P2C by which one of a pool is chosen: what each keeps, and the pool's side of it.
//!
//! | rule | by | in flight | weight | slow start | a request with a hash |
//! |---|---|---|---|---|---|
//! | P2C | `set.rs` | yes | yes | yes: candidates are accepted with that probability | as others |
//! | client affinity | `hash.rs`, rendezvous | no | yes | no | as others |
//! | round robin | `round_robin.rs` | no | yes | yes | as others |
//! | least request | `least_request.rs` | yes | yes | yes | as others |
//! | random | here | no | yes | yes, as P2C | as others |
//! | ring hash | `ring.rs` | no | yes | no | stays with its endpoint |
//! | Maglev | `maglev.rs` | no | yes | no | stays with its endpoint |
//!
//! P2C without slow start, the default, never comes here: [`Pool::draw`] is called where the rule is told apart, and this is
//! kept out of its way. All rules fall back in the same manner when what they keep leads to nobody usable within a few steps:
//! those that keep keys together on the rendezvous hash of the key among the usable ones, the others on a draw by weight.
//!
//! The tables are made anew with every change of the set, as the set is; turns begin anew then.
//! Bound: what each file says, for each pool (one of all endpoints, one for each of several priorities, and for what is near: one, or one for each zone); tables, what
//! `room.rs` says.

use std::cell::Cell;
use std::sync::Arc;

use rand::Rng;

use super::edf;
use super::endpoint::Endpoint;
use super::hash::{hash_addr, mix, rank, unit};
use super::least_request::{biased, least_of};
use super::maglev::{self, Maglev};
use super::policy::{Algorithm, BalancePolicy, PickRequest};
use super::ring::Ring;
use super::room::{Claim, Claims};
use super::round_robin::RoundRobin;
use super::set::Pool;

/// A rule, and what it keeps.
#[derive(Debug)]
pub(super) enum Picker {
    PowerOfTwo,
    /// The same with slow start.
    PowerOfTwoWarming,
    ClientAffinity,
    RoundRobin(RoundRobin),
    LeastRequest {
        choices: u32,
        bias: f64,
        /// Where weights differ.
        weighted: Option<edf::Shared>,
    },
    Random,
    RingHash {
        ring: Ring,
        /// Held, never read; so is that of Maglev.
        _claim: Claim,
    },
    Maglev {
        table: Maglev,
        _claim: Claim,
    },
}

impl Picker {
    pub(super) fn new(policy: &BalancePolicy, endpoints: &[Arc<Endpoint>], equal: bool, claims: &Claims<'_>) -> Self {
        if policy.client_ip_affinity.is_some() {
            return Self::ClientAffinity;
        }
        let warming = policy.slow_start.is_on();
        let equal = equal && !warming;
        let hashed = || endpoints.iter().map(|one| (hash_addr(one.addr()), one.weight())).collect::<Vec<(u64, u32)>>();
        match policy.algorithm {
            Algorithm::PowerOfTwo if warming => Self::PowerOfTwoWarming,
            Algorithm::PowerOfTwo => Self::PowerOfTwo,
            Algorithm::RoundRobin => Self::RoundRobin(RoundRobin::new(equal)),
            Algorithm::LeastRequest { choices, bias_milli } => Self::LeastRequest {
                choices: choices.clamp(2, 32),
                bias: f64::from(bias_milli) / 1e3,
                weighted: (!equal).then(edf::Shared::default),
            },
            Algorithm::Random => Self::Random,
            // Nobody to choose.
            Algorithm::RingHash { .. } | Algorithm::Maglev { .. } if endpoints.is_empty() => Self::Random,
            Algorithm::RingHash { minimum, maximum } => {
                let hashed = hashed();
                let wanted = Ring::points(&hashed, minimum, maximum);
                match claims.ring(wanted, endpoints.len()) {
                    Some((given, _claim)) => {
                        let (minimum, maximum) = if given < wanted { (given, given) } else { (minimum, maximum) };
                        Self::RingHash { ring: Ring::new(&hashed, minimum, maximum), _claim }
                    }
                    None => Self::Random,
                }
            }
            Algorithm::Maglev { cells } => {
                // A size that is none would have no permutations.
                let cells = if maglev::is_size(cells) { cells } else { maglev::CELLS };
                match claims.maglev(cells, endpoints.len()) {
                    Some((cells, _claim)) => Self::Maglev { table: Maglev::new(&hashed(), cells), _claim },
                    None => Self::Random,
                }
            }
        }
    }
}

impl Pool {
    /// One of the `usable` endpoints, by any rule. `None` only where none is. A candidate that `first` accepts wins a draw
    /// of two outright.
    #[inline(never)]
    pub(super) fn choose<R: Rng + ?Sized>(
        &self,
        rng: &mut R,
        now: u64,
        request: &PickRequest<'_>,
        usable: &dyn Fn(&Endpoint) -> bool,
        first: &dyn Fn(&Endpoint) -> bool,
    ) -> Option<&Arc<Endpoint>> {
        let n = self.len();
        let at = |index: usize| &*self.endpoints()[index];
        let may = |index: usize| usable(at(index));
        let weight = |index: usize| self.weight_at(at(index), now);
        let found = match &self.picker {
            Picker::PowerOfTwo => return self.draw(rng, now, usable, first),
            Picker::PowerOfTwoWarming => return self.draw_warming(rng, now, usable, first),
            Picker::ClientAffinity => match request.client {
                Some(client) => return self.ranked_first(super::hash_client(client), usable),
                None => return self.draw(rng, now, usable, first),
            },
            Picker::RingHash { .. } | Picker::Maglev { .. } => match request.hash {
                Some(key) => return self.home(key, usable),
                None => None,
            },
            Picker::RoundRobin(turns) => turns.next(n, rng, weight, may),
            Picker::LeastRequest { weighted: Some(turns), bias, .. } => {
                let biased = |index: usize| biased(weight(index), at(index).in_flight(), *bias);
                turns.next(n, rng, biased, may)
            }
            Picker::LeastRequest { choices, .. } => {
                least_of(*choices, || self.candidate(rng, None, &usable), |index| at(index).in_flight())
            }
            Picker::Random => self.warm_candidate(rng, now, usable),
        };
        let index = found.or_else(|| self.candidate(rng, None, &usable))?;
        Some(&self.endpoints()[index])
    }

    /// The usable endpoint at home to whom a request is, if the rule is one of those that know a home.
    pub(super) fn home_of(
        &self,
        request: &PickRequest<'_>,
        usable: &dyn Fn(&Endpoint) -> bool,
    ) -> Option<Option<&Arc<Endpoint>>> {
        match self.picker {
            Picker::ClientAffinity => {
                request.client.map(|client| self.ranked_first(super::hash_client(client), usable))
            }
            Picker::RingHash { .. } | Picker::Maglev { .. } => request.hash.map(|key| self.home(key, usable)),
            _ => None,
        }
    }

    fn home(&self, key: u64, usable: &dyn Fn(&Endpoint) -> bool) -> Option<&Arc<Endpoint>> {
        let may = |index: usize| usable(&self.endpoints()[index]);
        let found = match &self.picker {
            Picker::RingHash { ring, .. } => ring.find(key, may),
            Picker::Maglev { table, .. } => table.find(key, may),
            _ => None,
        };
        found.map(|index| &self.endpoints()[index]).or_else(|| self.ranked_first(key, usable))
    }

    /// The usable endpoint that has `key` by rendezvous hash.
    fn ranked_first(&self, key: u64, usable: &dyn Fn(&Endpoint) -> bool) -> Option<&Arc<Endpoint>> {
        let rank = |endpoint: &Endpoint| rank(key, endpoint.addr(), endpoint.weight());
        self.endpoints().iter().filter(|one| usable(one)).max_by(|a, b| rank(a).total_cmp(&rank(b)))
    }

    /// P2C among endpoints some of which are new. With replacement, as where weights differ: see [`draw`](Self::draw).
    fn draw_warming<R: Rng + ?Sized>(
        &self,
        rng: &mut R,
        now: u64,
        usable: &dyn Fn(&Endpoint) -> bool,
        first: &dyn Fn(&Endpoint) -> bool,
    ) -> Option<&Arc<Endpoint>> {
        let a = &self.endpoints()[self.warm_candidate(rng, now, usable)?];
        if first(a) {
            return Some(a);
        }
        let b = self.warm_candidate(rng, now, usable).map_or(a, |b| &self.endpoints()[b]);
        Some(if first(b) { b } else { self.cheaper(rng, now, a, b) })
    }

    /// A candidate, by its weight at the moment.
    fn warm_candidate<R: Rng + ?Sized>(
        &self,
        rng: &mut R,
        now: u64,
        usable: &dyn Fn(&Endpoint) -> bool,
    ) -> Option<usize> {
        if !self.slow_start.is_on() {
            return self.candidate(rng, None, &usable);
        }
        let dice = Cell::new(rng.next_u64());
        let accepted = |endpoint: &Endpoint| {
            usable(endpoint) && {
                dice.set(mix(dice.get()));
                unit(dice.get()) < self.slow_start.factor(endpoint.ready_for(now))
            }
        };
        // Where all are new, none may be accepted: then they are alike.
        self.candidate(rng, None, &accepted).or_else(|| self.candidate(rng, None, &usable))
    }

    fn weight_at(&self, endpoint: &Endpoint, now: u64) -> f64 {
        let weight = f64::from(endpoint.weight());
        if self.slow_start.is_on() { weight * self.slow_start.factor(endpoint.ready_for(now)) } else { weight }
    }
}
