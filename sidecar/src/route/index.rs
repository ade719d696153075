//! Which entries of a table a path leaves to be looked at: with five hundred paths, all but a few are none of a request's
//! business.
//!
//! Entries are filed under the path they want: an exact one under itself, a prefix under its text. A request finds the first
//! under its own path, and the second under each beginning of its path that ends where a segment does. What can match any
//! path is filed under the text that a header must be, if it asks for one, and is found by what the request says there; of
//! several such headers under the one that the fewest others ask the same of. The rest (any path or an expression for it,
//! and no text of a header) is looked at every time ([`Index::anywhere`]). In each file the order of the table is kept, so
//! the first that matches is the file's best, and of all files the least wins: the answer is that of a pass over all entries.
//!
//! Cost: a look-up for the path, one for each of its segments down to the deepest prefix there is, one for each header of the
//! request's or of the table's, whoever has fewer, and the entries that are left. Bound: no beginning is looked at that is longer
//! than the longest prefix of the table, and no more headers than it knows, however long and deep a request's path is and
//! however many headers it has.

use http::HeaderName;

use super::matching::{Match, PathKind, RequestView, header_value};

/// Positions of entries, ascending.
type File = foldhash::HashMap<Box<str>, Vec<usize>>;

/// The same, by what a header says.
type Values = foldhash::HashMap<Box<[u8]>, Vec<usize>>;

/// Entries by the paths they want.
#[derive(Debug, Default)]
pub(super) struct Index {
    exact: File,
    prefix: File,
    /// Bit n: there is a prefix with n slashes; the last bit stands for as many and more.
    depths: u64,
    /// Bytes of the longest prefix.
    longest: usize,
    /// Of those that any path may match: by a header and the value that it must have.
    headers: foldhash::HashMap<HeaderName, Values>,
    /// The rest.
    anywhere: Vec<usize>,
}

/// The bit of [`Index::depths`].
fn bit(slashes: usize) -> u64 {
    1 << slashes.min(63)
}

impl Index {
    /// Files entries.
    pub(super) fn new<'a>(entries: impl Iterator<Item = &'a Match> + Clone) -> Self {
        let mut index = Self::default();
        let mut wanted = foldhash::HashMap::<_, usize>::default();
        for header in entries.clone().flat_map(Match::plain_headers) {
            *wanted.entry(header).or_default() += 1;
        }
        for (position, entry) in entries.enumerate() {
            match entry.path_kind() {
                PathKind::Exact(path) => index.exact.entry(path.into()).or_default().push(position),
                PathKind::Prefix(path) => {
                    index.longest = index.longest.max(path.len());
                    index.depths |= bit(path.bytes().filter(|byte| *byte == b'/').count());
                    index.prefix.entry(path.into()).or_default().push(position);
                }
                PathKind::Any => match entry.plain_headers().min_by_key(|header| wanted.get(header)) {
                    Some((name, value)) => {
                        index.headers.entry(name.clone()).or_default().entry(value.into()).or_default().push(position);
                    }
                    None => index.anywhere.push(position),
                },
                PathKind::Expression => index.anywhere.push(position),
            }
        }
        index
    }

    /// The position of the first entry that matches. `entry` gives the one at a position.
    pub(super) fn find<'a>(
        &self,
        request: &RequestView<'_>,
        entry: impl Fn(usize) -> Option<&'a Match>,
    ) -> Option<usize> {
        let mut best: Option<usize> = None;
        let mut among = |file: &[usize], matches: fn(&Match, &RequestView<'_>) -> bool| {
            let better = file.iter().take_while(|position| best.is_none_or(|best| **position < best));
            let mut better = better.filter(|position| entry(**position).is_some_and(|entry| matches(entry, request)));
            if let Some(found) = better.next() {
                best = Some(*found);
            }
        };
        let path = request.path;
        if !self.exact.is_empty()
            && let Some(file) = self.exact.get(path)
        {
            among(file, Match::matches_but_path);
        }
        if self.depths != 0 {
            let ends = path.bytes().enumerate().filter(|(_, byte)| *byte == b'/').map(|(at, _)| at);
            let ends = ends.chain([path.len()]).take_while(|end| *end <= self.longest);
            for (slashes, end) in ends.enumerate() {
                // A prefix of no depth there is none: what stands before the first slash is nothing.
                if self.depths & bit(slashes) != 0
                    && let Some(file) = path.get(..end).and_then(|prefix| self.prefix.get(prefix))
                {
                    among(file, Match::matches_but_path);
                }
            }
        }
        if !self.headers.is_empty() {
            let mut of_header = |name: &HeaderName, values: &Values| {
                if let Some(file) = header_value(request.headers, name).and_then(|sent| values.get(&*sent)) {
                    among(file, Match::matches_but_path);
                }
            };
            if self.headers.len() < request.headers.keys_len() {
                self.headers.iter().for_each(|(name, values)| of_header(name, values));
            } else {
                let known = request.headers.keys().filter_map(|name| Some((name, self.headers.get(name)?)));
                known.for_each(|(name, values)| of_header(name, values));
            }
        }
        among(&self.anywhere, Match::matches);
        best
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::super::matching::{KeyMatch, PathMatch, ValueMatch};
    use super::*;

    fn find(paths: &[PathMatch], path: &str) -> Option<usize> {
        let entries: Vec<_> =
            paths.iter().map(|path| Match::new(Some(path.clone()), None, vec![], vec![]).unwrap()).collect();
        let request = RequestView { method: &Method::GET, path, query: None, headers: &HeaderMap::new() };
        let found = Index::new(entries.iter()).find(&request, |position| entries.get(position));
        assert_eq!(found, entries.iter().position(|entry| entry.matches(&request)), "{path}: a pass says otherwise");
        found
    }

    #[test]
    fn the_first_of_all_files_wins() {
        let prefix = |text: &str| PathMatch::Prefix(text.to_owned());
        let exact = |text: &str| PathMatch::Exact(text.to_owned());
        let regex = |text: &str| PathMatch::Regex(text.to_owned());
        let paths =
            [prefix("/a/b"), exact("/a"), regex("/a.*c"), prefix("/a/"), exact("/a/b/c"), prefix("/x//"), prefix("/")];
        for (path, want) in [
            ("/a/b", Some(0)),
            ("/a/b/c", Some(0)),
            ("/a", Some(1)),
            ("/ac", Some(2)),
            ("/a/", Some(3)),
            ("/a/d", Some(3)),
            ("/x/", Some(5)),
            ("/x//y", Some(5)),
            ("/x", Some(6)),
            ("/ab", Some(6)),
            ("//", Some(6)),
            ("*", Some(6)),
            ("", Some(6)),
        ] {
            assert_eq!(find(&paths, path), want, "{path}");
        }
        assert_eq!(find(&paths[..2], "/b"), None);
        assert_eq!(find(&[], "/"), None);
    }

    #[test]
    fn headers_are_found_by_what_they_say() {
        let entry = |rows: &[(&str, &str)]| {
            let key = |(name, value): &(&str, &str)| KeyMatch {
                name: (*name).to_owned(),
                value: match value.strip_prefix('~') {
                    Some(regex) => ValueMatch::Regex(regex.to_owned()),
                    None => ValueMatch::Exact((*value).to_owned()),
                },
            };
            Match::new(None, None, rows.iter().map(key).collect(), vec![]).unwrap()
        };
        let entries = [
            entry(&[("x-user", "a"), ("x-beta", "1")]),
            entry(&[("x-user", "~[ab]"), ("x-beta", "2")]),
            entry(&[("x-beta", "1")]),
            entry(&[("x-user", "a")]),
            entry(&[("x-user", "a,b")]),
            entry(&[("x-other", "~.*")]),
        ];
        type Sent<'a> = &'a [(&'a str, &'a str)];
        let rows: [(Sent<'_>, Option<usize>); 9] = [
            (&[("x-user", "a"), ("x-beta", "1")], Some(0)),
            (&[("x-beta", "2"), ("x-user", "b")], Some(1)),
            (&[("x-beta", "1"), ("x-user", "c")], Some(2)),
            (&[("x-user", "a"), ("x-beta", "3")], Some(3)),
            (&[("x-user", "a"), ("x-user", "b")], Some(4)),
            (&[("x-other", ""), ("x-user", "c")], Some(5)),
            (&[("a", "1"), ("b", "1"), ("c", "1"), ("x-user", "a")], Some(3)),
            (&[("x-user", "A")], None),
            (&[], None),
        ];
        for (sent, want) in rows {
            let mut headers = HeaderMap::new();
            for (name, value) in sent {
                headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
            }
            let request = RequestView { method: &Method::GET, path: "/", query: None, headers: &headers };
            let found = Index::new(entries.iter()).find(&request, |position| entries.get(position));
            assert_eq!(found, want, "{sent:?}");
            assert_eq!(found, entries.iter().position(|entry| entry.matches(&request)), "{sent:?}");
        }
    }

    #[test]
    fn prefixes_deeper_than_bits_are_found() {
        let deep = |depth: usize| "/s".repeat(depth);
        let paths = [PathMatch::Prefix(deep(80)), PathMatch::Prefix(deep(64)), PathMatch::Prefix(deep(2))];
        // A path of a million segments costs no more than the deepest prefix: this would take minutes otherwise.
        assert_eq!(find(&paths, &format!("{}{}", deep(80), "/".repeat(1_000_000))), Some(0));
        for (depth, want) in
            [(1, None), (2, Some(2)), (63, Some(2)), (64, Some(1)), (79, Some(1)), (80, Some(0)), (500, Some(0))]
        {
            assert_eq!(find(&paths, &deep(depth)), want, "{depth}");
        }
    }
}
