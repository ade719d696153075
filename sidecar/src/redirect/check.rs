//! Whether the pod's traffic comes to us, found out by sending some: we have no NET_ADMIN to read rules with, and rules that
//! read well may still not act (another table before ours, a kernel without the module).
//!
//! ```text
//! sidecar, UID 1337 ── connects to 127.0.0.6:15002, where nobody listens ─► (redirected) ─► its own outbound listener
//!                   ◄─ GREETING, for outbound knows by the original destination who asks ──┘
//! ```
//!
//! The rule for it stands in the chain that the app's connections pass, and the table comes and goes as a whole
//! (`mod.rs`): where this one acts they all do. What reaches the pod passes another chain of the same table, which no
//! process of the pod can make a packet pass.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::rules::CHECK;

/// What outbound says to who dialled [`CHECK`].
const GREETING: &[u8] = b"weft-sidecar: redirected\n";
/// Loopback answers at once, or not at all.
const PATIENCE: Duration = Duration::from_secs(1);

/// The redirection does not act.
#[derive(Debug, thiserror::Error)]
#[error(
    "redirection is not in force ({0}): did the init container weft-redirect run, or is the CNI plugin missing? \
     (WEFT_REQUIRE_REDIRECT=off where nothing is to be redirected)"
)]
pub struct NotInForce(io::Error);

/// Whether a connection was going where only we ourselves go, to ask.
pub fn is_question(destination: SocketAddr) -> bool {
    destination == SocketAddr::V4(CHECK)
}

/// Says that it arrived.
pub async fn answer(mut stream: TcpStream) {
    // A few bytes into an empty buffer; whoever has left meanwhile need not know.
    let _ = stream.write_all(GREETING).await;
}

/// Asks, as the user whose question is redirected.
///
/// # Errors
/// When the connection did not come out at our outbound listener.
pub async fn verify() -> Result<(), NotInForce> {
    verify_at(SocketAddr::V4(CHECK)).await
}

async fn verify_at(address: SocketAddr) -> Result<(), NotInForce> {
    let asked = async {
        let stream = TcpStream::connect(address).await?;
        let mut heard = Vec::with_capacity(GREETING.len());
        stream.take(GREETING.len() as u64).read_to_end(&mut heard).await?;
        if heard == GREETING { Ok(()) } else { Err(io::Error::other("somebody else answers")) }
    };
    timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(NotInForce)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn only_our_own_greeting_counts() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let told = async {
            answer(listener.accept().await.unwrap().0).await;
            let (mut other, _) = listener.accept().await.unwrap();
            other.write_all(b"220 mail.example\r\n and much more").await.unwrap();
        };
        let asked = async {
            verify_at(address).await.unwrap();
            verify_at(address).await.unwrap_err()
        };
        let (error, ()) = tokio::join!(asked, told);
        assert!(error.to_string().contains("somebody else"), "{error}");
        drop(listener);
        let error = verify_at(address).await.unwrap_err().to_string();
        assert!(error.contains("weft-redirect") && error.contains("refused"), "{error}");
    }

    #[test]
    fn the_question_is_known_by_where_it_was_going() {
        assert!(is_question("127.0.0.6:15002".parse().unwrap()));
        for other in ["127.0.0.1:15002", "127.0.0.6:15001", "10.0.0.1:15002", "[::1]:15002"] {
            assert!(!is_question(other.parse().unwrap()), "{other}");
        }
    }
}
