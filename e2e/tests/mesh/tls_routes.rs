//! TLSRoute and BackendTLSPolicy with nginx and curl, who know nothing of a mesh (docs/reference/tlsroute.md, backendtlspolicy.md).

use std::time::Duration;

use weft_e2e::manifest::{Port, labels};
use weft_e2e::{APP_UID, Mesh, Pod, PodSpec, Process, manifest, probe, tools};

use crate::shop::pause;

/// Certificates by an authority of their own: for db.example.com and *.example.org.
const CERTIFICATES: &str = r#"cd "$1"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.crt
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=server -keyout server.key -out server.csr
printf 'subjectAltName=DNS:db.example.com,DNS:*.example.org\n' > names
openssl x509 -req -days 1 -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -extfile names -out server.crt
chmod a+r server.key server.crt ca.crt
"#;

fn nginx(answer: &str) -> String {
    format!(
        "daemon off;
pid /run/weft/tmp/nginx-{answer}.pid;
error_log stderr;
events {{}}
http {{
  access_log off;
  client_body_temp_path /run/weft/tmp/nginx-body;
  proxy_temp_path /run/weft/tmp/nginx-proxy;
  fastcgi_temp_path /run/weft/tmp/nginx-fastcgi;
  uwsgi_temp_path /run/weft/tmp/nginx-uwsgi;
  scgi_temp_path /run/weft/tmp/nginx-scgi;
  server {{
    listen 8443 ssl;
    listen [::]:8443 ssl;
    ssl_protocols TLSv1.3;
    ssl_certificate /run/weft/run/server.crt;
    ssl_certificate_key /run/weft/run/server.key;
    location / {{ return 200 \"{answer} $ssl_protocol $ssl_server_name\\n\"; }}
  }}
}}
"
    )
}

/// A client, and some servers that speak TLS themselves.
struct World {
    mesh: Mesh,
    client: Pod,
    servers: Vec<(Pod, Process)>,
}

impl World {
    fn new(name: &str) -> Self {
        tools::require(&tools::APPS).unwrap();
        tools::require(&tools::TLS).unwrap();
        let mesh = Mesh::new(name).unwrap();
        mesh.manifests().write("namespace", &manifest::namespace("demo")).unwrap();
        let made = std::process::Command::new("sh").args(["-ec", CERTIFICATES, "sh"]).arg(mesh.folder()).output();
        let made = made.unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        mesh.start_control_plane().unwrap();
        let client = mesh.pod(PodSpec::meshed("client", "client")).unwrap();
        Self { mesh, client, servers: Vec::new() }
    }

    /// Its app is nginx, on port 8443.
    fn server(&mut self, spec: PodSpec) {
        let pod = self.mesh.pod(spec).unwrap();
        let file = format!("nginx-{}.conf", pod.name());
        std::fs::write(self.mesh.folder().join(&file), nginx(pod.name())).unwrap();
        let config = format!("/run/weft/run/{file}");
        let command = ["nginx", "-e", "stderr", "-p", "/run/weft/tmp", "-c", &config];
        let app = pod.spawn("app", APP_UID, &command).unwrap();
        pod.wait_listening(8443).unwrap();
        self.servers.push((pod, app));
    }

    /// What curl gets in the client's pod, or what went wrong.
    fn curl(&self, args: &[&str]) -> String {
        let fixed = ["curl", "--silent", "--show-error", "--max-time", "5", "--cacert", "/run/weft/run/ca.crt"];
        let mut curl = self.client.spawn("curl", APP_UID, &[&fixed[..], args].concat()).unwrap();
        let output = curl.success(Duration::from_secs(10)).unwrap_or_else(|error| error.to_string());
        output.lines().last().unwrap_or_default().to_owned()
    }

    /// The same of `https://NAME/` at Service `web`.
    fn https(&self, name: &str) -> String {
        self.curl(&["--connect-to", &format!("{name}:443:web:443"), &format!("https://{name}/")])
    }

    fn until(&self, what: &str, mut ready: impl FnMut() -> bool) {
        probe::wait_until(what, Duration::from_secs(10), || {
            pause(Duration::from_millis(100));
            ready()
        })
        .unwrap();
    }
}

fn tls_route(name: &str, hostnames: &str, backend: &str) -> String {
    manifest::split("demo", name, "web", 443, &[(backend, 1)])
        .replace("kind: HTTPRoute", "kind: TLSRoute")
        .replace("  rules:", &format!("  hostnames: [{hostnames}]\n  rules:"))
}

#[test]
fn a_server_name_leads_and_the_clients_tls_ends_at_the_server() {
    let mut world = World::new("tls-route");
    let ports = [Port::new("tls", 443, 8443)];
    for service in ["web", "db", "org"] {
        world.mesh.service("demo", service, &ports, labels([("app", service)])).unwrap();
        world.server(PodSpec::meshed(service, service));
    }
    world.until("the Service's own server", || world.https("db.example.com").starts_with("web TLS"));
    world.mesh.manifests().write("db", &tls_route("db", "db.example.com", "db")).unwrap();
    world.mesh.manifests().write("org", &tls_route("org", "'*.example.org'", "org")).unwrap();
    world.until("the exact name", || world.https("db.example.com") == "db TLSv1.3 db.example.com");
    world.until("the wildcard", || world.https("any.example.org") == "org TLSv1.3 any.example.org");
    let refused = world.https("other.example.com");
    assert!(refused.contains("curl") || refused.contains("reset") || refused.contains("SSL"), "{refused}");
    assert!(world.client.metric("weft_refused_total", &["reason=\"no-route\""]) >= 1.0);

    for route in ["db", "org"] {
        world.mesh.manifests().write(route, "").unwrap();
    }
    world.until("no route", || world.https("db.example.com").starts_with("web TLS"));
}

#[test]
fn a_policy_has_the_sidecar_speak_tls_to_servers_outside_the_mesh_or_nothing() {
    let mut world = World::new("backend-tls");
    world.mesh.service("demo", "db", &[Port::new("http", 80, 8443)], labels([("app", "db")])).unwrap();
    world.server(PodSpec::plain("db", "db"));
    let ca = std::fs::read_to_string(world.mesh.folder().join("ca.crt")).unwrap().replace('\n', "\n    ");
    let config_map = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: ca, namespace: demo}}\ndata:\n  ca.crt: |\n    {ca}\n"
    );
    let policy = |hostname: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: db, namespace: demo}}\n\
             spec:\n  targetRefs: [{{group: '', kind: Service, name: db}}]\n  validation:\n    hostname: {hostname}\n    \
             caCertificateRefs: [{{group: '', kind: ConfigMap, name: ca}}]\n"
        )
    };
    let ask = || world.curl(&["http://db/"]);
    world.mesh.manifests().write("policy", &policy("db.example.com")).unwrap();
    world.until("a policy without certificates", || ask().contains("there is no ConfigMap demo/ca"));
    world.mesh.manifests().write("ca", &config_map).unwrap();
    world.until("TLS to the server", || ask() == "db TLSv1.3 db.example.com");
    world.mesh.manifests().write("policy", &policy("other.example.com")).unwrap();
    world.until("a name that the server has not", || ask().contains("BackendTLSPolicy demo/db"));
    world.mesh.manifests().write("policy", "").unwrap();
    world.until("no policy", || {
        ask().contains("The plain HTTP request was sent to HTTPS port") || ask().contains("</html>")
    });
}
