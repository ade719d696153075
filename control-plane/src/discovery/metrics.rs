//! What discovery counts. Labels are types and reasons, never names: the set is fixed.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::ResourceKind;

/// Counters of all streams.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Open streams of admitted proxies.
    pub(super) streams: Gauge,
    sent: Family<Type, Counter>,
    skipped: Family<Type, Counter>,
    nacks: Family<Type, Counter>,
    pub(super) lagged: Counter,
    denied: Family<Reason, Counter>,
    pub(super) connections: Gauge,
    pub(super) handshakes_failed: Counter,
    no_room: Family<Reason, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Type {
    r#type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

impl Metrics {
    /// Makes them visible.
    pub fn register(&self, registry: &mut Registry) {
        // A type nobody asked for yet shows 0 rather than nothing, so that a query over a restart is defined.
        for kind in ResourceKind::ALL {
            let label = Type { r#type: kind.label() };
            drop(self.sent.get_or_create(&label));
            drop(self.skipped.get_or_create(&label));
            drop(self.nacks.get_or_create(&label));
        }
        registry.register("weft_discovery_streams", "Open discovery streams", self.streams.clone());
        registry.register("weft_discovery_resources_sent", "Resources sent to proxies", self.sent.clone());
        registry.register(
            "weft_discovery_resources_skipped",
            "Resources not sent because the proxy already had that version",
            self.skipped.clone(),
        );
        registry.register("weft_discovery_nacks", "Responses a proxy refused in whole or in part", self.nacks.clone());
        registry.register(
            "weft_discovery_lagged",
            "Times a stream missed changes and was compared with the latest state as a whole",
            self.lagged.clone(),
        );
        registry.register("weft_discovery_denied", "Streams denied, by reason", self.denied.clone());
        registry.register("weft_discovery_connections", "Open connections on port 15012", self.connections.clone());
        registry.register(
            "weft_discovery_handshakes_failed",
            "Connections on port 15012 that did not finish their TLS handshake",
            self.handshakes_failed.clone(),
        );
        registry.register(
            "weft_discovery_no_room",
            "Connections on port 15012 that were closed for want of room, by what they were",
            self.no_room.clone(),
        );
    }

    pub(super) fn on_totals(&self, kind: ResourceKind, (sent, skipped): (u64, u64)) {
        let label = Type { r#type: kind.label() };
        if sent > 0 {
            self.sent.get_or_create(&label).inc_by(sent);
        }
        if skipped > 0 {
            self.skipped.get_or_create(&label).inc_by(skipped);
        }
    }

    pub(super) fn on_nack(&self, label: &'static str) {
        self.nacks.get_or_create(&Type { r#type: label }).inc();
    }

    pub(super) fn on_no_room(&self, certified: bool) {
        let reason = if certified { "proxies" } else { "without-certificate" };
        self.no_room.get_or_create(&Reason { reason }).inc();
    }

    pub(super) fn on_denied(&self, reason: &'static str) {
        self.denied.get_or_create(&Reason { reason }).inc();
    }
}
