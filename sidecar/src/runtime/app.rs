//! Whether the app has ended, for a classic sidecar: kubelet tells both to end at once, and nobody tells us when the app is
//! through. But its sockets lie in the network namespace we share, and `/proc/net/tcp` lists them with their owners.
//!
//! A socket that has a descriptor (an inode) and another owner than us is the app's: it listens, serves, or is served. None
//! for [`QUIET`] is taken for its end. That is a guess for an app that says goodbye to somebody after longer silence; a
//! native sidecar needs none, for kubelet keeps the order.
//!
//! The list costs milliseconds, however short it is: the kernel walks the whole machine's table for it. How many sockets there
//! are (`/proc/net/sockstat`) is kept by the namespace and costs nothing, so the list is read when that changes, and every
//! [`LIST_EVERY`] in case one of ours took the place of one of the app's. Many pods may end at once.
//!
//! Bound: one line at a time; the first socket that is the app's ends the look.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::time::Duration;

use tokio::time::Instant;

/// No socket of the app for this long: it has ended.
const QUIET: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(100);
const LIST_EVERY: Duration = Duration::from_secs(1);
/// `/proc/net/tcp`: the columns we read.
const UID: usize = 7;
const INODE: usize = 9;

/// Resolves when the app has no sockets any more. Where that cannot be seen it never does, and time is the limit.
pub(super) async fn gone() {
    let own = nix::unistd::geteuid().as_raw();
    let mut last: Option<(Counts, Instant)> = None;
    // When it was first seen without any.
    let mut silent_since = None;
    loop {
        let (counts, now) = (counts(), Instant::now());
        if last.is_none_or(|(seen, at)| seen != counts || now >= at + LIST_EVERY) {
            match has_sockets(own) {
                Ok(true) => silent_since = None,
                Ok(false) => silent_since = silent_since.or(Some(now)),
                Err(error) => {
                    tracing::warn!(%error, "cannot see whether the app has ended; staying for --drain-seconds");
                    return std::future::pending().await;
                }
            }
            last = Some((counts, now));
        }
        if silent_since.is_some_and(|since| now >= since + QUIET) {
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// How many TCP sockets the namespace has, ours included, of IPv4 and of IPv6. `None`: not told, which never changes.
type Counts = [Option<u64>; 2];

fn counts() -> Counts {
    [("/proc/net/sockstat", "TCP: inuse "), ("/proc/net/sockstat6", "TCP6: inuse ")]
        .map(|(path, before)| in_use(&fs::read_to_string(path).ok()?, before))
}

fn in_use(sockstat: &str, before: &str) -> Option<u64> {
    let rest = sockstat.lines().find_map(|line| line.strip_prefix(before))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

fn has_sockets(own: u32) -> io::Result<bool> {
    for path in ["/proc/net/tcp", "/proc/net/tcp6"] {
        match File::open(path) {
            Ok(file) => {
                for line in BufReader::new(file).lines().skip(1) {
                    if is_apps(&line?, own) {
                        return Ok(true);
                    }
                }
            }
            // No IPv6 here.
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.ends_with('6') => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// Whether a line is a socket somebody else has open. Without an inode nobody has: it waits out its time, or to be accepted.
fn is_apps(line: &str, own: u32) -> bool {
    let mut columns = line.split_ascii_whitespace();
    let uid = columns.nth(UID).and_then(|uid| uid.parse::<u32>().ok());
    let inode = columns.nth(INODE - UID - 1).and_then(|inode| inode.parse::<u64>().ok());
    uid.is_some_and(|uid| uid != own) && inode.is_some_and(|inode| inode != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_with_a_descriptor_and_another_owner_is_the_apps() {
        let header = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
        for (what, line, expected) in [
            ("the header", header, false),
            (
                "its listener",
                "0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000  0 4711 1 0 100",
                true,
            ),
            (
                "root's",
                "0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0  0 4711 1 0 100",
                true,
            ),
            (
                "ours",
                "1: 0100007F:3A99 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1337  0 4712 1 0 100",
                false,
            ),
            (
                "time-wait",
                "2: 0100007F:1F90 0100007F:B0A4 06 00000000:00000000 03:00000B1D 00000000     0  0 0 3 0",
                false,
            ),
            ("cut", "2: 0100007F:1F90 0100007F:B0A4", false),
        ] {
            assert_eq!(is_apps(line, 1337), expected, "{what}");
        }
    }

    #[test]
    fn the_kernel_lists_them_as_we_read_them() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let own = nix::unistd::geteuid().as_raw();
        assert!(has_sockets(own + 1).unwrap(), "to anybody else, this test's listener is the app's");
        assert!(counts()[0].is_some_and(|sockets| sockets > 0), "{:?}", counts());
        drop(listener);
    }

    #[test]
    fn sockets_in_use_are_told_for_each_family() {
        let v4 = "sockets: used 41\nTCP: inuse 5 orphan 0 tw 3 alloc 9 mem 1\nUDP: inuse 2 mem 0\n";
        assert_eq!(in_use(v4, "TCP: inuse "), Some(5));
        assert_eq!(in_use("TCP6: inuse 7\nUDP6: inuse 1\n", "TCP6: inuse "), Some(7));
        assert_eq!([in_use("", "TCP: inuse "), in_use("TCP: inuse many", "TCP: inuse ")], [None, None]);
    }
}
