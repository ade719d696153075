//! What is seen while it runs: one table, redrawn in place on a terminal, a line every two seconds elsewhere.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::Process;
use crate::stats::{Sent, Served, Tail, quantile};

pub(super) struct Screen {
    load: Tail,
    servers: Vec<(String, Tail)>,
    started: Instant,
    totals: BTreeMap<String, usize>,
    sent: usize,
    failed: usize,
    drawn: usize,
    terminal: bool,
}

impl Screen {
    pub(super) fn new<'a>(load: &Process, servers: impl Iterator<Item = (&'a str, &'a Process)>) -> Self {
        Self {
            load: Tail::new(load.log()),
            servers: servers.map(|(name, app)| (name.to_owned(), Tail::new(app.log()))).collect(),
            started: Instant::now(),
            totals: BTreeMap::new(),
            sent: 0,
            failed: 0,
            drawn: 0,
            terminal: io::stdout().is_terminal(),
        }
    }

    /// Shows what happens for this long.
    pub(super) fn watch(&mut self, phase: &str, time: Duration) {
        let until = Instant::now() + time;
        let every = Duration::from_millis(if self.terminal { 500 } else { 2000 });
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(every));
            self.draw(phase);
        }
    }

    /// Leaves the last table where it is.
    pub(super) fn done(&mut self) {
        self.drawn = 0;
    }

    fn draw(&mut self, phase: &str) {
        let sent: Vec<Sent> = self.load.read();
        self.sent += sent.len();
        self.failed += sent.iter().filter(|one| !one.ok()).count();
        let mut latencies: Vec<_> = sent.iter().map(|one| one.micros).collect();
        let (p50, p99) = (quantile(&mut latencies, 0.5), quantile(&mut latencies, 0.99));
        let now: Vec<(String, usize)> =
            self.servers.iter_mut().map(|(name, tail)| (name.clone(), tail.read::<Served>().len())).collect();
        let sum = now.iter().map(|(_, count)| count).sum::<usize>().max(1);
        let mut out = io::stdout().lock();
        let seconds = self.started.elapsed().as_secs();
        if !self.terminal {
            let shares: Vec<_> = now.iter().map(|(name, count)| format!("{name} {:3}%", count * 100 / sum)).collect();
            let _ = writeln!(
                out,
                "{seconds:3} s  {phase:<22} {:6} answered, {} failed, p50 {:.1} ms, p99 {:.1} ms | {}",
                self.sent,
                self.failed,
                p50 as f64 / 1e3,
                p99 as f64 / 1e3,
                shares.join(", ")
            );
            return;
        }
        if self.drawn > 0 {
            let _ = write!(out, "\x1b[{}A", self.drawn);
        }
        let mut lines = vec![
            format!("{seconds:3} s   weights {phase}"),
            format!(
                "        {} answered, {} failed, p50 {:.1} ms, p99 {:.1} ms",
                self.sent,
                self.failed,
                p50 as f64 / 1e3,
                p99 as f64 / 1e3
            ),
        ];
        for (name, count) in now {
            let total = self.totals.entry(name.clone()).or_default();
            *total += count;
            let share = count * 100 / sum;
            lines.push(format!("        {name:<14} {share:3}% {:<50} {total}", "█".repeat(share / 2)));
        }
        for line in &lines {
            let _ = writeln!(out, "\x1b[2K{line}");
        }
        self.drawn = lines.len();
    }
}
