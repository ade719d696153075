//! The kernel's words for the rules: nf_tables messages over netlink, written and read as plain bytes. No sockets here.
//!
//! Why our own: of the crates that speak nf_tables, `rustables` is GPL-3 and lacks `redirect`, `nftnl` links a C library
//! and `nlink` brings a whole network stack in its thirty-third breaking version. What a pod needs is seven expressions;
//! written out they are this file, and the image needs neither `nft` nor `iptables`. [`Ruleset`]'s `Display` is the same thing as
//! text, and an end-to-end test holds what `nft list table` reads back against it.
//!
//! A message is a netlink header (length, type, flags, sequence, port), an nfgenmsg header (family, version, resource
//! id) and attributes (length, type, value, padded to 4). Integers in headers are of the host's order, those in
//! attributes are big-endian. Numbers are from `linux/netfilter/nf_tables.h`.
//!
//! Bound: a rule is under 400 bytes, their number is bounded by `rules.rs`. Reading never trusts a length.

use ipnet::IpNet;

use super::attributes::{Attributes, Iter, find, number, text};
use super::rules::{Chain, Hook, Match, PortRange, Rule, Ruleset, TABLE, Verdict};

const NFPROTO_INET: u8 = 1;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const PRIORITY_DSTNAT: i32 = -100;
const POLICY_ACCEPT: u32 = 1;
const VERDICT_RETURN: i32 = -5;
/// The one 16-byte register all our expressions go through.
const REGISTER: u32 = 1;
const IFNAMSIZ: usize = 16;

/// What a message asks or tells, in nf_tables' numbering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    NewTable = 0,
    GetTable = 1,
    DeleteTable = 2,
    NewChain = 3,
    GetChain = 4,
    NewRule = 6,
    GetRule = 7,
}

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
struct Part {
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
enum Expression {
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

/// A chain as the kernel holds it; equal to [`InstalledChain::of`] when it is what we asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InstalledChain {
    pub(super) name: String,
    kind: String,
    hook: u32,
    priority: i32,
    policy: u32,
    rules: Vec<Vec<Expression>>,
}

impl InstalledChain {
    /// What the kernel must hold for `chain`.
    pub(super) fn of(chain: &Chain) -> Self {
        Self {
            name: chain.hook.name().to_owned(),
            kind: "nat".to_owned(),
            hook: hook_number(chain.hook),
            priority: PRIORITY_DSTNAT,
            policy: POLICY_ACCEPT,
            rules: chain.rules.iter().map(lower).collect(),
        }
    }

    /// Adds a rule read back for this chain.
    pub(super) fn push(&mut self, rule: InstalledRule) {
        self.rules.push(rule.expressions);
    }

    /// The number of rules.
    pub(super) fn len(&self) -> usize {
        self.rules.len()
    }
}

/// A rule as the kernel holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InstalledRule {
    pub(super) chain: String,
    expressions: Vec<Expression>,
}

fn hook_number(hook: Hook) -> u32 {
    match hook {
        Hook::Prerouting => 0,
        Hook::Output => 3,
    }
}

/// A rule in the kernel's steps.
fn lower(rule: &Rule) -> Vec<Expression> {
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

// ---- writing ----

/// Messages of one transaction, or one question.
#[derive(Debug)]
pub(super) struct Writer {
    bytes: Vec<u8>,
    sequence: u32,
}

impl Writer {
    fn new(sequence: u32) -> Self {
        Self { bytes: Vec::with_capacity(4096), sequence }
    }

    fn message(&mut self, kind: u16, flags: u16, family: u8, resource: u16, attributes: impl FnOnce(&mut Attributes)) {
        let mut body = Attributes::default();
        attributes(&mut body);
        let length = (16 + 4 + body.as_bytes().len()) as u32;
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | REQUEST).to_ne_bytes());
        self.bytes.extend(self.sequence.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        self.bytes.extend(body.as_bytes());
        self.sequence += 1;
    }

    fn nft(&mut self, kind: Kind, flags: u16, attributes: impl FnOnce(&mut Attributes)) {
        self.message(SUBSYSTEM << 8 | kind as u16, flags, NFPROTO_INET, 0, attributes);
    }

    /// Between these marks all happens or nothing does.
    fn batch(&mut self, messages: impl FnOnce(&mut Self)) {
        self.message(BATCH_BEGIN, 0, 0, SUBSYSTEM, |_| ());
        messages(self);
        self.message(BATCH_END, 0, 0, SUBSYSTEM, |_| ());
    }

    /// Adding first makes deleting safe when there was nothing: the table is gone either way, in the same stroke.
    fn without_table(&mut self, flags: u16) {
        self.nft(Kind::NewTable, CREATE, |table| table.text(1, TABLE));
        self.nft(Kind::DeleteTable, flags, |table| table.text(1, TABLE));
    }
}

/// A transaction, and the sequence number whose acknowledgement means that it was committed.
#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) bytes: Vec<u8>,
    pub(super) acknowledged_by: u32,
}

/// Replaces whatever the table held by `rules`.
pub(super) fn replace(rules: &Ruleset) -> Transaction {
    let mut writer = Writer::new(1);
    let mut acknowledged_by = 0;
    writer.batch(|writer| {
        writer.without_table(0);
        writer.nft(Kind::NewTable, CREATE, |table| table.text(1, TABLE));
        for chain in &rules.chains {
            writer.nft(Kind::NewChain, CREATE, |attributes| write_chain(attributes, &InstalledChain::of(chain)));
        }
        let mut all = rules.chains.iter().flat_map(|chain| chain.rules.iter().map(|rule| (chain.hook.name(), rule)));
        let mut next = all.next();
        while let Some((chain, rule)) = next {
            next = all.next();
            // Only the last is acknowledged: one answer instead of hundreds, and errors are always told.
            let ack = if next.is_none() { ACK } else { 0 };
            acknowledged_by = writer.sequence;
            writer.nft(Kind::NewRule, CREATE | APPEND | ack, |attributes| {
                attributes.text(1, TABLE);
                attributes.text(2, chain);
                attributes.nested(4, |list| lower(rule).iter().for_each(|step| write_expression(list, step)));
            });
        }
    });
    Transaction { bytes: writer.bytes, acknowledged_by }
}

/// Takes the table away, if there is one.
pub(super) fn remove() -> Transaction {
    let mut writer = Writer::new(1);
    let mut acknowledged_by = 0;
    writer.batch(|writer| {
        acknowledged_by = writer.sequence + 1;
        writer.without_table(ACK);
    });
    Transaction { bytes: writer.bytes, acknowledged_by }
}

/// Asks whether the table is there: answered by the table or by `ENOENT`.
pub(super) fn get_table() -> Vec<u8> {
    let mut writer = Writer::new(1);
    writer.nft(Kind::GetTable, ACK, |table| table.text(1, TABLE));
    writer.bytes
}

/// Asks for every chain of the family; the kernel filters no closer.
pub(super) fn dump_chains() -> Vec<u8> {
    let mut writer = Writer::new(1);
    writer.nft(Kind::GetChain, DUMP, |_| ());
    writer.bytes
}

/// Asks for every rule of our table.
pub(super) fn dump_rules() -> Vec<u8> {
    let mut writer = Writer::new(1);
    writer.nft(Kind::GetRule, DUMP, |rule| rule.text(1, TABLE));
    writer.bytes
}

fn write_chain(attributes: &mut Attributes, chain: &InstalledChain) {
    attributes.text(1, TABLE);
    attributes.text(3, &chain.name);
    attributes.nested(4, |hook| {
        hook.number(1, chain.hook);
        hook.number(2, chain.priority as u32);
    });
    attributes.number(5, chain.policy);
    attributes.text(7, &chain.kind);
}

fn write_expression(list: &mut Attributes, step: &Expression) {
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

// ---- reading ----

/// One message from the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    /// Message `sequence` failed with this errno, or went well (0).
    Result { sequence: u32, errno: i32 },
    /// The end of a dump.
    Done,
    /// A table, which is enough to know.
    Table,
    /// A chain of ours.
    Chain(InstalledChain),
    /// A rule of ours.
    Rule(InstalledRule),
    /// About another table, or nothing we asked for.
    Other,
}

/// Reads the messages of one datagram. What is cut short or malformed ends the reading: the caller then misses an
/// answer and says so.
pub(super) fn read(mut bytes: &[u8]) -> Vec<Reply> {
    let mut replies = Vec::new();
    while let Some((length, kind, sequence)) = read_header(bytes) {
        let Some(body) = bytes.get(16..length) else { break };
        replies.push(read_message(kind, sequence, body));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    replies
}

fn read_header(bytes: &[u8]) -> Option<(usize, u16, u32)> {
    let length = u32::from_ne_bytes(bytes.get(0..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let sequence = u32::from_ne_bytes(bytes.get(8..12)?.try_into().ok()?);
    (length >= 16).then_some((length, kind, sequence))
}

fn read_message(kind: u16, sequence: u32, body: &[u8]) -> Reply {
    const ERROR: u16 = 2;
    const DONE: u16 = 3;
    const NEW_TABLE: u16 = SUBSYSTEM << 8 | Kind::NewTable as u16;
    const NEW_CHAIN: u16 = SUBSYSTEM << 8 | Kind::NewChain as u16;
    const NEW_RULE: u16 = SUBSYSTEM << 8 | Kind::NewRule as u16;
    let attributes = body.get(4..).unwrap_or_default();
    match kind {
        ERROR => {
            let errno = body.get(0..4).and_then(|errno| errno.try_into().ok()).map_or(0, i32::from_ne_bytes);
            Reply::Result { sequence, errno: errno.saturating_neg() }
        }
        DONE => Reply::Done,
        NEW_TABLE => Reply::Table,
        NEW_CHAIN => read_chain(attributes).map_or(Reply::Other, Reply::Chain),
        NEW_RULE => read_rule(attributes).map_or(Reply::Other, Reply::Rule),
        _ => Reply::Other,
    }
}

fn read_chain(attributes: &[u8]) -> Option<InstalledChain> {
    (text(find(attributes, 1)?) == TABLE).then_some(())?;
    let hook = find(attributes, 4).unwrap_or_default();
    Some(InstalledChain {
        name: text(find(attributes, 3)?),
        kind: find(attributes, 7).map(text).unwrap_or_default(),
        hook: find(hook, 1).and_then(number)?,
        priority: find(hook, 2).and_then(number)? as i32,
        policy: find(attributes, 5).and_then(number)?,
        rules: Vec::new(),
    })
}

fn read_rule(attributes: &[u8]) -> Option<InstalledRule> {
    (text(find(attributes, 1)?) == TABLE).then_some(())?;
    let list = find(attributes, 4).unwrap_or_default();
    let expressions = Iter::of(list).map(|(_, element)| read_expression(element)).collect();
    Some(InstalledRule { chain: text(find(attributes, 2)?), expressions })
}

fn read_expression(element: &[u8]) -> Expression {
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

#[cfg(test)]
mod tests {
    use super::super::rules::Options;
    use super::super::rules::tests::options;
    use super::*;

    fn ruleset() -> Ruleset {
        Ruleset::new(&options()).unwrap()
    }

    #[test]
    fn what_is_written_reads_back_equal() {
        let transaction = replace(&ruleset());
        let mut chains: Vec<InstalledChain> = Vec::new();
        for reply in read(&transaction.bytes) {
            match reply {
                Reply::Chain(chain) => chains.push(chain),
                Reply::Rule(rule) => chains.iter_mut().find(|chain| chain.name == rule.chain).unwrap().push(rule),
                _ => {}
            }
        }
        let expected: Vec<_> = ruleset().chains.iter().map(InstalledChain::of).collect();
        assert_eq!(chains, expected);
    }

    #[test]
    fn only_the_last_message_of_a_transaction_asks_for_an_answer() {
        for transaction in [replace(&ruleset()), remove()] {
            let mut bytes = transaction.bytes.as_slice();
            let mut asking = Vec::new();
            let mut sequences = Vec::new();
            while let Some((length, _, sequence)) = read_header(bytes) {
                if u16::from_ne_bytes([bytes[6], bytes[7]]) & ACK != 0 {
                    asking.push(sequence);
                }
                sequences.push(sequence);
                bytes = &bytes[length..];
            }
            assert_eq!(asking, [transaction.acknowledged_by]);
            assert_eq!(sequences.last(), Some(&(transaction.acknowledged_by + 1)), "only the batch's end comes after");
        }
    }

    #[test]
    fn messages_and_attributes_are_aligned() {
        let mut bytes = replace(&ruleset()).bytes;
        assert_eq!(bytes.len() % 4, 0);
        assert!(bytes.len() < 16 * 1024, "{} bytes", bytes.len());
        // Cut anywhere, reading neither panics nor invents a rule that differs from one written.
        let whole = read(&bytes);
        while bytes.pop().is_some() {
            let part = read(&bytes);
            assert_eq!(part[..], whole[..part.len()]);
        }
    }

    #[test]
    fn a_rule_that_differs_in_anything_is_noticed() {
        let compiled = |options: &Options| -> Vec<_> {
            Ruleset::new(options).unwrap().chains.iter().map(InstalledChain::of).collect()
        };
        let expected = compiled(&options());
        for (what, changed) in [
            ("another uid", Options { uid: 1338, ..options() }),
            ("a range", Options { exclude_outbound_ports: vec!["9000-9011".parse().unwrap()], ..options() }),
            ("a prefix", Options { exclude_outbound_cidrs: vec!["192.168.0.0/17".parse().unwrap()], ..options() }),
            ("one rule less", Options { exclude_inbound_ports: vec![], ..options() }),
        ] {
            assert_ne!(compiled(&changed), expected, "{what}");
        }
    }

    #[test]
    fn errors_are_read_with_their_message() {
        let mut reply = Vec::new();
        reply.extend(36u32.to_ne_bytes());
        reply.extend(2u16.to_ne_bytes());
        reply.extend([0; 2]);
        reply.extend(7u32.to_ne_bytes());
        reply.extend([0; 4]);
        reply.extend((-1i32).to_ne_bytes());
        reply.resize(36, 0);
        assert_eq!(read(&reply), [Reply::Result { sequence: 7, errno: 1 }]);
    }

    #[test]
    fn nonsense_from_the_kernel_side_is_not_followed() {
        for bytes in [&[][..], &[0; 15], &[0; 64], &[0xff; 64], &[16, 0, 0, 0, 10], &[20, 0, 0, 0, 6, 10, 0, 0]] {
            let replies = read(bytes);
            assert!(replies.iter().all(|reply| !matches!(reply, Reply::Rule(_) | Reply::Chain(_))), "{bytes:?}");
        }
    }
}
