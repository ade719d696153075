//! Netlink attributes: length, type, value, padded to 4 bytes; some hold more attributes. Lengths and types are in the
//! host's order, numbers inside are big-endian. Reading never trusts a length.

/// Set in the type of an attribute that holds others.
const NESTED: u16 = 0x8000;
/// The bits of a type that are the type.
const TYPE: u16 = 0x3fff;

/// Attributes being written.
#[derive(Debug, Default)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.0.extend((4 + value.len() as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    pub(super) fn text(&mut self, kind: u16, value: &str) {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat());
    }

    pub(super) fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(super) fn nested(&mut self, kind: u16, inside: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        inside(&mut inner);
        self.bytes(kind | NESTED, &inner.0);
    }
}

/// Attributes, in order.
pub(super) struct Iter<'a>(&'a [u8]);

impl<'a> Iter<'a> {
    pub(super) fn of(attributes: &'a [u8]) -> Self {
        Self(attributes)
    }
}

impl<'a> Iterator for Iter<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = u16::from_ne_bytes(self.0.get(0..2)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(self.0.get(2..4)?.try_into().ok()?);
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & TYPE, value))
    }
}

pub(super) fn find(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    Iter(attributes).find(|&(found, _)| found == kind).map(|(_, value)| value)
}

pub(super) fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

pub(super) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}
