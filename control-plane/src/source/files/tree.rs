//! One YAML document as a tree in which every node knows its line: what lets an error name the place.
//!
//! Plain scalars mean what `kubectl` takes them to mean (YAML 1.1 booleans such as `yes` and `on`, octal `0644`), for a
//! manifest must not mean one thing here and another in a cluster. Aliases and merge keys (`<<`) are expanded.
//! Bound: [`MAX_NODES`] nodes, expanded aliases counted, and [`MAX_DEPTH`] levels, so that a bomb of aliases is an
//! error of its own document.

use std::collections::HashMap;
use std::hash::Hasher;

use serde_saphyr::granit_parser::{Event, Marker, Parser, ScalarStyle, StrInput, Tag};
use xxhash_rust::xxh3::Xxh3;

/// Most nodes of one document.
pub(crate) const MAX_NODES: usize = 200_000;
/// Most levels of nesting.
pub(crate) const MAX_DEPTH: usize = 64;

/// A place in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Mark {
    /// From 1.
    pub(crate) line: u32,
    /// From 1.
    pub(crate) column: u32,
}

/// A value and where it begins.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) at: Mark,
    pub(crate) value: Value,
}

/// What a node holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    Seq(Vec<Node>),
    Map(Vec<Entry>),
}

/// One entry of a mapping; keys are unique.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    /// Where the key stands: a field's place is its key's, wherever its value begins.
    pub(crate) at: Mark,
    pub(crate) value: Node,
}

/// Text that is not YAML, or not YAML that Kubernetes reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct SyntaxError {
    pub(crate) at: Mark,
    pub(crate) message: String,
}

impl Node {
    /// The value of a field, if this is a mapping that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// The text of a field, if it has that field and it is text.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        match &self.get(key)?.value.value {
            Value::Str(text) => Some(text),
            _ => None,
        }
    }

    /// What it is, in a user's words.
    pub(crate) fn describe(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Int(_) => "an integer",
            Value::Float(_) => "a number",
            Value::Str(_) => "a string",
            Value::Seq(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// A hash of the content below `skip`ped top-level keys: places, order of keys and spelling do not matter.
    pub(crate) fn digest(&self, skip: &[&str]) -> u128 {
        let mut hasher = Xxh3::new();
        self.hash_into(&mut hasher, skip);
        hasher.digest128()
    }

    fn hash_into(&self, hasher: &mut Xxh3, skip: &[&str]) {
        let text = |hasher: &mut Xxh3, text: &str| {
            hasher.write_usize(text.len());
            hasher.write(text.as_bytes());
        };
        match &self.value {
            Value::Null => hasher.write_u8(0),
            Value::Bool(value) => hasher.write(&[1, u8::from(*value)]),
            Value::Int(value) => {
                hasher.write_u8(2);
                hasher.write_i64(*value);
            }
            Value::Float(value) => {
                hasher.write_u8(3);
                hasher.write_u64(value.to_bits());
            }
            Value::Str(value) => {
                hasher.write_u8(4);
                text(hasher, value);
            }
            Value::Seq(items) => {
                hasher.write_u8(5);
                hasher.write_usize(items.len());
                items.iter().for_each(|item| item.hash_into(hasher, &[]));
            }
            Value::Map(entries) => {
                hasher.write_u8(6);
                let mut entries: Vec<_> = entries.iter().filter(|entry| !skip.contains(&entry.key.as_str())).collect();
                entries.sort_unstable_by(|a, b| a.key.cmp(&b.key));
                hasher.write_usize(entries.len());
                for entry in entries {
                    text(hasher, &entry.key);
                    entry.value.hash_into(hasher, &[]);
                }
            }
        }
    }

    /// How many nodes it holds, keys counted, and on how many levels.
    fn extent(&self) -> (usize, usize) {
        let below = |extents: &mut dyn Iterator<Item = (usize, usize)>| {
            let (size, levels) = extents.fold((0, 0), |all, one| (all.0 + one.0, all.1.max(one.1)));
            (size + 1, levels + 1)
        };
        match &self.value {
            Value::Seq(items) => below(&mut items.iter().map(Node::extent)),
            Value::Map(entries) => below(&mut entries.iter().map(|entry| {
                let (size, levels) = entry.value.extent();
                (size + 1, levels)
            })),
            _ => (1, 1),
        }
    }
}

/// Parses one document whose first line is line `first_line` of its file.
pub(crate) fn parse(text: &str, first_line: u32) -> Result<Node, SyntaxError> {
    let mut builder = Builder {
        parser: Parser::new_from_str(text),
        first_line,
        nodes: 0,
        anchors: HashMap::new(),
        last: Mark::default(),
    };
    loop {
        match builder.next()? {
            (Event::StreamStart | Event::DocumentStart(..) | Event::Comment(..), _) => {}
            (
                event @ (Event::Scalar(..) | Event::SequenceStart(..) | Event::MappingStart(..) | Event::Alias(_)),
                at,
            ) => {
                let node = builder.node(event, at, 0)?;
                // Read on: what follows the root may still be an error, such as a key less indented than the first.
                loop {
                    match builder.next()? {
                        (Event::StreamEnd, _) => return Ok(node),
                        (Event::DocumentEnd | Event::Comment(..), _) => {}
                        (_, at) => return Err(SyntaxError { at, message: "more content behind the document".into() }),
                    }
                }
            }
            (_, at) => return Ok(Node { at, value: Value::Null }),
        }
    }
}

struct Builder<'a> {
    parser: Parser<'a, StrInput<'a>>,
    first_line: u32,
    nodes: usize,
    anchors: HashMap<usize, Node>,
    last: Mark,
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Mark), SyntaxError> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => {
                self.last = self.mark(&span.start);
                Ok((event, self.last))
            }
            Some(Err(error)) => Err(SyntaxError { at: self.mark(error.marker()), message: error.info() }),
            None => Err(SyntaxError { at: self.last, message: "the document ends too early".into() }),
        }
    }

    fn mark(&self, marker: &Marker) -> Mark {
        let saturate = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Mark {
            line: saturate(marker.line().saturating_sub(1)).saturating_add(self.first_line),
            column: saturate(marker.col()).saturating_add(1),
        }
    }

    fn spend(&mut self, nodes: usize, at: Mark) -> Result<(), SyntaxError> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MAX_NODES {
            return Err(SyntaxError { at, message: format!("more than {MAX_NODES} values in one document") });
        }
        Ok(())
    }

    fn node(&mut self, event: Event<'a>, at: Mark, depth: usize) -> Result<Node, SyntaxError> {
        check_depth(depth, at)?;
        self.spend(1, at)?;
        let (value, anchor) = match event {
            Event::Alias(id) => {
                // An alias inside the very node it names has no value yet: it would be a cycle.
                let Some(node) = self.anchors.get(&id).cloned() else {
                    return Err(SyntaxError { at, message: "an alias inside what it stands for".into() });
                };
                let (size, levels) = node.extent();
                self.spend(size, at)?;
                // Expanded, it may be deeper than anything that was written down.
                check_depth(depth + levels, at)?;
                return Ok(node);
            }
            Event::Scalar(text, style, anchor, tag) => (scalar(&text, style, tag.as_deref(), at)?, anchor),
            Event::SequenceStart(_, anchor, tag) => {
                refuse_tag(tag.as_deref(), at)?;
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break,
                        (Event::Comment(..), _) => {}
                        (event, at) => items.push(self.node(event, at, depth + 1)?),
                    }
                }
                (Value::Seq(items), anchor)
            }
            Event::MappingStart(_, anchor, tag) => {
                refuse_tag(tag.as_deref(), at)?;
                (Value::Map(self.mapping(depth)?), anchor)
            }
            _ => return Err(SyntaxError { at, message: "a value was expected here".into() }),
        };
        let node = Node { at, value };
        if anchor != 0 {
            self.spend(node.extent().0, at)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn mapping(&mut self, depth: usize) -> Result<Vec<Entry>, SyntaxError> {
        let mut entries: Vec<Entry> = Vec::new();
        // Where each key stands, so that a wide mapping (a ConfigMap) is not searched for every key.
        let mut places: HashMap<String, u32> = HashMap::new();
        let mut merged: Vec<Node> = Vec::new();
        loop {
            let (key, at, plain) = match self.next()? {
                (Event::MappingEnd, _) => break,
                (Event::Comment(..), _) => continue,
                (Event::Scalar(key, style, ..), at) => (key.into_owned(), at, style == ScalarStyle::Plain),
                (event, at) => match self.node(event, at, depth + 1)? {
                    Node { value: Value::Str(key), .. } => (key, at, false),
                    _ => return Err(SyntaxError { at, message: "a key must be a string".into() }),
                },
            };
            let value = loop {
                match self.next()? {
                    (Event::Comment(..), _) => {}
                    (event, at) => break self.node(event, at, depth + 1)?,
                }
            };
            if plain && key == "<<" {
                merged.push(value);
                continue;
            }
            if let Some(line) = places.insert(key.clone(), at.line) {
                return Err(SyntaxError {
                    at,
                    message: format!("duplicate key {key:?}, first on line {line}: is a `---` missing?"),
                });
            }
            entries.push(Entry { key, at, value });
        }
        for source in merged {
            let at = source.at;
            let sources = match source.value {
                Value::Seq(items) => items,
                value => vec![Node { at, value }],
            };
            for source in sources {
                let Value::Map(more) = source.value else {
                    return Err(SyntaxError { at: source.at, message: "`<<` merges mappings only".into() });
                };
                for entry in more {
                    if let std::collections::hash_map::Entry::Vacant(place) = places.entry(entry.key.clone()) {
                        place.insert(entry.at.line);
                        entries.push(entry);
                    }
                }
            }
        }
        Ok(entries)
    }
}

fn check_depth(depth: usize, at: Mark) -> Result<(), SyntaxError> {
    if depth > MAX_DEPTH {
        return Err(SyntaxError { at, message: format!("nested more than {MAX_DEPTH} levels deep") });
    }
    Ok(())
}

fn refuse_tag(tag: Option<&Tag>, at: Mark) -> Result<(), SyntaxError> {
    match tag {
        Some(tag) if !tag.is_yaml_core_schema() => {
            Err(SyntaxError { at, message: format!("the tag {} means nothing to Kubernetes", tag.original()) })
        }
        _ => Ok(()),
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>, at: Mark) -> Result<Value, SyntaxError> {
    refuse_tag(tag, at)?;
    if style != ScalarStyle::Plain || tag.is_some_and(|tag| tag.is_yaml_core_schema_tag("str")) {
        return Ok(Value::Str(text.to_owned()));
    }
    Ok(plain(text))
}

/// What a plain scalar means to the YAML library of the Kubernetes tools (YAML 1.1's words, less sexagesimals).
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "true" | "True" | "TRUE" => return Value::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "false" | "False" | "FALSE" => {
            return Value::Bool(false);
        }
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Value::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Value::Float(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => return Value::Float(f64::NAN),
        _ => {}
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return Value::Str(text.to_owned());
    }
    integer(text).or_else(|| float(text)).unwrap_or_else(|| Value::Str(text.to_owned()))
}

fn integer(text: &str) -> Option<Value> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let digits = digits.replace('_', "");
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, &digits[..]),
    };
    // from_str_radix takes a sign of its own: `--1` is no number.
    if !digits.starts_with(|c: char| c.is_ascii_hexdigit()) {
        return None;
    }
    let magnitude = i128::from_str_radix(digits, radix).ok()?;
    i64::try_from(if negative { -magnitude } else { magnitude }).ok().map(Value::Int)
}

fn float(text: &str) -> Option<Value> {
    let shape = |c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E');
    if !text.chars().all(shape) || !text.contains(|c: char| c.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().map(Value::Float)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_mean_what_kubectl_takes_them_to_mean() {
        let text = |s: &str| Value::Str(s.to_owned());
        let rows: &[(&str, Value)] = &[
            ("80", Value::Int(80)),
            ("-1", Value::Int(-1)),
            ("0644", Value::Int(420)),
            ("0x10", Value::Int(16)),
            ("1_000", Value::Int(1000)),
            ("1.5", Value::Float(1.5)),
            ("1e3", Value::Float(1000.0)),
            ("99999999999999999999", Value::Float(99999999999999999999.0)),
            ("10.96.0.1", text("10.96.0.1")),
            ("1.2.3", text("1.2.3")),
            ("2026-01-01", text("2026-01-01")),
            ("10m", text("10m")),
            ("--1", text("--1")),
            ("-", text("-")),
            ("0x-5", text("0x-5")),
            ("yes", Value::Bool(true)),
            ("off", Value::Bool(false)),
            ("~", Value::Null),
            ("v1", text("v1")),
            ("nan", text("nan")),
            ("inf", text("inf")),
            // No octal number, and a decimal only with a point in mind.
            ("08", Value::Float(8.0)),
        ];
        for (input, expected) in rows {
            assert_eq!(plain(input), *expected, "{input}");
        }
        assert_eq!(parse("a: \"80\"\n", 1).unwrap().get("a").unwrap().value.value, text("80"));
        assert_eq!(parse("a: !!str 80\n", 1).unwrap().get("a").unwrap().value.value, text("80"));
    }

    #[test]
    fn every_node_knows_its_line() {
        let node = parse("---\nspec:\n  ports:\n  - name: http\n    port: 80\n", 10).unwrap();
        let Value::Seq(ports) = &node.get("spec").unwrap().value.get("ports").unwrap().value.value else { panic!() };
        assert_eq!(ports[0].at, Mark { line: 13, column: 5 });
        assert_eq!(ports[0].get("port").unwrap().at, Mark { line: 14, column: 5 });
    }

    #[test]
    fn aliases_and_merge_keys_are_expanded() {
        let node = parse("base: &b {a: 1, b: 2}\none: *b\ntwo:\n  <<: *b\n  b: 3\n", 1).unwrap();
        assert_eq!(node.get("one").unwrap().value.get("a").unwrap().value.value, Value::Int(1));
        let two = &node.get("two").unwrap().value;
        assert_eq!(two.get("b").unwrap().value.value, Value::Int(3));
        assert_eq!(two.get("a").unwrap().value.value, Value::Int(1));
    }

    #[test]
    fn what_is_not_yaml_names_its_line() {
        let rows: &[(&str, &str, u32)] = &[
            ("a duplicate key", "a: 1\nb: 2\na: 3\n", 3),
            ("a list never closed", "a: [1, 2\nb: 3\n", 2),
            ("a tab", "a:\n\tb: 1\n", 2),
            ("an unknown tag", "a: 1\nb: !Ref x\n", 2),
            ("an unknown alias", "a: 1\nb: *x\n", 2),
            ("a key less indented", "  a: 1\nb: 2\n", 2),
        ];
        for (name, text, line) in rows {
            let error = parse(text, 1).expect_err(name);
            assert_eq!(error.at.line, *line, "{name}: {error:?}");
        }
    }

    #[test]
    fn a_bomb_is_refused_and_costs_little() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..12 {
            let refs = vec![format!("*a{}", i - 1); 10].join(", ");
            bomb.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
        }
        assert!(parse(&bomb, 1).unwrap_err().message.contains("more than"));
        let deep = "[".repeat(100_000);
        assert!(parse(&deep, 1).is_err());
        // Each level is shallow as written; expanded, they would be deeper than a stack.
        let mut tower = String::from("a0: &a0 [x]\n");
        for i in 1..3_000 {
            tower.push_str(&format!("a{i}: &a{i} [[[[*a{}]]]]\n", i - 1));
        }
        assert!(parse(&tower, 1).unwrap_err().message.contains("levels deep"));
    }

    #[test]
    fn the_digest_sees_content_and_not_form() {
        let digest = |text: &str| parse(text, 1).unwrap().digest(&["metadata"]);
        let base = digest("metadata: {name: a}\nspec: {a: 1, b: [x]}\n");
        assert_eq!(base, digest("spec:\n  b:\n  - 'x'\n  a: 0x1\n"));
        assert_ne!(base, digest("spec: {a: 1, b: [y]}\n"));
        assert_ne!(base, digest("spec: {a: '1', b: [x]}\n"));
    }
}
