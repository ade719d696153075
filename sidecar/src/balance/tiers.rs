//! Which part of the ready endpoints a request is for, where they have priorities or some are nearer: first a level
//! (`priority.rs`), then, on the first level, what is near (`place.rs`).
//!
//! How healthy a level is, is counted when endpoints are ejected, and is known from the set where none is. Endpoints that are
//! not ready count against their level; draining ones are in no number. Zones go by what is ready, as in Envoy, where only
//! panic takes ejection into account: a zone whose endpoints are all out is no zone for this request, which then goes
//! anywhere on its level.
//!
//! A retry leaves the zones that have been tried, for what is near if that is not one of them, else for any other: what takes one
//! endpoint down often takes all of its zone, and there are too few tries to learn that from each of them.
//!
//! Under panic, and for a retry that finds nobody else here, all ready endpoints are one again (`balancer.rs`).
//! Bound: each ready endpoint is in one pool more for its level where there are several, and one for its zone. A pick with
//! ejections and several levels reads each endpoint's standing once.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::Rng;

use super::endpoint::{Endpoint, Health};
use super::place::{Near, Place};
use super::policy::{BalancePolicy, PickRequest};
use super::priority::{self, Loads};
use super::room::Claims;
use super::set::Pool;

/// The levels, the first one first, and of that one what is near.
#[derive(Debug)]
pub(super) struct Tiers {
    /// None where there is one only: it is all that are ready.
    levels: Vec<Level>,
    /// With nobody ejected.
    loads: Loads,
    near: Option<(Near, Vec<Pool>)>,
}

#[derive(Debug)]
struct Level {
    ready: Pool,
    /// Those that are not ready included.
    all: usize,
}

impl Tiers {
    /// `None` where all ready endpoints are one. `here` are those that the policy leaves, whatever their health.
    pub(super) fn new<'e>(
        here: impl Iterator<Item = &'e Arc<Endpoint>>,
        ready: &Pool,
        policy: &BalancePolicy,
        claims: &Claims<'_>,
        place: &Place,
    ) -> Option<Box<Self>> {
        let mut levels: BTreeMap<u32, (usize, Vec<Arc<Endpoint>>)> = BTreeMap::new();
        for endpoint in here.filter(|endpoint| endpoint.health() != Health::Draining) {
            levels.entry(endpoint.priority()).or_default().0 += 1;
        }
        let levels: Vec<Level> = if levels.len() < 2 {
            Vec::new()
        } else {
            for endpoint in ready.iter() {
                levels.entry(endpoint.priority()).or_default().1.push(Arc::clone(endpoint));
            }
            levels.into_values().map(|(all, ready)| Level { ready: Pool::new(ready, policy, claims), all }).collect()
        };
        let first = levels.first().map_or(ready, |level| &level.ready).endpoints();
        let near = Near::new(first, policy, place).map(|near| {
            let pools = near.pools(first).into_iter().map(|pool| Pool::new(pool, policy, claims)).collect();
            (near, pools)
        });
        if levels.is_empty() && near.is_none() {
            return None;
        }
        let loads = priority::loads(levels.iter().map(|level| (level.ready.len(), level.all).into()));
        Some(Box::new(Self { levels, loads, near }))
    }

    /// Whether what is near is the same from another place. `ready` and `policy` are those that this was made with.
    pub(super) fn is_near_as_from(this: Option<&Self>, ready: &Pool, policy: &BalancePolicy, place: &Place) -> bool {
        let first = this.and_then(|tiers| tiers.levels.first()).map_or(ready, |level| &level.ready);
        this.and_then(|tiers| tiers.near.as_ref()).map(|(near, _)| near)
            == Near::new(first.endpoints(), policy, place).as_ref()
    }

    /// What is near, and the endpoints here.
    pub(super) fn near(&self) -> Option<(&Near, &Pool)> {
        self.near.as_ref().and_then(|(near, pools)| Some((near, pools.get(near.home())?)))
    }

    /// An endpoint for one request, of the level that it is for and of what is near there: none that is ejected, to be avoided or
    /// held back. `ready` are all that are ready; `ejected` says whether any is out.
    #[inline(never)]
    pub(super) fn choose<'s, R: Rng + ?Sized>(
        &'s self,
        ready: &'s Pool,
        rng: &mut R,
        now: u64,
        request: &PickRequest<'_>,
        ejected: bool,
        first: &dyn Fn(&Endpoint) -> bool,
    ) -> Option<&'s Arc<Endpoint>> {
        let level = if self.levels.is_empty() {
            0
        } else if ejected {
            let usable = |level: &Level| level.ready.standings().filter(|standing| standing.in_use()).count();
            let loads = priority::loads(self.levels.iter().map(|level| (usable(level), level.all).into()));
            priority::draw(&loads, rng)
        } else {
            priority::draw(&self.loads, rng)
        };
        let fresh = |endpoint: &Endpoint| {
            let state = &endpoint.state;
            state.standing.in_use() && !state.is_held(now) && !request.avoid.contains(endpoint.key())
        };
        let pool = self.levels.get(level).map_or(ready, |level| &level.ready);
        let Some((near, pools)) = self.near.as_ref().filter(|_| level == 0) else {
            return pool.choose(rng, now, request, &fresh, first);
        };
        if request.avoid.is_empty() {
            let near = pools.get(near.draw(rng));
            return near
                .and_then(|near| near.choose(rng, now, request, &fresh, first))
                .or_else(|| pool.choose(rng, now, request, &fresh, first));
        }
        let tried = pool.iter().filter(|endpoint| request.avoid.contains(endpoint.key()));
        let tried: Vec<&str> = tried.map(|endpoint| endpoint.zone()).collect();
        let elsewhere = |endpoint: &Endpoint| fresh(endpoint) && !tried.contains(&endpoint.zone());
        let home = pools.get(near.home());
        home.and_then(|home| home.choose(rng, now, request, &elsewhere, first))
            .or_else(|| pool.choose(rng, now, request, &elsewhere, first))
            .or_else(|| pool.choose(rng, now, request, &fresh, first))
    }
}
