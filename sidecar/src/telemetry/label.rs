//! A label's value: made once where it is compiled, then handed from request to metric without a copy.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};

/// A shared text; cloning it counts a reference. The default is empty and costs nothing.
#[derive(Clone, Default, Eq, PartialOrd, Ord)]
pub struct Label(Option<Arc<str>>);

/// Mostly two labels that are equal are one text: then nobody reads it.
impl PartialEq for Label {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
            (a, b) => a.is_none() && b.is_none(),
        }
    }
}

impl Hash for Label {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl Label {
    /// No text.
    pub(super) const EMPTY: Self = Self(None);

    /// Whether it is this very text, wherever an equal one may lie.
    pub(super) fn is(&self, text: &Arc<str>) -> bool {
        self.0.as_ref().is_some_and(|own| Arc::ptr_eq(own, text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl From<&str> for Label {
    fn from(text: &str) -> Self {
        Self((!text.is_empty()).then(|| text.into()))
    }
}

impl From<&Arc<str>> for Label {
    fn from(text: &Arc<str>) -> Self {
        Self((!text.is_empty()).then(|| Arc::clone(text)))
    }
}

impl From<String> for Label {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

/// A label that everything has and that may change: whoever remembers what was made of it compares versions, which is a
/// load, where reading the label writes twice to memory.
#[derive(Debug)]
pub struct SharedLabel {
    label: ArcSwap<Label>,
    /// No two labels have the same, whosever they are.
    version: AtomicU64,
}

impl SharedLabel {
    /// The label.
    pub fn get(&self) -> Label {
        Label::clone(&self.label.load())
    }

    /// Another from now on.
    pub fn set(&self, label: Label) {
        self.label.store(Arc::new(label));
        self.version.store(Self::next(), Ordering::Release);
    }

    /// Which label it is. Ask before [`get`](Self::get): then what is remembered may be too new, and never too old.
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    fn next() -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed)
    }
}

impl From<&str> for SharedLabel {
    fn from(text: &str) -> Self {
        Self { label: ArcSwap::from_pointee(text.into()), version: AtomicU64::new(Self::next()) }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl EncodeLabelValue for Label {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        self.as_str().encode(encoder)
    }
}

impl serde::Serialize for Label {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
