//! YAML out, as `kubectl get -o yaml` writes it: block style, lists level with their key, and quotes wherever any reader
//! (YAML 1.1 or 1.2) could take a plain text for something else. And the tree of a document as JSON. Pure.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use crate::source::files::tree;

/// A document as JSON.
///
/// # Errors
/// When it holds a number that JSON does not know.
pub(super) fn value(node: &tree::Node) -> Result<Value, String> {
    Ok(match &node.value {
        tree::Value::Null => Value::Null,
        tree::Value::Bool(value) => (*value).into(),
        tree::Value::Int(value) => (*value).into(),
        tree::Value::Float(number) => serde_json::Number::from_f64(*number)
            .map(Value::Number)
            .ok_or_else(|| format!("line {}: {number} is no number in Kubernetes", node.at.line))?,
        tree::Value::Str(text) => text.as_str().into(),
        tree::Value::Seq(items) => items.iter().map(value).collect::<Result<_, _>>()?,
        tree::Value::Map(entries) => {
            let entries = entries.iter().map(|entry| Ok((entry.key.clone(), value(&entry.value)?)));
            Value::Object(entries.collect::<Result<Map<_, _>, String>>()?)
        }
    })
}

/// Appends `value` as a document.
pub(super) fn write(value: &Value, out: &mut String) {
    match value {
        Value::Object(entries) if !entries.is_empty() => mapping(entries, 0, out),
        Value::Array(items) if !items.is_empty() => sequence(items, 0, out),
        other => {
            match other {
                // Its lines would not be indented.
                Value::String(string) => text(string, None, out),
                other => scalar(other, 0, out),
            }
            out.push('\n');
        }
    }
}

/// Its entries, the first at the place where `out` stands.
fn mapping(entries: &Map<String, Value>, indent: usize, out: &mut String) {
    for (index, (key, value)) in entries.iter().enumerate() {
        if index > 0 {
            pad(indent, out);
        }
        text(key, None, out);
        out.push(':');
        match value {
            Value::Object(entries) if !entries.is_empty() => {
                out.push('\n');
                pad(indent + 2, out);
                mapping(entries, indent + 2, out);
            }
            Value::Array(items) if !items.is_empty() => {
                out.push('\n');
                pad(indent, out);
                sequence(items, indent, out);
            }
            other => {
                out.push(' ');
                scalar(other, indent + 2, out);
                out.push('\n');
            }
        }
    }
}

fn sequence(items: &[Value], indent: usize, out: &mut String) {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            pad(indent, out);
        }
        out.push_str("- ");
        match item {
            Value::Object(entries) if !entries.is_empty() => mapping(entries, indent + 2, out),
            Value::Array(items) if !items.is_empty() => sequence(items, indent + 2, out),
            other => {
                scalar(other, indent + 2, out);
                out.push('\n');
            }
        }
    }
}

/// Anything on one line, or a block of text whose lines are `indent`ed; without the last line's end.
fn scalar(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::String(string) => text(string, Some(indent), out),
        // An empty list or mapping, a number, a boolean, null: all as in JSON.
        other => out.push_str(&other.to_string()),
    }
}

fn text(text: &str, block: Option<usize>, out: &mut String) {
    if is_plain(text) {
        out.push_str(text);
    } else if let Some(indent) = block.filter(|_| is_block(text)) {
        out.push_str(if text.ends_with('\n') { "|" } else { "|-" });
        for line in text.lines() {
            out.push('\n');
            if !line.is_empty() {
                pad(indent, out);
                out.push_str(line);
            }
        }
    } else {
        quoted(text, out);
    }
}

/// What every reader takes for this very text: it begins with a letter or `/`, has nothing in it that means something, and
/// is no word of YAML's.
fn is_plain(text: &str) -> bool {
    let words = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let mut before = ' ';
    let harmless = text.chars().all(|c| {
        let colon_is_inside = before != ':' || c != ' ';
        before = c;
        colon_is_inside
            && (c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_' | ':' | ' ' | '=' | '@' | '+'))
    });
    begins
        && harmless
        && !text.ends_with([' ', ':'])
        && text.len() <= 200
        && words.iter().all(|word| !word.eq_ignore_ascii_case(text))
}

/// Lines that a literal block keeps to the byte.
fn is_block(text: &str) -> bool {
    let lines = text.strip_suffix('\n').unwrap_or(text);
    lines.contains('\n')
        && !text.starts_with([' ', '\t', '\n'])
        && !lines.ends_with('\n')
        && lines.lines().last().is_some_and(|line| !line.trim().is_empty())
        && text.chars().all(|c| matches!(c, '\n' | '\t' | ' '..='~') || (c.is_alphanumeric() && !c.is_ascii()))
}

/// JSON's way, which is YAML's as well once everything is escaped that YAML would not print.
fn quoted(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            ' '..='~' => out.push(c),
            c if c.is_alphanumeric() => out.push(c),
            // Writing to a String cannot fail.
            c => {
                let _ = match u16::try_from(u32::from(c)) {
                    Ok(code) => write!(out, "\\u{code:04X}"),
                    Err(_) => write!(out, "\\U{:08X}", u32::from(c)),
                };
            }
        }
    }
    out.push('"');
}

fn pad(indent: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', indent));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn written(value: &Value) -> String {
        let mut out = String::new();
        write(value, &mut out);
        out
    }

    fn read(text: &str) -> Value {
        value(&tree::parse(text, 1).unwrap_or_else(|error| panic!("{error}\n{text}"))).unwrap()
    }

    #[test]
    fn it_looks_like_what_kubectl_writes() {
        let object = json!({
            "kind": "Deployment",
            "metadata": { "annotations": {}, "labels": { "app.kubernetes.io/name": "web", "version": "1" } },
            "spec": {
                "args": ["--listen=0.0.0.0:80", "yes", "0644", "- no", "a: b", "a:b", ""],
                "containers": [{ "image": "weft.dev/sidecar:0.1.0", "ports": [{ "containerPort": 80 }], "tty": true }],
                "matrix": [[1, 2.5], [], [null]],
                "script": "set -e\n\nif true; then\n  echo hi\nfi\n",
                "without-an-end": "a\nb",
            },
        });
        let expected = "\
kind: Deployment
metadata:
  annotations: {}
  labels:
    app.kubernetes.io/name: web
    version: \"1\"
spec:
  args:
  - \"--listen=0.0.0.0:80\"
  - \"yes\"
  - \"0644\"
  - \"- no\"
  - \"a: b\"
  - a:b
  - \"\"
  containers:
  - image: weft.dev/sidecar:0.1.0
    ports:
    - containerPort: 80
    tty: true
  matrix:
  - - 1
    - 2.5
  - []
  - - null
  script: |
    set -e

    if true; then
      echo hi
    fi
  without-an-end: |-
    a
    b
";
        assert_eq!(written(&object), expected);
        assert_eq!(read(expected), object);
    }

    const WORDS: &[&str] = &[
        "yes",
        "NO",
        "~",
        "null",
        "0x1",
        "1e3",
        "1_000",
        "08",
        ".5",
        "-",
        "?",
        ":",
        "#",
        "a #b",
        "a: b",
        "a:",
        " a",
        "a ",
        "\n",
        "a\n",
        "a\n\n",
        "\na",
        "a\n b\n",
        "a\n\tb",
        "a\r\nb",
        "---",
        "--- a",
        "...",
        "<<",
        "=",
        "!x",
        "&a",
        "*a",
        "%a",
        "@a",
        "`a`",
        "{a",
        "[a",
        "'a'",
        "\"a\"",
        "\u{7f}",
        "\u{85}",
        "\u{2028}",
        "\u{feff}",
        "ä",
        "😀",
        "a\n---\nb",
        "a\n\n\nb\n",
        "a\n   \nb\n",
        "12:30:45",
        "2026-01-01",
    ];

    fn texts() -> impl Strategy<Value = String> {
        prop_oneof![
            prop::sample::select(WORDS).prop_map(str::to_owned),
            "[ -~\\n\\t]{0,24}",
            "\\PC{0,8}",
            any::<String>()
        ]
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-1e9..1e9_f64).prop_map(Value::from),
            texts().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(texts(), inner, 0..4)
                    .prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn what_is_written_reads_as_the_same(value in values()) {
            let text = written(&value);
            prop_assert_eq!(&read(&text), &value, "{}", text);
            // And by another parser's rules.
            if let Ok(other) = serde_saphyr::from_str::<Value>(&text) {
                prop_assert_eq!(other, value, "{}", text);
            }
        }
    }
}
