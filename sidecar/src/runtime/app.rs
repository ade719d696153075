//! Whether the app has ended, for a classic sidecar: kubelet tells both to end at once, and nobody tells us when the app is
//! through. But its sockets lie in the network namespace we share, and `/proc/net/tcp` lists them with their owners.
//!
//! A socket that has a descriptor (an inode) and another owner than us is the app's: it listens, serves, or is served. None
//! for [`QUIET`] is taken for its end. That is a guess for an app that says goodbye to somebody after longer silence; a
//! native sidecar needs none, for kubelet keeps the order.
//!
//! Bound: one line at a time; the first socket that is the app's ends the look.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::time::Duration;

/// No socket of the app for this long: it has ended.
const QUIET: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// `/proc/net/tcp`: the columns we read.
const UID: usize = 7;
const INODE: usize = 9;

/// Resolves when the app has no sockets any more. Where that cannot be seen it never does, and time is the limit.
pub(super) async fn gone() {
    let own = nix::unistd::geteuid().as_raw();
    let mut silent = Duration::ZERO;
    while silent < QUIET {
        match has_sockets(own) {
            Ok(true) => silent = Duration::ZERO,
            Ok(false) => silent += LOOK_EVERY,
            Err(error) => {
                tracing::warn!(%error, "cannot see whether the app has ended; staying for --drain-seconds");
                return std::future::pending().await;
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
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
        drop(listener);
    }
}
