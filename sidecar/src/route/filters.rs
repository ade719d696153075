//! What filters may do to headers, and doing it (Gateway API `HTTPHeaderFilter`: remove, set, add).
//!
//! Refused when compiled: headers that frame the message or belong to one connection, and ours. A filter that could
//! write `transfer-encoding` could smuggle a request past the next proxy.
//!
//! `host` may be set. It is written as a header like any other: a caller that keeps the authority elsewhere (HTTP/2)
//! takes it from there afterwards.
//!
//! Not here: redirects, rewrites, mirrors, CORS (later, beside this).

use http::header::{HeaderMap, HeaderName, HeaderValue};
use weft_proto::headers::is_out_of_bounds;

/// One filter's edits, in this order: remove, set, add.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderEdit {
    remove: Box<[HeaderName]>,
    set: Box<[(HeaderName, HeaderValue)]>,
    add: Box<[(HeaderName, HeaderValue)]>,
}

/// A filter cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFilter {
    /// Not the name of a header.
    #[error("{0:?} is not the name of a header")]
    Name(String),
    /// A value with a character that no header may carry.
    #[error("the value of header {0} has a character that a header cannot carry")]
    Value(HeaderName),
    /// Not for filters.
    #[error("header {0} frames the message or is the mesh's own: a filter cannot change it")]
    Refused(HeaderName),
}

impl HeaderEdit {
    /// Compiles. Names are taken in any case.
    ///
    /// # Errors
    /// Names the header that cannot be edited, or not with this value.
    pub fn new<'a>(
        remove: impl IntoIterator<Item = &'a str>,
        set: impl IntoIterator<Item = (&'a str, &'a str)>,
        add: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, InvalidFilter> {
        Ok(Self {
            remove: remove.into_iter().map(name).collect::<Result<_, _>>()?,
            set: set.into_iter().map(pair).collect::<Result<_, _>>()?,
            add: add.into_iter().map(pair).collect::<Result<_, _>>()?,
        })
    }

    fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }
}

fn name(text: &str) -> Result<HeaderName, InvalidFilter> {
    let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| InvalidFilter::Name(text.to_owned()))?;
    if is_out_of_bounds(name.as_str()) {
        return Err(InvalidFilter::Refused(name));
    }
    Ok(name)
}

fn pair((key, value): (&str, &str)) -> Result<(HeaderName, HeaderValue), InvalidFilter> {
    let name = name(key)?;
    match HeaderValue::from_bytes(value.as_bytes()) {
        Ok(value) => Ok((name, value)),
        Err(_) => Err(InvalidFilter::Value(name)),
    }
}

/// The filters of a rule or of one of its targets, in the order listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters {
    request: Box<[HeaderEdit]>,
    response: Box<[HeaderEdit]>,
}

impl Filters {
    /// `request` and `response` edits, each in the order listed.
    pub fn new(request: Vec<HeaderEdit>, response: Vec<HeaderEdit>) -> Self {
        Self { request: request.into(), response: response.into() }
    }

    /// Whether there is nothing to do to a request.
    pub fn keeps_request(&self) -> bool {
        self.request.is_empty()
    }

    /// Whether there is nothing to do to a response.
    pub fn keeps_response(&self) -> bool {
        self.response.is_empty()
    }

    /// Edits a request's headers. A rule's filters come before its target's.
    pub fn apply_request(&self, headers: &mut HeaderMap) {
        self.request.iter().for_each(|edit| edit.apply(headers));
    }

    /// Edits a response's headers. The target's filters come before its rule's: the way back.
    pub fn apply_response(&self, headers: &mut HeaderMap) {
        self.response.iter().for_each(|edit| edit.apply(headers));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(rows: &[(&str, &str)]) -> HeaderMap {
        let parse = |(key, value): &(&str, &str)| -> Option<(HeaderName, HeaderValue)> {
            Some((key.parse().ok()?, value.parse().ok()?))
        };
        rows.iter().filter_map(parse).collect()
    }

    #[test]
    fn edits_row_by_row() {
        type Rows<'a> = &'a [(&'a str, &'a str)];
        let rows: [(&str, &[&str], Rows<'_>, Rows<'_>, Rows<'_>); 7] = [
            ("nothing to do", &[], &[], &[], &[("a", "1"), ("a", "2"), ("b", "3")]),
            ("removes every line, in any case", &["A"], &[], &[], &[("b", "3")]),
            ("removing what is not there is fine", &["z"], &[], &[], &[("a", "1"), ("a", "2"), ("b", "3")]),
            ("set replaces every line", &[], &[("a", "9")], &[], &[("a", "9"), ("b", "3")]),
            ("set makes what is not there", &[], &[("c", "9")], &[], &[("a", "1"), ("a", "2"), ("b", "3"), ("c", "9")]),
            ("add keeps what is there", &[], &[], &[("b", "4")], &[("a", "1"), ("a", "2"), ("b", "3"), ("b", "4")]),
            (
                "remove, then set, then add",
                &["b"],
                &[("b", "5")],
                &[("b", "6")],
                &[("a", "1"), ("a", "2"), ("b", "5"), ("b", "6")],
            ),
        ];
        for (row, remove, set, add, want) in rows {
            let edit = HeaderEdit::new(remove.iter().copied(), set.iter().copied(), add.iter().copied());
            let filters = Filters::new(edit.into_iter().collect(), vec![]);
            let mut got = headers(&[("a", "1"), ("a", "2"), ("b", "3")]);
            filters.apply_request(&mut got);
            assert_eq!(got, headers(want), "{row}");
            filters.apply_response(&mut got);
            assert_eq!(got, headers(want), "{row}: the response is left alone");
        }
    }

    #[test]
    fn filters_apply_in_the_order_listed() {
        let set = |value| HeaderEdit::new([], [("a", value)], []).unwrap();
        let filters = Filters::new(vec![], vec![set("1"), set("2")]);
        let mut got = HeaderMap::new();
        filters.apply_response(&mut got);
        assert_eq!(got, headers(&[("a", "2")]));
    }

    #[test]
    fn framing_and_the_meshs_own_headers_are_refused() {
        for header in ["connection", "content-length", "te", "upgrade", "X-Weft-Not-Processed", "Transfer-Encoding"] {
            let want = Err(InvalidFilter::Refused(header.parse().unwrap()));
            assert_eq!(HeaderEdit::new([header], [], []), want, "remove {header}");
            assert_eq!(HeaderEdit::new([], [(header, "1")], []), want, "set {header}");
            assert_eq!(HeaderEdit::new([], [], [(header, "1")]), want, "add {header}");
        }
    }

    #[test]
    fn what_no_header_can_be_is_refused_by_name() {
        assert_eq!(HeaderEdit::new(["a b"], [], []), Err(InvalidFilter::Name("a b".to_owned())));
        assert_eq!(HeaderEdit::new([], [("", "x")], []), Err(InvalidFilter::Name(String::new())));
        let injected = HeaderEdit::new([], [("a", "1\r\nhost: evil")], []);
        assert_eq!(injected, Err(InvalidFilter::Value(HeaderName::from_static("a"))));
    }
}
