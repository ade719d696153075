//! The log: text on standard error, its level changed while running. Lines are queued and written by a thread of their
//! own: data-plane threads log too, and a reader of our standard error that stands still must not stand traffic still.
//! Bound: [`QUEUE`] lines; past it they are dropped and counted.

use std::io::Write;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use opentelemetry_sdk::trace::SdkTracerProvider;
use prometheus_client::metrics::counter::Counter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::settings::log_filter;
use crate::telemetry::{spans, trace};

/// Why logging cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The directives do not parse.
    #[error("--log-level: {0}")]
    Directives(String),
    /// There is no thread to write it.
    #[error("no thread for the log: {0}")]
    Thread(#[from] std::io::Error),
    /// Somebody else has already taken the log.
    #[error("the log is already set up: {0}")]
    Taken(#[from] tracing_subscriber::util::TryInitError),
}

/// Lines waiting to be written.
const QUEUE: usize = 4_096;

enum Item {
    Line(Vec<u8>),
    /// Answered once everything before it is written.
    Flush(SyncSender<()>),
}

/// One line's way to the queue.
struct Queue {
    items: SyncSender<Item>,
    dropped: Counter,
}

impl Write for Queue {
    /// Called once per line.
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        if self.items.try_send(Item::Line(line.to_vec())).is_err() {
            self.dropped.inc();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn write_all(items: &Receiver<Item>, mut out: impl Write) {
    while let Ok(item) = items.recv() {
        match item {
            // Nobody reads it: there is no one to tell.
            Item::Line(line) => _ = out.write_all(&line),
            Item::Flush(done) => _ = done.try_send(()),
        }
    }
}

/// Writes what is queued, at the end.
pub(super) struct Flush(SyncSender<Item>);

impl Flush {
    /// Waits until everything logged so far is written, at most this long. Also when dropped early, by an error on the
    /// way up: its cause is in the log.
    pub(super) fn finish(self, at_most: Duration) {
        self.wait(at_most);
    }

    fn wait(&self, at_most: Duration) {
        let (done, written) = sync_channel(1);
        if self.0.try_send(Item::Flush(done)).is_ok() {
            let _ = written.recv_timeout(at_most);
        }
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        self.wait(Duration::from_millis(200));
    }
}

/// Changes what is logged.
#[derive(Clone)]
pub(super) struct Log(reload::Handle<EnvFilter, Registry>);

pub(super) fn start(
    directives: &str,
    exporter: Option<&SdkTracerProvider>,
    dropped: Counter,
) -> Result<(Log, Flush), LogError> {
    let (items, lines) = sync_channel(QUEUE);
    std::thread::Builder::new().name("log".into()).spawn(move || write_all(&lines, std::io::stderr()))?;
    let flush = Flush(items.clone());
    let (filter, handle) = reload::Layer::new(log_filter(directives).map_err(LogError::Directives)?);
    let spans = exporter.map(spans::layer);
    // Spans of requests are for the collector; the log has its own words.
    let text = tracing_subscriber::fmt::layer()
        .with_writer(move || Queue { items: items.clone(), dropped: dropped.clone() })
        .with_ansi(false)
        .with_filter(filter_fn(|metadata| metadata.target() != trace::TARGET));
    tracing_subscriber::registry().with(text.with_filter(filter)).with(spans).try_init()?;
    Ok((Log(handle), flush))
}

impl Log {
    pub(super) fn directives(&self) -> String {
        self.0.with_current(ToString::to_string).unwrap_or_default()
    }

    pub(super) fn set(&self, directives: &str) -> Result<(), String> {
        let filter = log_filter(directives)?;
        self.0.reload(filter).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Out(Arc<Mutex<Vec<u8>>>);

    impl Write for Out {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_stands_still_costs_lines_and_no_time() {
        let (items, _unread) = sync_channel(QUEUE);
        let dropped = Counter::default();
        let mut queue = Queue { items, dropped: dropped.clone() };
        for _ in 0..QUEUE + 7 {
            queue.write_all(b"line\n").unwrap();
        }
        assert_eq!(dropped.get(), 7);
    }

    #[test]
    fn what_was_logged_before_the_end_is_written() {
        let (items, lines) = sync_channel(QUEUE);
        let out = Out::default();
        let writer = out.clone();
        std::thread::spawn(move || write_all(&lines, writer));
        let mut queue = Queue { items: items.clone(), dropped: Counter::default() };
        queue.write_all(b"one\n").unwrap();
        queue.write_all(b"two\n").unwrap();
        Flush(items).finish(Duration::from_secs(10));
        assert_eq!(&*out.0.lock(), b"one\ntwo\n");
    }
}
