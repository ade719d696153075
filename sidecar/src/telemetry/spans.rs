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
