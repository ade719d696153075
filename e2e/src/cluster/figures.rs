//! What was measured: said at once, and all together at the end, in a file that reports are made from.
//!
//! Bound: as many as the tests name.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;
use std::sync::Mutex;

use crate::Result;
use crate::error::Context;

static FIGURES: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());

/// Says a figure.
pub fn figure(name: &str, value: impl Display) {
    let value = value.to_string();
    println!("figure: {name} {value}");
    // Poisoned by a test that failed elsewhere: what was measured stays measured.
    FIGURES.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(name.to_owned(), value);
}

/// Says a figure and holds it to its limit.
///
/// # Panics
/// When it is beyond.
pub fn figure_within<T: PartialOrd + Display>(name: &str, value: T, limit: T, unit: &str) {
    figure(name, format!("{value:.3} {unit} (limit {limit})"));
    assert!(value <= limit, "{name}: {value} {unit}, and the limit is {limit}");
}

/// Writes them all: `file` as JSON, and as a table to standard output.
///
/// # Errors
/// When the file cannot be written.
pub fn write_figures(file: &Path) -> Result<()> {
    let figures = FIGURES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let width = figures.keys().map(String::len).max().unwrap_or(0);
    for (name, value) in &*figures {
        println!("  {name:<width$}  {value}");
    }
    let text = serde_json::to_string_pretty(&*figures).unwrap_or_default();
    std::fs::write(file, text + "\n").context(|| format!("writing {}", file.display()))
}
