//! Connections, a few at a time: opened, 64 bytes sent and echoed, closed by the client.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::{AppError, Outcome};

const PATIENCE: Duration = Duration::from_secs(5);

/// Its options.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Connections {
    /// Whom to call.
    #[arg(long)]
    target: SocketAddr,
    /// How many at a time.
    #[arg(long, default_value_t = 16)]
    at_a_time: usize,
    /// For how long, in s.
    #[arg(long)]
    seconds: f64,
}

/// Runs it.
///
/// # Errors
/// When a thread cannot be started.
pub(crate) fn run(options: &Connections) -> Result<Outcome, AppError> {
    let mut all = Outcome::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..options.at_a_time).map(|_| scope.spawn(|| one_after_another(options))).collect();
        for thread in threads {
            all.add(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
    });
    Ok(all)
}

fn one_after_another(options: &Connections) -> Outcome {
    let started = Instant::now();
    let mut outcome = Outcome::default();
    while started.elapsed().as_secs_f64() < options.seconds && outcome.failed == 0 {
        match once(options.target) {
            Ok(()) => outcome.operations += 1,
            Err(error) => outcome.fail(error),
        }
    }
    outcome.seconds = started.elapsed().as_secs_f64();
    outcome
}

fn once(target: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(target)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut echo = [0; 64];
    stream.write_all(&[b'e'; 64])?;
    stream.read_exact(&mut echo)?;
    if echo == [b'e'; 64] { Ok(()) } else { Err(std::io::Error::other("the echo is not what was sent")) }
}
