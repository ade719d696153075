//! A program that runs in a pod: its output goes to files, it ends with the value.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::Context;
use crate::{Error, Result};

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    /// The `nsenter` that waits for it.
    child: Child,
    /// The program itself, as seen from the host.
    pid: Pid,
    stdout: PathBuf,
    stderr: PathBuf,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` (an `nsenter` that forks), logs under `folder` as `NAME.log` and `NAME.err`, which
    /// processes of one name share.
    ///
    /// # Errors
    /// When a log cannot be opened or the command not started.
    pub fn start(mut command: Command, folder: &Path, name: &str) -> Result<Self> {
        let create = |suffix| {
            let path = folder.join(format!("{name}.{suffix}"));
            File::options()
                .create(true)
                .append(true)
                .open(&path)
                .context(|| format!("creating {}", path.display()))
                .map(|file| (path, file))
        };
        let (stdout, out) = create("log")?;
        let (stderr, err) = create("err")?;
        let mut child =
            command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().context(|| format!("starting {name}"))?;
        let deadline = Instant::now() + Duration::from_secs(5);
        let pid = loop {
            if let Some(pid) = only_child(child.id()) {
                break pid;
            }
            let ended = child.try_wait().ok().flatten();
            if ended.is_some() || Instant::now() > deadline {
                let output = std::fs::read_to_string(&stderr).unwrap_or_default();
                if let Some(status) = ended {
                    // Over before it could be looked at: still a process that ran.
                    let pid = Pid::from_raw(i32::MAX);
                    return Ok(Self { name: name.to_owned(), child, pid, stdout, stderr, status: Some(status) });
                }
                return Err(Error::Command { what: format!("starting {name}"), output });
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        Ok(Self { name: name.to_owned(), child, pid, stdout, stderr, status: None })
    }

    /// Its name, as in its logs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The program's process, as the host numbers it.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends a signal; to a process that has ended this does nothing.
    pub fn signal(&self, signal: Signal) {
        if self.status.is_none() {
            let _ = kill(self.pid, signal);
        }
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        let _ = self.wait(Duration::from_secs(5));
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status.is_none()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// [`Error::Timeout`] when it does not end in time.
    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.status {
                return Ok(status);
            }
            if Instant::now() > deadline {
                let hint = format!(" (see {})", self.stderr.display());
                return Err(Error::Timeout { what: format!("the end of {}", self.name), after: within, hint });
            }
            self.is_running();
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits for its end, which has to be a good one.
    ///
    /// # Errors
    /// When it fails, with what it said; or does not end.
    pub fn success(&mut self, within: Duration) -> Result<String> {
        let status = self.wait(within)?;
        if status.success() {
            return Ok(self.output());
        }
        Err(Error::Command { what: self.name.clone(), output: format!("{status}: {}{}", self.output(), self.errors()) })
    }

    /// What it wrote to standard output so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.stdout).unwrap_or_default()).into_owned()
    }

    /// What it wrote to standard error so far.
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.stderr).unwrap_or_default()).into_owned()
    }

    /// The file with its standard output.
    pub fn log(&self) -> &Path {
        &self.stdout
    }

    /// Resident memory in KiB; 0 when it has ended.
    pub fn rss_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse().ok()).unwrap_or(0)
    }

    /// Open descriptors; 0 when it has ended.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid)).map_or(0, Iterator::count)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running() {
            self.kill();
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// `nsenter --pid` forks once; everything after that is `exec`, so its child stays the program.
fn only_child(parent: u32) -> Option<Pid> {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok().map(Pid::from_raw)
}
