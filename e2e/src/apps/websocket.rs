//! As much of RFC 6455 as an echo needs: the accept key, and frames under 64 KiB that are not fragmented.

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{AppError, answer, resolve};

const TEXT: u8 = 0x1;
const CLOSE: u8 = 0x8;

/// Options of the client.
#[derive(Debug, Clone, clap::Args)]
pub struct WebSocketClient {
    /// `HOST:PORT`
    #[arg(long)]
    address: String,
    /// How many messages to send and get back.
    #[arg(long, default_value_t = 100)]
    count: u32,
}

/// What the client prints.
#[derive(Debug, Serialize)]
struct Report {
    echoed: u32,
    closed_cleanly: bool,
}

/// Sends messages, wants each back, closes.
///
/// # Errors
/// When the handshake or an echo is not as it should be.
pub async fn client(options: WebSocketClient) -> Result<(), AppError> {
    let mut stream = TcpStream::connect(resolve(&options.address).await?).await?;
    let key = STANDARD.encode(b"sixteen bytes ok");
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {key}\r\n\r\n",
        options.address
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < 16 * 1024 {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let accepted = head.starts_with("http/1.1 101") && head.contains(&accept(key.as_bytes()).to_ascii_lowercase());
    if !accepted {
        return Err(format!("no upgrade: {head}").into());
    }
    let mut echoed = 0;
    for n in 0..options.count {
        let message = format!("message {n} {}", "x".repeat((n as usize * 97) % 3000));
        write_frame(&mut stream, TEXT, message.as_bytes(), Some([1, 2, 3, n as u8])).await?;
        let (kind, answer) = read_frame(&mut stream).await?;
        if kind != TEXT || answer != message.as_bytes() {
            return Err(format!("message {n} came back as something else").into());
        }
        echoed += 1;
    }
    write_frame(&mut stream, CLOSE, &[3, 232], Some([9; 4])).await?;
    let closed_cleanly = read_frame(&mut stream).await?.0 == CLOSE;
    answer(&Report { echoed, closed_cleanly });
    Ok(())
}

/// The value of `Sec-WebSocket-Accept` for a key (RFC 6455 §4.2.2).
pub(super) fn accept(key: &[u8]) -> String {
    let text = [key, b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat();
    STANDARD.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &text))
}

/// Sends every message back until the other side closes.
pub(super) async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
    loop {
        let (kind, message) = read_frame(&mut stream).await?;
        write_frame(&mut stream, kind, &message, None).await?;
        if kind == CLOSE {
            return stream.shutdown().await;
        }
    }
}

async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<(u8, Vec<u8>)> {
    let kind = stream.read_u8().await? & 0xf;
    let second = stream.read_u8().await?;
    let length = match second & 0x7f {
        126 => usize::from(stream.read_u16().await?),
        127 => return Err(std::io::Error::other("a frame over 64 KiB")),
        length => usize::from(length),
    };
    let mut mask = [0; 4];
    if second & 0x80 != 0 {
        stream.read_exact(&mut mask).await?;
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    message.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    Ok((kind, message))
}

async fn write_frame(
    stream: &mut (impl AsyncWrite + Unpin),
    kind: u8,
    message: &[u8],
    mask: Option<[u8; 4]>,
) -> std::io::Result<()> {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    let mut frame = vec![0x80 | kind];
    match u16::try_from(message.len()) {
        Ok(length @ 0..126) => frame.push(masked | length as u8),
        Ok(length) => {
            frame.push(masked | 126);
            frame.extend(length.to_be_bytes());
        }
        Err(_) => return Err(std::io::Error::other("a frame over 64 KiB")),
    }
    frame.extend(mask.iter().flatten());
    let mask = mask.unwrap_or_default();
    frame.extend(message.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    stream.write_all(&frame).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_key_is_the_specifications() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[tokio::test]
    async fn frames_of_every_length_come_back() {
        let (mut here, there) = tokio::io::duplex(256 * 1024);
        tokio::spawn(echo(there));
        for length in [0, 1, 125, 126, 127, 65535] {
            let message = vec![b'm'; length];
            write_frame(&mut here, TEXT, &message, Some([1, 2, 3, 4])).await.unwrap();
            assert_eq!(read_frame(&mut here).await.unwrap(), (TEXT, message), "{length}");
        }
    }
}
