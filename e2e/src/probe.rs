//! Small blocking questions to a socket, asked from inside a namespace by [`Sandbox::within`](crate::Sandbox::within).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::{Error, Result};

/// Asks until `ready` says yes.
///
/// # Errors
/// [`Error::Timeout`] naming `what`.
pub fn wait_until(what: &str, within: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
    let started = Instant::now();
    while !ready() {
        if started.elapsed() > within {
            return Err(Error::Timeout { what: what.to_owned(), after: within, hint: String::new() });
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Whether something accepts at `address`.
pub fn accepts(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_millis(500)).is_ok()
}

/// Sends `request` as it is and reads until the other side closes or is silent for `patience`.
///
/// # Errors
/// When it cannot connect or send; a reset while reading ends the answer.
pub fn raw(address: SocketAddr, request: &[u8], patience: Duration) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(request)?;
    let mut answer = Vec::new();
    let mut buffer = [0; 16 * 1024];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        answer.extend_from_slice(&buffer[..length]);
    }
    Ok(answer)
}

/// An answer to [`get`].
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The whole answer, head and body.
    pub text: String,
}

impl Answer {
    /// What follows the head.
    pub fn body(&self) -> &str {
        self.text.split_once("\r\n\r\n").map_or("", |(_, body)| body)
    }

    /// A header's value; names in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let head = self.text.split("\r\n\r\n").next().unwrap_or_default();
        head.lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .find_map(|(found, value)| found.eq_ignore_ascii_case(name).then(|| value.trim()))
    }
}

/// `GET path` with `Connection: close`; `None` when there is no HTTP answer.
pub fn get(address: SocketAddr, host: &str, path: &str) -> Option<Answer> {
    request("GET", address, host, path)
}

/// As [`get`], with another method and no body.
pub fn request(method: &str, address: SocketAddr, host: &str, path: &str) -> Option<Answer> {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let answer = raw(address, request.as_bytes(), Duration::from_secs(5)).ok()?;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()?;
    Some(Answer { status, text })
}
