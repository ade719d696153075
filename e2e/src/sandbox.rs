//! The namespaces of one run.
//!
//! `unshare` makes PID, mount, IPC, UTS and network namespaces and starts their first process, a `cat` that reads a
//! pipe of ours. When this program ends, in whatever way, the pipe closes, `cat` ends, and the kernel kills everything
//! in the PID namespace and drops the mounts and links with it. That is the whole clean-up after a crash.
//!
//! Inside, `/run` is a fresh tmpfs: `/run/netns` for the pods' network namespaces (so `ip netns` never sees the
//! host's), `/run/weft/run` for this run's folder, `/run/weft/bin` for our binaries, `/run/weft/tmp` for anybody. So
//! the users in the pods need no access to the checkout.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use nix::sched::{CloneFlags, setns};

use crate::error::Context;
use crate::{Error, Result, tools};

/// `mount -n`, or it would keep its notes in the host's `/run/mount`. The bridge gets an address of its own, or it would
/// take a new one from its ports as they come, and pods would send to the old.
const SETUP: &str = r#"
set -e
mount -n --make-rprivate /
mount -n -t tmpfs -o mode=755 tmpfs /mnt
mkdir -p /mnt/netns /mnt/weft/bin /mnt/weft/run /mnt/weft/tmp
chmod 1777 /mnt/weft/tmp
mount -n --bind "$1" /mnt/weft/run
shift
for file in "$@"; do
  touch "/mnt/weft/bin/$(basename "$file")"
  mount -n --bind "$file" "/mnt/weft/bin/$(basename "$file")"
done
mount -n --move /mnt /run
ip link set lo up
ip link add br0 address 02:00:0a:f4:00:01 type bridge forward_delay 0 mcast_snooping 0
ip link set br0 up
ip addr add 10.244.0.1/16 dev br0
ip -6 addr add fd00:244::1/64 dev br0 nodad
echo ready
exec cat >/dev/null
"#;

/// The namespaces, alive as long as this value (or the program, whichever ends first).
#[derive(Debug)]
pub struct Sandbox {
    unshare: Child,
    /// Closing it ends everything inside.
    life: Option<ChildStdin>,
    folder: PathBuf,
}

impl Sandbox {
    /// Makes the namespaces. `folder` becomes `/run/weft/run` inside, `binaries` appear in `/run/weft/bin`.
    ///
    /// # Errors
    /// When not root, or when a tool is missing or fails.
    pub fn start(folder: &Path, binaries: &[PathBuf]) -> Result<Self> {
        tools::require(&tools::WORLD)?;
        let mut unshare = Command::new("unshare");
        unshare
            .args(["--fork", "--pid", "--mount-proc", "--mount", "--ipc", "--uts", "--net", "--kill-child=SIGKILL"])
            .args(["--", "sh", "-c", SETUP, "sh"])
            .arg(folder)
            .args(binaries)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        own_process_group(&mut unshare);
        let mut unshare = unshare.spawn().context(|| "starting unshare".to_owned())?;
        let life = unshare.stdin.take();
        let mut line = String::new();
        if let Some(stdout) = unshare.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).context(|| "waiting for the namespaces".to_owned())?;
        }
        if line.trim() != "ready" {
            drop(life);
            let output = unshare.wait_with_output().context(|| "unshare".to_owned())?;
            let output = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(Error::Command { what: "making namespaces".to_owned(), output });
        }
        Ok(Self { unshare, life, folder: folder.to_owned() })
    }

    /// This run's folder, on the host.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A path of the run's folder, as it is seen inside.
    pub fn inside(&self, path: &Path) -> PathBuf {
        match path.strip_prefix(&self.folder) {
            Ok(rest) => Path::new("/run/weft/run").join(rest),
            Err(_) => path.to_owned(),
        }
    }

    /// A command that runs inside: in network namespace `net`, or in the one with the bridge.
    pub fn command(&self, net: Option<&str>) -> Command {
        let namespaces = format!("/proc/{}/ns", self.unshare.id());
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.net_path(net).display()))
            .arg(format!("--ipc={namespaces}/ipc"))
            .arg(format!("--uts={namespaces}/uts"))
            .arg(format!("--pid={namespaces}/pid_for_children"))
            .arg(format!("--mount={namespaces}/mnt"))
            .arg("--");
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        own_process_group(&mut command);
        command
    }

    /// Runs a shell script as root inside, to its end; its output.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn sh(&self, net: Option<&str>, script: &str) -> Result<String> {
        let mut command = self.command(net);
        command.args(["sh", "-ec", script]);
        output(command, script)
    }

    /// Runs `job` on a thread of its own inside network namespace `net`: what it dials, it dials from there. Its file
    /// system stays the host's.
    ///
    /// # Errors
    /// When the namespace is gone.
    pub fn within<T: Send>(&self, net: Option<&str>, job: impl FnOnce() -> T + Send) -> Result<T> {
        let path = self.net_path(net);
        let namespace = File::open(&path).context(|| format!("opening {}", path.display()))?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || match setns(namespace, CloneFlags::CLONE_NEWNET) {
                Ok(()) => Ok(job()),
                Err(errno) => Err(Error::Io { what: format!("entering {}", path.display()), error: errno.into() }),
            });
            match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// What a person types before a command to run it in network namespace `net`.
    pub fn enter(&self, net: &str) -> String {
        format!("nsenter --net={}", self.net_path(Some(net)).display())
    }

    fn net_path(&self, net: Option<&str>) -> PathBuf {
        let process = Path::new("/proc").join(self.unshare.id().to_string());
        match net {
            Some(name) => process.join("root/run/netns").join(name),
            None => process.join("ns/net"),
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        drop(self.life.take());
        // `cat` ends by itself; should it not, `--kill-child` takes it with its parent.
        for _ in 0..200 {
            if !matches!(self.unshare.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

/// Ctrl-C in a terminal goes to the foreground group: ours decides when the others end.
fn own_process_group(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    command.process_group(0);
}

/// Runs to the end, output as text.
pub(crate) fn output(mut command: Command, what: &str) -> Result<String> {
    let what = || what.trim().lines().next().unwrap_or_default().to_owned();
    let output = command.stdin(Stdio::null()).output().context(what)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = format!("{}: {}", output.status, String::from_utf8_lossy(&said).trim());
    Err(Error::Command { what: what(), output: said })
}
