//! The access log: one JSON object a line on standard output. Off by default. Lines are queued and written by a thread
//! of their own, so that a slow reader of our output never stalls traffic: past [`QUEUE`] lines they are dropped and
//! counted.

use std::io::Write;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use serde::Serialize;

/// Lines waiting to be written.
pub const QUEUE: usize = 4_096;

/// One request, or one opaque connection.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// RFC 3339, when it began.
    pub time: String,
    /// `inbound` or `outbound`
    pub direction: &'static str,
    /// Method, or empty for opaque connections.
    pub method: String,
    /// Path without the query: queries carry secrets.
    pub path: String,
    /// `Host` or `:authority`
    pub authority: String,
    /// `http/1.1`, `grpc`, `tcp` …
    pub protocol: &'static str,
    /// Status; 0 for opaque connections.
    pub status: u16,
    /// Why we answered ourselves; absent when we did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// Milliseconds to the end of the response.
    pub duration_ms: f64,
    /// The Service asked for.
    pub service: String,
    /// The route and rule taken.
    pub route: String,
    /// The endpoint that answered.
    pub endpoint: String,
    /// The verified identity of the other end.
    pub peer: String,
    /// How many tries it took.
    pub tries: u32,
    /// Whether it went over mesh TLS.
    pub mtls: bool,
    /// Trace id, where there is one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub trace_id: String,
}

/// A handle to the queue.
#[derive(Clone, Debug)]
pub struct AccessLog {
    queue: SyncSender<Entry>,
    dropped: prometheus_client::metrics::counter::Counter,
}

impl AccessLog {
    /// Starts the writing thread.
    pub fn start<W: Write + Send + 'static>(
        out: W,
        dropped: prometheus_client::metrics::counter::Counter,
    ) -> std::io::Result<Self> {
        let (queue, lines) = sync_channel(QUEUE);
        std::thread::Builder::new().name("access-log".into()).spawn(move || write_all(&lines, out))?;
        Ok(Self { queue, dropped })
    }

    /// Queues a line, or drops and counts it.
    pub fn log(&self, entry: Entry) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.queue.try_send(entry) {
            self.dropped.inc();
        }
    }
}

fn write_all<W: Write>(lines: &Receiver<Entry>, mut out: W) {
    while let Ok(entry) = lines.recv() {
        let Ok(mut line) = serde_json::to_vec(&entry) else { continue };
        line.push(b'\n');
        // Nobody reads our output any more: there is no one to tell.
        if out.write_all(&line).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Stuck;
    impl Write for Stuck {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            loop {
                std::thread::park();
            }
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn entry() -> Entry {
        Entry {
            time: String::new(),
            direction: "outbound",
            method: "GET".into(),
            path: "/".into(),
            authority: "reviews".into(),
            protocol: "http/1.1",
            status: 200,
            reason: None,
            duration_ms: 1.0,
            service: String::new(),
            route: String::new(),
            endpoint: String::new(),
            peer: String::new(),
            tries: 1,
            mtls: true,
            trace_id: String::new(),
        }
    }

    #[test]
    fn a_stuck_reader_costs_lines_and_nothing_else() {
        let dropped = prometheus_client::metrics::counter::Counter::default();
        let log = AccessLog::start(Stuck, dropped.clone()).unwrap();
        for _ in 0..QUEUE + 100 {
            log.log(entry());
        }
        assert!(dropped.get() >= 99, "{}", dropped.get());
    }
}
