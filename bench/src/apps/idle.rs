//! Keep-alive connections that were used once and then stay open, and one request to each of many services: what `memory`
//! needs. It says `ready` when all of that is done and sleeps until it is killed.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::time::Duration;

use super::AppError;
use super::responder::BODY_LENGTH;

/// Its options.
#[derive(Debug, clap::Args)]
pub(crate) struct Idle {
    /// Whom to ask first.
    #[arg(long)]
    target: SocketAddrV4,
    /// Connections to `target` that stay open.
    #[arg(long, default_value_t = 0)]
    connections: u32,
    /// Targets: `target` and the addresses that follow, one connection each, closed after the requests.
    #[arg(long, default_value_t = 0)]
    services: u32,
    /// Requests to each of those.
    #[arg(long, default_value_t = 10)]
    requests: u32,
}

/// Runs it.
///
/// # Errors
/// When a request fails, or the connections are more than the system lets a process have.
pub(crate) fn run(options: &Idle) -> Result<(), AppError> {
    let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, hard, hard)?;
    let mut open = Vec::new();
    for _ in 0..options.connections {
        let mut stream = connect(options.target.into())?;
        ask(&mut stream, *options.target.ip())?;
        open.push(stream);
    }
    let first = u32::from(*options.target.ip());
    for number in 0..options.services {
        let ip = Ipv4Addr::from(first + number);
        let mut stream = connect((ip, options.target.port()).into())?;
        for _ in 0..options.requests {
            ask(&mut stream, ip).map_err(|error| format!("asking {ip}: {error}"))?;
        }
    }
    writeln!(std::io::stdout(), "ready")?;
    loop {
        std::thread::sleep(Duration::from_secs(60));
    }
}

fn connect(target: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(target)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

fn ask(stream: &mut TcpStream, host: Ipv4Addr) -> Result<(), AppError> {
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())?;
    let mut response = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let length = stream.read(&mut buffer)?;
        response.extend_from_slice(&buffer[..length]);
        let head = response.windows(4).position(|window| window == b"\r\n\r\n");
        if head.is_some_and(|head| response.len() >= head + 4 + BODY_LENGTH) {
            break;
        }
        if length == 0 {
            return Err(format!("the connection was closed after {:?}", String::from_utf8_lossy(&response)).into());
        }
    }
    if response.starts_with(b"HTTP/1.1 200 ") {
        return Ok(());
    }
    let line = String::from_utf8_lossy(&response).lines().next().unwrap_or_default().to_owned();
    Err(format!("the answer is {line}").into())
}
