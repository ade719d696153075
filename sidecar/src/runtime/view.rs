//! What the admin interface shows of the proxy.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use futures_util::future::BoxFuture;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::sync::watch;
use weft_proto::explain::{Explanation, Question};

use super::Drains;
use super::logging::Log;
use super::redirected::Redirected;
use crate::admin::View;
use crate::admin::probe::Probes;
use crate::config::Config;
use crate::identity::IdentityManager;
use crate::outbound::Outbound;
use crate::telemetry::{Metrics, Telemetry};

pub(super) struct Proxy {
    pub(super) config: Config,
    pub(super) outbound: Arc<Outbound>,
    pub(super) identity: IdentityManager,
    pub(super) telemetry: Telemetry,
    pub(super) drains: Arc<Drains>,
    pub(super) redirected: Redirected,
    pub(super) probes: Probes,
    pub(super) quit: watch::Sender<bool>,
    pub(super) log: Log,
}

impl View for Proxy {
    fn not_ready(&self) -> Vec<&'static str> {
        let mut missing = Vec::new();
        if self.identity.svid().is_none() {
            missing.push("no certificate yet (is the control plane running, and the join token valid?)");
        }
        if self.config.inbound_policy().is_none() {
            missing.push("no inbound policy yet (does the control plane know this pod's address?)");
        }
        if !self.redirected.is_verified() {
            missing.push("redirection is not in force (did weft-redirect run, or is the CNI plugin missing?)");
        }
        missing
    }

    fn metrics(&self) -> String {
        self.telemetry.metrics.encode()
    }

    fn config(&self) -> serde_json::Value {
        let view = self.config.view(tokio::time::Instant::now().into_std());
        let mut value =
            serde_json::to_value(view).unwrap_or_else(|error| serde_json::json!({ "error": error.to_string() }));
        if let Some(svid) = self.identity.svid() {
            let expires = time::OffsetDateTime::from(svid.not_after());
            value["identity"] = serde_json::json!({
                "spiffe_id": svid.identity(),
                "expires": expires.format(&time::format_description::well_known::Rfc3339).unwrap_or_default(),
            });
        }
        value
    }

    fn explain(&self, question: Question) -> BoxFuture<'_, Result<Explanation, String>> {
        Box::pin(async move { self.outbound.explain(&question).await })
    }

    fn log_level(&self) -> String {
        self.log.directives()
    }

    fn set_log_level(&self, directives: &str) -> Result<(), String> {
        self.log.set(directives)
    }

    fn drain(&self) {
        tracing::info!("draining: the pod is being ended");
        self.drains.begin();
    }

    fn quit(&self) {
        self.quit.send_replace(true);
    }

    fn probes(&self) -> &Probes {
        &self.probes
    }

    fn on_probe_refused(&self) {
        self.telemetry.metrics.probes_refused.inc();
    }

    fn on_connection_closed(&self) {
        self.telemetry.metrics.admin_closed.inc();
    }
}

/// Adds what `config/` counts to the metrics.
pub(super) fn register(metrics: &Metrics, config: &Config) {
    let collector = Box::new(ConfigCollector(config.clone()));
    metrics.register(|registry| registry.register_collector(collector));
}

struct ConfigCollector(Config);

impl std::fmt::Debug for ConfigCollector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ConfigCollector")
    }
}

impl Collector for ConfigCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let stats = self.0.stats();
        let received = stats.resources_received.iter().map(|counter| counter.load(Relaxed)).sum();
        let counters = [
            ("weft_config_resources_received", "Resources received from the control plane", received),
            ("weft_config_resources_removed", "Resources that are gone", stats.resources_removed.load(Relaxed)),
            ("weft_config_resources_refused", "Resources that did not compile", stats.resources_refused.load(Relaxed)),
            ("weft_config_acks", "Responses acknowledged", stats.acks.load(Relaxed)),
            ("weft_config_nacks", "Responses refused in part", stats.nacks.load(Relaxed)),
            ("weft_config_connects", "Streams opened to the control plane", stats.connects.load(Relaxed)),
            ("weft_config_failures", "Streams that failed", stats.failures.load(Relaxed)),
            ("weft_config_lookups", "Destinations that waited for an answer", stats.lookups.load(Relaxed)),
            (
                "weft_config_lookups_unanswered",
                "Those without an answer in time",
                stats.lookups_unanswered.load(Relaxed),
            ),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        let gauges = [
            (
                "weft_config_connected",
                "1 while a stream to the control plane is open",
                i64::from(stats.connected.load(Relaxed)),
            ),
            (
                "weft_config_subscriptions",
                "Names subscribed to",
                i64::try_from(stats.subscriptions.load(Relaxed)).unwrap_or(i64::MAX),
            ),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        if let Some(age) = self.0.age() {
            let gauge = ConstGauge::new(age.as_secs_f64());
            let help = "Seconds since the last news from the control plane";
            gauge.encode(encoder.encode_descriptor("weft_config_age_seconds", help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}
