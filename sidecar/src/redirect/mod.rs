//! `weft-sidecar redirect`: sends a pod's traffic through the sidecar (SEMANTICS.md §1).
//!
//! Run once, as root with NET_ADMIN in the pod's network namespace, before the app starts: as an init container, or by
//! the end-to-end pods. The table `inet weft` is replaced as a whole in one transaction, so running it twice, or again
//! with other options, leaves no moment without rules and nothing left over; then it is read back from the kernel and
//! held against what was asked. Nothing outside that table is read or changed. `check.rs` is the other end: the sidecar,
//! which may not read rules, sees whether they act.
//!
//! `rules.rs` decides; `message.rs` is the kernel's language (a rule's steps are in `expression.rs`, the bytes of both in
//! `attributes.rs`); `kernel.rs` talks. All of it speaks netlink itself: the image needs neither `nft` nor `iptables`.

use std::io::{self, Write};
use std::net::IpAddr;

use ipnet::IpNet;
use nix::errno::Errno;

use self::kernel::Kernel;
use self::message::InstalledChain;
pub use self::rules::{Options, PortRange, Ruleset};

mod attributes;
pub mod check;
mod expression;
mod kernel;
mod message;
pub mod rules;

/// Programs the pod's traffic redirection.
#[derive(Debug, Clone, clap::Args)]
pub struct RedirectArgs {
    /// Take the redirection away.
    #[arg(long)]
    cleanup: bool,
    /// Print the rules as `nft -f` would take them, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Destination ports that the app reaches directly: 5432,9000-9010.
    #[arg(long, value_delimiter = ',', value_name = "PORTS", value_parser = Listed::ports, env = "WEFT_EXCLUDE_OUTBOUND_PORTS")]
    exclude_outbound_ports: Vec<Listed<PortRange>>,
    /// Destination addresses that the app reaches directly: 10.1.0.0/16,fd00:1::/32.
    #[arg(long, value_delimiter = ',', value_name = "CIDRS", value_parser = Listed::cidr, env = "WEFT_EXCLUDE_OUTBOUND_CIDRS")]
    exclude_outbound_cidrs: Vec<Listed<IpNet>>,
    /// Only these destination addresses go through the sidecar: 10.96.0.0/12. Default: all.
    #[arg(long, value_delimiter = ',', value_name = "CIDRS", value_parser = Listed::cidr, env = "WEFT_INCLUDE_OUTBOUND_CIDRS")]
    include_outbound_cidrs: Vec<Listed<IpNet>>,
    /// The app's ports that are reached directly: 9999.
    #[arg(long, value_delimiter = ',', value_name = "PORTS", value_parser = Listed::ports, env = "WEFT_EXCLUDE_INBOUND_PORTS")]
    exclude_inbound_ports: Vec<Listed<PortRange>>,
    /// The user the sidecar runs as; what it opens itself is not redirected.
    #[arg(long, default_value_t = 1337)]
    uid: u32,
}

/// Why the redirection is not in place.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    /// No CAP_NET_ADMIN here.
    #[error(
        "not permitted to program the pod's network: run as root with the NET_ADMIN capability \
         (securityContext.capabilities.add: [NET_ADMIN])"
    )]
    NotPermitted,
    /// The kernel lacks a part of nf_tables.
    #[error(
        "the node's kernel cannot redirect by nf_tables ({errno}): it needs nf_tables, nft_chain_nat and nft_redir \
         (modprobe nft_chain_nat nft_redir on the node)"
    )]
    NoKernelSupport {
        /// What it said.
        errno: Errno,
    },
    /// The kernel refused for another reason.
    #[error("the kernel refused the rules: {errno}")]
    Refused {
        /// What it said.
        errno: Errno,
    },
    /// The netlink socket failed.
    #[error("talking to the kernel by netlink failed: {errno}")]
    Socket {
        /// What it said.
        errno: Errno,
    },
    /// No answer.
    #[error("the kernel did not answer within 5 s: is netlink blocked by a seccomp profile?")]
    Silent,
    /// Read back, the rules are not those asked for.
    #[error(
        "the rules read back differ from those programmed ({found}): does something else manage table `inet weft`?"
    )]
    NotInstalled {
        /// What is there, in short.
        found: String,
    },
    /// After `--cleanup` the table is still there.
    #[error("table `inet weft` is still there after its removal: does something else manage it?")]
    NotRemoved,
    /// Too many exclusions.
    #[error(transparent)]
    TooManyExclusions(#[from] rules::TooManyExclusions),
    /// The report could not be written.
    #[error("writing to standard output failed: {0}")]
    Output(#[from] io::Error),
}

/// Does what `args` say and verifies it; one line on standard output tells what is true now.
///
/// # Errors
/// When the kernel refused, or holds something else afterwards. Nothing is half done: a refused transaction changes
/// nothing.
pub fn run(args: RedirectArgs) -> Result<(), RedirectError> {
    let mut out = io::stdout().lock();
    if args.cleanup {
        if args.dry_run {
            write!(out, "table inet {0}\ndelete table inet {0}\n", rules::TABLE)?;
            return Ok(());
        }
        cleanup()?;
        writeln!(out, "redirection removed")?;
        return Ok(());
    }
    let rules = Ruleset::new(&Options {
        uid: args.uid,
        exclude_outbound_ports: Listed::all(args.exclude_outbound_ports),
        exclude_outbound_cidrs: Listed::all(args.exclude_outbound_cidrs),
        include_outbound_cidrs: Listed::all(args.include_outbound_cidrs),
        exclude_inbound_ports: Listed::all(args.exclude_inbound_ports),
    })?;
    if args.dry_run {
        write!(out, "{rules}")?;
        return Ok(());
    }
    program(&rules)?;
    writeln!(out, "redirection in place: outbound to {}, inbound to {}", rules::OUTBOUND_PORT, rules::INBOUND_PORT)?;
    Ok(())
}

/// Puts `rules` in place of whatever table `inet weft` held, and reads them back.
///
/// # Errors
/// As for [`run`].
pub fn program(rules: &Ruleset) -> Result<(), RedirectError> {
    let kernel = Kernel::open()?;
    kernel.commit(&message::replace(rules))?;
    verify(rules, kernel.chains()?)
}

/// Removes the table, if it is there.
///
/// # Errors
/// As for [`run`].
pub fn cleanup() -> Result<(), RedirectError> {
    let kernel = Kernel::open()?;
    kernel.commit(&message::remove())?;
    if kernel.has_table()? { Err(RedirectError::NotRemoved) } else { Ok(()) }
}

fn verify(rules: &Ruleset, mut found: Vec<InstalledChain>) -> Result<(), RedirectError> {
    let mut expected: Vec<_> = rules.chains.iter().map(InstalledChain::of).collect();
    expected.sort_by(|a, b| a.name.cmp(&b.name));
    found.sort_by(|a, b| a.name.cmp(&b.name));
    if expected == found {
        return Ok(());
    }
    let found: Vec<_> = found.iter().map(|chain| format!("{}: {} rules", chain.name, chain.len())).collect();
    let found = if found.is_empty() { "no chains".to_owned() } else { found.join(", ") };
    Err(RedirectError::NotInstalled { found })
}

/// An entry of a list: nothing, where the list is given and empty (an annotation without a value).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Listed<T>(Option<T>);

impl<T> Listed<T> {
    fn parse<E>(text: &str, parse: impl FnOnce(&str) -> Result<T, E>) -> Result<Self, E> {
        let text = text.trim();
        if text.is_empty() { Ok(Self(None)) } else { parse(text).map(|entry| Self(Some(entry))) }
    }

    fn all(list: Vec<Self>) -> Vec<T> {
        list.into_iter().filter_map(|entry| entry.0).collect()
    }
}

impl Listed<PortRange> {
    fn ports(text: &str) -> Result<Self, rules::InvalidPortRange> {
        Self::parse(text, str::parse)
    }
}

impl Listed<IpNet> {
    /// `10.0.0.0/8`, or one address.
    fn cidr(text: &str) -> Result<Self, String> {
        Self::parse(text, |text| {
            text.parse::<IpNet>()
                .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
                .map_err(|_| format!("`{text}` is not an address range such as 10.0.0.0/8 or fd00::/8"))
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: RedirectArgs,
    }

    #[test]
    fn the_command_line_takes_lists_ranges_and_single_addresses() {
        let args = Command::try_parse_from([
            "redirect",
            "--exclude-outbound-ports=5432,9000-9010",
            "--exclude-outbound-cidrs=10.1.0.0/16,10.9.9.9,fd00::1",
            "--include-outbound-cidrs=10.0.0.0/8",
            "--exclude-inbound-ports=9999",
        ])
        .unwrap()
        .args;
        assert_eq!(args.uid, 1337);
        assert_eq!(Listed::all(args.include_outbound_cidrs), ["10.0.0.0/8".parse::<IpNet>().unwrap()]);
        assert_eq!(args.exclude_outbound_ports.len(), 2);
        let cidrs: Vec<_> = Listed::all(args.exclude_outbound_cidrs).iter().map(ToString::to_string).collect();
        assert_eq!(cidrs, ["10.1.0.0/16", "10.9.9.9/32", "fd00::1/128"]);
        // What injection sets for a pod without annotations.
        let empty = ["redirect", "--exclude-outbound-ports=", "--exclude-outbound-cidrs=", "--include-outbound-cidrs="];
        let args = Command::try_parse_from(empty).unwrap().args;
        assert!(Listed::all(args.exclude_outbound_ports).is_empty());
        assert!(Listed::all(args.include_outbound_cidrs).is_empty());
        for bad in ["--exclude-outbound-ports=0", "--exclude-outbound-cidrs=10.0.0.0/33", "--exclude-inbound-ports=a"] {
            assert!(Command::try_parse_from(["redirect", bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn rules_that_are_not_there_are_noticed() {
        let rules = Ruleset::new(&rules::tests::options()).unwrap();
        let installed: Vec<_> = rules.chains.iter().map(InstalledChain::of).collect();
        assert!(
            verify(&rules, installed.iter().rev().cloned().collect()).is_ok(),
            "the kernel's order of chains is free"
        );
        let message = verify(&rules, Vec::new()).unwrap_err().to_string();
        assert!(message.contains("no chains"), "{message}");
        let message = verify(&rules, installed[..1].to_vec()).unwrap_err().to_string();
        assert!(message.contains("output: 11 rules"), "{message}");
    }
}
