//! What is measured, in which unit, and which way is better.
//!
//! A ratio to Envoy says **how many times better** a subject is: above 1 is better than Envoy, for rates and for costs
//! alike. Only `goals.rs` turns a ratio around, where a goal is worded as "at most 0.65 of Envoy's".

use serde::{Serialize, Serializer};

/// Something measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Metric {
    /// CPU of the proxies for each operation, in µs.
    Cpu(Unit),
    /// Operations a second.
    Rate(Unit),
    /// CPU of the proxies for a gigabyte (10⁹ bytes of payload), in s.
    CpuPerGb,
    /// Payload, in gigabytes a second.
    GbPerSecond,
    /// How much of their core the proxies used, 0 to 1: at 1 the rate is the proxies' own limit.
    CoreUse,
    /// Median latency from when a request was due, in µs.
    P50,
    /// 99th percentile of the same.
    P99,
    /// [`Metric::P99`] before a stream stalled.
    P99Clear,
    /// How many times as long it is afterwards.
    P99Grows,
    /// [`Metric::P50`] less that of no proxy in the same round.
    AddedP50,
    /// [`Metric::P99`] less that of no proxy in the same round.
    AddedP99,
    /// Resident memory after the first request, in MB (10⁶ bytes).
    RssIdle,
    /// Resident memory for each further idle keep-alive connection, in KB (10³ bytes).
    RssPerConnection,
    /// Resident memory with 1,000 services of 5 endpoints, each called, in MB.
    RssServices,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Unit {
    /// A request and its response.
    Request,
    /// A message of a stream and its echo.
    Message,
    /// A connection: opened, used once, closed.
    Connection,
    /// A connection on which only the handshake happened.
    Handshake,
}

impl Unit {
    /// Several of them.
    pub(crate) const fn plural(self) -> &'static str {
        match self {
            Self::Request => "requests",
            Self::Message => "messages",
            Self::Connection => "connections",
            Self::Handshake => "handshakes",
        }
    }
}

impl Metric {
    /// Its name in `results.json`, with its unit.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Cpu(Unit::Request) => "cpu_us_per_request",
            Self::Cpu(Unit::Message) => "cpu_us_per_message",
            Self::Cpu(Unit::Connection) => "cpu_us_per_connection",
            Self::Cpu(Unit::Handshake) => "cpu_us_per_handshake",
            Self::Rate(Unit::Request) => "requests_per_s",
            Self::Rate(Unit::Message) => "messages_per_s",
            Self::Rate(Unit::Connection) => "connections_per_s",
            Self::Rate(Unit::Handshake) => "handshakes_per_s",
            Self::CpuPerGb => "cpu_s_per_gb",
            Self::GbPerSecond => "gb_per_s",
            Self::CoreUse => "core_use",
            Self::P50 => "p50_us",
            Self::P99 => "p99_us",
            Self::P99Clear => "p99_clear_us",
            Self::P99Grows => "p99_grows",
            Self::AddedP50 => "added_p50_us",
            Self::AddedP99 => "added_p99_us",
            Self::RssIdle => "rss_idle_mb",
            Self::RssPerConnection => "rss_kb_per_idle_connection",
            Self::RssServices => "rss_mb_1000_services",
        }
    }

    /// Whether it is what a case is about, cost rather than speed where there are both: the report shows the spread of these.
    pub(crate) const fn is_chief(self) -> bool {
        match self {
            Self::Cpu(_) | Self::CpuPerGb | Self::P99Grows | Self::AddedP50 | Self::AddedP99 => true,
            Self::RssIdle | Self::RssPerConnection | Self::RssServices => true,
            Self::Rate(_) | Self::GbPerSecond | Self::CoreUse | Self::P50 | Self::P99 | Self::P99Clear => false,
        }
    }

    /// How many times better `value` is than Envoy's; `None` where neither way is better.
    pub(crate) fn times_better(self, value: f64, envoy: f64) -> Option<f64> {
        let ratio = match self {
            Self::CoreUse => return None,
            Self::Rate(_) | Self::GbPerSecond => value / envoy,
            _ => envoy / value,
        };
        // A difference of two latencies may come out at or below nothing: then there is no ratio to speak of.
        (value > 0.0 && envoy > 0.0).then_some(ratio)
    }
}

impl Serialize for Metric {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// The middle value, or the mean of the two in the middle; 0 of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    match (sorted.len() / 2, sorted.len() % 2) {
        (0, 0) => 0.0,
        (middle, 1) => sorted[middle],
        (middle, _) => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn above_one_is_better_than_envoy_for_rates_and_for_costs() {
        let rows = [
            (Metric::Rate(Unit::Request), 200.0, 100.0, Some(2.0)),
            (Metric::Cpu(Unit::Request), 10.0, 40.0, Some(4.0)),
            (Metric::AddedP99, 50.0, 100.0, Some(2.0)),
            (Metric::RssIdle, 10.0, 64.0, Some(6.4)),
            (Metric::AddedP50, -3.0, 100.0, None),
            (Metric::CoreUse, 0.5, 1.0, None),
        ];
        for (metric, value, envoy, expected) in rows {
            assert_eq!(metric.times_better(value, envoy), expected, "{metric:?} {value} {envoy}");
        }
    }

    #[test]
    fn the_median_ignores_one_bad_run() {
        let rows: [(&[f64], f64); 4] = [(&[], 0.0), (&[7.0], 7.0), (&[1.0, 2.0], 1.5), (&[10.0, 900.0, 11.0], 11.0)];
        for (values, expected) in rows {
            assert_eq!(median(values), expected, "{values:?}");
        }
    }
}
