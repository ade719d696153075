//! The log: text on standard error, its level changed while running.

use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::telemetry::{spans, trace};

/// Why logging cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The directives do not parse.
    #[error("--log-level: {0}")]
    Directives(#[from] tracing_subscriber::filter::ParseError),
    /// Somebody else has already taken the log.
    #[error("the log is already set up: {0}")]
    Taken(#[from] tracing_subscriber::util::TryInitError),
}

/// Changes what is logged.
#[derive(Clone)]
pub(super) struct Log(reload::Handle<EnvFilter, Registry>);

pub(super) fn start(directives: &str, exporter: Option<&SdkTracerProvider>) -> Result<Log, LogError> {
    let (filter, handle) = reload::Layer::new(EnvFilter::try_new(directives)?);
    let spans = exporter.map(spans::layer);
    // Spans of requests are for the collector; the log has its own words.
    let text = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_filter(filter_fn(|metadata| metadata.target() != trace::TARGET));
    tracing_subscriber::registry().with(text.with_filter(filter)).with(spans).try_init()?;
    Ok(Log(handle))
}

impl Log {
    pub(super) fn directives(&self) -> String {
        self.0.with_current(ToString::to_string).unwrap_or_default()
    }

    pub(super) fn set(&self, directives: &str) -> Result<(), String> {
        let filter = EnvFilter::try_new(directives).map_err(|error| error.to_string())?;
        self.0.reload(filter).map_err(|error| error.to_string())
    }
}
