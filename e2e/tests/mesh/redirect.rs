//! `weft-sidecar redirect` against a real kernel (SEMANTICS.md §1, row "redirect"). The test itself listens where the
//! sidecar would.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt};
use socket2::{Domain, Socket, Type};
use weft_e2e::apps::tcp::Heard;
use weft_e2e::{APP_UID, Mesh, Pod, PodSpec, Process, Result, probe, stats};

const SIDECAR: &str = "/run/weft/bin/weft-sidecar";

/// Stands where the sidecar will: tells the original destination of what it accepts, and says "intercepted".
fn stand_in(pod: &Pod, addresses: &[&str]) -> Receiver<SocketAddr> {
    let (sender, receiver) = channel();
    for address in addresses {
        let listener = pod.within(|| listen(address.parse().unwrap())).unwrap().unwrap();
        let sender = sender.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.write_all(b"intercepted");
                if sender.send(original_destination(&stream)).is_err() {
                    return;
                }
            }
        });
    }
    receiver
}

/// IPv6 only, where it is IPv6: a dual-stack socket would tell IPv4 destinations in IPv6 words.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(16)?;
    Ok(socket.into())
}

fn original_destination(stream: &TcpStream) -> SocketAddr {
    if stream.local_addr().unwrap().is_ipv4() {
        let found = getsockopt(stream, sockopt::OriginalDst).unwrap();
        let ip = IpAddr::from(u32::from_be(found.sin_addr.s_addr).to_be_bytes());
        SocketAddr::new(ip, u16::from_be(found.sin_port))
    } else {
        let found = getsockopt(stream, sockopt::Ip6tOriginalDst).unwrap();
        SocketAddr::new(IpAddr::from(found.sin6_addr.s6_addr), u16::from_be(found.sin6_port))
    }
}

/// What a client of user `uid` in the pod hears from `address`.
fn hears(pod: &Pod, uid: u32, address: SocketAddr) -> String {
    let address = address.to_string();
    let command = ["/run/weft/bin/weft-e2e", "tcp-client", "--patience-ms=300", "--address", &address];
    let mut client = pod.spawn("client", uid, &command).unwrap();
    if client.wait(Duration::from_secs(2)).is_err() {
        return "silence".to_owned();
    }
    let heard: Vec<Heard> = stats::lines(client.log());
    let heard = heard.last().unwrap();
    if heard.error.is_empty() { heard.received.clone() } else { heard.error.clone() }
}

fn redirect(pod: &Pod, args: &[&str]) -> Result<String> {
    let command: Vec<_> = [SIDECAR, "redirect"].iter().chain(args).collect();
    let mut process: Process = pod.spawn("redirect", 0, &command)?;
    process.success(Duration::from_secs(10))
}

fn ruleset(pod: &Pod) -> String {
    pod.sh("nft -s list ruleset").unwrap()
}

fn next(destinations: &Receiver<SocketAddr>) -> SocketAddr {
    destinations.recv_timeout(Duration::from_secs(5)).expect("a connection that was redirected")
}

#[test]
fn what_the_app_opens_goes_to_outbound_and_what_the_sidecar_opens_does_not() {
    let mesh = Mesh::new("outbound").unwrap();
    let server = mesh.pod(PodSpec::plain("server", "server")).unwrap();
    let _app = server.app("app", &["tcp-server", "--greeting", "direct"]).unwrap();
    let _other = server.app("other", &["tcp-server", "--greeting", "direct", "--listen", "[::]:9001"]).unwrap();
    server.wait_listening(9000).unwrap();
    server.wait_listening(9001).unwrap();

    let pod = mesh.pod(PodSpec::plain("pod", "pod")).unwrap();
    let _own = pod.app("own", &["tcp-server", "--greeting", "own"]).unwrap();
    pod.wait_listening(9000).unwrap();
    redirect(&pod, &["--exclude-outbound-ports=9001,7000-7010", "--exclude-outbound-cidrs=10.200.0.0/16"]).unwrap();
    let destinations = stand_in(&pod, &["127.0.0.1:15001", "[::1]:15001"]);

    for ip in [server.v4(), server.v6()] {
        let address = SocketAddr::new(ip, 9000);
        assert_eq!(hears(&pod, APP_UID, address), "intercepted", "{address}");
        assert_eq!(next(&destinations), address, "the original destination is told");
        assert_eq!(hears(&pod, 0, address), "intercepted", "root is an app too");
        assert_eq!(next(&destinations), address);
        assert_eq!(hears(&pod, 1337, address), "direct", "the sidecar goes out as it is: {address}");
        assert_eq!(hears(&pod, APP_UID, SocketAddr::new(ip, 9001)), "direct", "an excluded port: {address}");
    }
    // An address that nobody has is the sidecar's to judge; an excluded one is not.
    assert_eq!(hears(&pod, APP_UID, "10.96.77.77:443".parse().unwrap()), "intercepted");
    assert_eq!(next(&destinations), "10.96.77.77:443".parse().unwrap());
    assert_eq!(hears(&pod, APP_UID, "10.200.0.1:443".parse().unwrap()), "silence");
    // The app talking to itself stays untouched, by any of its names.
    for ip in [pod.v4(), pod.v6(), "127.0.0.1".parse().unwrap(), "127.9.9.9".parse().unwrap(), "::1".parse().unwrap()] {
        assert_eq!(hears(&pod, APP_UID, SocketAddr::new(ip, 9000)), "own", "{ip}");
    }
    assert!(destinations.try_recv().is_err(), "nothing else was redirected");
}

#[test]
fn what_reaches_the_pod_goes_to_inbound_except_what_is_the_sidecars_own() {
    let mesh = Mesh::new("inbound").unwrap();
    let pod = mesh.pod(PodSpec::plain("pod", "pod")).unwrap();
    let direct = [15020, 15021, 9001];
    let apps: Vec<_> = direct
        .iter()
        .chain(&[9000])
        .map(|port| {
            let listen = format!("[::]:{port}");
            let app = pod.app(&port.to_string(), &["tcp-server", "--greeting", "direct", "--listen", &listen]).unwrap();
            pod.wait_listening(*port).unwrap();
            app
        })
        .collect();
    redirect(&pod, &["--exclude-inbound-ports=9001"]).unwrap();
    let destinations = stand_in(&pod, &["0.0.0.0:15006", "[::]:15006"]);
    let from_outside = |address: SocketAddr| {
        mesh.from_switch(|| {
            let mut text = String::new();
            if let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(2)) {
                let _ = stream.set_read_timeout(Some(Duration::from_millis(300)));
                let mut buffer = [0; 64];
                if let Ok(length) = stream.read(&mut buffer) {
                    text.push_str(&String::from_utf8_lossy(&buffer[..length]));
                }
            }
            text
        })
    };
    for ip in [pod.v4(), pod.v6()] {
        let address = SocketAddr::new(ip, 9000);
        assert_eq!(from_outside(address), "intercepted", "{address}");
        assert_eq!(next(&destinations), address);
        // Also where nobody listens: the sidecar is to say so.
        assert_eq!(from_outside(SocketAddr::new(ip, 4444)), "intercepted");
        assert_eq!(next(&destinations), SocketAddr::new(ip, 4444));
        for port in direct {
            assert_eq!(from_outside(SocketAddr::new(ip, port)), "direct", "{ip} {port}");
        }
    }
    drop(apps);
}

#[test]
fn programming_is_idempotent_replaces_as_a_whole_and_can_be_undone() {
    let mesh = Mesh::new("idempotent").unwrap();
    let pod = mesh.pod(PodSpec::plain("pod", "pod")).unwrap();
    pod.sh("nft add table inet other; nft add chain inet other keep").unwrap();
    let untouched = ruleset(&pod);

    redirect(&pod, &[]).unwrap();
    let once = ruleset(&pod);
    redirect(&pod, &[]).unwrap();
    assert_eq!(ruleset(&pod), once, "twice is once");
    redirect(&pod, &["--exclude-outbound-ports=5432"]).unwrap();
    assert!(ruleset(&pod).contains("tcp dport 5432 return"));
    redirect(&pod, &[]).unwrap();
    assert_eq!(ruleset(&pod), once, "nothing is left of the other options");

    redirect(&pod, &["--cleanup"]).unwrap();
    assert_eq!(ruleset(&pod), untouched, "only our own table went");
    redirect(&pod, &["--cleanup"]).unwrap();
    assert_eq!(ruleset(&pod), untouched, "removing what is not there is no error");
}

#[test]
fn a_dry_run_changes_nothing_and_tells_what_the_kernel_would_hold() {
    let mesh = Mesh::new("dry-run").unwrap();
    let pod = mesh.pod(PodSpec::plain("pod", "pod")).unwrap();
    let options =
        ["--exclude-outbound-ports=5432,9000-9010", "--exclude-outbound-cidrs=10.200.0.0/16,fd00:1::/32,10.9.9.9"];
    let text = redirect(&pod, &[&options[..], &["--dry-run"]].concat()).unwrap();
    assert_eq!(ruleset(&pod), "", "nothing was changed");
    pod.sh(&format!("nft -f - <<'END'\n{text}END")).unwrap();
    let by_nft = ruleset(&pod);
    redirect(&pod, &options).unwrap();
    assert_eq!(ruleset(&pod), by_nft, "netlink and the printed text mean the same");
}

#[test]
fn without_permission_it_says_what_is_needed() {
    let mesh = Mesh::new("permission").unwrap();
    let pod = mesh.pod(PodSpec::plain("pod", "pod")).unwrap();
    let mut process = pod.spawn("redirect", APP_UID, &[SIDECAR, "redirect"]).unwrap();
    let status = process.wait(Duration::from_secs(10)).unwrap();
    assert!(!status.success());
    assert!(process.errors().contains("NET_ADMIN"), "{}", process.errors());
    assert!(!mesh.from_switch(|| probe::accepts("10.244.0.2:15001".parse().unwrap())));
}
