//! The control plane of a world, in a pod of its own without a sidecar, as a user of its own.
//!
//! It reads manifests from the world's folder where a cluster would give it an API server, and hands out join tokens
//! where a cluster would hand out service account tokens.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use weft_proto::{SIDECAR_UID, ports};

use super::world::{CONTROL_PLANE_UID, Mesh, as_user, give, program};
use crate::error::Context;
use crate::process::Process;
use crate::sandbox::output;
use crate::{Result, probe};

/// Its address, which no pod is given.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 244, 255, 1);

/// Where sidecars find it.
pub(super) fn discovery_address() -> SocketAddr {
    SocketAddr::new(ADDRESS.into(), ports::DISCOVERY)
}

fn admin_address() -> SocketAddr {
    SocketAddr::new(ADDRESS.into(), ports::CONTROL_PLANE_ADMIN)
}

impl Mesh {
    /// Starts the control plane in a pod of its own and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready within 20 s.
    pub fn start_control_plane(&self) -> Result<()> {
        const NET: &str = "control";
        if !self.world.sandbox.sh(None, "ls /run/netns")?.contains(NET) {
            self.world.add_network(NET, ADDRESS, Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 1, 1))?;
        }
        let mut command = self.world.sandbox.command(Some(NET));
        as_user(&mut command, CONTROL_PLANE_UID);
        command.args([&program("weft-control-plane"), "--source", "files"]);
        for (flag, sub) in [("--manifests", "manifests"), ("--status-dir", "status"), ("--state-dir", "state")] {
            command.args([flag, &format!("/run/weft/run/{sub}")]);
        }
        command.arg(format!("--discovery-address=0.0.0.0:{}", ports::DISCOVERY));
        command.arg(format!("--admin-address=0.0.0.0:{}", ports::CONTROL_PLANE_ADMIN));
        command.arg("--cluster-cidr=10.96.0.0/16,10.244.0.0/16,fd00:96::/64,fd00:244::/64");
        command.args(&self.world.options.control_plane_args);
        let process = Process::start(command, &self.world.folder.join("logs"), "control-plane")?;
        *self.world.control_plane.lock() = Some(process);
        let alive = || self.world.control_plane.lock().as_mut().is_some_and(Process::is_running);
        self.wait_ready("the control plane", admin_address(), alive)?;
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
        self.from_switch(|| probe::get(admin_address(), "control-plane", "/metrics"))
            .map_or(String::new(), |answer| answer.text)
    }

    /// A token with which a sidecar proves that it is `identity`.
    pub(super) fn join_token(&self, identity: &str) -> Result<String> {
        let mut command = self.sandbox().command(None);
        as_user(&mut command, CONTROL_PLANE_UID);
        command.args([&program("weft-control-plane"), "join-token", "--state-dir", "/run/weft/run/state"]);
        command.args(["--spiffe-id", identity]);
        output(command, "weft-control-plane join-token")
    }
}
