//! Connections that carry nothing close when a BackendPolicy says so, and no others (SEMANTICS.md §3 "connections").

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use weft_e2e::manifest::{Port, labels};
use weft_e2e::stats::{self, Served};
use weft_e2e::{MeshOptions, PodSpec, probe};

use crate::shop::{Shop, pause};

const TIMEOUT: Duration = Duration::from_secs(2);
/// A tenth of it, an eighth for the tick where bytes are looked at, and what a machine with other things to do may be late.
const LATEST: Duration = Duration::from_millis(2_000 + 200 + 250 + 300);

fn policy(service: &str, spec: &str) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: BackendPolicy\nmetadata: {{name: {service}, namespace: demo}}\n\
         spec:\n  targetRefs: [{{kind: Service, name: {service}}}]\n  {spec}\n"
    )
}

fn is_in_time(quiet: Duration, what: &str) {
    println!("{what}: closed after {quiet:?}");
    // Whoever asked hears a little later than the sidecar that the answer is over.
    let earliest = TIMEOUT - Duration::from_millis(100);
    assert!(quiet >= earliest && quiet < LATEST, "{what}: {quiet:?}");
}

#[test]
fn an_http_connection_closes_when_it_is_idle_and_stays_while_it_is_asked() {
    let mut shop = Shop::new("idle-http", 1);
    // The same for an endpoint without a sidecar, whose app sees who connects.
    let spec = PodSpec::plain("plain-0", "plain");
    let plain = shop.mesh.service("demo", "plain", &[Port::new("http", 80, 8080)], labels([("app", "plain")])).unwrap();
    shop.add(spec);
    for service in ["reviews", "plain"] {
        shop.mesh.manifests().write(&format!("idle-{service}"), &policy(service, "httpIdleTimeout: 2s")).unwrap();
    }
    let vips: [(&str, SocketAddr); 2] = [("reviews", shop.vip()), ("plain", (plain.vips.0, 80).into())];
    for (name, vip) in vips {
        let ask = || {
            let answer = shop.client.within(|| probe::get(vip, name, "/")).unwrap();
            answer.is_some_and(|answer| answer.status == 200)
        };
        probe::wait_until(name, Duration::from_secs(15), ask).unwrap();
    }
    probe::wait_until("the policies", Duration::from_secs(15), || {
        let config = shop.client.admin("/config").map_or(String::new(), |answer| answer.text);
        config.matches("\"http_idle_timeout_ms\"").count() == 2
    })
    .unwrap();
    // What was opened before the policies came idles as it was to: 4 s to an endpoint without a sidecar, 5 min to another.
    pause(Duration::from_millis(4_500));
    for (name, vip) in vips {
        let backend = format!("backend=\"demo/{name}:80\"");
        let metric = |metric| shop.client.metric(metric, &[&backend]);
        let ask = || {
            let answer = shop.client.within(|| probe::get(vip, name, "/idle")).unwrap();
            assert_eq!(answer.map(|answer| answer.status), Some(200), "{name}");
        };
        let closed = || metric("weft_backend_connections_closed_total");
        let older = metric("weft_backend_connections_idle");
        ask();
        let (closed_before, before) = (closed(), metric("weft_backend_connections_idle"));
        for _ in 0..5 {
            pause(TIMEOUT / 2);
            ask();
        }
        let last = Instant::now();
        assert_eq!(closed() - closed_before, 0.0, "{name}: it was asked in time");
        assert!(before > older, "{name}");
        // Another worker's, made by a request that it carried, closes before.
        probe::wait_until("an idle connection to close", LATEST, || metric("weft_backend_connections_idle") <= older)
            .unwrap_or_else(|error| {
                let metrics = shop.client.admin("/metrics").map_or(String::new(), |answer| answer.text);
                let said = metrics.lines().filter(|line| line.contains("_connections"));
                panic!("{name}: {error}: {}", said.collect::<Vec<_>>().join("\n"))
            });
        is_in_time(last.elapsed(), name);
        assert!(closed() > closed_before, "{name}");
        ask();
    }
    // By the app's own sight: one connection for as long as it was asked, and another afterwards.
    let served: Vec<Served> = shop.served();
    let peers: Vec<&str> =
        served.iter().filter(|one| one.server == "plain-0" && one.path == "/idle").map(|one| &*one.peer).collect();
    let (last, before) = peers.split_last().unwrap();
    assert!(before.iter().all(|peer| peer == &before[0]) && last != &before[0], "{peers:?}");
}

#[test]
fn an_opaque_connection_is_reset_when_it_is_idle_and_stays_while_there_are_bytes() {
    let options = MeshOptions { sidecar_env: vec![("WEFT_ACCESS_LOG".into(), "on".into())], ..MeshOptions::default() };
    let shop = Shop::with_options("idle-tcp", 0, options);
    let ports = [Port::new("mail", 9000, 9000).speaking("tcp")];
    let mut servers = Vec::new();
    for (name, spec) in [("mail", PodSpec::meshed("mail-0", "mail")), ("post", PodSpec::plain("post-0", "post"))] {
        let service = shop.mesh.service("demo", name, &ports, labels([("app", name)])).unwrap();
        shop.mesh.manifests().write(&format!("idle-{name}"), &policy(name, "tcpIdleTimeout: 2s")).unwrap();
        let pod = shop.mesh.pod(spec).unwrap();
        let app = pod.app("tcp", &["tcp-server"]).unwrap();
        pod.wait_listening(9000).unwrap();
        servers.push((name, SocketAddr::from((service.vips.0, 9000)), pod, app));
    }
    for (name, vip, ..) in &servers {
        let greets = || {
            let said = shop.client.within(|| probe::raw(*vip, b"", Duration::from_millis(300))).unwrap();
            said.is_ok_and(|said| said == b"220 ready\r\n")
        };
        probe::wait_until(name, Duration::from_secs(15), greets).unwrap();
    }
    probe::wait_until("the policies", Duration::from_secs(15), || {
        let config = shop.client.admin("/config").map_or(String::new(), |answer| answer.text);
        config.matches("\"tcp_idle_timeout_ms\"").count() == 2
    })
    .unwrap();
    for (name, vip, ..) in &servers {
        let reason = ["direction=\"outbound\"", "reason=\"idle-timeout\""];
        let refused = || shop.client.metric("weft_refused_total", &reason);
        let before = refused();
        // 16 KiB each time: after a while it is long enough to be spliced, where it is plain text.
        let quiet = shop.client.within(|| {
            let mut stream = TcpStream::connect(*vip).unwrap();
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let mut said = vec![0; 11];
            stream.read_exact(&mut said).unwrap();
            let (sent, mut back) = (vec![b'x'; 512 * 1024], vec![0; 512 * 1024]);
            for _ in 0..6 {
                std::thread::scope(|scope| {
                    let mut writes = &stream;
                    scope.spawn(|| (&stream).read_exact(&mut back).unwrap());
                    writes.write_all(&sent).unwrap();
                });
                pause(TIMEOUT / 2);
            }
            // Bytes of one direction are bytes.
            stream.write_all(b"last").unwrap();
            let last = Instant::now();
            stream.read_exact(&mut back[..4]).unwrap();
            let end = stream.read(&mut back);
            assert!(end.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset), "a clean end");
            last.elapsed()
        });
        is_in_time(quiet.unwrap(), name);
        assert_eq!(refused() - before, 1.0, "{name}");
    }
    // One line each.
    let log = shop.mesh.folder().join("logs/client-sidecar.log");
    let lines: Vec<serde_json::Value> = stats::lines(&log);
    let idle: Vec<_> = lines.iter().filter(|line| line["reason"] == "idle-timeout").collect();
    for name in ["mail", "post"] {
        let of: Vec<_> = idle.iter().filter(|line| line["service"] == format!("demo/{name}:9000")).collect();
        assert_eq!(of.len(), 1, "{idle:?}");
        assert!(of[0]["protocol"] == "tcp" && of[0]["duration_ms"].as_f64() > Some(7_500.0), "{idle:?}");
    }
}
