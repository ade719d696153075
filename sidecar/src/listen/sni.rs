//! The server name of a client that is to speak TLS: its ClientHello is read, and kept to be replayed, without being
//! answered (TLSRoute; SEMANTICS.md §2 "Connections"). The message may be split anywhere.
//!
//! Bound: [`MAX_CLIENT_HELLO`] bytes and one read more, until a deadline.
//!
//! [`MAX_CLIENT_HELLO`]: super::client_hello::MAX_CLIENT_HELLO

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::{Instant, timeout_at};

use super::client_hello::{NotTls, Progress, read_client_hello};
use super::detect::MAX_PREFIX;

/// Why a client's server name is not known.
#[derive(Debug, thiserror::Error)]
pub enum NoHello {
    /// It does not speak TLS, or in a way that we do not read.
    #[error(transparent)]
    NotTls(#[from] NotTls),
    /// It ended before it had said all of it.
    #[error("the client ended within its ClientHello")]
    Ended,
    /// It took too long.
    #[error("the ClientHello was not complete in time")]
    Late,
    /// Its connection failed.
    #[error("the connection failed within the ClientHello: {0}")]
    Io(#[from] io::Error),
}

/// Reads a ClientHello to its end, at the latest until `deadline`, and says which server name it has, in lower case.
/// Everything read is in `buf`, what it held before first.
///
/// # Errors
/// [`NoHello`]
pub async fn server_name<IO>(io: &mut IO, buf: &mut BytesMut, deadline: Instant) -> Result<Option<String>, NoHello>
where
    IO: AsyncRead + Unpin,
{
    loop {
        if let Progress::Complete(hello) = read_client_hello(buf)? {
            return Ok(hello.sni);
        }
        if buf.capacity() == buf.len() {
            buf.reserve(MAX_PREFIX);
        }
        match timeout_at(deadline, io.read_buf(buf)).await {
            Ok(Ok(0)) => return Err(NoHello::Ended),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Err(NoHello::Late),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;

    use super::super::client_hello::MAX_CLIENT_HELLO;
    use super::super::client_hello::tests::{in_records, real};
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    async fn said(pieces: Vec<Vec<u8>>, ends: bool) -> (Result<Option<String>, NoHello>, BytesMut) {
        let (mut client, mut io) = tokio::io::duplex(64 * 1024);
        let said = async {
            for piece in pieces {
                client.write_all(&piece).await.unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            if ends {
                client.shutdown().await.unwrap();
            }
            client
        };
        let mut buf = BytesMut::new();
        let (name, _client) = tokio::join!(server_name(&mut io, &mut buf, Instant::now() + SOON), said);
        (name, buf)
    }

    fn pieces(bytes: &[u8], cuts: &[usize]) -> Vec<Vec<u8>> {
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % bytes.len()).chain([0, bytes.len()]).collect();
        cuts.sort_unstable();
        cuts.dedup();
        cuts.windows(2).map(|pair| bytes[pair[0]..pair[1]].to_vec()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_name_is_read_wherever_the_hello_is_split_and_no_byte_is_lost(
            cuts in proptest::collection::vec(any::<usize>(), 0..12),
            record in 1..2_000_usize,
        ) {
            let hello = in_records(&real("Db.Example.com", &[b"postgresql"]), record);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            let (name, buf) = runtime.unwrap().block_on(said(pieces(&hello, &cuts), false));
            let name = name.unwrap();
            prop_assert_eq!(name.as_deref(), Some("db.example.com"));
            prop_assert_eq!(&buf[..], &hello[..]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_hello_is_told_apart() {
        let hello = real("a.example.com", &[]);
        let half = hello[..hello.len() / 2].to_vec();
        let (name, buf) = said(vec![b"GET / HTTP/1.1\r\n\r\n".to_vec()], false).await;
        assert!(matches!(name, Err(NoHello::NotTls(NotTls::NotHandshake))) && !buf.is_empty());
        assert!(matches!(said(vec![half.clone()], true).await.0, Err(NoHello::Ended)));
        let began = Instant::now();
        assert!(matches!(said(vec![half], false).await.0, Err(NoHello::Late)));
        assert_eq!(Instant::now() - began, SOON);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_is_kept_than_a_hello_may_have() {
        // Records without an end, each announcing more of a message that is within the limit.
        let endless: Vec<u8> = [22, 3, 1, 0x10, 0, 1, 0, 0x3f, 0].into_iter().chain([0; 0x1000 - 4]).collect();
        let more: Vec<u8> = [22, 3, 1, 0x10, 0].into_iter().chain([0; 0x1000]).collect();
        let (name, buf) = said(vec![endless, more.clone(), more.clone(), more.clone(), more], false).await;
        assert!(matches!(name, Err(NoHello::NotTls(NotTls::TooLarge))), "{name:?}");
        assert!(buf.len() <= MAX_CLIENT_HELLO + MAX_PREFIX, "{}", buf.len());
    }
}
