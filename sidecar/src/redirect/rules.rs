//! Decides the pod's redirection: options in, rules out, as plain data (SEMANTICS.md §1, rows "ports" and "redirect").
//!
//! One `inet` table holds both address families, so that IPv4 and IPv6 cannot drift apart. Two chains of type `nat`:
//! `output` sends what the app opens to the outbound listener, `prerouting` sends what reaches the pod to the inbound
//! one. A chain is a list of exceptions followed by one redirect, or by one for each range that alone is to be redirected;
//! the order is part of the meaning. One rule stands before the exceptions: it sends the sidecar's own question whether
//! the table is in force to its outbound listener (`check.rs`).
//!
//! Not here: how rules reach the kernel (`message.rs`, `kernel.rs`). Bound: [`MAX_EXCLUSIONS`] exceptions of the user's.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::str::FromStr;

use ipnet::IpNet;

/// The table Weft owns in the pod's namespace. Nothing else is ever touched.
pub const TABLE: &str = "weft";
/// Where the app's own connections go.
pub const OUTBOUND_PORT: u16 = 15001;
/// Where connections to the pod go.
pub const INBOUND_PORT: u16 = 15006;
/// The sidecar's own ports that are reached from outside the pod and must not be looped through it: metrics, health.
pub const OWN_PORTS: [u16; 2] = [15020, 15021];
/// Where the sidecar dials to see whether the redirection is in force (`check.rs`): loopback, so that it is there in any pod,
/// and an address of it that nobody else uses.
pub const CHECK: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 6), weft_proto::ports::REDIRECT_CHECK);
/// The most exclusions and inclusions accepted, ports and ranges together. A batch of that many rules still fits the default netlink
/// send buffer (208 KiB) twice over.
pub const MAX_EXCLUSIONS: usize = 256;

/// What the user chose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The sidecar's UID: what it opens itself is let through.
    pub uid: u32,
    /// Destination ports the app reaches directly.
    pub exclude_outbound_ports: Vec<PortRange>,
    /// Destination addresses the app reaches directly.
    pub exclude_outbound_cidrs: Vec<IpNet>,
    /// Only destinations in these ranges are redirected; none: all are. Exclusions come first.
    pub include_outbound_cidrs: Vec<IpNet>,
    /// Ports of the app that are reached directly.
    pub exclude_inbound_ports: Vec<PortRange>,
}

/// One port or an inclusive range of them: `80`, `9000-9010`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// A text that is no port or port range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a port (1-65535) or a range such as 9000-9010")]
pub struct InvalidPortRange(String);

impl PortRange {
    /// The lowest port of the range.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The highest port of the range, itself included.
    pub fn last(self) -> u16 {
        self.last
    }
}

impl From<u16> for PortRange {
    fn from(port: u16) -> Self {
        Self { first: port, last: port }
    }
}

impl FromStr for PortRange {
    type Err = InvalidPortRange;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let port = |text: &str| text.trim().parse::<u16>().ok().filter(|&port| port != 0);
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (port(first), port(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Self { first, last }),
            _ => Err(InvalidPortRange(text.to_owned())),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

/// One condition of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// The packet is TCP.
    Tcp,
    /// The packet is not TCP.
    NotTcp,
    /// The socket that sends belongs to this user.
    Uid(u32),
    /// It leaves by the loopback interface.
    ToLoopback,
    /// It came in by the loopback interface.
    FromLoopback,
    /// It goes to an address in this range.
    To(IpNet),
    /// It goes to a port in this range; follows [`Match::Tcp`].
    Port(PortRange),
}

/// What a rule does when all its matches hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Leave the packet as it is.
    Pass,
    /// Send it to this port of the pod itself.
    Redirect(u16),
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// All must hold.
    pub matches: Vec<Match>,
    /// What happens then.
    pub verdict: Verdict,
}

/// Where a chain hooks in. Both are of type `nat` with priority `dstnat` (-100) and policy accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// What the pod's own processes send.
    Output,
    /// What comes into the pod.
    Prerouting,
}

impl Hook {
    /// The chain's name, which is also nft's name for the hook.
    pub fn name(self) -> &'static str {
        match self {
            Self::Output => "output",
            Self::Prerouting => "prerouting",
        }
    }
}

/// A chain with its rules in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Where it hooks in.
    pub hook: Hook,
    /// The rules, first match wins.
    pub rules: Vec<Rule>,
}

/// Everything Weft programs in a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    /// The chains of table [`TABLE`].
    pub chains: Vec<Chain>,
}

/// More exclusions than the bound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{given} exclusions and inclusions given, at most {MAX_EXCLUSIONS} are accepted: use ranges such as 9000-9010 or wider CIDRs"
)]
pub struct TooManyExclusions {
    /// How many were given.
    pub given: usize,
}

impl Ruleset {
    /// The rules for `options`.
    ///
    /// # Errors
    /// When there are more exclusions than [`MAX_EXCLUSIONS`].
    pub fn new(options: &Options) -> Result<Self, TooManyExclusions> {
        let given = options.exclude_outbound_ports.len()
            + options.exclude_outbound_cidrs.len()
            + options.include_outbound_cidrs.len()
            + options.exclude_inbound_ports.len();
        if given > MAX_EXCLUSIONS {
            return Err(TooManyExclusions { given });
        }
        Ok(Self { chains: vec![output(options), prerouting(options)] })
    }
}

fn output(options: &Options) -> Chain {
    let pass = |matches| Rule { matches, verdict: Verdict::Pass };
    let mut rules = vec![
        // First, so that a DNS packet costs one comparison.
        pass(vec![Match::NotTcp]),
        Rule { matches: check(options.uid), verdict: Verdict::Redirect(OUTBOUND_PORT) },
        // What the sidecar opens itself; everything else of it follows from this line, or it would talk to itself.
        pass(vec![Match::Uid(options.uid)]),
        // The app talking to itself by its own address or by localhost stays untouched (SEMANTICS.md, "calls to self").
        pass(vec![Match::ToLoopback]),
        pass(vec![Match::To(IpNet::V4(loopback_v4()))]),
        pass(vec![Match::To(IpNet::V6(loopback_v6()))]),
    ];
    rules.extend(options.exclude_outbound_cidrs.iter().map(|range| pass(vec![Match::To(range.trunc())])));
    rules.extend(options.exclude_outbound_ports.iter().map(|&ports| pass(vec![Match::Tcp, Match::Port(ports)])));
    let redirect = |matches| Rule { matches, verdict: Verdict::Redirect(OUTBOUND_PORT) };
    if options.include_outbound_cidrs.is_empty() {
        rules.push(redirect(vec![Match::Tcp]));
    }
    rules.extend(
        options.include_outbound_cidrs.iter().map(|range| redirect(vec![Match::To(range.trunc()), Match::Tcp])),
    );
    Chain { hook: Hook::Output, rules }
}

/// Only the sidecar's own question: an app may use that address as it likes.
fn check(uid: u32) -> Vec<Match> {
    let address = IpNet::from(std::net::IpAddr::V4(*CHECK.ip()));
    vec![Match::Uid(uid), Match::To(address), Match::Tcp, Match::Port(PortRange::from(CHECK.port()))]
}

fn prerouting(options: &Options) -> Chain {
    let pass = |matches| Rule { matches, verdict: Verdict::Pass };
    let mut rules = vec![pass(vec![Match::NotTcp]), pass(vec![Match::FromLoopback])];
    let own = OWN_PORTS.into_iter().map(PortRange::from);
    let excluded = own.chain(options.exclude_inbound_ports.iter().copied());
    rules.extend(excluded.map(|ports| pass(vec![Match::Tcp, Match::Port(ports)])));
    rules.push(Rule { matches: vec![Match::Tcp], verdict: Verdict::Redirect(INBOUND_PORT) });
    Chain { hook: Hook::Prerouting, rules }
}

fn loopback_v4() -> ipnet::Ipv4Net {
    ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::new(127, 0, 0, 0), 8)
}

fn loopback_v6() -> ipnet::Ipv6Net {
    ipnet::Ipv6Net::new_assert(std::net::Ipv6Addr::LOCALHOST, 128)
}

/// The ruleset as `nft -f` takes it: what `--dry-run` prints, and word for word what a person would type to get the
/// same thing atomically.
impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{")?;
        for chain in &self.chains {
            let name = chain.hook.name();
            writeln!(f, "\tchain {name} {{\n\t\ttype nat hook {name} priority -100; policy accept;")?;
            for rule in &chain.rules {
                writeln!(f, "\t\t{rule}")?;
            }
            writeln!(f, "\t}}")?;
        }
        writeln!(f, "}}")
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for condition in &self.matches {
            write!(f, "{condition} ")?;
        }
        match self.verdict {
            Verdict::Pass => f.write_str("return"),
            Verdict::Redirect(port) => write!(f, "redirect to :{port}"),
        }
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("meta l4proto tcp"),
            Self::NotTcp => f.write_str("meta l4proto != tcp"),
            Self::Uid(uid) => write!(f, "meta skuid {uid}"),
            Self::ToLoopback => f.write_str("oifname \"lo\""),
            Self::FromLoopback => f.write_str("iifname \"lo\""),
            Self::To(IpNet::V4(range)) => write!(f, "ip daddr {range}"),
            Self::To(IpNet::V6(range)) => write!(f, "ip6 daddr {range}"),
            Self::Port(ports) => write!(f, "th dport {ports}"),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::redirect) fn options() -> Options {
        Options {
            uid: 1337,
            exclude_outbound_ports: vec!["5432".parse().unwrap(), "9000-9010".parse().unwrap()],
            exclude_outbound_cidrs: vec!["192.168.7.9/16".parse().unwrap(), "fd00:1::/32".parse().unwrap()],
            include_outbound_cidrs: vec![],
            exclude_inbound_ports: vec!["9999".parse().unwrap()],
        }
    }

    #[test]
    fn the_ruleset_reads_like_the_specification() {
        let text = Ruleset::new(&options()).unwrap().to_string();
        let expected = "\
table inet weft
delete table inet weft
table inet weft {
\tchain output {
\t\ttype nat hook output priority -100; policy accept;
\t\tmeta l4proto != tcp return
\t\tmeta skuid 1337 ip daddr 127.0.0.6/32 meta l4proto tcp th dport 15002 redirect to :15001
\t\tmeta skuid 1337 return
\t\toifname \"lo\" return
\t\tip daddr 127.0.0.0/8 return
\t\tip6 daddr ::1/128 return
\t\tip daddr 192.168.0.0/16 return
\t\tip6 daddr fd00:1::/32 return
\t\tmeta l4proto tcp th dport 5432 return
\t\tmeta l4proto tcp th dport 9000-9010 return
\t\tmeta l4proto tcp redirect to :15001
\t}
\tchain prerouting {
\t\ttype nat hook prerouting priority -100; policy accept;
\t\tmeta l4proto != tcp return
\t\tiifname \"lo\" return
\t\tmeta l4proto tcp th dport 15020 return
\t\tmeta l4proto tcp th dport 15021 return
\t\tmeta l4proto tcp th dport 9999 return
\t\tmeta l4proto tcp redirect to :15006
\t}
}
";
        assert_eq!(text, expected);
    }

    #[test]
    fn the_redirect_is_the_last_word_of_each_chain_and_all_before_it_but_the_check_is_let_through() {
        for chain in Ruleset::new(&options()).unwrap().chains {
            let (last, before) = chain.rules.split_last().unwrap();
            assert!(matches!(last.verdict, Verdict::Redirect(_)), "{chain:?}");
            let is_check = |rule: &Rule| rule.matches == check(1337);
            assert!(before.iter().all(|rule| rule.verdict == Verdict::Pass || is_check(rule)), "{chain:?}");
            assert!(
                before.iter().all(|rule| !rule.matches.is_empty()),
                "a rule without conditions stops all: {chain:?}"
            );
        }
    }

    #[test]
    fn where_ranges_are_included_nothing_else_is_redirected() {
        let included = ["10.96.0.0/12".parse().unwrap(), "fd00:2::7/64".parse().unwrap()];
        let text = Ruleset::new(&Options { include_outbound_cidrs: included.into(), ..options() }).unwrap().to_string();
        let end = "\
\t\tmeta l4proto tcp th dport 9000-9010 return
\t\tip daddr 10.96.0.0/12 meta l4proto tcp redirect to :15001
\t\tip6 daddr fd00:2::/64 meta l4proto tcp redirect to :15001
\t}
";
        assert!(text.contains(end), "{text}");
    }

    #[test]
    fn a_port_range_is_a_port_or_two_in_order() {
        for (text, expected) in [
            ("80", Some((80, 80))),
            ("9000-9010", Some((9000, 9010))),
            ("7 - 7", Some((7, 7))),
            ("65535", Some((65535, 65535))),
            ("0", None),
            ("65536", None),
            ("10-9", None),
            ("0-9", None),
            ("", None),
            ("-", None),
            ("1-2-3", None),
            ("http", None),
        ] {
            let parsed = text.parse::<PortRange>().ok().map(|range| (range.first(), range.last()));
            assert_eq!(parsed, expected, "{text}");
        }
    }

    #[test]
    fn exclusions_have_a_bound() {
        let many = Options { exclude_outbound_ports: vec![PortRange::from(1); MAX_EXCLUSIONS], ..options() };
        assert!(matches!(Ruleset::new(&many), Err(TooManyExclusions { .. })));
        let full = Options { exclude_outbound_cidrs: vec![], exclude_inbound_ports: vec![], ..many };
        assert!(Ruleset::new(&full).is_ok());
    }
}
