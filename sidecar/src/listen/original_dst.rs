//! Where a connection was going before redirection (`SO_ORIGINAL_DST`, kept by the kernel's connection tracking).

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::SockRef;
use tokio::net::TcpStream;

/// The destination the client dialled; an IPv4 one as IPv4, never mapped into IPv6. Without redirection (or connection
/// tracking) that is the local address.
///
/// # Errors
/// When the socket has no local address any more.
pub fn original_dst(stream: &TcpStream, client: SocketAddr) -> io::Result<SocketAddr> {
    let socket = SockRef::from(stream);
    // By the family of the packets, not of the socket: a dual-stack socket carries IPv4 as well.
    let original = match client.ip().to_canonical() {
        IpAddr::V4(_) => socket.original_dst_v4(),
        IpAddr::V6(_) => socket.original_dst_v6(),
    };
    // Any error means that nobody rewrote the destination: ENOENT without an entry, ENOPROTOOPT without the module.
    match original.ok().and_then(|original| original.as_socket()) {
        Some(original) => Ok(unmapped(original)),
        None => stream.local_addr().map(unmapped),
    }
}

/// An IPv4 address mapped into IPv6, as IPv4 again.
pub fn unmapped(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_are_unmapped_and_others_left_alone() {
        for (given, expected) in [
            ("[::ffff:10.0.0.1]:80", "10.0.0.1:80"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("[fd00::1]:80", "[fd00::1]:80"),
            ("[::1]:80", "[::1]:80"),
        ] {
            assert_eq!(unmapped(given.parse().unwrap()), expected.parse().unwrap(), "{given}");
        }
    }

    #[tokio::test]
    async fn without_redirection_it_is_the_local_address() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (_client, accepted) = tokio::join!(TcpStream::connect(addr), listener.accept());
        let (accepted, client) = accepted.unwrap();
        assert_eq!(original_dst(&accepted, client).unwrap(), addr);
    }
}
