//! The machine below the cluster: its network, as kubelet and a person on the node see it; the processes of its pods; and its
//! own programs, which tests end and hold back.
//!
//! Bound: every question has a time limit.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::Cluster;
use crate::error::Context;
use crate::probe::{self, Answer};
use crate::{Error, Result};

/// Where etcd answers, to JSON as well.
const ETCD: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 12379);

/// Memory of a process, in KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// All that is resident.
    pub rss: u64,
    /// Of that, what no file could give back.
    pub anonymous: u64,
}

impl Cluster {
    /// Runs `job` on a thread of its own in the node's network: what it dials, it dials from there.
    ///
    /// # Errors
    /// When the node is gone.
    pub fn in_node<T: Send>(&self, job: impl FnOnce() -> T + Send) -> Result<T> {
        let path = self.proc_of_node()?.join("ns/net");
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

    /// A GET from the node; `None` when there is no HTTP answer.
    ///
    /// # Errors
    /// When the node is gone.
    pub fn get_from_node(&self, address: SocketAddr, path: &str) -> Result<Option<Answer>> {
        self.in_node(|| probe::get(address, &address.to_string(), path))
    }

    /// The kubeconfig of its administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("pki/admin.kubeconfig")
    }

    /// The processes in a pod whose program has this name, as this machine numbers them.
    pub fn processes_in_pod(&self, pod: &Value, program: &str) -> Vec<Pid> {
        let uid = pod.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or("no uid");
        let in_pod = |pid: &Pid| fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.contains(uid));
        processes(program).into_iter().filter(in_pod).collect()
    }

    /// What a process needs; nothing when it has ended.
    pub fn memory(pid: Pid) -> Memory {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let of = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse().ok()).unwrap_or(0)
        };
        Memory { rss: of("VmRSS:"), anonymous: of("RssAnon:") }
    }

    /// Ends one of the node's own programs (`kube-apiserver`, …) and keeps it from being begun again until
    /// [`Cluster::release`].
    ///
    /// # Errors
    /// When it does not run.
    pub fn hold(&self, program: &str) -> Result<()> {
        let holds = self.folder.join("hold");
        fs::create_dir_all(&holds)
            .and_then(|()| File::create(holds.join(program)))
            .context(|| format!("holding {program}"))?;
        // Not asked to end: an API server in good order takes itself out of Service `kubernetes` first, and kube-proxy, which
        // hears of its return only when it tries again, keeps all pods from it for up to half a minute longer.
        let pid = self.node_process(program)?;
        let _ = kill(pid, Signal::SIGKILL);
        probe::wait_until(&format!("the end of {program}"), Duration::from_secs(20), || kill(pid, None).is_err())
    }

    /// Lets it be begun again.
    pub fn release(&self, program: &str) {
        // One that is not held is what is wanted.
        let _ = fs::remove_file(self.folder.join("hold").join(program));
    }

    /// Waits until the API server says that it is ready.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn api_server_ready(&self, within: Duration) -> Result<()> {
        let ready = || self.kubectl(&["get", "--raw=/readyz", "--request-timeout=2s"]).is_ok();
        probe::wait_until("the API server's /readyz", within, ready)
    }

    /// Compacts etcd to where it is now, so that no watch can go on from what it had.
    ///
    /// # Errors
    /// When etcd does not do it.
    pub fn compact_etcd(&self) -> Result<()> {
        let status = self.etcd("/v3/maintenance/status", &json!({}))?;
        let revision = status.pointer("/header/revision").cloned().unwrap_or_default();
        self.etcd("/v3/kv/compaction", &json!({"revision": revision, "physical": true})).map(drop)
    }

    /// Removes an object behind the API server's back: `/registry/endpointslices/shop/reviews`.
    ///
    /// # Errors
    /// When there was none.
    pub fn remove_from_etcd(&self, key: &str) -> Result<()> {
        let answer = self.etcd("/v3/kv/deleterange", &json!({"key": BASE64.encode(key)}))?;
        if answer["deleted"].as_str() == Some("1") {
            return Ok(());
        }
        Err(Error::Command { what: format!("removing {key} from etcd"), output: answer.to_string() })
    }

    fn etcd(&self, path: &str, body: &Value) -> Result<Value> {
        let body = body.to_string();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: etcd\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            body.len()
        );
        let answer = self.in_node(|| probe::raw(ETCD, request.as_bytes(), Duration::from_secs(10)))?;
        let answer = answer.context(|| format!("asking etcd for {path}"))?;
        let text = String::from_utf8_lossy(&answer).into_owned();
        let json = text.split_once("\r\n\r\n").and_then(|(_, body)| body.find('{').map(|at| &body[at..]));
        let value = json.and_then(|json| serde_json::Deserializer::from_str(json).into_iter::<Value>().next()?.ok());
        match value {
            Some(value) if text.contains(" 200 ") => Ok(value),
            _ => Err(Error::Command { what: format!("etcd {path}"), output: text }),
        }
    }

    /// One of the node's own programs: in its network, and of that name.
    fn node_process(&self, program: &str) -> Result<Pid> {
        let network = fs::read_link(self.proc_of_node()?.join("ns/net")).context(|| "the node's network".to_owned())?;
        let on_node = |pid: &Pid| fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|found| found == network);
        processes(program)
            .into_iter()
            .find(on_node)
            .ok_or_else(|| Error::Missing(format!("{program} does not run on the node")))
    }

    fn proc_of_node(&self) -> Result<PathBuf> {
        let file = self.folder.join("node.pid");
        let pid = fs::read_to_string(&file).context(|| format!("reading {}", file.display()))?;
        Ok(PathBuf::from("/proc").join(pid.trim()))
    }
}

/// The processes of this machine whose program's file has this name.
fn processes(program: &str) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Pid::from_raw));
    pids.filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let first = line.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(first).rsplit('/').next() == Some(program)
    })
    .collect()
}
