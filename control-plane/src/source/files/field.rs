//! Reading a tree by fields: every look at a field checks its type, remembers that the field is known, and can say what
//! is wrong with it by line and path. Decoders are written against this, so that none of them handles places itself
//! and one bad field does not hide the next.
//!
//! `null` is absence, as the API server has it. Bound: a flaw per field of a document at most, less duplicates.

use std::cell::RefCell;
#[cfg(test)]
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use super::tree::{Mark, Node, Value};
use crate::source::Severity;

/// One thing wrong in a document; its file and object are added by whoever knows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Flaw {
    pub(super) severity: Severity,
    pub(super) at: Mark,
    pub(super) field: String,
    pub(super) message: String,
}

/// What was found wrong so far. A place is blamed once for each severity: the first word is the most specific.
#[derive(Debug, Default)]
pub(super) struct Flaws {
    found: RefCell<Vec<Flaw>>,
    #[cfg(test)]
    pub(super) schema: RefCell<Schema>,
}

/// What the decoders know, noted as they say it: the reference is held against this (`decode/reference.rs`). Paths are
/// those of a schema: `[]` for each place in a list, `{port}` for a key that is a number.
#[cfg(test)]
#[derive(Debug, Default)]
pub(super) struct Schema {
    /// Each field of each mapping that was looked at, and whether it has an effect.
    pub(super) fields: BTreeMap<String, bool>,
    /// Fields that were there.
    pub(super) seen: BTreeSet<String>,
    /// Fields that are one of a few words, and those words.
    pub(super) words: BTreeMap<String, Vec<&'static str>>,
}

/// A path of a document as one of its schema.
#[cfg(test)]
fn shape(path: &str) -> String {
    let mut out = Vec::new();
    for part in path.split('.') {
        match part.split_once('[') {
            Some((name, _)) => out.push(format!("{name}[]")),
            None if part.parse::<u16>().is_ok() => out.push("{port}".to_owned()),
            None => out.push(part.to_owned()),
        }
    }
    out.join(".")
}

impl Flaws {
    pub(super) fn push(&self, severity: Severity, at: Mark, field: &str, message: String) {
        let mut flaws = self.found.borrow_mut();
        if !flaws.iter().any(|known| known.severity == severity && known.at == at && known.field == field) {
            flaws.push(Flaw { severity, at, field: field.to_owned(), message });
        }
    }

    pub(super) fn refused(&self) -> bool {
        self.found.borrow().iter().any(|flaw| flaw.severity == Severity::Error)
    }

    pub(super) fn into_vec(self) -> Vec<Flaw> {
        let mut flaws = self.found.into_inner();
        flaws.sort_by_key(|flaw| flaw.at);
        flaws
    }
}

/// A node, its path, and where to complain.
#[derive(Debug, Clone)]
pub(super) struct Field<'a> {
    node: &'a Node,
    /// The place of the key (or list item) rather than of the value.
    at: Mark,
    path: String,
    flaws: &'a Flaws,
}

impl<'a> Field<'a> {
    pub(super) fn root(node: &'a Node, path: String, flaws: &'a Flaws) -> Self {
        Self { node, at: node.at, path, flaws }
    }

    pub(super) fn node(&self) -> &'a Node {
        self.node
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn flaws(&self) -> &'a Flaws {
        self.flaws
    }

    /// The document cannot be used because of this field.
    pub(super) fn error(&self, message: impl Display) {
        self.flaws.push(Severity::Error, self.at, &self.path, message.to_string());
    }

    /// The document works; this field does not do what its author may think.
    pub(super) fn warn(&self, message: impl Display) {
        self.flaws.push(Severity::Warning, self.at, &self.path, message.to_string());
    }

    fn child_path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// A field of a mapping; absent where it is missing or `null`.
    pub(super) fn get(&self, key: &str) -> Option<Field<'a>> {
        let entry = self.node.get(key)?;
        if entry.value.value == Value::Null {
            return None;
        }
        Some(Field { node: &entry.value, at: entry.at, path: self.child_path(key), flaws: self.flaws })
    }

    /// A field that must be there. Its absence is blamed on the line of what should hold it.
    pub(super) fn require(&self, key: &str) -> Option<Field<'a>> {
        let field = self.get(key);
        if field.is_none() {
            self.missing(key, "is required");
        }
        field
    }

    /// Blames a field that is not there.
    pub(super) fn missing(&self, key: &str, message: impl Display) {
        self.flaws.push(Severity::Error, self.at, &self.child_path(key), message.to_string());
    }

    fn mistyped(&self, wanted: &str, hint: &str) {
        self.error(format_args!("must be {wanted}, not {}{hint}", self.node.describe()));
    }

    /// Its text.
    pub(super) fn text(&self) -> Option<&'a str> {
        match &self.node.value {
            Value::Str(text) => Some(text),
            Value::Bool(_) | Value::Int(_) | Value::Float(_) => {
                self.mistyped("a string", ": write it in quotes");
                None
            }
            _ => {
                self.mistyped("a string", "");
                None
            }
        }
    }

    /// Its integer.
    pub(super) fn int(&self) -> Option<i64> {
        match &self.node.value {
            Value::Int(value) => Some(*value),
            Value::Str(_) => {
                self.mistyped("an integer", ": write it without quotes or units");
                None
            }
            _ => {
                self.mistyped("an integer", "");
                None
            }
        }
    }

    /// Its integer, within a range.
    pub(super) fn int_in(&self, min: i64, max: i64) -> Option<i64> {
        let value = self.int()?;
        if (min..=max).contains(&value) {
            return Some(value);
        }
        self.error(format_args!("must be between {min} and {max}"));
        None
    }

    /// Its port number.
    pub(super) fn port(&self) -> Option<u16> {
        u16::try_from(self.int_in(1, 65_535)?).ok()
    }

    /// Its boolean.
    pub(super) fn bool(&self) -> Option<bool> {
        match &self.node.value {
            Value::Bool(value) => Some(*value),
            _ => {
                self.mistyped("true or false", "");
                None
            }
        }
    }

    /// Its text, one of a few.
    pub(super) fn one_of(&self, allowed: &[&'static str]) -> Option<&'static str> {
        #[cfg(test)]
        self.flaws.schema.borrow_mut().words.entry(shape(&self.path)).or_insert_with(|| allowed.to_vec());
        let text = self.text()?;
        let found = allowed.iter().find(|word| **word == text).copied();
        if found.is_none() {
            self.error(format_args!("must be one of {}, not {text:?}", allowed.join(", ")));
        }
        found
    }

    /// The items of its list.
    pub(super) fn items(&self) -> Vec<Field<'a>> {
        let Value::Seq(items) = &self.node.value else {
            self.mistyped("a list", "");
            return Vec::new();
        };
        items
            .iter()
            .enumerate()
            .map(|(i, node)| Field { node, at: node.at, path: format!("{}[{i}]", self.path), flaws: self.flaws })
            .collect()
    }

    /// The items of a list of at most `max`.
    pub(super) fn items_up_to(&self, max: usize) -> Vec<Field<'a>> {
        let items = self.items();
        if items.len() > max {
            self.error(format_args!("has {} entries, at most {max} are allowed", items.len()));
        }
        items
    }

    /// The items of a list field, none where it is absent.
    pub(super) fn list(&self, key: &str) -> Vec<Field<'a>> {
        self.get(key).map(|field| field.items()).unwrap_or_default()
    }

    /// The entries of its mapping.
    pub(super) fn entries(&self) -> Vec<(&'a str, Field<'a>)> {
        let Value::Map(entries) = &self.node.value else {
            self.mistyped("a mapping", "");
            return Vec::new();
        };
        entries
            .iter()
            .map(|entry| {
                // A key with dots of its own (a label's) is written in brackets, or its path could not be read.
                let path = if entry.key.contains(['.', '/']) {
                    format!("{}[{}]", self.path, entry.key)
                } else {
                    self.child_path(&entry.key)
                };
                (entry.key.as_str(), Field { node: &entry.value, at: entry.at, path, flaws: self.flaws })
            })
            .collect()
    }

    /// Checks that it is a mapping.
    pub(super) fn is_mapping(&self) -> bool {
        let is = matches!(self.node.value, Value::Map(_));
        if !is {
            self.mistyped("a mapping", "");
        }
        is
    }

    /// Checks that it is a mapping and warns of every field that is not among the `known`: for kinds whose schema is
    /// ours to keep. `later` names fields of the specification that this version does not do.
    pub(super) fn only(&self, known: &[&str], later: &[&str]) -> bool {
        if !self.is_mapping() {
            return false;
        }
        #[cfg(test)]
        self.note(known, later);
        for (key, field) in self.entries() {
            if later.contains(&key) {
                field.warn("is not done by this version and has no effect");
            } else if !known.contains(&key) {
                field.warn("unknown field, has no effect");
            }
        }
        true
    }
    #[cfg(test)]
    fn note(&self, known: &[&str], later: &[&str]) {
        let mut schema = self.flaws.schema.borrow_mut();
        for (names, effective) in [(known, true), (later, false)] {
            schema.fields.extend(names.iter().map(|name| (shape(&self.child_path(name)), effective)));
        }
        schema.seen.extend(self.entries().iter().map(|(_, field)| shape(&field.path)));
    }
}
