//! The binary: what it says of bad settings, the tokens it prints, and how it ends.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use weft_control_plane::identity::JoinTokens;

fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft-control-plane"));
    command.env_clear();
    command
}

#[test]
fn a_bad_start_names_every_bad_setting_and_touches_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let output = binary()
        .args(["run", "--certificate-ttl", "soon", "--state-dir"])
        .arg(&state)
        .env("WEFT_OUTBOUND_POLICY", "maybe")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    for part in
        ["3 settings are wrong", "--certificate-ttl: `soon`", "--outbound-policy: `maybe`", "--manifests: is required"]
    {
        assert!(said.contains(part), "{part:?} is not in:\n{said}");
    }
    assert!(!state.exists());
}

#[test]
fn a_join_token_is_the_only_thing_printed_and_proves_its_identity() {
    let directory = tempfile::tempdir().unwrap();
    let id = "spiffe://cluster.local/ns/shop/sa/web";
    let output =
        binary().args(["join-token", "--spiffe-id", id, "--state-dir"]).arg(directory.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let token = String::from_utf8(output.stdout).unwrap();
    let tokens = JoinTokens::open(directory.path()).unwrap();
    let now = SystemTime::now();
    assert_eq!(tokens.verify(token.trim(), now), Ok(id.parse().unwrap()));
    assert!(tokens.verify(token.trim(), now + Duration::from_secs(721 * 3600)).is_err(), "720 h by default");

    let own = "spiffe://cluster.local/ns/weft-system/sa/weft-control-plane";
    let refused =
        binary().args(["join-token", "--spiffe-id", own, "--state-dir"]).arg(directory.path()).output().unwrap();
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(2), 0));
}

#[test]
fn sigterm_ends_it_well_and_no_token_or_key_is_logged() {
    let directory = tempfile::tempdir().unwrap();
    let manifests = directory.path().join("manifests");
    std::fs::create_dir(&manifests).unwrap();
    let log = directory.path().join("log");
    let mut child = binary()
        .args(["--discovery-address", "127.0.0.1:0", "--admin-address", "127.0.0.1:0", "--log-format", "json"])
        .args(["--log-level", "trace", "--manifests"])
        .arg(&manifests)
        .arg("--state-dir")
        .arg(directory.path().join("state"))
        .stderr(Stdio::from(std::fs::File::create(&log).unwrap()))
        .spawn()
        .unwrap();
    let read = || std::fs::read_to_string(&log).unwrap();
    let until = std::time::Instant::now() + Duration::from_secs(30);
    while !read().contains("objects taken in") {
        assert!(std::time::Instant::now() < until && child.try_wait().unwrap().is_none(), "{}", read());
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let status = child.wait().unwrap();
    let log = read();
    assert!(status.success(), "{status}:\n{log}");
    assert!(!log.contains("PRIVATE KEY"));
    for line in log.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
}

/// A line of the log, as it is with `--log-format json`.
fn lines(log: &str) -> Vec<serde_json::Value> {
    log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[test]
fn a_storm_of_refused_connections_is_five_lines_and_a_number() {
    let directory = tempfile::tempdir().unwrap();
    let manifests = directory.path().join("manifests");
    std::fs::create_dir(&manifests).unwrap();
    let log = directory.path().join("log");
    let mut child = binary()
        .args(["--discovery-address", "127.0.0.1:0", "--admin-address", "127.0.0.1:0", "--log-format", "json"])
        .arg("--manifests")
        .arg(&manifests)
        .arg("--state-dir")
        .arg(directory.path().join("state"))
        .stderr(Stdio::from(std::fs::File::create(&log).unwrap()))
        .spawn()
        .unwrap();
    let read = || std::fs::read_to_string(&log).unwrap();
    let message = |line: &serde_json::Value| line["message"].as_str().unwrap_or_default().to_owned();
    let until = std::time::Instant::now() + Duration::from_secs(60);
    let mut find = |what: &str| loop {
        if let Some(line) = lines(&read()).into_iter().find(|line| message(line).contains(what)) {
            return line;
        }
        assert!(std::time::Instant::now() < until && child.try_wait().unwrap().is_none(), "{what}: {}", read());
        std::thread::sleep(Duration::from_millis(20));
    };
    let serving = find("serving");
    let address = serving["discovery_address"].as_str().unwrap();
    for _ in 0..40 {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        // Until it hangs up, with or without an alert.
        let _ = socket.read_to_end(&mut Vec::new());
    }
    let summary = find("more were refused for this reason within 10 s");
    assert_eq!((&summary["more"], &summary["reason"]), (&35.into(), &"handshake".into()));
    let refused = lines(&read()).iter().filter(|line| message(line) == "connection refused").count();
    assert_eq!(refused, 5, "{}", read());
    child.kill().unwrap();
    child.wait().unwrap();
}
