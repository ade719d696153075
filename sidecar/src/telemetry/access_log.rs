//! The access log: one JSON object a line on standard output. Off by default. Lines are queued and written by a thread
//! of their own, so that a slow reader of our output never stalls traffic: past [`QUEUE`] lines they are dropped and
//! counted.

use std::io::Write;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Label;

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
    pub service: Label,
    /// The route and rule taken.
    pub route: Label,
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

#[derive(Debug)]
enum Item {
    Line(Box<Entry>),
    /// Answered once everything before it is written.
    Flush(SyncSender<()>),
}

/// A handle to the queue.
#[derive(Clone, Debug)]
pub struct AccessLog {
    queue: SyncSender<Item>,
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
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.queue.try_send(Item::Line(Box::new(entry)))
        {
            self.dropped.inc();
        }
    }

    /// Waits until everything logged so far is written, at most this long: for the end of the process. Blocks.
    pub fn finish(&self, at_most: Duration) {
        let until = Instant::now() + at_most;
        let (done, written) = sync_channel(1);
        let mut item = Item::Flush(done);
        // Behind a full queue there is no place to ask until a line has been written.
        while let Err(TrySendError::Full(back)) = self.queue.try_send(item) {
            if Instant::now() >= until {
                return;
            }
            item = back;
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = written.recv_timeout(until.saturating_duration_since(Instant::now()));
    }
}

fn write_all<W: Write>(items: &Receiver<Item>, mut out: W) {
    while let Ok(item) = items.recv() {
        let entry = match item {
            Item::Line(entry) => entry,
            Item::Flush(done) => {
                let _ = out.flush();
                let _ = done.try_send(());
                continue;
            }
        };
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
            service: Label::default(),
            route: Label::default(),
            endpoint: String::new(),
            peer: String::new(),
            tries: 1,
            mtls: true,
            trace_id: String::new(),
        }
    }

    /// Writes slowly, and shows what has come through.
    struct Slow(std::sync::Arc<parking_lot::Mutex<Vec<u8>>>);
    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            std::thread::sleep(Duration::from_millis(2));
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_was_logged_before_the_end_is_written() {
        let out = std::sync::Arc::<parking_lot::Mutex<Vec<u8>>>::default();
        let log = AccessLog::start(Slow(out.clone()), Default::default()).unwrap();
        for _ in 0..50 {
            log.log(entry());
        }
        log.finish(Duration::from_secs(10));
        assert_eq!(out.lock().iter().filter(|&&byte| byte == b'\n').count(), 50);
    }

    #[test]
    fn the_end_does_not_wait_for_a_stuck_reader() {
        let log = AccessLog::start(Stuck, Default::default()).unwrap();
        for lines in [1, QUEUE + 1] {
            for _ in 0..lines {
                log.log(entry());
            }
            let began = Instant::now();
            log.finish(Duration::from_millis(20));
            assert!(began.elapsed() < Duration::from_secs(5));
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
