//! Metrics, in the Prometheus text format. Label sets are small and bounded: past [`MAX_SERIES`] new combinations of a
//! family are counted under `other`, so that no client can grow our memory by inventing values; and those of backends
//! that are gone expire (`series.rs`).
//!
//! Counted here is what happens; what can be read where it is kept (config, pools, balancers) is collected from there,
//! by collectors those rooms [register](Metrics::register).

use std::cell::RefCell;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::label::{Label, SharedLabel};
pub use super::series::MAX_SERIES;
use super::series::{Recent, Series};
use crate::reason::Reason;

/// The label value of what is beyond.
pub const OTHER: &str = "other";

/// Bucket bounds of request durations, in seconds.
const SECONDS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Labels of the inbound histogram: what Flagger's built-in queries ask for.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct InboundLabels {
    /// Namespace of this pod.
    pub kubernetes_namespace: Label,
    /// Name of this pod.
    pub kubernetes_pod_name: Label,
    /// HTTP status.
    pub status: u16,
}

/// Labels of outbound requests.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct OutboundLabels {
    /// Our workload.
    pub source_workload: Label,
    /// `namespace/name` of the Service asked for, or `outside`.
    pub destination_service: Label,
    /// `namespace/name:port` of the chosen backend, or empty.
    pub backend: Label,
    /// The rule's route, or empty.
    pub route: Label,
    /// `http/1.0`, `http/1.1`, `http/2` or `grpc`.
    pub protocol: &'static str,
    /// HTTP status.
    pub response_code: u16,
    /// A [`Reason`] code, or empty.
    pub response_flags: &'static str,
    /// `true` when it went over mesh TLS.
    pub mtls: &'static str,
}

/// [`OutboundLabels`] as a request's record has them: they are copied only where they are new.
#[derive(Clone, Copy, Debug)]
pub struct OutboundRequest<'r> {
    /// See [`OutboundLabels`], as are the others.
    pub source_workload: &'r SharedLabel,
    /// `namespace/name` of the Service asked for.
    pub destination_service: &'r Label,
    /// The chosen backend.
    pub backend: &'r Label,
    /// The rule's route.
    pub route: &'r Label,
    /// What the client spoke.
    pub protocol: &'static str,
    /// HTTP status.
    pub response_code: u16,
    /// A [`Reason`] code.
    pub response_flags: &'static str,
    /// Whether it went over mesh TLS.
    pub mtls: &'static str,
}

impl OutboundRequest<'_> {
    /// Whether it is counted under these, which were made of the same `source_workload`.
    fn is(&self, labels: &OutboundLabels) -> bool {
        // Mostly one and the same text, which nobody has to read then.
        let same = |a: &'static str, b: &'static str| std::ptr::eq(a, b) || a == b;
        self.response_code == labels.response_code
            && *self.route == labels.route
            && *self.backend == labels.backend
            && *self.destination_service == labels.destination_service
            && same(self.protocol, labels.protocol)
            && same(self.response_flags, labels.response_flags)
            && same(self.mtls, labels.mtls)
    }

    fn labels(&self) -> OutboundLabels {
        OutboundLabels {
            source_workload: self.source_workload.get(),
            destination_service: self.destination_service.clone(),
            backend: self.backend.clone(),
            route: self.route.clone(),
            protocol: self.protocol,
            response_code: self.response_code,
            response_flags: self.response_flags,
            mtls: self.mtls,
        }
    }
}

/// One backend.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct BackendLabels {
    /// `namespace/name:port`
    pub backend: Label,
}

/// One backend, and a reason.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ClosedLabels {
    /// `namespace/name:port`
    pub backend: Label,
    /// A [`Reason`] code.
    pub reason: &'static str,
}

/// A direction and a reason.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct RefusedLabels {
    /// `inbound` or `outbound`
    pub direction: &'static str,
    /// A [`Reason`] code.
    pub reason: &'static str,
}

/// A direction.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct DirectionLabels {
    /// `inbound` or `outbound`
    pub direction: &'static str,
    /// What the connection turned out to carry.
    pub protocol: &'static str,
    /// `true` when it is mesh TLS.
    pub mtls: &'static str,
}

/// Every metric of the proxy.
#[derive(Debug)]
pub struct Metrics {
    /// Different from every other's of this process.
    number: u64,
    registry: Mutex<Registry>,
    inbound_duration: Family<InboundLabels, Histogram, fn() -> Histogram>,
    outbound: Series<OutboundLabels>,
    /// Retries made, by backend.
    pub retries: Series<BackendLabels>,
    /// Retries that the budget did not allow, by backend.
    pub retries_over_budget: Series<BackendLabels>,
    /// Endpoints ejected, by backend.
    pub ejections: Series<BackendLabels>,
    /// Copies of requests sent, by the backend that got them.
    pub mirrors: Series<BackendLabels>,
    /// Copies that were not sent.
    pub mirrors_dropped: Series<BackendLabels>,
    /// Connections to backends that we closed.
    closed: Series<ClosedLabels>,
    /// Requests that a FaultInjection has made wait.
    pub faults_delayed: Counter,
    refused: Family<RefusedLabels, Counter>,
    connections: Family<DirectionLabels, Counter>,
    /// Connections open now, by direction.
    pub connections_open: Gauge,
    /// Mesh TLS handshakes that failed.
    pub handshake_failures: Counter,
    /// Requests ended by a panic of ours.
    pub panics: Counter,
    /// Bytes relayed as opaque TCP.
    pub tcp_bytes: Counter,
    /// Seconds that workers spun for responses instead of sleeping.
    pub busy_polled: Counter<f64, AtomicU64>,
    /// Access log lines dropped because the queue was full.
    pub log_dropped: Counter,
    /// Lines of the diagnostic log dropped because nobody reads it.
    pub diagnostics_dropped: Counter,
    /// Requests for a probe of the app that there is none of, or without its secret.
    pub probes_refused: Counter,
    /// Connections to the admin ports that were closed for others, or because they lasted too long.
    pub admin_closed: Counter,
    /// When this workload's certificate expires: seconds since 1970.
    pub certificate_expiry: Gauge<i64, AtomicI64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let metrics = Self {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            inbound_duration: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            outbound: Series::default(),
            retries: Series::default(),
            retries_over_budget: Series::default(),
            ejections: Series::default(),
            mirrors: Series::default(),
            mirrors_dropped: Series::default(),
            closed: Series::default(),
            faults_delayed: Counter::default(),
            refused: Family::default(),
            connections: Family::default(),
            connections_open: Gauge::default(),
            handshake_failures: Counter::default(),
            panics: Counter::default(),
            tcp_bytes: Counter::default(),
            busy_polled: Counter::default(),
            log_dropped: Counter::default(),
            diagnostics_dropped: Counter::default(),
            probes_refused: Counter::default(),
            admin_closed: Counter::default(),
            certificate_expiry: Gauge::default(),
            registry: Mutex::default(),
        };
        registry.register(
            "http_request_duration_seconds",
            "Duration of inbound requests, to the end of the response",
            metrics.inbound_duration.clone(),
        );
        registry.register("weft_requests", "Outbound requests, by how they ended", metrics.outbound.family());
        registry.register("weft_retries", "Tries after the first", metrics.retries.family());
        registry.register(
            "weft_retries_over_budget",
            "Retries the budget did not allow",
            metrics.retries_over_budget.family(),
        );
        registry.register("weft_ejections", "Endpoints ejected by outlier detection", metrics.ejections.family());
        registry.register("weft_mirrors", "Copies of requests sent", metrics.mirrors.family());
        registry.register("weft_mirrors_dropped", "Copies not sent", metrics.mirrors_dropped.family());
        registry.register(
            "weft_backend_connections_closed",
            "Connections to the backend that we closed ourselves",
            metrics.closed.family(),
        );
        registry.register("weft_faults_delayed", "Requests a FaultInjection made wait", metrics.faults_delayed.clone());
        registry.register("weft_refused", "Connections and requests we ended ourselves", metrics.refused.clone());
        registry.register("weft_connections", "Connections accepted", metrics.connections.clone());
        registry.register("weft_connections_open", "Connections open now", metrics.connections_open.clone());
        registry.register(
            "weft_handshake_failures",
            "Mesh TLS handshakes that failed",
            metrics.handshake_failures.clone(),
        );
        registry.register("weft_panics", "Requests ended by a panic", metrics.panics.clone());
        registry.register("weft_tcp_bytes", "Bytes relayed as opaque TCP", metrics.tcp_bytes.clone());
        registry.register(
            "weft_busy_poll_seconds",
            "Seconds spun for responses instead of sleeping",
            metrics.busy_polled.clone(),
        );
        registry.register("weft_access_log_dropped", "Access log lines dropped", metrics.log_dropped.clone());
        registry.register("weft_log_dropped", "Log lines dropped", metrics.diagnostics_dropped.clone());
        registry.register(
            "weft_probes_refused",
            "Requests for a probe that there is none of, or without its secret",
            metrics.probes_refused.clone(),
        );
        registry.register(
            "weft_admin_connections_closed",
            "Connections to the admin ports closed for others or for lasting too long",
            metrics.admin_closed.clone(),
        );
        registry.register(
            "weft_certificate_expiry_seconds",
            "When the workload certificate expires, in seconds since 1970",
            metrics.certificate_expiry.clone(),
        );
        *metrics.registry.lock() = registry;
        metrics
    }
}

impl Metrics {
    /// Counts one inbound request.
    pub fn inbound(&self, namespace: &Label, pod: &Label, status: u16, duration: Duration) {
        // The worker's last one, so that requests that end alike hash no labels: the two texts are the pod's.
        type Remembered = Option<(u64, InboundLabels, Histogram)>;
        thread_local!(static LAST: RefCell<Remembered> = const { RefCell::new(None) });
        LAST.with_borrow_mut(|last| {
            let is_it = |(number, labels, _): &(u64, InboundLabels, Histogram)| {
                *number == self.number
                    && labels.status == status
                    && labels.kubernetes_pod_name == *pod
                    && labels.kubernetes_namespace == *namespace
            };
            if !last.as_ref().is_some_and(is_it) {
                // Statuses come from the app: three digits each, so this family is bounded by itself (at most 900).
                let labels =
                    InboundLabels { kubernetes_namespace: namespace.clone(), kubernetes_pod_name: pod.clone(), status };
                let histogram = self.inbound_duration.get_or_create(&labels).clone();
                *last = Some((self.number, labels, histogram));
            }
            if let Some((_, _, histogram)) = last {
                histogram.observe(duration.as_secs_f64());
            }
        });
    }

    /// Counts one outbound request.
    pub fn outbound(&self, request: OutboundRequest<'_>) {
        let beyond = |labels: &mut OutboundLabels| {
            let other = Label::from(OTHER);
            labels.destination_service = other.clone();
            labels.backend = other.clone();
            labels.route = other;
            // A server may send any of 900 statuses: here their class is all there is room for.
            labels.response_code = labels.response_code / 100 * 100;
        };
        // A process has one `Metrics`; tests have several, each of which has its own number.
        type Remembered = ((u64, u64), Recent<OutboundLabels>);
        thread_local!(static RECENT: RefCell<Remembered> = const { RefCell::new(((u64::MAX, 0), Recent::NEW)) });
        let now = (self.number, request.source_workload.version());
        RECENT.with_borrow_mut(|(of, recent)| {
            if *of != now {
                (*of, *recent) = (now, Recent::NEW);
            }
            self.outbound.inc_recent(|labels| request.is(labels), || request.labels(), beyond, recent);
        });
    }

    /// Counts a connection or request that we ended ourselves.
    pub fn refused(&self, direction: &'static str, reason: Reason) {
        self.refused.get_or_create(&RefusedLabels { direction, reason: reason.code() }).inc();
    }

    /// Counts a connection whose protocol is settled.
    pub fn connection(&self, direction: &'static str, protocol: &'static str, mtls: bool) {
        let mtls = if mtls { "true" } else { "false" };
        self.connections.get_or_create(&DirectionLabels { direction, protocol, mtls }).inc();
    }

    /// Counts the connection as open until the guard is dropped.
    pub fn open(&self) -> Open {
        self.connections_open.inc();
        Open(self.connections_open.clone())
    }

    /// A counter of one backend.
    pub fn of_backend(&self, series: &Series<BackendLabels>, backend: &Label) {
        let _ = series.inc(BackendLabels { backend: backend.clone() }, |labels| labels.backend = OTHER.into());
    }

    /// Counts connections to a backend that we closed ourselves.
    pub fn closed(&self, backend: &Label, reason: Reason, count: u64) {
        for _ in 0..count {
            let labels = ClosedLabels { backend: backend.clone(), reason: reason.code() };
            let _ = self.closed.inc(labels, |labels| labels.backend = OTHER.into());
        }
    }

    /// Drops the series of backends that are not `known` any more, when they have been idle for
    /// [`EXPIRE_AFTER`](super::series::EXPIRE_AFTER). Called now and then.
    pub fn expire(&self, now: Instant, known: impl Fn(&str) -> bool) {
        let known = |backend: &str| backend == OTHER || known(backend);
        // Without a backend it is one of our own answers; there are few, and routes and services come and go.
        self.outbound.expire(now, |labels| !labels.backend.is_empty() && known(labels.backend.as_str()));
        let of_backends =
            [&self.retries, &self.retries_over_budget, &self.ejections, &self.mirrors, &self.mirrors_dropped];
        for series in of_backends {
            series.expire(now, |labels| known(labels.backend.as_str()));
        }
        self.closed.expire(now, |labels| known(labels.backend.as_str()));
    }

    /// All metrics as text.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry.lock());
        text
    }

    /// Adds metrics that another room keeps.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.lock());
    }
}

/// One open connection.
#[derive(Debug)]
pub struct Open(Gauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(metrics: &Metrics, route: &str, response_code: u16) {
        metrics.outbound(OutboundRequest {
            source_workload: &"web".into(),
            destination_service: &"shop/reviews".into(),
            backend: &"shop/reviews-v1:80".into(),
            route: &route.into(),
            protocol: "http/1.1",
            response_code,
            response_flags: "",
            mtls: "true",
        });
    }

    #[test]
    fn the_names_flagger_asks_for_are_there() {
        let metrics = Metrics::default();
        metrics.inbound(&"shop".into(), &"reviews-1".into(), 200, Duration::from_millis(3));
        let text = metrics.encode();
        assert!(
            text.contains(
                "http_request_duration_seconds_count{kubernetes_namespace=\"shop\",kubernetes_pod_name=\"reviews-1\",status=\"200\"} 1"
            ),
            "{text}"
        );
    }

    #[test]
    fn every_metric_is_in_the_reference() {
        let reference = include_str!("../../../docs/reference/metrics.md");
        for line in Metrics::default().encode().lines().filter(|line| line.starts_with("# TYPE ")) {
            let name = line.split(' ').nth(2).unwrap();
            assert!(reference.contains(&format!("`{name}`")), "{name}");
        }
    }

    #[test]
    fn invented_values_cannot_grow_a_family() {
        let metrics = Metrics::default();
        for n in 0..MAX_SERIES + 500 {
            count(&metrics, &format!("r{n}"), 200);
        }
        let text = metrics.encode();
        let series = text.lines().filter(|line| line.starts_with("weft_requests_total")).count() as u64;
        assert_eq!(series, MAX_SERIES + 1);
        assert!(text.contains("route=\"other\""));
    }

    #[test]
    fn beyond_the_bound_a_servers_statuses_are_classes() {
        let metrics = Metrics::default();
        for n in 0..MAX_SERIES {
            count(&metrics, &format!("r{n}"), 200);
        }
        for response_code in 100..1000 {
            count(&metrics, "x", response_code);
        }
        let text = metrics.encode();
        let series = text.lines().filter(|line| line.starts_with("weft_requests_total")).count() as u64;
        assert_eq!(series, MAX_SERIES + 9);
    }

    #[test]
    fn workloads_that_come_and_go_cannot_grow_a_family() {
        let metrics = Metrics::default();
        for n in 0..MAX_SERIES + 500 {
            metrics.of_backend(&metrics.retries, &format!("shop/pod-{n}:80").into());
        }
        let text = metrics.encode();
        let series = text.lines().filter(|line| line.starts_with("weft_retries_total")).count() as u64;
        assert_eq!(series, MAX_SERIES + 1);
    }

    #[test]
    fn requests_are_told_apart_by_each_of_their_labels() {
        let metrics = Metrics::default();
        let [web, other]: [Label; 2] = ["web".into(), "other".into()];
        let first = OutboundRequest {
            source_workload: &"web".into(),
            destination_service: &web,
            backend: &web,
            route: &web,
            protocol: "http/1.1",
            response_code: 200,
            response_flags: "",
            mtls: "true",
        };
        let others = [
            OutboundRequest { source_workload: &"other".into(), ..first },
            OutboundRequest { destination_service: &other, ..first },
            OutboundRequest { backend: &other, ..first },
            OutboundRequest { route: &other, ..first },
            OutboundRequest { protocol: "grpc", ..first },
            OutboundRequest { response_code: 201, ..first },
            OutboundRequest { response_flags: "timeout", ..first },
            OutboundRequest { mtls: "false", ..first },
        ];
        for other in others {
            // Each beside the first, which is among the recent ones then; and what is equal is the same, wherever it lies.
            metrics.outbound(first);
            metrics.outbound(other);
            metrics.outbound(OutboundRequest { backend: &"web".into(), ..first });
        }
        let text = metrics.encode();
        let counts: Vec<_> = text
            .lines()
            .filter(|line| line.starts_with("weft_requests_total"))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok())
            .collect();
        assert_eq!(counts.len(), 1 + others.len(), "{text}");
        assert_eq!(counts.iter().filter(|count| **count == 1).count(), others.len(), "{text}");
        assert!(counts.contains(&(2 * others.len())), "{text}");
    }

    #[test]
    fn series_of_backends_that_are_gone_go_and_free_their_place() {
        let metrics = Metrics::default();
        let lines = |what: &str| metrics.encode().lines().filter(|line| line.contains(what)).count();
        let now = Instant::now();
        for n in 0..MAX_SERIES {
            metrics.of_backend(&metrics.retries, &format!("shop/pod-{n}:80").into());
        }
        count(&metrics, "r", 200);
        let known = |backend: &str| backend == "shop/pod-7:80";
        metrics.expire(now, known);
        metrics.of_backend(&metrics.retries, &"shop/pod-8:80".into());
        metrics.expire(now + super::super::series::EXPIRE_AFTER / 2, known);
        assert_eq!(lines("weft_retries_total{") as u64, MAX_SERIES, "idle, but not for long");
        metrics.expire(now + super::super::series::EXPIRE_AFTER, known);
        assert_eq!(lines("weft_retries_total{"), 2, "{}", metrics.encode());
        assert_eq!((lines("pod-7:80"), lines("pod-8:80"), lines("weft_requests_total{")), (1, 1, 0));
        metrics.of_backend(&metrics.retries, &"shop/new:80".into());
        assert_eq!(lines("shop/new:80"), 1, "there is room again");
    }

    #[test]
    fn no_family_is_there_twice() {
        let text = Metrics::default().encode();
        let mut types: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
        let all = types.len();
        types.sort_unstable();
        types.dedup();
        assert_eq!(types.len(), all);
    }
}
