//! Bytes as fast as they go: one connection that receives, one that sends.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::responder::{DOWNLOAD, UPLOAD};
use super::{AppError, Outcome};

const PATIENCE: Duration = Duration::from_secs(10);
const PIECE: usize = 256 * 1024;

/// Its options.
#[derive(Debug, clap::Args)]
pub(crate) struct Bulk {
    /// Whom to call.
    #[arg(long)]
    target: SocketAddr,
    /// For how long, in s.
    #[arg(long)]
    seconds: f64,
}

/// Runs it.
///
/// # Errors
/// Never so far; failures are in the outcome.
pub(crate) fn run(options: &Bulk) -> Result<Outcome, AppError> {
    let mut all = Outcome::default();
    std::thread::scope(|scope| {
        let threads = [scope.spawn(|| timed(options, download)), scope.spawn(|| timed(options, upload))];
        for thread in threads {
            all.add(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
    });
    Ok(all)
}

fn timed(options: &Bulk, job: fn(SocketAddr, Instant) -> std::io::Result<u64>) -> Outcome {
    let started = Instant::now();
    let mut outcome = Outcome::default();
    match job(options.target, started + Duration::from_secs_f64(options.seconds)) {
        Ok(bytes) => (outcome.operations, outcome.bytes) = (1, bytes),
        Err(error) => outcome.fail(error),
    }
    outcome.seconds = started.elapsed().as_secs_f64();
    outcome
}

fn connect(target: SocketAddr, first: u8) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(target)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&[first])?;
    Ok(stream)
}

/// What is under way at the end is not counted: a few megabytes of gigabytes.
fn download(target: SocketAddr, until: Instant) -> std::io::Result<u64> {
    let mut stream = connect(target, DOWNLOAD)?;
    let mut buffer = vec![0; PIECE];
    let mut bytes = 0;
    while Instant::now() < until {
        match stream.read(&mut buffer)? {
            0 => return Err(std::io::Error::other("the server ended what it sends for ever")),
            length => bytes += length as u64,
        }
    }
    Ok(bytes)
}

/// The server's own count is what arrived; it has to be what was sent.
fn upload(target: SocketAddr, until: Instant) -> std::io::Result<u64> {
    let mut stream = connect(target, UPLOAD)?;
    let buffer = vec![b'u'; PIECE];
    let mut bytes = 1;
    while Instant::now() < until {
        bytes += stream.write(&buffer)? as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut arrived = [0; 8];
    stream.read_exact(&mut arrived)?;
    match u64::from_be_bytes(arrived) {
        arrived if arrived == bytes => Ok(bytes),
        arrived => Err(std::io::Error::other(format!("{bytes} bytes were sent and {arrived} arrived"))),
    }
}
