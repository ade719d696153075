//! What the watches count. Labels are kinds and reasons: the set is fixed.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::kinds::{KINDS, UNENFORCED};

/// Counters of all watches.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    objects: Family<Labels, Gauge>,
    last_event: Family<Labels, Gauge>,
    lists: Family<Labels, Counter>,
    failures: Family<FailureLabels, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    kind: &'static str,
    reason: &'static str,
}

impl Metrics {
    /// Makes them visible.
    pub fn register(&self, registry: &mut Registry) {
        // A kind of which nothing came yet shows 0 rather than nothing.
        for kind in KINDS.iter().map(|(_, row)| row).chain(&UNENFORCED).map(|row| row.kind) {
            drop(self.objects.get_or_create(&Labels { kind }));
            drop(self.last_event.get_or_create(&Labels { kind }));
            drop(self.lists.get_or_create(&Labels { kind }));
        }
        registry.register("weft_source_objects", "Objects of the cluster known now", self.objects.clone());
        registry.register(
            "weft_source_last_event_timestamp_seconds",
            "When the API server last told of an object of the kind, in seconds since 1970",
            self.last_event.clone(),
        );
        registry.register("weft_source_lists", "Lists begun, the first included", self.lists.clone());
        registry.register("weft_source_watch_failures", "Failures of lists and watches", self.failures.clone());
    }

    pub(super) fn holds(&self, kind: &'static str, objects: usize) {
        self.objects.get_or_create(&Labels { kind }).set(i64::try_from(objects).unwrap_or(i64::MAX));
    }

    pub(super) fn heard(&self, kind: &'static str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.last_event.get_or_create(&Labels { kind }).set(i64::try_from(now).unwrap_or(i64::MAX));
    }

    pub(super) fn restarted(&self, kind: &'static str) {
        self.lists.get_or_create(&Labels { kind }).inc();
    }

    pub(super) fn failed(&self, kind: &'static str, reason: &'static str) {
        self.failures.get_or_create(&FailureLabels { kind, reason }).inc();
    }
}
