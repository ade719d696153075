//! `docs/reference/` against the decoders: each kind that is ours to know (those of CRDs; core kinds have Kubernetes' own
//! reference) has a page `KIND.md`, which shows an object with every field there is and names each in a table.
//!
//! Nothing is listed here: a decoder says what it knows when it looks at a mapping (`Field::only`) or a word
//! (`Field::one_of`), and what it said while it read the pages' examples is what the tables are held to, in both
//! directions. So that no part escapes it, a field that is in no example is an error as well. A new kind is held to this as
//! soon as it is in `KINDS`.
//!
//! Of a table with a `field` column, the first cell names fields, from `spec` on (which may be left out): `` `a.b` ``, or
//! `` `a.b`, `.c` `` for `a.b` and `a.c`. A field that is known and not done says so in its row ("not done", "no effect"), and
//! is in no example.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::{Identified, KINDS, identify, kind_name, read};
use crate::model::{Kind, Object};
use crate::source::files::field::{Field, Flaws, Schema};
use crate::source::files::{documents, tree};

use super::Origin;

fn page(kind: Kind) -> (String, String) {
    let name = format!("docs/reference/{}.md", kind_name(kind).to_ascii_lowercase());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(&name);
    let text = std::fs::read_to_string(path);
    (text.unwrap_or_else(|error| panic!("{name}: {error}: each kind that is read has a page")), name)
}

/// Whether its schema is kept here.
fn kinds() -> impl Iterator<Item = Kind> {
    KINDS.iter().filter(|(_, group, _)| group.contains('.') && *group != "discovery.k8s.io").map(|(kind, ..)| *kind)
}

/// The YAML of a page.
fn examples(page: &str) -> impl Iterator<Item = &str> {
    page.split("```yaml\n").skip(1).filter_map(|rest| Some(rest.split_once("```")?.0))
}

/// What a decoder knows, as it said while it read the page's objects of its kind, which must be without a flaw.
fn known(kind: Kind, page: &str, name: &str) -> Schema {
    let mut all = Schema::default();
    for document in examples(page).flat_map(documents::split) {
        let node = tree::parse(document.text, document.first_line).unwrap_or_else(|error| panic!("{name}: {error}"));
        let flaws = Flaws::default();
        let field = Field::root(&node, String::new(), &flaws);
        let Identified::Object(found, meta) = identify(&field) else { panic!("{name}: an example is no object") };
        let object = read(found, meta, &field, Origin::Manifest);
        assert!(object.is_some_and(|object: Object| object.kind() == found), "{name}: an example is not read");
        let schema = flaws.schema.take();
        assert_eq!(flaws.into_vec(), [], "{name}: an example says what has no effect");
        if found == kind {
            all.fields.extend(schema.fields);
            all.seen.extend(schema.seen);
            all.words.extend(schema.words);
        }
    }
    all
}

/// The same filter is of a rule and of a backendRef: one row tells of both.
fn row_of(path: &str) -> String {
    path.replace(".backendRefs[].filters", ".filters")
}

/// Each field that a table names, with its row.
fn rows(page: &str) -> BTreeMap<String, &str> {
    let mut out = BTreeMap::new();
    let mut of_fields = false;
    for line in page.lines() {
        let Some(cell) = line.strip_prefix('|').and_then(|rest| rest.split('|').next()) else {
            of_fields = false;
            continue;
        };
        if cell.trim() == "field" {
            of_fields = true;
        } else if of_fields {
            let mut first = String::new();
            for name in cell.split('`').skip(1).step_by(2) {
                let path = match (name.strip_prefix('.'), first.rsplit_once('.')) {
                    (Some(name), Some((parent, _))) => format!("{parent}.{name}"),
                    _ if name.starts_with("spec.") => name.to_owned(),
                    _ => format!("spec.{name}"),
                };
                if first.is_empty() {
                    first.clone_from(&path);
                }
                assert!(out.insert(path, line).is_none(), "{name} has two rows");
            }
        }
    }
    out
}

/// As a row has it.
fn as_written(word: &str) -> String {
    if word.is_empty() { "`\"\"`".to_owned() } else { format!("`{word}`") }
}

fn says_that_it_is_not_done(row: &str) -> bool {
    row.contains("not done") || row.contains("no effect")
}

#[test]
fn the_reference_of_a_kind_lists_every_field_there_is_and_none_that_is_not() {
    for kind in kinds() {
        let (page, name) = page(kind);
        let known = known(kind, &page, &name);
        let rows = rows(&page);
        let fields: BTreeMap<String, bool> =
            known.fields.iter().filter(|(path, _)| path.starts_with("spec.")).map(|(k, v)| (row_of(k), *v)).collect();
        let seen: BTreeSet<String> = known.seen.iter().map(String::as_str).map(row_of).collect();
        let mut wrong = Vec::new();
        for (path, effective) in &fields {
            let Some(row) = rows.get(path) else {
                wrong.push(format!("{path} is known and has no row"));
                continue;
            };
            match (effective, says_that_it_is_not_done(row)) {
                (false, false) => wrong.push(format!("{path} has no effect, and its row does not say so")),
                (true, false) if !seen.contains(path) => wrong.push(format!("{path} is in no example")),
                _ => {}
            }
        }
        for path in rows.keys().filter(|path| !fields.contains_key(*path)) {
            wrong.push(format!("{path} has a row, and no decoder knows it"));
        }
        for (path, words) in &known.words {
            let row = rows.get(row_of(path).trim_end_matches("[]")).copied().unwrap_or_default();
            let missing: Vec<_> = words.iter().filter(|word| !row.contains(&as_written(word))).collect();
            if path.starts_with("spec.") && !missing.is_empty() {
                wrong.push(format!("{path} may be {missing:?}, which its row does not say"));
            }
        }
        assert_eq!(wrong, [""; 0], "{name}");
    }
}
