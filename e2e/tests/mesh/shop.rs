//! The world most tests need: a client and some endpoints of `reviews`, all meshed.

use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::signal::Signal;
use weft_e2e::manifest::{self, Port, Service, labels};
use weft_e2e::probe::{self, Answer};
use weft_e2e::stats::{self, Sent, Served};
use weft_e2e::{Mesh, MeshOptions, Pod, PodSpec, Process};

/// A client and the endpoints of `reviews`.
pub(crate) struct Shop {
    pub(crate) client: Pod,
    pub(crate) servers: Vec<(Pod, Process)>,
    pub(crate) service: Service,
    pub(crate) mesh: Mesh,
}

/// Whether tests run at full length.
pub(crate) fn slow() -> bool {
    std::env::var_os("WEFT_E2E_SLOW").is_some_and(|value| !value.is_empty())
}

impl Shop {
    /// With `servers` endpoints.
    pub(crate) fn new(name: &str, servers: usize) -> Self {
        Self::with_options(name, servers, MeshOptions::default())
    }

    pub(crate) fn with_options(name: &str, servers: usize, options: MeshOptions) -> Self {
        let mesh = Mesh::with_options(name, options).unwrap();
        mesh.manifests().write("namespace", &manifest::namespace("demo")).unwrap();
        let http = [Port::new("http", 80, 8080)];
        let service = mesh.service("demo", "reviews", &http, labels([("app", "reviews")])).unwrap();
        mesh.start_control_plane().unwrap();
        let client = mesh.pod(PodSpec::meshed("client", "client")).unwrap();
        let mut shop = Self { client, servers: Vec::new(), service, mesh };
        for n in 0..servers {
            shop.add(PodSpec::meshed(&format!("reviews-{n}"), "reviews"));
        }
        if servers > 0 {
            shop.wait_until_answered();
        }
        shop
    }

    /// One more endpoint.
    pub(crate) fn add(&mut self, spec: PodSpec) {
        let pod = self.mesh.pod(spec).unwrap();
        let app = pod.app("app", &["http-server", "--name", pod.name()]).unwrap();
        pod.wait_listening(8080).unwrap();
        self.servers.push((pod, app));
    }

    pub(crate) fn vip(&self) -> SocketAddr {
        (self.service.vips.0, 80).into()
    }

    pub(crate) fn wait_until_answered(&self) {
        probe::wait_until("an answer from reviews", Duration::from_secs(15), || {
            self.get("/").is_some_and(|answer| answer.status == 200)
        })
        .unwrap();
    }

    /// A GET from the client's pod.
    pub(crate) fn get(&self, path: &str) -> Option<Answer> {
        let address = self.vip();
        self.client.within(|| probe::get(address, "reviews", path)).unwrap()
    }

    /// Bytes from the client's pod, as they are.
    pub(crate) fn raw(&self, request: &[u8]) -> String {
        let address = self.vip();
        let answer = self.client.within(|| probe::raw(address, request, Duration::from_secs(3))).unwrap();
        String::from_utf8_lossy(&answer.unwrap_or_default()).into_owned()
    }

    /// One GET on a connection of its own, with an id and more fields, a line each.
    pub(crate) fn ask(&self, path: &str, id: &str, fields: &str) -> Answer {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: reviews\r\nx-request-id: {id}\r\n{fields}Connection: close\r\n\r\n");
        let text = self.raw(request.as_bytes());
        let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default();
        Answer { status, text }
    }

    /// Starts load from the client.
    pub(crate) fn load(&self, name: &str, rate: u32, more: &[&str]) -> Load {
        let rate = rate.to_string();
        let args = [&["load", "--address", "reviews:80", "--rate", &rate, "--id", name], more].concat();
        Load(self.client.app(name, &args).unwrap())
    }

    /// Every request the apps saw.
    pub(crate) fn served(&self) -> Vec<Served> {
        self.servers.iter().flat_map(|(_, app)| stats::lines(app.log())).collect()
    }

    /// How often the apps saw the request of this id.
    pub(crate) fn times_served(&self, id: &str) -> usize {
        self.served().iter().filter(|one| one.id == id).count()
    }

    /// How the client's sidecar fares.
    pub(crate) fn client_metric(&self, name: &str) -> f64 {
        self.client.metric(name, &[])
    }
}

/// Load under way.
pub(crate) struct Load(Process);

impl Load {
    /// Ends it and reads what became of each request.
    pub(crate) fn finish(mut self) -> Vec<Sent> {
        self.0.signal(Signal::SIGTERM);
        self.0.wait(Duration::from_secs(30)).unwrap();
        stats::lines(self.0.log())
    }

    /// Ends it; every request has to have been answered.
    pub(crate) fn all_answered(self, at_least: usize) -> Vec<Sent> {
        let sent = self.finish();
        let failed: Vec<_> = sent.iter().filter(|one| !one.ok()).collect();
        assert!(
            failed.is_empty(),
            "{} of {} failed, such as {:?}",
            failed.len(),
            sent.len(),
            &failed[..failed.len().min(5)]
        );
        assert!(sent.len() >= at_least, "only {} requests were sent", sent.len());
        sent
    }
}

pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}
