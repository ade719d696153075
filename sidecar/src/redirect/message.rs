//! The kernel's words for the rules: nf_tables messages over netlink, written and read as plain bytes. No sockets here.
//!
//! Why our own: of the crates that speak nf_tables, `rustables` is GPL-3 and lacks `redirect`, `nftnl` links a C library
//! and `nlink` brings a whole network stack in its thirty-third breaking version. What a pod needs is seven expressions;
//! written out they are this file and `expression.rs`, and the image needs neither `nft` nor `iptables`. [`Ruleset`]'s
//! `Display` is the same thing as text, and an end-to-end test holds what `nft list table` reads back against it.
//!
//! A message is a netlink header (length, type, flags, sequence, port), an nfgenmsg header (family, version, resource
//! id) and attributes (length, type, value, padded to 4). Integers in headers are of the host's order, those in
//! attributes are big-endian. Numbers are from `linux/netfilter/nf_tables.h`.
//!
//! Bound: the number of rules is `rules.rs`'s, the size of one `expression.rs`'s. Reading never trusts a length.

use super::attributes::{Attributes, Iter, find, number, text};
use super::expression::{self, Expression, lower};
use super::rules::{Chain, Hook, Ruleset, TABLE};

const NFPROTO_INET: u8 = 1;
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
                attributes.nested(4, |list| lower(rule).iter().for_each(|step| expression::write(list, step)));
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
    let expressions = Iter::of(list).map(|(_, element)| expression::read(element)).collect();
    Some(InstalledRule { chain: text(find(attributes, 2)?), expressions })
}

#[cfg(test)]
mod tests;
