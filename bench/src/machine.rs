//! Where and with what a run was made.

use std::fs;
use std::path::Path;
use std::process::Command;

use time::OffsetDateTime;
use weft_e2e::tools;

/// Facts for the head of the report, as (what, value).
#[derive(Debug)]
pub(crate) struct Machine(pub(crate) Vec<(&'static str, String)>);

impl Machine {
    /// Asks the machine and every program. What does not say is said to be unknown.
    pub(crate) fn look(envoy: &Path) -> Self {
        let now = OffsetDateTime::now_utc();
        let sidecar = tools::binary("weft-sidecar").unwrap_or_default();
        Self(vec![
            ("date", format!("{} {:02}:{:02} UTC", now.date(), now.hour(), now.minute())),
            ("CPU", field("/proc/cpuinfo", "model name").unwrap_or_else(unknown)),
            ("cores", cores()),
            ("virtual machine", if is_virtual() { "yes" } else { "no" }.to_owned()),
            ("memory", memory()),
            ("kernel", file("/proc/sys/kernel/osrelease")),
            ("Weft", format!("{}, commit {}", said(&sidecar, &["--version"]), commit())),
            ("Envoy", said(envoy, &["--version"])),
            ("HAProxy", said(&program("haproxy"), &["-v"])),
            ("nginx", said(&program("nginx"), &["-v"])),
            ("wrk", said(&program("wrk"), &["-v"])),
            ("h2load", said(&program("h2load"), &["--version"])),
        ])
    }
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn file(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| unknown(), |text| text.trim().to_owned())
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn cores() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    text.lines().filter(|line| line.starts_with("processor")).count().to_string()
}

fn is_virtual() -> bool {
    field("/proc/cpuinfo", "flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"))
}

fn memory() -> String {
    let kib = field("/proc/meminfo", "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    kib.map_or_else(unknown, |kib| format!("{:.0} GiB", kib as f64 / f64::from(1 << 20)))
}

fn program(name: &str) -> std::path::PathBuf {
    tools::find(name).unwrap_or_default()
}

/// The first line a program says, on either stream, with something in it. `wrk -v` fails and says it all the same.
fn said(program: &Path, args: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(args).output() else { return unknown() };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("unknown");
    let line = line.split(" Copyright").next().unwrap_or(line);
    // Envoy's begins with its own path.
    line.rsplit_once("version: ").map_or(line, |(_, rest)| rest).chars().take(100).collect()
}

fn commit() -> String {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=10", "HEAD"]) else { return unknown() };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|files| !files.is_empty());
    if changed { format!("{commit} with changes") } else { commit }
}
