//! A world: a bridge, a control plane, and pods on it.
//!
//! A pod is a network namespace with a veth to the bridge, an IPv4 and an IPv6 address, a default route, and its own
//! `/etc/hosts` and `/etc/resolv.conf`. One with a sidecar is started as Kubernetes would: `weft-sidecar redirect` as
//! root (the init container), `weft-sidecar run` as UID 1337, then the app as another user. One without gets DNAT rules
//! for the Services it calls, since there is no kube-proxy here.
//!
//! Bound: 65,000 pods a world; `hosts` lists every Service of the world.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use parking_lot::Mutex;
use weft_proto::{MESH_TLS_LABEL, SIDECAR_UID, ports};

use crate::error::Context;
use crate::manifest::{self, Manifests, PodState, Port, Service};
use crate::process::Process;
use crate::sandbox::{Sandbox, output};
use crate::{Error, Result, probe, tools};

/// The user apps run as.
pub const APP_UID: u32 = 1000;
/// The user the control plane runs as.
const CONTROL_PLANE_UID: u32 = 65532;
/// Where binaries of this workspace are, inside.
const BIN: &str = "/run/weft/bin";
/// The trust domain of every world.
pub const TRUST_DOMAIN: &str = "cluster.local";

/// What differs between worlds.
#[derive(Debug, Clone, Default)]
pub struct MeshOptions {
    /// More flags for the control plane.
    pub control_plane_args: Vec<String>,
    /// More environment for every sidecar.
    pub sidecar_env: Vec<(String, String)>,
}

/// A world. Cloning gives another handle; the last one dropped ends it.
#[derive(Debug, Clone)]
pub struct Mesh {
    world: Arc<World>,
}

#[derive(Debug)]
struct World {
    // Dropped first: a killed control plane is waited for before its namespaces go.
    control_plane: Mutex<Option<Process>>,
    sandbox: Sandbox,
    options: MeshOptions,
    folder: PathBuf,
    manifests: Manifests,
    next_pod: AtomicU16,
    next_vip: AtomicU16,
    /// What `/etc/hosts` says besides the pod itself.
    hosts: Mutex<String>,
    pods: Mutex<Vec<(PathBuf, String)>>,
}

impl Mesh {
    /// An empty world called `name`; its logs are under `target/e2e/NAME-PID/`.
    ///
    /// # Errors
    /// When not root, or a tool or binary is missing.
    pub fn new(name: &str) -> Result<Self> {
        Self::with_options(name, MeshOptions::default())
    }

    /// The same with `options`.
    ///
    /// # Errors
    /// As for [`Mesh::new`].
    pub fn with_options(name: &str, options: MeshOptions) -> Result<Self> {
        tools::require(&tools::WORLD)?;
        let root =
            tools::binary("weft-sidecar")?.parent().and_then(Path::parent).unwrap_or(Path::new("target")).join("e2e");
        fs::create_dir_all(&root).context(|| format!("creating {}", root.display()))?;
        remove_stale(&root);
        static RUN: AtomicU16 = AtomicU16::new(0);
        let run = RUN.fetch_add(1, Ordering::Relaxed);
        let folder = root.join(format!("{name}-{}-{run}", std::process::id()));
        for sub in ["logs", "manifests", "status", "state", "pods", "mesh"] {
            let path = folder.join(sub);
            fs::create_dir_all(&path).context(|| format!("creating {}", path.display()))?;
        }
        for sub in ["status", "state"] {
            give(&folder.join(sub), CONTROL_PLANE_UID)?;
        }
        let binaries = ["weft-sidecar", "weft-control-plane", "weft-e2e"].map(tools::binary);
        let sandbox = Sandbox::start(&folder, &binaries.into_iter().collect::<Result<Vec<_>>>()?)?;
        let world = World {
            control_plane: Mutex::new(None),
            sandbox,
            options,
            manifests: Manifests::new(folder.join("manifests")),
            folder,
            next_pod: AtomicU16::new(2),
            next_vip: AtomicU16::new(10),
            hosts: Mutex::new(String::new()),
            pods: Mutex::new(Vec::new()),
        };
        Ok(Self { world: Arc::new(world) })
    }

    /// The run's folder on the host.
    pub fn folder(&self) -> &Path {
        &self.world.folder
    }

    /// The manifests the control plane watches.
    pub fn manifests(&self) -> &Manifests {
        &self.world.manifests
    }

    /// The namespaces.
    pub fn sandbox(&self) -> &Sandbox {
        &self.world.sandbox
    }

    /// Writes a Service with addresses of its own and makes every pod know its name.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn service(
        &self,
        namespace: &str,
        name: &str,
        ports: &[Port],
        selector: BTreeMap<String, String>,
    ) -> Result<Service> {
        let number = self.world.next_vip.fetch_add(1, Ordering::Relaxed);
        let [high, low] = number.to_be_bytes();
        let vips = (Ipv4Addr::new(10, 96, high, low), Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, number));
        let service =
            Service { namespace: namespace.to_owned(), name: name.to_owned(), vips, ports: ports.to_vec(), selector };
        self.manifests().write(&format!("service-{namespace}-{name}"), &service.yaml())?;
        let names = format!("{name} {name}.{namespace} {name}.{namespace}.svc {name}.{namespace}.svc.cluster.local");
        let _ = write!(self.world.hosts.lock(), "{} {names}\n{} {names}\n", vips.0, vips.1);
        for (folder, pod) in self.world.pods.lock().iter() {
            self.world.write_hosts(folder, pod)?;
        }
        Ok(service)
    }

    /// Starts the control plane in a pod of its own and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready within 15 s.
    pub fn start_control_plane(&self) -> Result<()> {
        const NET: &str = "control";
        if !self.world.sandbox.sh(None, "ls /run/netns")?.contains(NET) {
            self.world.add_network(NET, control_plane_address(), Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 1, 1))?;
        }
        let mut command = self.world.sandbox.command(Some(NET));
        let user = CONTROL_PLANE_UID.to_string();
        command.args(["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups", "--"]);
        command.args([&format!("{BIN}/weft-control-plane"), "--source", "files"]);
        for (flag, sub) in [("--manifests", "manifests"), ("--status-dir", "status"), ("--state-dir", "state")] {
            command.args([flag, &format!("/run/weft/run/{sub}")]);
        }
        command.arg(format!("--discovery-address=0.0.0.0:{}", ports::DISCOVERY));
        command.arg(format!("--admin-address=0.0.0.0:{}", ports::CONTROL_PLANE_ADMIN));
        command.arg("--cluster-cidr=10.96.0.0/16,10.244.0.0/16,fd00:96::/64,fd00:244::/64");
        command.args(&self.world.options.control_plane_args);
        let process = Process::start(command, &self.world.folder.join("logs"), "control-plane")?;
        *self.world.control_plane.lock() = Some(process);
        self.wait_ready(
            "the control plane",
            SocketAddr::new(control_plane_address().into(), ports::CONTROL_PLANE_ADMIN),
            || self.world.control_plane.lock().as_mut().is_some_and(Process::is_running),
        )?;
        // What a cluster hands out as a ConfigMap.
        let roots = self.world.folder.join("mesh/roots.pem");
        fs::copy(self.world.folder.join("state/roots.pem"), &roots).context(|| "copying state/roots.pem".to_owned())?;
        give(&roots, SIDECAR_UID)
    }

    /// SIGKILL.
    pub fn kill_control_plane(&self) {
        if let Some(mut process) = self.world.control_plane.lock().take() {
            process.kill();
        }
    }

    /// What the control plane's metrics say now.
    pub fn control_plane_metrics(&self) -> String {
        let address = SocketAddr::new(control_plane_address().into(), ports::CONTROL_PLANE_ADMIN);
        self.from_switch(|| probe::get(address, "control-plane", "/metrics"))
            .map_or(String::new(), |answer| answer.text)
    }

    /// A new pod, its Pod object written, its sidecar (if it has one) ready.
    ///
    /// # Errors
    /// When any of that fails.
    pub fn pod(&self, spec: PodSpec) -> Result<Pod> {
        let number = self.world.next_pod.fetch_add(1, Ordering::Relaxed);
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
        self.world.write_hosts(&folder, &own)?;
        self.world.pods.lock().push((folder.clone(), own));
        let pod = Pod { mesh: self.clone(), spec, addresses, net, folder, sidecar: Mutex::new(None) };
        pod.publish(PodState::Ready)?;
        if pod.spec.sidecar {
            pod.redirect()?;
            pod.start_sidecar()?;
        }
        Ok(pod)
    }

    /// Runs `job` in the network namespace with the bridge, which has no sidecar and reaches every pod.
    pub fn from_switch<T: Send + Default>(&self, job: impl FnOnce() -> T + Send) -> T {
        self.world.sandbox.within(None, job).unwrap_or_default()
    }

    fn wait_ready(&self, what: &str, address: SocketAddr, mut alive: impl FnMut() -> bool) -> Result<()> {
        let ready = || probe::get(address, "probe", "/ready").is_some_and(|answer| answer.status == 200);
        let mut gone = false;
        probe::wait_until(&format!("{what} being ready"), Duration::from_secs(20), || {
            gone = !alive();
            gone || self.from_switch(ready)
        })
        .map_err(|error| with_hint(error, &self.world.folder))?;
        if gone {
            let output = format!("it ended; see {}/logs", self.world.folder.display());
            return Err(Error::Command { what: what.to_owned(), output });
        }
        Ok(())
    }
}

fn with_hint(error: Error, folder: &Path) -> Error {
    match error {
        Error::Timeout { what, after, .. } => {
            Error::Timeout { what, after, hint: format!(" (see {}/logs)", folder.display()) }
        }
        other => other,
    }
}

fn control_plane_address() -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 255, 1)
}

impl World {
    fn add_network(&self, net: &str, v4: Ipv4Addr, v6: Ipv6Addr) -> Result<()> {
        let script = format!(
            "ip netns add {net}
             ip link add {net} type veth peer name eth0 netns {net}
             ip link set {net} master br0 up
             ip -n {net} link set lo up
             ip -n {net} addr add {v4}/16 dev eth0
             ip -n {net} -6 addr add {v6}/64 dev eth0 nodad
             ip -n {net} link set eth0 up
             ip -n {net} route add default via 10.244.0.1
             ip -n {net} -6 route add default via fd00:244::1"
        );
        self.sandbox.sh(None, &script).map(drop)
    }

    /// In place, since a running app has the file mounted.
    fn write_hosts(&self, folder: &Path, own: &str) -> Result<()> {
        let path = folder.join("hosts");
        fs::write(&path, format!("{own}{}", self.hosts.lock())).context(|| format!("writing {}", path.display()))
    }
}

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

    /// With one more environment variable for the sidecar.
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.sidecar_env.push((key.to_owned(), value.to_owned()));
        self
    }
}

/// A Service address as a pod without a sidecar reaches it.
#[derive(Debug, Clone)]
pub struct Vip {
    /// The Service's address and port.
    pub address: SocketAddr,
    /// Where it goes: addresses of the same family.
    pub targets: Vec<SocketAddr>,
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
        let mut command = vec![format!("{BIN}/weft-sidecar"), "redirect".to_owned()];
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
            fs::write(&token, self.join_token()?).context(|| format!("writing {}", token.display()))?;
            give(&token, SIDECAR_UID)?;
        }
        let PodSpec { name, namespace, service_account, .. } = &self.spec;
        let inside = |path: &Path| self.mesh.sandbox().inside(path).display().to_string();
        let command: Vec<String> = vec![
            format!("{BIN}/weft-sidecar"),
            "run".to_owned(),
            format!("--control-plane={}:{}", control_plane_address(), ports::DISCOVERY),
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

    fn join_token(&self) -> Result<String> {
        let mut command = self.mesh.sandbox().command(None);
        let user = CONTROL_PLANE_UID.to_string();
        command.args(["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups", "--"]);
        command.args([&format!("{BIN}/weft-control-plane"), "join-token", "--state-dir", "/run/weft/run/state"]);
        command.args(["--spiffe-id", &self.identity()]);
        output(command, "weft-control-plane join-token")
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

    /// Asks the sidecar's admin interface, which answers on loopback only.
    pub fn admin(&self, path: &str) -> Option<probe::Answer> {
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), ports::ADMIN);
        self.within(|| probe::get(address, "localhost", path)).ok().flatten()
    }

    /// The sum of a metric's samples whose labels contain all of `labels`.
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        crate::stats::metric(&self.admin("/metrics").map_or(String::new(), |answer| answer.text), name, labels)
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
        let program = format!("{BIN}/weft-e2e");
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
        let user = uid.to_string();
        command.args(["unshare", "--mount", "--propagation", "private", "--", "sh", "-ec", MOUNT, "sh"]);
        command.arg(self.mesh.sandbox().inside(&self.folder));
        command.args(["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups", "--"]);
        command.args(program.iter().map(AsRef::as_ref));
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
        probe::wait_until(&what, Duration::from_secs(15), || self.within(|| probe::accepts(local)).unwrap_or(false))
            .map_err(|error| with_hint(error, self.mesh.folder()))
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

    /// Replaces what Service addresses mean in this pod, which has no sidecar, by DNAT with even shares.
    ///
    /// # Errors
    /// When the rules are refused.
    pub fn set_vips(&self, vips: &[Vip]) -> Result<()> {
        let mut rules = String::new();
        for Vip { address, targets } in vips {
            let family = if address.is_ipv4() { "ip" } else { "ip6" };
            let shares: Vec<_> =
                targets.iter().enumerate().map(|(n, to)| format!("{n} : {} . {}", to.ip(), to.port())).collect();
            let _ = writeln!(
                rules,
                "add rule inet vips output {family} daddr {} tcp dport {} dnat {family} to numgen inc mod {} map {{ {} }}",
                address.ip(),
                address.port(),
                targets.len(),
                shares.join(", ")
            );
        }
        self.sh(&format!(
            "nft -f - <<'END'\ntable inet vips\ndelete table inet vips\nadd table inet vips\nadd chain inet vips output {{ type nat \
             hook output priority -100; }}\n{rules}END"
        ))
        .map(drop)
    }
}

fn give(path: &Path, uid: u32) -> Result<()> {
    chown(path, Some(uid), Some(uid)).context(|| format!("giving {} to user {uid}", path.display()))
}

/// Removes folders of runs that have ended. Their processes ended with them.
fn remove_stale(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let mut parts = name.rsplitn(3, '-');
        let pid = parts.nth(1).and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
