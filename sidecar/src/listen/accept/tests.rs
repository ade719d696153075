use std::net::IpAddr;

use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::*;

const SOON: Duration = Duration::from_secs(5);

fn target(addr: SocketAddr) -> SocketAddr {
    let ip: IpAddr = if addr.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    SocketAddr::new(ip, addr.port())
}

#[tokio::test]
async fn both_families_are_heard_on_one_port_and_never_mapped() {
    for scope in [Scope::Loopback, Scope::Any] {
        let mut accept = Accept::bind(scope, 0).unwrap();
        let addrs: Vec<_> = accept.local_addrs().collect();
        assert_eq!(addrs.iter().map(|addr| addr.is_ipv4()).collect::<Vec<_>>(), [true, false], "{scope:?}");
        for addr in addrs {
            assert_eq!(Some(addr.port()), accept.port());
            assert_eq!(addr.ip().is_loopback(), scope == Scope::Loopback);
            let client = TcpStream::connect(target(addr)).await.unwrap();
            let (stream, peer) = timeout(SOON, accept.next()).await.unwrap();
            assert_eq!(peer, client.local_addr().unwrap());
            assert_eq!(stream.local_addr().unwrap(), target(addr));
            let options = SockRef::from(&stream);
            assert!(options.tcp_nodelay().unwrap() && options.keepalive().unwrap());
            assert_eq!(options.tcp_keepalive_time().unwrap(), options::KEEP_ALIVE);
            assert_eq!(options.tcp_keepalive_interval().unwrap(), options::KEEP_ALIVE);
            assert_eq!(options.tcp_user_timeout().unwrap(), Some(options::PATIENCE), "a client may read slowly");
        }
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_an_error() {
    let accept = Accept::bind(Scope::Loopback, 0).unwrap();
    let error = Accept::bind(Scope::Loopback, accept.port().unwrap()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}

#[tokio::test]
async fn the_queue_is_emptied_before_a_listener_closes() {
    let accept = Accept::bind(Scope::Loopback, 0).unwrap();
    let addrs: Vec<_> = accept.local_addrs().collect();
    let mut clients = Vec::new();
    for addr in addrs.iter().cycle().take(7) {
        let mut client = TcpStream::connect(addr).await.unwrap();
        client.write_all(b"x").await.unwrap();
        clients.push(client);
    }
    let mut queued: Vec<_> = accept.into_queued().collect();
    assert_eq!(queued.len(), 7);
    for (stream, _) in &mut queued {
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
        stream.write_all(b"y").await.unwrap();
    }
    for client in &mut clients {
        assert_eq!(client.read_u8().await.unwrap(), b'y', "nobody was reset");
    }
    assert!(TcpStream::connect(addrs[0]).await.is_err(), "closed");
}

#[tokio::test]
async fn a_client_that_is_gone_before_it_is_accepted_stops_nobody() {
    let mut accept = Accept::bind(Scope::Loopback, 0).unwrap();
    let addr = accept.local_addrs().next().unwrap();
    crate::tcp::reset(TcpStream::connect(addr).await.unwrap());
    let client = TcpStream::connect(addr).await.unwrap();
    loop {
        let (_, peer) = timeout(SOON, accept.next()).await.unwrap();
        if peer == client.local_addr().unwrap() {
            break;
        }
    }
}

#[test]
fn errors_are_the_connections_or_ours() {
    for (errno, expected) in [
        (Errno::ECONNABORTED, Failure::OneConnection),
        (Errno::EPROTO, Failure::OneConnection),
        (Errno::ENETUNREACH, Failure::OneConnection),
        (Errno::EMFILE, Failure::Resources),
        (Errno::ENFILE, Failure::Resources),
        (Errno::ENOBUFS, Failure::Resources),
        (Errno::ENOMEM, Failure::Resources),
    ] {
        assert_eq!(Failure::of(&io::Error::from(errno)), expected, "{errno}");
    }
}

/// Descriptors are the whole process's, so this runs in one of its own, with few of them.
#[test]
fn out_of_descriptors_a_client_waits_and_is_not_lost() {
    const CHILD: &str = "WEFT_TEST_FEW_DESCRIPTORS";
    const NAME: &str = "listen::accept::tests::out_of_descriptors_a_client_waits_and_is_not_lost";
    if std::env::var_os(CHILD).is_none() {
        let output = std::process::Command::new("sh")
            .args(["-c", "ulimit -n 64 && exec \"$0\" --exact \"$1\" --nocapture"])
            .arg(std::env::current_exe().unwrap())
            .arg(NAME)
            .env(CHILD, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{output:?}");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut accept = Accept::bind(Scope::Loopback, 0).unwrap();
        let addr = accept.local_addrs().next().unwrap();
        let client = TcpStream::connect(addr).await.unwrap();
        let mut others = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            others.push(file);
        }
        assert!(timeout(Duration::from_millis(50), accept.next()).await.is_err());
        assert!(accept.backoff > BACKOFF_MIN && accept.paused.is_some(), "it pauses: {accept:?}");
        others.clear();
        let (_, peer) = timeout(SOON, accept.next()).await.unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
        assert_eq!(accept.backoff, BACKOFF_MIN, "and starts anew");
    });
}
