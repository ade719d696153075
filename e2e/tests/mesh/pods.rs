//! The pods themselves, without a mesh.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use weft_e2e::manifest::{Port, labels};
use weft_e2e::stats::{self, Served};
use weft_e2e::{APP_UID, Mesh, PodSpec, Vip, probe};

#[test]
fn pods_reach_each_other_by_both_families_and_services_by_name() {
    let mesh = Mesh::new("pods").unwrap();
    let service =
        mesh.service("demo", "reviews", &[Port::new("http", 80, 8080)], labels([("app", "reviews")])).unwrap();
    let server = mesh.pod(PodSpec::plain("server", "reviews")).unwrap();
    let client = mesh.pod(PodSpec::plain("client", "client")).unwrap();
    let app = server.app("app", &["http-server", "--name", "one"]).unwrap();
    server.wait_listening(8080).unwrap();

    for address in [server.v4(), server.v6()] {
        let answer = client.within(|| probe::get(SocketAddr::new(address, 8080), "server", "/")).unwrap();
        assert_eq!(answer.map(|answer| answer.body().to_owned()), Some("one\n".to_owned()), "{address}");
    }

    // Names lead to the Service's addresses, and DNAT stands in for kube-proxy.
    let (v4, v6) = (SocketAddr::new(service.vips.0.into(), 80), SocketAddr::new(service.vips.1.into(), 80));
    let target = |address| vec![SocketAddr::new(address, 8080)];
    client
        .set_vips(&[
            Vip { address: v4, targets: target(server.v4()) },
            Vip { address: v6, targets: target(server.v6()) },
        ])
        .unwrap();
    for family in ["-4", "-6"] {
        let url = "http://reviews.demo.svc.cluster.local/by-name";
        let mut curl = client.spawn("curl", APP_UID, &["curl", "-s", "-S", family, "-m", "5", url]).unwrap();
        curl.success(Duration::from_secs(6)).unwrap();
    }

    let served: Vec<Served> = stats::lines(app.log());
    let paths: Vec<_> = served.iter().map(|request| request.path.as_str()).collect();
    assert_eq!(paths, ["/", "/", "/by-name", "/by-name"]);
    assert!(served[0].peer.contains(&client.v4().to_string()), "{served:?}");
}

#[test]
fn programs_run_as_who_they_should_and_end_when_told() {
    let mesh = Mesh::new("programs").unwrap();
    let pod = mesh.pod(PodSpec::plain("pod", "pod")).unwrap();
    let mut id = pod.spawn("id", 1337, &["id", "-u"]).unwrap();
    assert_eq!(id.success(Duration::from_secs(5)).unwrap().trim(), "1337");
    let mut hosts = pod.spawn("hosts", APP_UID, &["cat", "/etc/hosts"]).unwrap();
    assert!(hosts.success(Duration::from_secs(5)).unwrap().contains(&format!("{} pod", pod.v4())));

    let mut sleeper = pod.spawn("sleep", APP_UID, &["sleep", "1000"]).unwrap();
    assert!(sleeper.is_running());
    sleeper.signal(Signal::SIGTERM);
    assert!(!sleeper.wait(Duration::from_secs(5)).unwrap().success());
}

#[test]
fn a_cut_cable_is_silence_and_can_be_mended() {
    let mesh = Mesh::new("cable").unwrap();
    let pod = mesh.pod(PodSpec::plain("pod", "pod")).unwrap();
    let _app = pod.app("app", &["tcp-server"]).unwrap();
    pod.wait_listening(9000).unwrap();
    let address = SocketAddr::new(pod.v4(), 9000);
    assert!(mesh.from_switch(|| probe::accepts(address)));
    pod.cut().unwrap();
    assert!(!mesh.from_switch(|| probe::accepts(address)));
    pod.mend().unwrap();
    probe::wait_until("the pod answering again", Duration::from_secs(5), || {
        mesh.from_switch(|| probe::accepts(address))
    })
    .unwrap();
}

#[test]
fn nothing_of_the_host_is_touched_and_nothing_stays_behind() {
    let links = || std::fs::read_to_string("/proc/net/dev").unwrap().lines().count();
    let mounts = || std::fs::read_to_string("/proc/self/mounts").unwrap();
    let (links_before, mounts_before) = (links(), mounts());
    let pid = {
        let mesh = Mesh::new("host").unwrap();
        let pod = mesh.pod(PodSpec::plain("pod", "pod")).unwrap();
        let mut shell = pod.spawn("sh", 0, &["sh", "-c", "echo $$; exec sleep 1000"]).unwrap();
        assert!(shell.is_running());
        assert_eq!(links(), links_before);
        assert_eq!(mounts(), mounts_before);
        assert!(!Path::new("/run/netns/p2").exists());
        let mut found = None;
        probe::wait_until("the sleeper being there", Duration::from_secs(5), || {
            found = std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
                let command = std::fs::read(entry.path().join("cmdline")).ok()?;
                (command == b"sleep\x001000\x00").then(|| entry.path())
            });
            found.is_some()
        })
        .unwrap();
        // As a crash would: the process is not told to end, its world just goes.
        std::mem::forget(shell);
        found.unwrap()
    };
    probe::wait_until("the pod's process being gone", Duration::from_secs(5), || !pid.exists()).unwrap();
    assert_eq!((links(), mounts()), (links_before, mounts_before));
}
