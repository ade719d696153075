//! Outlier detection's numbers: the mesh's own, and those that it has more of when it is Envoy's.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::balance::outlier::rates::{FailurePercentage, SuccessRate};

/// An endpoint that is back loses one remembered ejection for each of these without another: Envoy's default interval.
const INTERVAL: Duration = Duration::from_secs(10);

/// Outlier detection's numbers (SEMANTICS.md §3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlierPolicy {
    /// Consecutive failures that eject; `None` switches ejection off. Default 5; more than 65,535 count as that many. Says
    /// nothing where `envoy` does.
    pub consecutive_failures: Option<NonZeroU32>,
    /// First ejection. Default 1 s; doubles each time.
    pub base: Duration,
    /// Longest ejection. Default 60 s.
    pub max: Duration,
    /// Largest part of ready endpoints ejected, in percent. Default 50. One endpoint of two or more may always be
    /// ejected, a single one never.
    pub max_percent: u32,
    /// Envoy's way, as a BackendPolicy asks for it; `None` is the mesh's own.
    pub envoy: Option<EnvoyOutlier>,
}

impl Default for OutlierPolicy {
    fn default() -> Self {
        Self {
            consecutive_failures: NonZeroU32::new(5),
            base: Duration::from_secs(1),
            max: Duration::from_secs(60),
            max_percent: 50,
            envoy: None,
        }
    }
}

impl OutlierPolicy {
    /// Whether nothing is ever ejected.
    pub(in crate::balance) fn is_off(&self) -> bool {
        match &self.envoy {
            None => self.consecutive_failures.is_none(),
            Some(envoy) => !envoy.counts_in_a_row() && !self.counts_rates(),
        }
    }

    /// Whether results are counted, and looked at once per interval.
    pub(in crate::balance) fn counts_rates(&self) -> bool {
        self.envoy.as_ref().is_some_and(|envoy| envoy.success_rate.is_some() || envoy.failure_percentage.is_some())
    }

    /// At least one.
    pub(in crate::balance) fn interval_ms(&self) -> u64 {
        let interval = self.envoy.as_ref().map_or(INTERVAL, |envoy| envoy.interval);
        u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).max(1)
    }

    /// The most endpoints of `ready` that may be ejected at a time: max(1 if n ≥ 2, ⌊n·`max_percent` %⌋), and never
    /// all of them. Envoy's way all of them may, if the policy says 100 %: then there is panic.
    pub(in crate::balance) fn cap(&self, ready: usize) -> usize {
        if self.is_off() || ready < 2 {
            return 0;
        }
        let percent = usize::try_from(self.max_percent.min(100)).unwrap_or(100);
        let most = if self.envoy.is_some() { ready } else { ready - 1 };
        (ready * percent / 100).clamp(1, most)
    }
}

/// What outlier detection has more of when it is Envoy's: ejections that grow by addition (`base` · n up to `max`) and end
/// without a probe, several kinds of failures in a row (`outlier/kinds.rs`), and ejection by rate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvoyOutlier {
    /// How often rates are looked at, and how long an endpoint is back for one ejection to be forgotten. Default 10 s;
    /// less than 1 ms counts as that.
    pub interval: Duration,
    /// Up to so much is added to an ejection, at random. Default 0.
    pub jitter: Duration,
    /// Failures in a row: 5xx of any kind, and what comes instead of an answer unless that is `local`'s. `None` is off.
    /// Default 5.
    pub server_error: Option<Consecutive>,
    /// The same of gateway failures alone. Default off, as Envoy's is in effect.
    pub gateway: Option<Consecutive>,
    /// Failures to get an answer are told apart from answers; `None`: they are 5xx and gateway failures.
    pub local: Option<LocalOrigin>,
    /// Ejects who succeeds less often than the others; `None` is off.
    pub success_rate: Option<SuccessRate>,
    /// Ejects who fails too often; `None` is off.
    pub failure_percentage: Option<FailurePercentage>,
}

impl Default for EnvoyOutlier {
    fn default() -> Self {
        Self {
            interval: INTERVAL,
            jitter: Duration::ZERO,
            server_error: Consecutive::of(5),
            gateway: None,
            local: None,
            success_rate: None,
            failure_percentage: None,
        }
    }
}

/// Failures in a row that eject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Consecutive {
    /// How many. More than 65,535 count as that many.
    pub failures: NonZeroU32,
    /// The probability that they do, in percent; more than 100 count as 100.
    pub enforcing_percent: u32,
}

impl Consecutive {
    /// So many always eject; `None` for zero.
    pub fn of(failures: u32) -> Option<Self> {
        NonZeroU32::new(failures).map(|failures| Self { failures, enforcing_percent: 100 })
    }

    pub(in crate::balance) fn is_reached(&self, count: u16) -> bool {
        u32::from(count) >= self.failures.get().min(u32::from(u16::MAX))
    }
}

/// Failures to get an answer, where they are told apart from answers (`splitExternalLocalOriginErrors`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalOrigin {
    /// In a row; `None` is off. Envoy's default is 5.
    pub consecutive: Option<Consecutive>,
    /// The probability that a finding by success rate ejects, in percent. Default 100.
    pub enforcing_success_rate: u32,
    /// The same by failure percentage. Default 100 (Envoy's is 0).
    pub enforcing_failure_percentage: u32,
}

impl Default for LocalOrigin {
    fn default() -> Self {
        Self { consecutive: Consecutive::of(5), enforcing_success_rate: 100, enforcing_failure_percentage: 100 }
    }
}
