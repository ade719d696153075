//! The world itself: a folder on the host, namespaces with a bridge, and what every pod is told of the others.
//!
//! A Service's addresses come from 10.96.0.0/16 and fd00:96::/64, a pod's from 10.244.0.0/16 and fd00:244::/64. There is
//! no DNS server: `hosts` of each pod lists every Service.
//!
//! Not here: what runs in the world (`control_plane.rs`, `pod.rs`).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::error::Context;
use crate::manifest::{Manifests, Port, Service};
use crate::process::Process;
use crate::sandbox::Sandbox;
use crate::{Error, Result, probe, tools};

/// The user the control plane runs as.
pub(super) const CONTROL_PLANE_UID: u32 = 65532;
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
    pub(super) world: Arc<World>,
}

/// What the handles share.
#[derive(Debug)]
pub(super) struct World {
    // Dropped first: a killed control plane is waited for before its namespaces go.
    pub(super) control_plane: Mutex<Option<Process>>,
    pub(super) sandbox: Sandbox,
    pub(super) options: MeshOptions,
    pub(super) folder: PathBuf,
    manifests: Manifests,
    next_pod: AtomicU16,
    next_vip: AtomicU16,
    /// What `/etc/hosts` says besides the pod itself.
    hosts: Mutex<String>,
    /// Each pod's folder and its own lines of `hosts`.
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

    /// Runs `job` in the network namespace with the bridge, which has no sidecar and reaches every pod.
    pub fn from_switch<T: Send + Default>(&self, job: impl FnOnce() -> T + Send) -> T {
        self.world.sandbox.within(None, job).unwrap_or_default()
    }

    /// Waits until `ready` says yes; a timeout tells where the logs are.
    pub(super) fn wait_until(&self, what: &str, within: Duration, ready: impl FnMut() -> bool) -> Result<()> {
        probe::wait_until(what, within, ready).map_err(|error| match error {
            Error::Timeout { what, after, .. } => {
                Error::Timeout { what, after, hint: format!(" (see {}/logs)", self.folder().display()) }
            }
            other => other,
        })
    }

    /// Waits until `what` says that it is ready at `address`, or is no longer `alive`.
    pub(super) fn wait_ready(&self, what: &str, address: SocketAddr, mut alive: impl FnMut() -> bool) -> Result<()> {
        let ready = || probe::get(address, "probe", "/ready").is_some_and(|answer| answer.status == 200);
        let mut gone = false;
        self.wait_until(&format!("{what} being ready"), Duration::from_secs(20), || {
            gone = !alive();
            gone || self.from_switch(ready)
        })?;
        if gone {
            let output = format!("it ended; see {}/logs", self.folder().display());
            return Err(Error::Command { what: what.to_owned(), output });
        }
        Ok(())
    }
}

impl World {
    /// A network namespace `net` with these addresses, on the bridge.
    pub(super) fn add_network(&self, net: &str, v4: Ipv4Addr, v6: Ipv6Addr) -> Result<()> {
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

    /// The number of the next pod: 2 and up.
    pub(super) fn next_pod(&self) -> u16 {
        self.next_pod.fetch_add(1, Ordering::Relaxed)
    }

    /// Keeps the `hosts` file in `folder` as the world's Services come: `own` lines first.
    pub(super) fn keep_hosts(&self, folder: &Path, own: String) -> Result<()> {
        self.write_hosts(folder, &own)?;
        self.pods.lock().push((folder.to_owned(), own));
        Ok(())
    }

    /// In place, since a running app has the file mounted.
    fn write_hosts(&self, folder: &Path, own: &str) -> Result<()> {
        let path = folder.join("hosts");
        fs::write(&path, format!("{own}{}", self.hosts.lock())).context(|| format!("writing {}", path.display()))
    }
}
/// Where a binary of this workspace is, inside.
pub(super) fn program(name: &str) -> String {
    format!("/run/weft/bin/{name}")
}

/// What follows in `command` runs as user `uid`.
pub(super) fn as_user(command: &mut Command, uid: u32) -> &mut Command {
    let uid = uid.to_string();
    command.args(["setpriv", "--reuid", &uid, "--regid", &uid, "--clear-groups", "--"])
}

/// Makes `path` belong to user `uid`.
pub(super) fn give(path: &Path, uid: u32) -> Result<()> {
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
