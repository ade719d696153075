//! Which part of the ready endpoints a request is for, where they have priorities or zones matter: first a level
//! (`priority.rs`), then, on the first level, a zone (`zone.rs`).
//!
//! How healthy a level is, is counted when endpoints are ejected, and is known from the set where none is. Endpoints that are
//! not ready count against their level; draining ones are in no number. Zones go by what is ready, as in Envoy, where only
//! panic takes ejection into account: a zone whose endpoints are all out is no zone for this request, which then goes
//! anywhere on its level.
//!
//! Under panic, and for a retry that finds nobody else here, all ready endpoints are one again (`balancer.rs`).
//! Bound: each ready endpoint is in one pool more for its level, and one for its zone. A pick with ejections reads each
//! endpoint's standing once.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::Rng;

use super::endpoint::{Endpoint, Health};
use super::policy::{BalancePolicy, PickRequest, ZoneAware};
use super::priority::{self, Loads};
use super::room::Claims;
use super::set::Pool;
use super::zone::Shares;

/// The levels, the first one first.
#[derive(Debug)]
pub(super) struct Tiers {
    levels: Vec<Level>,
    /// With nobody ejected.
    loads: Loads,
}

#[derive(Debug)]
struct Level {
    ready: Pool,
    /// Those that are not ready included.
    all: usize,
    zones: Option<Zones>,
}

#[derive(Debug)]
struct Zones {
    shares: Shares,
    pools: Vec<Pool>,
}

impl Tiers {
    /// `None` where all ready endpoints are one. `here` are those that the policy leaves, whatever their health.
    pub(super) fn new<'e>(
        here: impl Iterator<Item = &'e Arc<Endpoint>>,
        ready: &Pool,
        policy: &BalancePolicy,
        claims: &Claims<'_>,
    ) -> Option<Box<Self>> {
        let mut levels: BTreeMap<u32, (usize, Vec<Arc<Endpoint>>)> = BTreeMap::new();
        for endpoint in here.filter(|endpoint| endpoint.health() != Health::Draining) {
            levels.entry(endpoint.priority()).or_default().0 += 1;
        }
        if levels.len() < 2 && policy.zone_aware.is_none() {
            return None;
        }
        for endpoint in ready.iter() {
            levels.entry(endpoint.priority()).or_default().1.push(Arc::clone(endpoint));
        }
        let level = |(all, ready)| Level { ready: Pool::new(ready, policy, claims), all, zones: None };
        let mut levels: Vec<Level> = levels.into_values().map(level).collect();
        if let (Some(first), Some(zone_aware)) = (levels.first_mut(), &policy.zone_aware) {
            first.zones = Zones::new(&first.ready, zone_aware, policy, claims);
        }
        if levels.len() < 2 && levels.iter().all(|level| level.zones.is_none()) {
            return None;
        }
        let loads = priority::loads(levels.iter().map(|level| (level.ready.len(), level.all).into()));
        Some(Box::new(Self { levels, loads }))
    }

    /// An endpoint for one request, of the level and zone that it is for: none that is ejected, to be avoided or held back.
    /// `ejected` says whether any is.
    #[inline(never)]
    pub(super) fn choose<R: Rng + ?Sized>(
        &self,
        rng: &mut R,
        now: u64,
        request: &PickRequest<'_>,
        ejected: bool,
        first: &dyn Fn(&Endpoint) -> bool,
    ) -> Option<&Arc<Endpoint>> {
        let level = if ejected {
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
        let level = self.levels.get(level)?;
        let zone = level.zones.as_ref().map(|zones| &zones.pools[zones.shares.draw(rng)]);
        zone.into_iter().chain([&level.ready]).find_map(|pool| pool.choose(rng, now, request, &fresh, first))
    }
}

impl Zones {
    fn new(ready: &Pool, zone_aware: &ZoneAware, policy: &BalancePolicy, claims: &Claims<'_>) -> Option<Self> {
        // By name: every proxy's list is the same.
        let mut zones: BTreeMap<&str, (u64, Vec<Arc<Endpoint>>)> = BTreeMap::new();
        for (zone, callers) in zone_aware.callers.iter().filter(|(zone, _)| !zone.is_empty()) {
            zones.entry(zone).or_default().0 += u64::from(*callers);
        }
        for endpoint in ready.iter() {
            // Those without a zone are one that nobody is in.
            zones.entry(endpoint.zone()).or_default().1.push(Arc::clone(endpoint));
        }
        let own = zones.keys().position(|zone| !zone.is_empty() && **zone == *zone_aware.zone)?;
        let callers: Vec<u64> = zones.values().map(|(callers, _)| *callers).collect();
        let weigh = |(_, of): &(u64, Vec<Arc<Endpoint>>)| of.iter().map(|one| u64::from(one.weight())).sum::<u64>();
        let weights: Vec<u64> = zones.values().map(weigh).collect();
        let shares = Shares::new(own, &callers, &weights, ready.len(), zone_aware.least_endpoints as usize)?;
        Some(Self { shares, pools: zones.into_values().map(|(_, of)| Pool::new(of, policy, claims)).collect() })
    }
}
