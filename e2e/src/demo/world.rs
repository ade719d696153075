//! Who takes part: a client, `reviews` v1 twice and v2 once, nginx, redis, a gRPC server, a workload that refuses plain
//! text, and a client outside the mesh.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::{Broken, DemoArgs};
use crate::capture::Capture;
use crate::error::Context;
use crate::manifest::{self, Port, Service, labels};
use crate::{APP_UID, Mesh, MeshOptions, Pod, PodSpec, Process, Result, Vip, probe};

pub(super) const NAMESPACE: &str = "demo";

pub(super) struct World {
    pub(super) client: Pod,
    pub(super) outsider: Pod,
    /// `reviews-v1-a`, `-b` and `reviews-v2-a` with their apps.
    pub(super) reviews: Vec<(Pod, Process)>,
    pub(super) vault: (Pod, Process),
    pub(super) vault_service: Service,
    pub(super) reviews_service: Service,
    pub(super) capture: Option<Capture>,
    others: Vec<(Pod, Process)>,
    // Last: ends what is left.
    pub(super) mesh: Mesh,
}

const NGINX: &str = "daemon off;
pid /run/weft/tmp/nginx.pid;
error_log stderr;
events {}
http {
  access_log off;
  client_body_temp_path /run/weft/tmp/nginx-body;
  proxy_temp_path /run/weft/tmp/nginx-proxy;
  fastcgi_temp_path /run/weft/tmp/nginx-fastcgi;
  uwsgi_temp_path /run/weft/tmp/nginx-uwsgi;
  scgi_temp_path /run/weft/tmp/nginx-scgi;
  server {
    listen 8080;
    listen [::]:8080;
    location / { return 200 \"nginx\\n\"; }
  }
}
";

impl World {
    pub(super) fn new(args: &DemoArgs) -> Result<Self> {
        let mut options = MeshOptions::default();
        match args.broken {
            Some(Broken::Retries) => options.sidecar_env.push(("WEFT_RETRIES".to_owned(), "off".to_owned())),
            Some(Broken::Eject) => options.sidecar_env.push(("WEFT_EJECTION".to_owned(), "off".to_owned())),
            Some(Broken::Mtls) | None => {}
        }
        let meshed = |name: &str, app: &str| PodSpec {
            mesh_label: args.broken != Some(Broken::Mtls),
            ..PodSpec::meshed(name, app)
        };
        let reviews = |name: &str, version| meshed(name, "reviews").label("version", version);

        println!("making namespaces, a control plane and nine pods");
        let mesh = Mesh::with_options("demo", options)?;
        mesh.manifests().write("namespace", &manifest::namespace(NAMESPACE))?;
        let http = [Port::new("http", 80, 8080)];
        let reviews_service = mesh.service(NAMESPACE, "reviews", &http, labels([("app", "reviews")]))?;
        for version in ["v1", "v2"] {
            let selector = labels([("app", "reviews"), ("version", version)]);
            mesh.service(NAMESPACE, &format!("reviews-{version}"), &http, selector)?;
        }
        mesh.service(NAMESPACE, "web", &http, labels([("app", "web")]))?;
        mesh.service(NAMESPACE, "redis", &[Port::new("redis", 6379, 6379)], labels([("app", "redis")]))?;
        mesh.service(NAMESPACE, "grpc", &[Port::new("grpc", 50051, 50051)], labels([("app", "grpc")]))?;
        let vault_service = mesh.service(NAMESPACE, "vault", &http, labels([("app", "vault")]))?;
        let strict = manifest::peer_authentication(NAMESPACE, "vault", &labels([("app", "vault")]), "STRICT");
        mesh.manifests().write("strict", &strict)?;
        route(&mesh, 90, 10)?;
        mesh.start_control_plane()?;
        // Before anybody says a word, or a connection's first bytes would be missed.
        let capture = Capture::start(&mesh, "demo")?;
        let config = mesh.folder().join("nginx.conf");
        std::fs::write(&config, NGINX).context(|| format!("writing {}", config.display()))?;

        let specs = [
            meshed("client", "client"),
            PodSpec::plain("outsider", "outsider"),
            reviews("reviews-v1-a", "v1"),
            reviews("reviews-v1-b", "v1"),
            reviews("reviews-v2-a", "v2"),
            meshed("vault", "vault"),
            meshed("web", "web"),
            meshed("redis", "redis"),
            meshed("grpc", "grpc"),
        ];
        let started: [Result<Pod>; 9] = std::thread::scope(|scope| {
            let mesh = &mesh;
            specs
                .map(|spec| scope.spawn(move || mesh.pod(spec)))
                .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        let [client, outsider, v1_a, v1_b, v2_a, vault, web, redis, grpc] = started;
        let (client, outsider, vault) = (client?, outsider?, vault?);
        let (web, redis, grpc) = (web?, redis?, grpc?);

        let serve = |pod: Pod| {
            let app = pod.app("app", &["http-server", "--name", pod.name()])?;
            Ok((pod, app))
        };
        let nginx = web.spawn(
            "app",
            APP_UID,
            &["nginx", "-e", "stderr", "-p", "/run/weft/tmp", "-c", "/run/weft/run/nginx.conf"],
        )?;
        let redis_command =
            "redis-server --port 6379 --bind * -::* --protected-mode no --dir /run/weft/tmp --appendonly no --save";
        let redis_command: Vec<_> = redis_command.split(' ').chain([""]).collect();
        let redis_app = redis.spawn("app", APP_UID, &redis_command)?;
        let grpc_app = grpc.app("app", &["grpc-server", "--name", "grpc"])?;
        let world = Self {
            client,
            reviews: [v1_a?, v1_b?, v2_a?].into_iter().map(serve).collect::<Result<_>>()?,
            vault: serve(vault)?,
            vault_service,
            reviews_service,
            others: vec![(web, nginx), (redis, redis_app), (grpc, grpc_app)],
            outsider,
            capture: Some(capture),
            mesh,
        };
        let others = world.others.iter().zip([8080, 6379, 50051]).map(|((pod, _), port)| (pod, port));
        let ours = world.reviews.iter().chain([&world.vault]).map(|(pod, _)| (pod, 8080));
        for (pod, port) in ours.chain(others) {
            pod.wait_listening(port)?;
        }
        let vip = |service: &Service, pod: &Pod| Vip {
            address: (service.vips.0, 80).into(),
            targets: vec![(pod.v4(), 8080).into()],
        };
        world
            .outsider
            .set_vips(&[vip(&world.vault_service, &world.vault.0), vip(&world.reviews_service, &world.reviews[1].0)])?;
        world.wait_for_route()?;
        Ok(world)
    }

    /// Until the client's sidecar has the route and reaches the app.
    fn wait_for_route(&self) -> Result<()> {
        let address = (self.reviews_service.vips.0, 80).into();
        probe::wait_until("an answer from reviews through the mesh", Duration::from_secs(15), || {
            let answer = self.client.within(|| probe::get(address, "reviews", "/warm-up")).ok().flatten();
            answer.is_some_and(|answer| answer.status == 200)
        })
    }

    /// Runs a program in the client's pod; what it said, if it went well.
    pub(super) fn try_in(&self, pod: &Pod, name: &str, command: &[&str]) -> Option<String> {
        let mut process = pod.spawn(name, APP_UID, command).ok()?;
        process.success(Duration::from_secs(20)).ok()
    }

    /// Kills the first of the v1 apps, as a crash does. Its sidecar stays.
    pub(super) fn kill_v1(&mut self) {
        if let Some((_, app)) = self.reviews.first_mut() {
            app.signal(Signal::SIGKILL);
        }
    }

    /// Until Ctrl-C.
    pub(super) fn hold(&self) {
        println!(
            "\nThe mesh is still up. From another terminal, as root:\n  {enter} curl -s http://{vip}/      (a request through the \
             mesh)\n  {enter} curl -s http://127.0.0.1:15000/config      (what the client's sidecar knows)\n  ls {folder}/manifests      \
             (edit a weight in route.yaml)\n  ls {folder}/logs\nCtrl-C ends it.",
            enter = self.client.enter(),
            vip = self.reviews_service.vips.0,
            folder = self.mesh.folder().display(),
        );
        loop {
            std::thread::park();
        }
    }
}

/// Writes the weights.
pub(super) fn route(mesh: &Mesh, v1: u32, v2: u32) -> Result<()> {
    let weights = [("reviews-v1", v1), ("reviews-v2", v2)];
    mesh.manifests().write("route", &manifest::split(NAMESPACE, "reviews", "reviews", 80, &weights))
}
