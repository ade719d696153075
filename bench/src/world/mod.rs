//! The pods of one case: for each subject a client and a server of its own, all on one bridge, all running at once; the one
//! whose turn it is works, the others are silent.
//!
//! Everything travels the same way for everybody: client pod → veth → bridge → veth → server pod. A sidecar gets its
//! traffic from the rules of `weft-sidecar redirect`, whoever's it is: same ports, same exempt user, same connection
//! tracking. So no subject has a shorter way through the kernel.

mod peers;
pub(crate) mod proof;
mod stage;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use weft_e2e::capture::Capture;
use weft_e2e::manifest;
use weft_e2e::{Mesh, MeshOptions, tools};

pub(crate) use peers::group;
pub(crate) use stage::Stage;

use crate::case::Case;
use crate::config::certificates::Authority;
use crate::error::{Context, Error, Result};
use crate::subject::Subject;

/// Where all pods live.
const NAMESPACE: &str = "bench";
/// The port of every Service.
const SERVICE_PORT: u16 = 80;
/// The port of every server.
const APP_PORT: u16 = 8080;
/// Where programs are, inside.
const BIN: &str = "/run/weft/bin";

/// What `memory` calls besides: services one address after another, each with endpoints one address after another.
pub(crate) mod many {
    use super::Ipv4Addr;

    pub(crate) const SERVICES: u32 = 1000;
    pub(crate) const ENDPOINTS: u32 = 5;
    pub(crate) const FIRST_VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 100, 0);
    pub(crate) const FIRST_ENDPOINT: Ipv4Addr = Ipv4Addr::new(10, 245, 1, 0);
    /// What the endpoints' addresses are part of: all of it is the one server pod.
    pub(crate) const ENDPOINTS_CIDR: &str = "10.245.0.0/16";

    pub(crate) fn vip(service: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(FIRST_VIP) + service)
    }

    pub(crate) fn endpoints(service: u32) -> impl Iterator<Item = Ipv4Addr> {
        let first = u32::from(FIRST_ENDPOINT) + service * ENDPOINTS;
        (first..first + ENDPOINTS).map(Ipv4Addr::from)
    }
}

/// The pods of one case.
pub(crate) struct World {
    pub(crate) case: Case,
    /// In the order they take turns.
    pub(crate) stages: Vec<Stage>,
    pub(crate) mesh: Mesh,
    authority: Authority,
    envoy: Option<PathBuf>,
}

/// One exchange through all of a stage, with [`proof::MARKER`] in it: an error while there is no good answer yet.
pub(crate) type Answers = fn(&Stage) -> Result<()>;

impl World {
    /// Starts everything and proves that it is as meant: every subject `answers`, and what shall be mutual TLS is.
    ///
    /// # Errors
    /// When something does not start, or is not as meant.
    pub(crate) fn start(case: Case, subjects: &[Subject], envoy: &Path, answers: Answers) -> Result<Self> {
        Self::start_with(MeshOptions::default(), case, subjects, envoy, answers)
    }

    /// The same with `options`.
    ///
    /// # Errors
    /// As for [`World::start`].
    pub(crate) fn start_with(
        options: MeshOptions,
        case: Case,
        subjects: &[Subject],
        envoy: &Path,
        answers: Answers,
    ) -> Result<Self> {
        let mesh = Mesh::with_options(&format!("bench-{}", case.name()), options)?;
        // What the bridge forwards is between two pods' sidecars: nobody has rules for it, so nobody looks at it.
        mesh.sandbox()
            .sh(None, "! [ -e /proc/sys/net/bridge ] || echo 0 > /proc/sys/net/bridge/bridge-nf-call-iptables")?;
        crate::interrupt::on_interrupt_remove(mesh.folder());
        mesh.manifests().write("namespace", &manifest::namespace(NAMESPACE))?;
        let strict = manifest::peer_authentication(NAMESPACE, "default", &manifest::labels([]), "STRICT");
        mesh.manifests().write("strict", &strict)?;
        if case == Case::Memory {
            mesh.manifests().write("many", &many_services())?;
        }
        mesh.start_control_plane()?;
        std::fs::create_dir_all(mesh.folder().join("peers")).context(|| "making the peers' folder".to_owned())?;
        let authority = Authority::open(&mesh.folder().join("state"))?;
        let mut world = Self { case, stages: Vec::new(), mesh, authority, envoy: None };
        world.bind("weft-bench", &tools::binary("weft-bench")?)?;
        if envoy.is_file() {
            world.bind("envoy", envoy)?;
            world.envoy = Some(envoy.to_owned());
        }
        // Before anybody says a word, or the beginning of a connection would be missed.
        let capture = Capture::start(&world.mesh, "proof")?;
        for spec in stage::specs(case, subjects) {
            let stage = Stage::start(&world, spec, answers)?;
            world.stages.push(stage);
        }
        proof::check(&world, capture.finish()?)?;
        Ok(world)
    }

    /// Makes a program of the host appear in [`BIN`].
    fn bind(&self, name: &str, program: &Path) -> Result<()> {
        let script = format!("touch {BIN}/{name} && mount -n --bind '{}' {BIN}/{name}", program.display());
        Ok(self.mesh.sandbox().sh(None, &script).map(drop)?)
    }

    /// Writes a peer's configuration; its path as the pods see it.
    fn config(&self, name: &str, text: &str) -> Result<String> {
        let file = self.mesh.folder().join("peers").join(name);
        std::fs::write(&file, text).context(|| format!("writing {}", file.display()))?;
        Ok(self.inside(&file))
    }

    fn inside(&self, file: &Path) -> String {
        self.mesh.sandbox().inside(file).display().to_string()
    }

    fn not_as_meant(&self, subject: Subject, what: impl Into<String>) -> Error {
        Error::NotAsMeant { case: self.case.name(), subject: subject.to_string(), what: what.into() }
    }
}

/// Services with slices of their own; their endpoints have no sidecar.
fn many_services() -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for service in 0..many::SERVICES {
        let name = format!("many-{service}");
        let addresses: Vec<_> =
            many::endpoints(service).map(|address| format!("  - addresses: [\"{address}\"]\n")).collect();
        let _ = write!(
            text,
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: {NAMESPACE}\nspec:\n  \
             clusterIP: {vip}\n  clusterIPs: [\"{vip}\"]\n  ports:\n    - name: http\n      port: {SERVICE_PORT}\n      \
             targetPort: {APP_PORT}\n      appProtocol: http\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-1\n  namespace: {NAMESPACE}\n  \
             labels:\n    kubernetes.io/service-name: {name}\naddressType: IPv4\nports:\n  - name: http\n    port: {APP_PORT}\n\
             endpoints:\n{endpoints}---\n",
            vip = many::vip(service),
            endpoints = addresses.concat()
        );
    }
    text
}
