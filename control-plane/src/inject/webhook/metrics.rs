//! What the webhook counts. Labels are words of ours, never names: the set is fixed.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Counters of all answers.
#[derive(Debug, Clone)]
pub struct Metrics {
    admissions: Family<Outcome, Counter>,
    seconds: Histogram,
    handshakes_failed: Counter,
    given_up: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            admissions: Family::default(),
            // 1 ms to 8 s.
            seconds: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            handshakes_failed: Counter::default(),
            given_up: Counter::default(),
        }
    }
}

impl Metrics {
    /// Makes them visible, together with whether `injection.yaml` is wrong at the moment.
    pub fn register(&self, registry: &mut Registry, settings_rejected: Gauge) {
        // A result that nobody had yet shows 0 rather than nothing, so that a query over a restart is defined.
        for result in ["injected", "refused", "unreadable", "failed"] {
            drop(self.admissions.get_or_create(&Outcome { result }));
        }
        registry.register("weft_injection_admissions", "Answers of the injection webhook", self.admissions.clone());
        registry.register("weft_injection_duration_seconds", "Time to such an answer", self.seconds.clone());
        registry.register(
            "weft_injection_handshakes_failed",
            "Connections to the injection webhook that did not finish their TLS handshake",
            self.handshakes_failed.clone(),
        );
        registry.register(
            "weft_injection_connections_given_up",
            "Connections to the injection webhook that were closed because there are not places for all",
            self.given_up.clone(),
        );
        registry.register(
            "weft_injection_settings_rejected",
            "1 while injection.yaml is wrong and what it said before is in force",
            settings_rejected,
        );
    }

    pub(super) fn on_answer(&self, result: &'static str, took: Duration) {
        self.admissions.get_or_create(&Outcome { result }).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    pub(super) fn on_handshake_failed(&self, error: &dyn std::fmt::Display) {
        self.handshakes_failed.inc();
        tracing::debug!(%error, "a connection to the webhook was refused");
    }

    pub(super) fn on_given_up(&self) {
        self.given_up.inc();
        tracing::debug!("a connection to the webhook was given up for another");
    }

    #[cfg(test)]
    pub(super) fn count(&self, result: &'static str) -> u64 {
        self.admissions.get_or_create(&Outcome { result }).get()
    }
}
