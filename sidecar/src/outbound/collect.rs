//! What metrics say of backends, read when they are asked for: how many connections there are and how often balancing
//! panicked. Nothing is kept, so nothing has to expire: a backend is reported while there is something to report.
//! Bound: [`MAX_SERIES`] backends per metric; the rest together are `other`.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::Outbound;
use crate::resilience::Limit;
use crate::telemetry::metrics::{BackendLabels, MAX_SERIES, OTHER};

impl Outbound {
    /// Adds what is measured of backends to the metrics.
    pub fn register_metrics(self: &Arc<Self>) {
        // Weak: the metrics are part of what they measure.
        let collector = Box::new(Backends(Arc::downgrade(self)));
        self.telemetry.metrics.register(|registry| registry.register_collector(collector));
    }
}

struct Backends(Weak<Outbound>);

impl std::fmt::Debug for Backends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Backends")
    }
}

/// By backend; sorted, so that it is always the same ones that become `other`.
type Values = BTreeMap<String, u64>;

impl Collector for Backends {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(outbound) = self.0.upgrade() else { return Ok(()) };
        let (mut panics, mut connections) = (Values::new(), Values::new());
        for backend in outbound.config.backends() {
            let name = backend.name.to_string();
            *panics.entry(name.clone()).or_default() += backend.balancer.panics_total();
            *connections.entry(name).or_default() += u64::from(backend.limits.taken(Limit::Connections));
        }
        let idle = outbound.upstreams.idle();
        let idle = idle.into_iter().map(|(backend, idle)| (backend.to_string(), idle as u64)).collect();
        for (name, help, kind, values) in [
            ("weft_panic_picks", "Requests sent to endpoints that may be ejected", MetricType::Counter, panics),
            ("weft_backend_connections", "Connections to the backend", MetricType::Gauge, connections),
            ("weft_backend_connections_idle", "Those without a request", MetricType::Gauge, idle),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for (backend, value) in bounded(values) {
                let labels = BackendLabels { backend: backend.into() };
                let series = family.encode_family(&labels)?;
                match kind {
                    MetricType::Counter => ConstCounter::new(value).encode(series)?,
                    _ => ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(series)?,
                }
            }
        }
        let room = outbound.config.room();
        let help = "Hash tables made smaller than asked for, for want of room";
        let cut = encoder.encode_descriptor("weft_hash_tables_cut", help, None, MetricType::Counter)?;
        ConstCounter::new(room.cut()).encode(cut)?;
        let help = "Bytes of all hash tables";
        let bytes = encoder.encode_descriptor("weft_hash_table_bytes", help, None, MetricType::Gauge)?;
        ConstGauge::new(i64::try_from(room.taken()).unwrap_or(i64::MAX)).encode(bytes)
    }
}

/// Those with something to report, the first [`MAX_SERIES`] by name and the rest as one.
fn bounded(values: Values) -> Values {
    let mut bounded = Values::new();
    for (backend, value) in values.into_iter().filter(|(_, value)| *value > 0) {
        let room = (bounded.len() as u64) < MAX_SERIES;
        *bounded.entry(if room { backend } else { OTHER.to_owned() }).or_default() += value;
    }
    bounded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_beyond_the_bound_are_other_and_those_without_anything_are_not_there() {
        let values = (0..MAX_SERIES + 5).map(|n| (format!("b{n:05}"), u64::from(n != 3))).collect();
        let bounded = bounded(values);
        assert_eq!((bounded.len() as u64, bounded[OTHER]), (MAX_SERIES + 1, 4));
        assert!(!bounded.contains_key("b00003") && bounded.contains_key("b00004"));
    }
}
