//! Edits in effect, and a control plane that is not there.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use weft_e2e::apps::now_ms;
use weft_e2e::capture::{Capture, Spoke};
use weft_e2e::manifest::{self, Port, labels};
use weft_e2e::probe;
use weft_e2e::stats::{self, Sent, metric};
use weft_e2e::{Mesh, PodSpec};

use crate::shop::{Shop, pause, slow};

#[test]
fn an_edited_weight_is_in_effect_everywhere_within_a_second_and_nothing_fails() {
    let mut shop = Shop::new("weights", 0);
    let http = [Port::new("http", 80, 8080)];
    for version in ["v1", "v2"] {
        let selector = labels([("app", "reviews"), ("version", version)]);
        shop.mesh.service("demo", &format!("reviews-{version}"), &http, selector).unwrap();
        shop.add(PodSpec::meshed(version, "reviews").label("version", version));
    }
    let route = |mesh: &Mesh, v1, v2| {
        let weights = [("reviews-v1", v1), ("reviews-v2", v2)];
        mesh.manifests().write("route", &manifest::split("demo", "reviews", "reviews", 80, &weights)).unwrap();
    };
    route(&shop.mesh, 100, 0);
    let others: Vec<_> =
        (0..2).map(|n| shop.mesh.pod(PodSpec::meshed(&format!("client-{n}"), "client")).unwrap()).collect();
    shop.wait_until_answered();
    let main = shop.load("main", 200, &[]);
    let loads: Vec<_> = others
        .iter()
        .map(|pod| {
            pod.app("load", &["load", "--address", "reviews:80", "--rate", "100", "--seconds", "8", "--id", pod.name()])
                .unwrap()
        })
        .collect();
    pause(Duration::from_secs(3));
    let edited = now_ms();
    route(&shop.mesh, 0, 100);
    pause(Duration::from_secs(6));
    main.all_answered(1000);
    for load in &loads {
        let sent: Vec<Sent> = stats::lines(load.log());
        assert!(sent.len() >= 700 && sent.iter().all(Sent::ok), "{}: {} sent", load.name(), sent.len());
    }
    let served = shop.served();
    for client in ["main", "client-0", "client-1"] {
        let of = |version: &str| {
            let mine = served.iter().filter(|one| one.server == version && one.id.starts_with(client));
            mine.map(|one| one.at_ms).collect::<Vec<_>>()
        };
        assert!(of("v2").iter().all(|at| *at >= edited), "{client}: nothing went to v2 before it was told to");
        let last = of("v1").into_iter().max().unwrap();
        println!("{client}: in effect {} ms after the edit", last.saturating_sub(edited));
        assert!(last < edited + 1000, "{client}: still v1 {} ms after the edit", last - edited);
        assert!(!of("v2").is_empty());
    }
}

#[test]
fn a_dead_control_plane_fails_no_request_and_sends_nothing_again_when_it_is_back() {
    let shop = Shop::new("control", 3);
    let load = shop.load("control", 500, &[]);
    pause(Duration::from_secs(2));
    let received = shop.client_metric("weft_config_resources_received_total");
    assert!(received > 0.0);
    shop.mesh.kill_control_plane();
    pause(Duration::from_secs(if slow() { 30 } else { 8 }));
    shop.mesh.start_control_plane().unwrap();
    let streams = || metric(&shop.mesh.control_plane_metrics(), "weft_discovery_streams", &[]);
    probe::wait_until("four proxies being back", Duration::from_secs(40), || streams() >= 4.0).unwrap();
    pause(Duration::from_secs(2));
    let text = shop.mesh.control_plane_metrics();
    let sent = metric(&text, "weft_discovery_resources_sent_total", &[]);
    let skipped = metric(&text, "weft_discovery_resources_skipped_total", &[]);
    let requests = load.all_answered(4_000).len();
    println!("{requests} requests, 0 failed; after the restart {sent} resources sent, {skipped} known already");
    assert_eq!(shop.client_metric("weft_config_resources_received_total"), received, "sent again:\n{text}");
    assert_eq!(sent, 0.0, "nothing had changed:\n{text}");
    assert!(skipped > 0.0, "{text}");
    // And it is in charge again.
    let edits = manifest::split("demo", "gone", "reviews", 80, &[("no-such-service", 1)]);
    shop.mesh.manifests().write("route", &edits).unwrap();
    probe::wait_until("the new route", Duration::from_secs(5), || {
        shop.get("/").is_some_and(|answer| answer.status == 500)
    })
    .unwrap();
}

#[test]
fn with_the_control_plane_dead_at_a_first_connection_nothing_is_guessed() {
    let shop = Shop::new("first", 1);
    let unknown =
        shop.mesh.service("demo", "never-asked", &[Port::new("http", 80, 8080)], labels([("app", "reviews")])).unwrap();
    // Somebody outside the cluster.
    shop.mesh.sandbox().sh(None, "ip addr add 192.0.2.10/24 dev br0").unwrap();
    let listener = shop.mesh.sandbox().within(None, || TcpListener::bind("192.0.2.10:80")).unwrap().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\nConnection: close\r\n\r\noutside\n");
        }
    });
    let capture = Capture::start(&shop.mesh, "first").unwrap();
    shop.mesh.kill_control_plane();
    const MARKER: &str = "first-without-a-word";
    let path = format!("/{MARKER}");

    let started = Instant::now();
    let outside = "192.0.2.10:80".parse().unwrap();
    let answer = shop.client.within(|| probe::get(outside, "outside", "/")).unwrap();
    let answer = answer.expect("an answer from outside");
    assert_eq!(answer.body(), "outside\n");
    assert!(started.elapsed() < Duration::from_millis(500), "known to be outside: {:?}", started.elapsed());

    let pod = SocketAddr::new(shop.servers[0].0.v4(), 8080);
    let elsewhere = SocketAddr::from(([10, 96, 200, 1], 80));
    for address in [SocketAddr::from((unknown.vips.0, 80)), elsewhere, pod] {
        let started = Instant::now();
        let answer = shop.client.within(|| probe::get(address, "unknown", &path)).unwrap();
        let answer = answer.unwrap_or_else(|| panic!("{address}: no answer"));
        assert_eq!(answer.status, 503, "{address}: {}", answer.text);
        assert!(
            answer.header("x-weft-reason").is_some_and(|reason| reason.starts_with("config-unavailable")),
            "{}",
            answer.text
        );
        assert!(started.elapsed() < Duration::from_millis(1500), "{address}: after {:?}", started.elapsed());
    }
    // What is known already goes on.
    assert_eq!(shop.get("/known").unwrap().status, 200);

    let traffic = capture.finish().unwrap();
    let servers = [shop.servers[0].0.v4(), shop.servers[0].0.v6()];
    let plain = traffic.to(&servers, |port| port == 8080).filter(|connection| connection.spoke() == Spoke::Plain);
    assert_eq!(plain.count(), 0, "no connection to a meshed endpoint in plain text");
    // Also not on one that was open already.
    assert_eq!(traffic.to(&servers, |_| true).filter(|connection| connection.contains(MARKER.as_bytes())).count(), 0);
    assert!(shop.served().iter().all(|request| request.path != path));
}
