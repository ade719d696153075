//! Where spans go: an OTLP/gRPC exporter, batched on a runtime of the control thread, never on a data-plane worker.

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};

/// Why spans cannot be exported.
#[derive(Debug, thiserror::Error)]
#[error("cannot export spans to {endpoint}: {error}; give a URL such as http://collector:4317")]
pub struct ExportError {
    endpoint: String,
    error: String,
}

/// Builds the exporter. Must be called inside a tokio runtime. Sampling is decided before a span is made
/// ([`super::trace::sample`]), so every span that exists is exported.
///
/// # Errors
/// When the endpoint is no URL.
pub fn exporter(endpoint: &str, service: &str, pod: &str) -> Result<SdkTracerProvider, ExportError> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .map_err(|error| ExportError { endpoint: endpoint.to_owned(), error: error.to_string() })?;
    let resource = Resource::builder()
        .with_service_name(service.to_owned())
        .with_attribute(opentelemetry::KeyValue::new("k8s.pod.name", pod.to_owned()))
        .build();
    Ok(SdkTracerProvider::builder()
        .with_sampler(Sampler::AlwaysOn)
        .with_resource(resource)
        .with_batch_exporter(exporter)
        .build())
}

/// The `tracing` layer that turns spans of [`super::trace::TARGET`] into exported ones.
pub fn layer<S>(provider: &SdkTracerProvider) -> impl tracing_subscriber::Layer<S> + Send + Sync
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a> + Send + Sync,
{
    use tracing_subscriber::Layer;
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("weft-sidecar"))
        .with_filter(tracing_subscriber::filter::filter_fn(|metadata| metadata.target() == super::trace::TARGET))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use hyper_util::rt::{TokioExecutor, TokioIo};
    use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
    use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
    use tokio::sync::mpsc;
    use tower_service::Service as _;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::telemetry::trace;

    struct Collector(mpsc::UnboundedSender<ExportTraceServiceRequest>);

    #[tonic::async_trait]
    impl TraceService for Collector {
        async fn export(
            &self,
            request: tonic::Request<ExportTraceServiceRequest>,
        ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
            let _ = self.0.send(request.into_inner());
            Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
        }
    }

    async fn collector() -> (String, mpsc::UnboundedReceiver<ExportTraceServiceRequest>) {
        let (sender, received) = mpsc::unbounded_channel();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let service = TraceServiceServer::from_arc(Arc::new(Collector(sender)));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = service.clone();
                let service = hyper::service::service_fn(move |request| service.clone().call(request));
                let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
            }
        });
        (endpoint, received)
    }

    #[tokio::test]
    async fn a_span_made_on_another_thread_reaches_the_collector_under_its_parent() {
        let (endpoint, mut received) = collector().await;
        let provider = exporter(&endpoint, "reviews", "reviews-1").unwrap();
        let subscriber = tracing_subscriber::registry().with(layer(&provider));
        let (trace_id, parent) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        let mut headers = http::HeaderMap::new();
        headers.insert("traceparent", format!("00-{trace_id}-{parent}-01").parse().unwrap());
        // A thread without a runtime stands for a worker that exports nothing itself.
        let headers = std::thread::spawn(move || {
            tracing::subscriber::with_default(subscriber, || {
                let incoming = trace::read(&headers);
                let span = trace::start("outbound", incoming.as_ref(), &mut headers);
                assert_eq!(trace::id_of(&span), trace_id);
                tracing::info!("not a span, and not of our target");
                drop(span);
            });
            headers
        })
        .join()
        .unwrap();
        let flushed = tokio::task::spawn_blocking(move || provider.force_flush());
        let export = tokio::time::timeout(Duration::from_secs(10), received.recv()).await.unwrap().unwrap();
        flushed.await.unwrap().unwrap();
        let spans: Vec<_> =
            export.resource_spans.iter().flat_map(|r| &r.scope_spans).flat_map(|scope| &scope.spans).collect();
        assert_eq!(spans.len(), 1);
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!((hex(&spans[0].trace_id).as_str(), hex(&spans[0].parent_span_id).as_str()), (trace_id, parent));
        assert_eq!(spans[0].name, "outbound");
        // What goes on names this span as the parent of the next.
        assert_eq!(headers["traceparent"], format!("00-{trace_id}-{}-01", hex(&spans[0].span_id)));
        let service = export.resource_spans[0].resource.as_ref().unwrap();
        assert!(format!("{service:?}").contains("reviews-1"));
    }

    #[tokio::test]
    async fn a_collector_that_is_away_costs_the_data_path_nothing() {
        let provider = exporter("http://127.0.0.1:1", "reviews", "reviews-1").unwrap();
        let subscriber = tracing_subscriber::registry().with(layer(&provider));
        let took = std::thread::spawn(move || {
            let begun = std::time::Instant::now();
            tracing::subscriber::with_default(subscriber, || {
                for _ in 0..10_000 {
                    drop(trace::start("outbound", None, &mut http::HeaderMap::new()));
                }
            });
            begun.elapsed()
        });
        let took = tokio::task::spawn_blocking(move || took.join()).await.unwrap().unwrap();
        // Queued, then dropped: no span waits for a connection.
        assert!(took < Duration::from_secs(5), "{took:?}");
        // It has nowhere to send what is left, so it is not given the time it would like.
        let _ = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(Duration::from_millis(50))).await;
    }
}
