//! Destinations outside the mesh: an ExternalName by its host, with a real name server behind the app's and the
//! sidecar's lookups (SEMANTICS.md §1 "outbound lookup" 3).

use std::time::Duration;

use weft_e2e::{Pod, PodSpec, Process, probe};

use crate::shop::{Shop, pause};

const OLD: &str = "203.0.113.1";
const NEW: &str = "203.0.113.2";
const EXTERNAL_NAME: &str = "apiVersion: v1
kind: Service
metadata: { name: api, namespace: demo }
spec: { type: ExternalName, externalName: api.example.com, ports: [{ name: http, port: 8080 }] }
";

/// The name server of every pod: the cluster's alias for the ExternalName, and `api.example.com` at `address` for 1 s.
fn name_server(shop: &Shop, address: &str) -> Process {
    let mut command = shop.mesh.sandbox().command(None);
    command.args(["dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--user=root", "--pid-file="]);
    command.args(["--listen-address=10.244.0.1", "--bind-interfaces", "--conf-file=/dev/null", "--local-ttl=1"]);
    command.arg("--cname=api.demo.svc.cluster.local,api.example.com");
    command.arg(format!("--host-record=api.example.com,{address}"));
    let logs = shop.mesh.folder().join("logs");
    let process = Process::start(command, &logs, &format!("dnsmasq-{address}")).unwrap();
    let bound = || shop.mesh.sandbox().sh(None, "ss -Hlun 'sport = :53'").is_ok_and(|text| text.contains("10.244.0.1"));
    probe::wait_until("the name server", Duration::from_secs(5), bound).unwrap();
    process
}

/// A server at a public address of its own.
fn outside(shop: &Shop, name: &str, address: &str) -> (Pod, Process) {
    let pod = shop.mesh.pod(PodSpec::plain(name, "outside")).unwrap();
    pod.sh(&format!("ip addr add {address}/32 dev eth0")).unwrap();
    shop.mesh.sandbox().sh(None, &format!("sysctl -qw net.ipv4.ip_forward=1; ip route add {address} dev br0")).unwrap();
    let app = pod.app("app", &["http-server", "--name", name]).unwrap();
    pod.wait_listening(8080).unwrap();
    (pod, app)
}

/// What the app in the client pod gets by name, or what went wrong. All of them write to one log.
fn ask(shop: &Shop, args: &[&str]) -> String {
    let command = [&["curl", "--silent", "--show-error", "--max-time", "5"], args].concat();
    let mut curl = shop.client.spawn("curl", weft_e2e::APP_UID, &command).unwrap();
    let output = curl.success(Duration::from_secs(10)).unwrap_or_else(|error| error.to_string());
    output.lines().last().unwrap_or_default().to_owned()
}

#[test]
fn an_external_name_is_followed_by_dns_and_outlives_its_name_server() {
    weft_e2e::tools::require(&weft_e2e::tools::APPS).unwrap();
    let shop = Shop::new("outside", 0);
    shop.mesh.manifests().write("api", EXTERNAL_NAME).unwrap();
    let _servers = [outside(&shop, "old", OLD), outside(&shop, "new", NEW)];
    let mut names = name_server(&shop, OLD);
    pause(Duration::from_millis(500));

    // As an app does: its resolver follows the alias, and the address it gets is not of the mesh.
    let url = "http://api.demo.svc.cluster.local:8080/";
    assert_eq!(ask(&shop, &[url]), "old");
    let counted = || shop.client.metric("weft_requests_total", &["destination_service=\"demo/api\""]);
    assert_eq!(counted(), 1.0, "the sidecar knew it as the Service");
    assert_eq!(ask(&shop, &["http://api.example.com:8080/"]), "old");
    assert_eq!(counted(), 1.0, "the name itself is none of the mesh's hosts");

    // Dead for longer than the answer holds: the last good one stays.
    names.kill();
    pause(Duration::from_secs(3));
    let stale = ["--resolve", "api.demo.svc.cluster.local:8080:203.0.113.1", url];
    assert_eq!(ask(&shop, &stale), "old");

    // The name moves. An app that goes on with the address it once got reaches the new one, for the sidecar asks again.
    let _names = name_server(&shop, NEW);
    let moved = || ask(&shop, &stale) == "new";
    probe::wait_until("the sidecar following the name", Duration::from_secs(15), moved).unwrap();
    assert_eq!(
        ask(&shop, &["--resolve", "other.example.com:8080:203.0.113.1", "http://other.example.com:8080/"]).trim(),
        "old"
    );
}
