//! Requests at a fixed rate over a fixed set of keep-alive connections.
//!
//! Request *n* is due at `start + n / rate`, whatever happened to those before it, and its latency counts from then: a
//! stall shows in every request that fell into it (no coordinated omission). The connection idle for longest takes the
//! next request; when none is idle, requests wait and their clocks run.
//!
//! One thread, one `epoll`, a timer that fires when a request is due: a busy loop would take the core from the server.
//! Bound: requests due but not sent are a number; the run ends [`PATIENCE`] after the last was due.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::responder::BODY_LENGTH;
use super::{AppError, Outcome, quantile};

const PATIENCE: Duration = Duration::from_secs(5);
const TIMER: u64 = u64::MAX;

/// Its options.
#[derive(Debug, clap::Args)]
pub(crate) struct OpenLoop {
    /// Whom to ask.
    #[arg(long)]
    target: SocketAddr,
    /// Requests a second.
    #[arg(long, default_value_t = 2000)]
    rate: u32,
    /// Connections.
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// For how long, in s.
    #[arg(long)]
    seconds: f64,
}

struct Connection {
    stream: TcpStream,
    /// When the request under way was due.
    due: Option<Instant>,
    response: Response,
}

/// Runs it.
///
/// # Errors
/// When it cannot connect.
pub(crate) fn run(options: &OpenLoop) -> Result<Outcome, AppError> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut connections = Vec::with_capacity(options.connections);
    for index in 0..options.connections {
        let stream = TcpStream::connect(options.target)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, index as u64))?;
        connections.push(Connection { stream, due: None, response: Response::default() });
    }
    let interval = Duration::from_secs(1) / options.rate;
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
    timer.set(Expiration::Interval(interval.into()), TimerSetTimeFlags::empty())?;
    let started = Instant::now();
    epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, TIMER))?;

    let total = (options.seconds * f64::from(options.rate)) as u32;
    let request = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", options.target.ip());
    let mut run = Run {
        idle: (0..connections.len()).collect(),
        connections,
        request: request.into_bytes(),
        latencies: Vec::with_capacity(total as usize),
        outcome: Outcome::default(),
    };
    let give_up = started + interval * total + PATIENCE;
    let mut events = [EpollEvent::empty(); 64];
    let mut sent = 0;
    // One failure and there will be no figure: no need to go on.
    while run.finished() < u64::from(total) && run.outcome.failed == 0 && Instant::now() < give_up {
        let ready = match epoll.wait(&mut events, EpollTimeout::from(100_u16)) {
            Err(nix::errno::Errno::EINTR) => 0,
            other => other?,
        };
        for event in &events[..ready] {
            match usize::try_from(event.data()) {
                Ok(index) if event.data() != TIMER => run.receive(index),
                _ => drop(timer.wait()),
            }
        }
        while sent < total && started + interval * (sent + 1) <= Instant::now() {
            let Some(index) = run.idle.pop_front() else { break };
            sent += 1;
            run.send(index, started + interval * sent);
        }
    }
    Ok(run.finish(started, u64::from(total)))
}

struct Run {
    connections: Vec<Connection>,
    /// Longest idle first.
    idle: VecDeque<usize>,
    request: Vec<u8>,
    latencies: Vec<u32>,
    outcome: Outcome,
}

impl Run {
    fn finished(&self) -> u64 {
        self.latencies.len() as u64 + self.outcome.failed
    }

    fn send(&mut self, index: usize, due: Instant) {
        let connection = &mut self.connections[index];
        connection.due = Some(due);
        match connection.stream.write(&self.request) {
            Ok(written) if written == self.request.len() => {}
            Ok(_) => self.outcome.fail("a request did not fit into an empty socket"),
            Err(error) => self.outcome.fail(format_args!("sending: {error}")),
        }
    }

    fn receive(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let mut buffer = [0; 4096];
        let verdict = match connection.stream.read(&mut buffer) {
            Ok(0) => Err("the connection was closed".to_owned()),
            Ok(length) => connection.response.receive(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(format!("receiving: {error}")),
        };
        match (verdict, connection.due) {
            (Ok(false), _) => {}
            (Ok(true), Some(due)) => {
                self.latencies.push(u32::try_from(due.elapsed().as_nanos() / 100).unwrap_or(u32::MAX));
                connection.due = None;
                self.idle.push_back(index);
            }
            (Ok(true), None) => self.outcome.fail("a response to no request"),
            (Err(why), _) => self.outcome.fail(why),
        }
    }

    fn finish(mut self, started: Instant, total: u64) -> Outcome {
        let missing = total.saturating_sub(self.finished());
        if missing > 0 && self.outcome.failed == 0 {
            self.outcome.fail(format_args!("{missing} requests had no answer at the end"));
            self.outcome.failed += missing - 1;
        }
        self.latencies.sort_unstable();
        let quantile = |part| quantile(&self.latencies, part).map_or(0.0, |tenths| f64::from(tenths) / 10.0);
        Outcome {
            operations: self.latencies.len() as u64,
            seconds: started.elapsed().as_secs_f64(),
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
            ..self.outcome
        }
    }
}

/// Knows when a response is complete: a 200 of the server's one length.
#[derive(Debug, Default)]
struct Response {
    head: Vec<u8>,
    body: usize,
}

impl Response {
    /// Whether it is complete now.
    fn receive(&mut self, bytes: &[u8]) -> Result<bool, String> {
        let mut rest = bytes;
        if self.body == 0 {
            self.head.extend_from_slice(bytes);
            let Some(end) = self.head.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(false) };
            if !self.head.starts_with(b"HTTP/1.1 200 ") {
                return Err(String::from_utf8_lossy(&self.head[..end]).lines().next().unwrap_or_default().to_owned());
            }
            let body = self.head.len() - (end + 4);
            rest = &bytes[bytes.len() - body..];
            if rest.is_empty() {
                return Ok(false);
            }
        }
        self.body += rest.len();
        if self.body < BODY_LENGTH {
            return Ok(false);
        }
        self.head.clear();
        self.body = 0;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_complete_after_its_last_byte_however_it_is_cut() {
        let whole = [b"HTTP/1.1 200 OK\r\ncontent-length: 1024\r\n\r\n".as_slice(), &[b'x'; BODY_LENGTH]].concat();
        for size in 1..=whole.len() {
            let mut response = Response::default();
            for _ in 0..2 {
                let complete: Vec<_> = whole.chunks(size).map(|chunk| response.receive(chunk).unwrap()).collect();
                assert_eq!(complete.iter().filter(|complete| **complete).count(), 1, "in pieces of {size}");
                assert_eq!(complete.last(), Some(&true), "in pieces of {size}");
            }
        }
        assert!(Response::default().receive(b"HTTP/1.1 503 Unavailable\r\n\r\n").is_err());
    }
}
