//! A pod: a network namespace on the bridge, files of its own, a sidecar if it has one, and the programs started in it.
//!
//! Not here: where its Service addresses lead without a sidecar (`vips.rs`), where it runs (`world.rs`).

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use parking_lot::Mutex;
use weft_proto::{MESH_TLS_LABEL, SIDECAR_UID, ports};

use super::control_plane::discovery_address;
use super::world::{Mesh, TRUST_DOMAIN, as_user, give, program};
use crate::error::Context;
use crate::manifest::{self, PodState};
use crate::process::Process;
use crate::{Result, probe, stats};

/// The user apps run as.
pub const APP_UID: u32 = 1000;

/// What a pod is made from.
#[derive(Debug, Clone)]
pub struct PodSpec {
    /// Its name, unique in the world.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its service account: the last part of its identity.
    pub service_account: String,
    /// Its labels, besides the one of the mesh.
    pub labels: BTreeMap<String, String>,
    /// Its node.
    pub node: String,
    /// Whether it has a sidecar.
    pub sidecar: bool,
    /// Whether it carries the label that says so. Only the demo's `BREAK=mtls` leaves it out.
    pub mesh_label: bool,
    /// More flags for `weft-sidecar redirect`.
    pub redirect_args: Vec<String>,
    /// More environment for the sidecar.
    pub sidecar_env: Vec<(String, String)>,
}

impl PodSpec {
    /// A pod of namespace `demo` with a sidecar, its service account called like its `app` label.
    pub fn meshed(name: &str, app: &str) -> Self {
        Self {
            name: name.to_owned(),
            namespace: "demo".to_owned(),
            service_account: app.to_owned(),
            labels: manifest::labels([("app", app)]),
            node: "node-1".to_owned(),
            sidecar: true,
            mesh_label: true,
            redirect_args: Vec::new(),
            sidecar_env: Vec::new(),
        }
    }

    /// The same without a sidecar.
    pub fn plain(name: &str, app: &str) -> Self {
        Self { sidecar: false, mesh_label: false, ..Self::meshed(name, app) }
    }

    /// With one more label.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// On another node than `node-1`.
    pub fn on(mut self, node: &str) -> Self {
        self.node = node.to_owned();
        self
    }

    /// With one more environment variable for the sidecar.
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.sidecar_env.push((key.to_owned(), value.to_owned()));
        self
    }
}

impl Mesh {
    /// A new pod, its Pod object written, its sidecar (if it has one) ready.
    ///
    /// # Errors
    /// When any of that fails.
    pub fn pod(&self, spec: PodSpec) -> Result<Pod> {
        let number = self.world.next_pod();
        let [high, low] = number.to_be_bytes();
        let addresses = (Ipv4Addr::new(10, 244, high, low), Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, number));
        let net = format!("p{number}");
        self.world.add_network(&net, addresses.0, addresses.1)?;
        let folder = self.world.folder.join("pods").join(&spec.name);
        fs::create_dir_all(&folder).context(|| format!("creating {}", folder.display()))?;
        let resolver = "nameserver 10.244.0.1\noptions timeout:1 attempts:1\n";
        fs::write(folder.join("resolv.conf"), resolver).context(|| "writing resolv.conf".to_owned())?;
        let own = format!(
            "127.0.0.1 localhost\n::1 localhost\n{} {name}\n{} {name}\n",
            addresses.0,
            addresses.1,
            name = spec.name
        );
        self.world.keep_hosts(&folder, own)?;
        let pod = Pod { mesh: self.clone(), spec, addresses, net, folder, sidecar: Mutex::new(None) };
        pod.publish(PodState::Ready)?;
        if pod.spec.sidecar {
            pod.redirect()?;
            pod.start_sidecar()?;
        }
        Ok(pod)
    }
}

/// A pod. Dropping it kills its sidecar; its network stays until the world ends.
#[derive(Debug)]
pub struct Pod {
    mesh: Mesh,
    spec: PodSpec,
    addresses: (Ipv4Addr, Ipv6Addr),
    net: String,
    folder: PathBuf,
    sidecar: Mutex<Option<Process>>,
}

impl Pod {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Its IPv4 address.
    pub fn v4(&self) -> IpAddr {
        self.addresses.0.into()
    }

    /// Its IPv6 address.
    pub fn v6(&self) -> IpAddr {
        self.addresses.1.into()
    }

    /// Its identity.
    pub fn identity(&self) -> String {
        format!("spiffe://{TRUST_DOMAIN}/ns/{}/sa/{}", self.spec.namespace, self.spec.service_account)
    }

    /// Writes its Pod object.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn publish(&self, state: PodState) -> Result<()> {
        let mut labels = self.spec.labels.clone();
        if self.spec.mesh_label {
            labels.insert(MESH_TLS_LABEL.to_owned(), "1".to_owned());
        }
        let object = manifest::Pod {
            namespace: &self.spec.namespace,
            name: &self.spec.name,
            labels: &labels,
            service_account: &self.spec.service_account,
            node: &self.spec.node,
            addresses: self.addresses,
            state,
        };
        self.mesh.manifests().write(&format!("pod-{}", self.spec.name), &object.yaml())
    }

    /// Removes its Pod object.
    pub fn unpublish(&self) {
        self.mesh.manifests().remove(&format!("pod-{}", self.spec.name));
    }

    /// The init container.
    ///
    /// # Errors
    /// When the kernel refuses the rules.
    pub fn redirect(&self) -> Result<()> {
        let mut command = vec![program("weft-sidecar"), "redirect".to_owned()];
        command.extend(self.spec.redirect_args.iter().cloned());
        self.spawn("redirect", 0, &command)?.success(Duration::from_secs(10)).map(drop)
    }

    /// Starts the sidecar and waits until it is ready.
    ///
    /// # Errors
    /// When it gets no token, or does not become ready.
    pub fn start_sidecar(&self) -> Result<()> {
        self.launch_sidecar()?;
        let what = format!("the sidecar of {}", self.spec.name);
        let health = SocketAddr::new(self.v4(), ports::HEALTH);
        self.mesh.wait_ready(&what, health, || self.sidecar.lock().as_mut().is_some_and(Process::is_running))
    }

    /// Starts the sidecar without waiting.
    ///
    /// # Errors
    /// When it gets no token, or cannot be started.
    pub fn launch_sidecar(&self) -> Result<()> {
        let token = self.folder.join("token");
        if !token.exists() {
            fs::write(&token, self.mesh.join_token(&self.identity())?)
                .context(|| format!("writing {}", token.display()))?;
            give(&token, SIDECAR_UID)?;
        }
        let PodSpec { name, namespace, service_account, .. } = &self.spec;
        let inside = |path: &Path| self.mesh.sandbox().inside(path).display().to_string();
        let command: Vec<String> = vec![
            program("weft-sidecar"),
            "run".to_owned(),
            format!("--control-plane={}", discovery_address()),
            format!("--ca-roots={}", inside(&self.mesh.folder().join("mesh/roots.pem"))),
            format!("--join-token={}", inside(&token)),
            format!("--trust-domain={TRUST_DOMAIN}"),
            format!("--namespace={namespace}"),
            format!("--service-account={service_account}"),
            format!("--pod={name}"),
            format!("--pod-address={}", self.v4()),
        ];
        let env = self.mesh.world.options.sidecar_env.iter().chain(&self.spec.sidecar_env);
        let env: Vec<_> = env.map(|(key, value)| (key.as_str(), value.as_str())).collect();
        *self.sidecar.lock() = Some(self.spawn_with_env("sidecar", SIDECAR_UID, &command, &env)?);
        Ok(())
    }

    /// Signals the sidecar, if there is one.
    pub fn signal_sidecar(&self, signal: Signal) {
        if let Some(sidecar) = self.sidecar.lock().as_ref() {
            sidecar.signal(signal);
        }
    }

    /// SIGKILL to the sidecar.
    pub fn kill_sidecar(&self) {
        if let Some(mut sidecar) = self.sidecar.lock().take() {
            sidecar.kill();
        }
    }

    /// Waits for the sidecar's end.
    ///
    /// # Errors
    /// [`Error::Timeout`] when it goes on.
    pub fn wait_sidecar(&self, within: Duration) -> Result<()> {
        match self.sidecar.lock().as_mut() {
            Some(sidecar) => sidecar.wait(within).map(drop),
            None => Ok(()),
        }
    }

    /// The sidecar's process, if there is one, as the host numbers it.
    pub fn sidecar_pid(&self) -> Option<Pid> {
        self.sidecar.lock().as_ref().map(Process::pid)
    }

    /// The sidecar's resident memory in KiB.
    pub fn sidecar_rss_kib(&self) -> u64 {
        self.sidecar.lock().as_ref().map_or(0, Process::rss_kib)
    }

    /// The sidecar's open descriptors.
    pub fn sidecar_descriptors(&self) -> usize {
        self.sidecar.lock().as_ref().map_or(0, Process::descriptors)
    }

    /// Asks the sidecar's admin interface, which answers on loopback only.
    pub fn admin(&self, path: &str) -> Option<probe::Answer> {
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), ports::ADMIN);
        self.within(|| probe::get(address, "localhost", path)).ok().flatten()
    }

    /// The sum of a metric's samples whose labels contain all of `labels`.
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        stats::metric(&self.admin("/metrics").map_or(String::new(), |answer| answer.text), name, labels)
    }

    /// Starts `command` in the pod as user `uid`; logs are called `POD-NAME`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, name: &str, uid: u32, command: &[impl AsRef<str>]) -> Result<Process> {
        self.spawn_with_env(name, uid, command, &[])
    }

    /// Starts one of our own small programs (`weft-e2e ARGS`) as the app.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn app(&self, name: &str, args: &[impl AsRef<str>]) -> Result<Process> {
        let program = program("weft-e2e");
        let command: Vec<&str> = std::iter::once(program.as_str()).chain(args.iter().map(AsRef::as_ref)).collect();
        self.spawn(name, APP_UID, &command)
    }

    fn spawn_with_env(
        &self,
        name: &str,
        uid: u32,
        program: &[impl AsRef<str>],
        env: &[(&str, &str)],
    ) -> Result<Process> {
        const MOUNT: &str = r#"mount -n --bind "$1/hosts" /etc/hosts
            mount -n --bind "$1/resolv.conf" /etc/resolv.conf
            shift; cd /run/weft/tmp; exec "$@""#;
        let mut command = self.mesh.sandbox().command(Some(&self.net));
        command.args(["unshare", "--mount", "--propagation", "private", "--", "sh", "-ec", MOUNT, "sh"]);
        command.arg(self.mesh.sandbox().inside(&self.folder));
        as_user(&mut command, uid).args(program.iter().map(AsRef::as_ref));
        command.envs(env.iter().copied());
        Process::start(command, &self.mesh.folder().join("logs"), &format!("{}-{name}", self.spec.name))
    }

    /// Runs `job` in the pod's network as root: nothing of what it opens is exempt from redirection.
    ///
    /// # Errors
    /// When the world is gone.
    pub fn within<T: Send>(&self, job: impl FnOnce() -> T + Send) -> Result<T> {
        self.mesh.sandbox().within(Some(&self.net), job)
    }

    /// Runs a shell script as root in the pod's network.
    ///
    /// # Errors
    /// When it fails.
    pub fn sh(&self, script: &str) -> Result<String> {
        self.mesh.sandbox().sh(Some(&self.net), script)
    }

    /// Waits until something in the pod accepts on `port`.
    ///
    /// # Errors
    /// [`Error::Timeout`] after 15 s.
    pub fn wait_listening(&self, port: u16) -> Result<()> {
        let local = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        let what = format!("{} listening on {port}", self.spec.name);
        let ready = || self.within(|| probe::accepts(local)).unwrap_or(false);
        self.mesh.wait_until(&what, Duration::from_secs(15), ready)
    }

    /// What a person types before a command to run it in the pod's network.
    pub fn enter(&self) -> String {
        self.mesh.sandbox().enter(&self.net)
    }

    /// Cuts the cable: packets vanish, nothing is told to anybody.
    ///
    /// # Errors
    /// When the link is not there.
    pub fn cut(&self) -> Result<()> {
        self.mesh.sandbox().sh(None, &format!("ip link set {} down", self.net)).map(drop)
    }

    /// Mends it.
    ///
    /// # Errors
    /// When the link is not there.
    pub fn mend(&self) -> Result<()> {
        self.mesh.sandbox().sh(None, &format!("ip link set {} up", self.net)).map(drop)
    }
}
