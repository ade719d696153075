//! Cuts a file into its YAML documents by lines, before any of them is parsed, so that a syntax error costs its own
//! document only: a parser that has lost its way cannot find the next `---`, but a line can.
//!
//! That is exact for block style: YAML 1.2 §9.1.2 forbids `---` and `...` at the start of a line inside a document.
//! Bound: [`MAX_DOCUMENTS`] a file.

/// Most documents one file may hold; those behind are not read, and the file says so.
pub(crate) const MAX_DOCUMENTS: usize = 10_000;

/// One document of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Document<'a> {
    /// Its text, with the `---` that opens it: content may follow on that line.
    pub(crate) text: &'a str,
    /// Line of its first byte in the file, from 1.
    pub(crate) first_line: u32,
}

/// The documents of a file in order, those without content left out.
pub(crate) fn split(text: &str) -> Vec<Document<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut documents = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 1, 0);
    let mut push = |from: usize, to: usize, first_line: u32| {
        let text = &text[from..to];
        if has_content(text) {
            documents.push(Document { text, first_line });
        }
    };
    let mut line = 0u32;
    for raw in text.split_inclusive('\n') {
        line = line.saturating_add(1);
        if marker(raw, "---") {
            push(start, offset, start_line);
            (start, start_line) = (offset, line);
        }
        offset += raw.len();
        if marker(raw, "...") {
            // The end marker belongs to the document it ends; what follows is another, with or without `---`.
            push(start, offset, start_line);
            (start, start_line) = (offset, line.saturating_add(1));
        }
    }
    push(start, text.len(), start_line);
    documents
}

/// Whether the line is that marker: alone, or with white space behind it.
fn marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

fn has_content(text: &str) -> bool {
    text.lines().any(|line| {
        let line = if marker(line, "---") || marker(line, "...") { &line[3..] } else { line };
        let line = line.trim();
        !(line.is_empty() || line.starts_with('#') || line.starts_with('%'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_cut_where_yaml_cuts_them() {
        type Row<'a> = (&'a str, &'a str, &'a [(u32, &'a str)]);
        let rows: &[Row<'_>] = &[
            ("nothing", "", &[]),
            ("comments only", "# a\n---\n# b\n", &[]),
            ("one, no marker", "a: 1\n", &[(1, "a: 1\n")]),
            ("one, marker first", "---\na: 1\n", &[(1, "---\na: 1\n")]),
            ("two", "a: 1\n---\nb: 2\n", &[(1, "a: 1\n"), (2, "---\nb: 2\n")]),
            ("an empty one between", "a: 1\n---\n---\nb: 2", &[(1, "a: 1\n"), (3, "---\nb: 2")]),
            (
                "content on the marker's line",
                "--- {a: 1}\n--- # c\nb: 2\n",
                &[(1, "--- {a: 1}\n"), (2, "--- # c\nb: 2\n")],
            ),
            ("an end marker", "a: 1\n...\nb: 2\n", &[(1, "a: 1\n...\n"), (3, "b: 2\n")]),
            ("a directive", "%YAML 1.2\n---\na: 1\n", &[(2, "---\na: 1\n")]),
            ("dashes inside a line", "a: ---\nb:\n  ---\n", &[(1, "a: ---\nb:\n  ---\n")]),
            ("four dashes", "----\n", &[(1, "----\n")]),
            ("carriage returns", "a: 1\r\n---\r\nb: 2\r\n", &[(1, "a: 1\r\n"), (2, "---\r\nb: 2\r\n")]),
            ("a byte-order mark", "\u{feff}a: 1\n", &[(1, "a: 1\n")]),
        ];
        for (name, text, expected) in rows {
            let found: Vec<_> = split(text).iter().map(|d| (d.first_line, d.text)).collect();
            assert_eq!(found, *expected, "{name}");
        }
    }
}
