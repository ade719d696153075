//! A measurement, not a test: processor time per GB through the relay, plain and through two sidecars' mesh TLS.
//!
//! `cargo test --release -p weft-sidecar --lib relay::bulk -- --ignored --nocapture`
//!
//! One thread is the proxy (both sidecars in the mesh cases, as in PERFORMANCE.md), another sends and receives. Only the
//! first one's time counts, as the scheduler accounts it; loopback delivers within it. The cases take turns.

use std::fs;
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;

use super::*;
use crate::identity::MeshProtocol;
use crate::identity::testing::TestCa;

const GB: u64 = 1_000_000_000;

fn amount() -> u64 {
    std::env::var("BULK_GB").ok().and_then(|gb| gb.parse().ok()).unwrap_or(4) * GB
}

/// Nanoseconds this thread has run.
fn ran() -> u64 {
    let schedstat = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    schedstat.split(' ').next().unwrap().parse().unwrap()
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (client, accepted) = tokio::join!(TcpStream::connect(addr), listener.accept());
    let (client, accepted) = (client.unwrap(), accepted.unwrap().0);
    client.set_nodelay(true).unwrap();
    accepted.set_nodelay(true).unwrap();
    (client, accepted)
}

/// Sends and receives on a thread of its own.
fn load(from: std::net::TcpStream, to: std::net::TcpStream) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        Builder::new_current_thread().enable_all().build().unwrap().block_on(async move {
            from.set_nonblocking(true).unwrap();
            to.set_nonblocking(true).unwrap();
            let (mut from, mut to) = (TcpStream::from_std(from).unwrap(), TcpStream::from_std(to).unwrap());
            let send = async {
                let data = vec![7; 256 * 1024];
                let mut left = amount();
                while left > 0 {
                    let len = left.min(data.len() as u64) as usize;
                    from.write_all(&data[..len]).await.unwrap();
                    left -= len as u64;
                }
                from.shutdown().await.unwrap();
            };
            let receive = async {
                let mut into = vec![0; 256 * 1024];
                let mut got = 0;
                loop {
                    match to.read(&mut into).await.unwrap() {
                        0 => break,
                        n => got += n as u64,
                    }
                }
                assert_eq!(got, amount());
            };
            tokio::join!(send, receive);
            // The way back ends as well.
            to.shutdown().await.unwrap();
            assert_eq!(from.read(&mut [0]).await.unwrap(), 0);
        });
    })
}

/// Seconds of processor and of wall clock per GB.
fn measure(meshed: bool) -> (f64, f64) {
    Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let (client, a) = pair().await;
        let (b, server) = pair().await;
        if !meshed {
            let load = load(client.into_std().unwrap(), server.into_std().unwrap());
            let (started, at) = (ran(), Instant::now());
            relay(a, b, Arc::default()).await;
            let per_gb = per_gb(started, at);
            load.join().unwrap();
            return per_gb;
        }
        let ca = TestCa::new("bulk.example");
        let (ours, theirs) = (ca.manager("shop", "client"), ca.manager("shop", "server"));
        let (near, far) = pair().await;
        let expected = ca.id("shop", "server");
        let (near, far) = tokio::join!(ours.connect(near, &expected, MeshProtocol::Tcp), theirs.accept(far));
        let (near, far) = (near.unwrap().0, far.unwrap().0);
        println!("  {:?}", near.get_ref().1.negotiated_cipher_suite().unwrap());
        let load = load(client.into_std().unwrap(), server.into_std().unwrap());
        let (started, at) = (ran(), Instant::now());
        tokio::join!(relay(a, near, Arc::default()), relay(far, b, Arc::default()));
        let per_gb = per_gb(started, at);
        load.join().unwrap();
        per_gb
    })
}

fn per_gb(started: u64, at: Instant) -> (f64, f64) {
    let gb = amount() as f64 / GB as f64;
    ((ran() - started) as f64 / 1e9 / gb, at.elapsed().as_secs_f64() / gb)
}

#[test]
#[ignore = "a measurement of a minute: run it with --release and look at its figures"]
fn processor_time_per_gigabyte() {
    let runs = std::env::var("BULK_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(5);
    let mut cases = [("plain", false, Vec::new()), ("mesh", true, Vec::new())];
    for _ in 0..runs {
        for (_, meshed, took) in &mut cases {
            took.push(measure(*meshed));
        }
    }
    for (name, _, mut took) in cases {
        took.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (cpu, wall) = took[took.len() / 2];
        println!("{name}: {cpu:.3} s of processor per GB ({wall:.3} s of wall clock); all: {took:.3?}");
    }
}
