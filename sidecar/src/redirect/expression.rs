//! A rule in the kernel's machine: seven expressions, all through one register.
//!
//! [`lower`] turns a [`Rule`] into them, [`write`] and [`read`] put them into attributes and take them out again. What
//! the kernel holds and we would never write reads as [`Expression::Unknown`], so it equals none of ours.
//!
//! Numbers are from `linux/netfilter/nf_tables.h`. Bound: a rule is under 400 bytes.

use ipnet::IpNet;

use super::attributes::{Attributes, find, number, text};
use super::rules::{Match, PortRange, Rule, Verdict};

const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
const VERDICT_RETURN: i32 = -5;
/// The one 16-byte register all our expressions go through.
const REGISTER: u32 = 1;
const IFNAMSIZ: usize = 16;

/// What a packet is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meta {
    IifName = 6,
    OifName = 7,
    SocketUid = 10,
    Family = 15,
    Protocol = 16,
}

/// How a register is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compare {
    Equal = 0,
    NotEqual = 1,
    LessOrEqual = 3,
    GreaterOrEqual = 5,
}

/// A part of a header: which one, where, how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    base: u32,
    offset: u32,
    len: u32,
}

const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
const IPV4_DESTINATION: Part = Part { base: NETWORK, offset: 16, len: 4 };
const IPV6_DESTINATION: Part = Part { base: NETWORK, offset: 24, len: 16 };
const TCP_DESTINATION: Part = Part { base: TRANSPORT, offset: 2, len: 2 };

/// One step of a rule in the kernel's machine, all through the one register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expression {
    Meta(u32),
    Payload(Part),
    Mask(Vec<u8>),
    Compare(u32, Vec<u8>),
    Load(Vec<u8>),
    Redirect,
    Return,
    /// Read back from the kernel and none of ours.
    Unknown(String),
}

impl Expression {
    fn name(&self) -> &str {
        match self {
            Self::Meta(_) => "meta",
            Self::Payload(_) => "payload",
            Self::Mask(_) => "bitwise",
            Self::Compare(..) => "cmp",
            Self::Load(_) | Self::Return => "immediate",
            Self::Redirect => "redir",
            Self::Unknown(name) => name,
        }
    }
}

/// A rule in the kernel's steps.
pub(super) fn lower(rule: &Rule) -> Vec<Expression> {
    let mut steps = Vec::new();
    for condition in &rule.matches {
        lower_match(condition, &mut steps);
    }
    match rule.verdict {
        Verdict::Pass => steps.push(Expression::Return),
        Verdict::Redirect(port) => {
            steps.extend([Expression::Load(port.to_be_bytes().to_vec()), Expression::Redirect]);
        }
    }
    steps
}

fn lower_match(condition: &Match, steps: &mut Vec<Expression>) {
    let mut meta = |key: Meta, how: Compare, value: &[u8]| {
        steps.extend([Expression::Meta(key as u32), Expression::Compare(how as u32, value.to_vec())]);
    };
    match condition {
        Match::Tcp => meta(Meta::Protocol, Compare::Equal, &[IPPROTO_TCP]),
        Match::NotTcp => meta(Meta::Protocol, Compare::NotEqual, &[IPPROTO_TCP]),
        // The kernel loads the UID in the host's order.
        Match::Uid(uid) => meta(Meta::SocketUid, Compare::Equal, &uid.to_ne_bytes()),
        Match::ToLoopback => meta(Meta::OifName, Compare::Equal, &interface_name("lo")),
        Match::FromLoopback => meta(Meta::IifName, Compare::Equal, &interface_name("lo")),
        Match::To(IpNet::V4(range)) => {
            meta(Meta::Family, Compare::Equal, &[NFPROTO_IPV4]);
            steps.push(Expression::Payload(IPV4_DESTINATION));
            lower_range(&range.netmask().octets(), &range.network().octets(), steps);
        }
        Match::To(IpNet::V6(range)) => {
            meta(Meta::Family, Compare::Equal, &[NFPROTO_IPV6]);
            steps.push(Expression::Payload(IPV6_DESTINATION));
            lower_range(&range.netmask().octets(), &range.network().octets(), steps);
        }
        Match::Port(ports) => {
            steps.push(Expression::Payload(TCP_DESTINATION));
            lower_ports(*ports, steps);
        }
    }
}

/// A full mask is left out, as nft does, so that a listing shows an address and not a range of one.
fn lower_range(mask: &[u8], network: &[u8], steps: &mut Vec<Expression>) {
    if mask.iter().any(|&byte| byte != 0xff) {
        steps.push(Expression::Mask(mask.to_vec()));
    }
    steps.push(Expression::Compare(Compare::Equal as u32, network.to_vec()));
}

fn lower_ports(ports: PortRange, steps: &mut Vec<Expression>) {
    let (first, last) = (ports.first().to_be_bytes().to_vec(), ports.last().to_be_bytes().to_vec());
    if first == last {
        steps.push(Expression::Compare(Compare::Equal as u32, first));
    } else {
        steps.push(Expression::Compare(Compare::GreaterOrEqual as u32, first));
        steps.push(Expression::Compare(Compare::LessOrEqual as u32, last));
    }
}

fn interface_name(name: &str) -> [u8; IFNAMSIZ] {
    let mut padded = [0; IFNAMSIZ];
    for (to, from) in padded.iter_mut().zip(name.bytes().take(IFNAMSIZ - 1)) {
        *to = from;
    }
    padded
}

/// Adds `step` to a rule's list of expressions.
pub(super) fn write(list: &mut Attributes, step: &Expression) {
    let data = |attributes: &mut Attributes, kind, value: &[u8]| attributes.nested(kind, |data| data.bytes(1, value));
    list.nested(1, |element| {
        element.text(1, step.name());
        element.nested(2, |body| match step {
            Expression::Meta(key) => {
                body.number(1, REGISTER);
                body.number(2, *key);
            }
            Expression::Payload(part) => {
                body.number(1, REGISTER);
                body.number(2, part.base);
                body.number(3, part.offset);
                body.number(4, part.len);
            }
            Expression::Mask(mask) => {
                body.number(1, REGISTER);
                body.number(2, REGISTER);
                body.number(3, mask.len() as u32);
                data(body, 4, mask);
                data(body, 5, &vec![0; mask.len()]);
            }
            Expression::Compare(how, value) => {
                body.number(1, REGISTER);
                body.number(2, *how);
                data(body, 3, value);
            }
            Expression::Load(value) => {
                body.number(1, REGISTER);
                data(body, 2, value);
            }
            Expression::Return => {
                body.number(1, 0);
                body.nested(2, |data| data.nested(2, |verdict| verdict.number(1, VERDICT_RETURN as u32)));
            }
            Expression::Redirect => body.number(1, REGISTER),
            Expression::Unknown(_) => {}
        });
    });
}

/// Reads an element of a rule's list of expressions.
pub(super) fn read(element: &[u8]) -> Expression {
    let name = find(element, 1).map(text).unwrap_or_default();
    let body = find(element, 2).unwrap_or_default();
    read_known(&name, body).unwrap_or(Expression::Unknown(name))
}

/// `None` for an expression that we would never write, down to the register.
fn read_known(name: &str, body: &[u8]) -> Option<Expression> {
    let through_register = |kind| (find(body, kind).and_then(number) == Some(REGISTER)).then_some(());
    let data = |kind| find(find(body, kind)?, 1).map(<[u8]>::to_vec);
    match name {
        "meta" => {
            through_register(1)?;
            Some(Expression::Meta(number(find(body, 2)?)?))
        }
        "payload" => {
            through_register(1)?;
            let part = |kind| find(body, kind).and_then(number);
            Some(Expression::Payload(Part { base: part(2)?, offset: part(3)?, len: part(4)? }))
        }
        "bitwise" => {
            through_register(1)?;
            through_register(2)?;
            let plain_mask =
                data(5)?.iter().all(|&byte| byte == 0) && find(body, 6).is_none_or(|op| number(op) == Some(0));
            plain_mask.then(|| data(4)).flatten().map(Expression::Mask)
        }
        "cmp" => {
            through_register(1)?;
            Some(Expression::Compare(number(find(body, 2)?)?, data(3)?))
        }
        "immediate" => match find(find(body, 2)?, 2) {
            Some(verdict) => (number(find(verdict, 1)?)? == VERDICT_RETURN as u32).then_some(Expression::Return),
            None => {
                through_register(1)?;
                data(2).map(Expression::Load)
            }
        },
        "redir" => {
            through_register(1)?;
            Some(Expression::Redirect)
        }
        _ => None,
    }
}
