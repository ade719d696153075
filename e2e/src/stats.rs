//! What the apps wrote down, and what a proxy's metrics say. The demo's figures come from the first, never from the
//! second.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A request as the server saw it: one line of `weft-e2e http-server`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Served {
    /// When, in ms since 1970.
    pub at_ms: u64,
    /// The server's name.
    pub server: String,
    /// The method.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// The client's `x-request-id`, or empty.
    pub id: String,
    /// Where the connection came from.
    pub peer: String,
    /// HTTP version, as `HTTP/1.1`.
    pub version: String,
    /// Headers that start with `x-`, and `traceparent`.
    pub headers: Vec<(String, String)>,
}

/// A request as the client saw it: one line of `weft-e2e load`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sent {
    /// When it was due, in ms since 1970.
    pub at_ms: u64,
    /// Its `x-request-id`.
    pub id: String,
    /// The method.
    #[serde(default)]
    pub method: String,
    /// The status, or 0 where none came.
    pub status: u16,
    /// From when it was due to the end of the answer, in µs.
    pub micros: u64,
    /// Who answered, by the server's own `x-server` header.
    pub server: String,
    /// Why it failed, or empty.
    pub error: String,
}

impl Sent {
    /// Whether the client got what it asked for.
    pub fn ok(&self) -> bool {
        self.error.is_empty() && (200..300).contains(&self.status)
    }
}

/// One answer of `weft-e2e get`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Got {
    /// What was asked for.
    pub url: String,
    /// Where it was dialled, or empty if the name has no address.
    pub address: String,
    /// The status, or 0 where none came.
    pub status: u16,
    /// Who answered, by the server's own `x-server` header.
    pub server: String,
    /// All headers of the answer.
    pub headers: Vec<(String, String)>,
    /// The first kilobytes of the body.
    pub body: String,
    /// From before the look-up to the end of the answer, in µs.
    pub micros: u64,
    /// Why there is no answer, or empty.
    pub error: String,
}

impl Got {
    /// Whether it is a 2xx.
    pub fn ok(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// A header of the answer.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| &**value)
    }
}

/// What `weft-e2e certify` prints: how far it got.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certified {
    /// Where it ended: `certify` or `stream`.
    pub step: String,
    /// The gRPC code's name, `Ok` for success, `Tls` when there was no connection to ask on.
    pub code: String,
    /// What the control plane said.
    pub message: String,
    /// The resources that came, as `TYPE NAME`.
    pub resources: Vec<String>,
}

/// A file of JSON lines that is still being written.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    offset: u64,
}

impl Tail {
    /// From the beginning of `path`.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), offset: 0 }
    }

    /// The lines that are complete and were not returned before. What is no `T` is skipped.
    pub fn read<T: DeserializeOwned>(&mut self) -> Vec<T> {
        let mut text = String::new();
        let Ok(mut file) = File::open(&self.path) else { return Vec::new() };
        if file.seek(SeekFrom::Start(self.offset)).is_err() || file.read_to_string(&mut text).is_err() {
            return Vec::new();
        }
        let complete = text.rfind('\n').map_or(0, |end| end + 1);
        self.offset += complete as u64;
        text[..complete].lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

/// All lines of a file of JSON lines.
pub fn lines<T: DeserializeOwned>(path: &Path) -> Vec<T> {
    Tail::new(path).read()
}

/// The `q`-quantile (0 to 1) of `values`, or 0 of none.
pub fn quantile(values: &mut [u64], q: f64) -> u64 {
    values.sort_unstable();
    let last = values.len().saturating_sub(1);
    values.get((last as f64 * q).round() as usize).copied().unwrap_or(0)
}

/// The sum of a metric's samples (Prometheus text) whose labels contain all of `labels`.
pub fn metric(text: &str, name: &str, labels: &[&str]) -> f64 {
    let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
    samples
        .filter(|(series, _)| {
            let (found, all) = series.split_once('{').unwrap_or((series, ""));
            found == name && labels.iter().all(|label| all.contains(label))
        })
        .filter_map(|(_, value)| value.parse::<f64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_the_samples_that_match() {
        let text =
            "# TYPE a counter\na_total{x=\"1\",y=\"2\"} 3\na_total{x=\"1\",y=\"3\"} 4\na_total{x=\"2\"} 5\nb_total 7\n";
        assert_eq!(metric(text, "a_total", &["x=\"1\""]), 7.0);
        assert_eq!(metric(text, "a_total", &["x=\"1\"", "y=\"3\""]), 4.0);
        assert_eq!(metric(text, "a_total", &[]), 12.0);
        assert_eq!(metric(text, "b_total", &[]), 7.0);
        assert_eq!(metric(text, "a", &[]), 0.0);
    }

    #[test]
    fn a_line_half_written_waits_for_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "1\n2\n3").unwrap();
        let mut tail = Tail::new(&path);
        assert_eq!(tail.read::<u32>(), [1, 2]);
        std::fs::write(&path, "1\n2\n34\n").unwrap();
        assert_eq!(tail.read::<u32>(), [34]);
        assert_eq!(tail.read::<u32>(), [0; 0]);
    }

    #[test]
    fn quantiles_of_few_values() {
        assert_eq!(quantile(&mut [], 0.5), 0);
        assert_eq!(quantile(&mut [3, 1, 2], 0.5), 2);
        assert_eq!(quantile(&mut [3, 1, 2], 1.0), 3);
    }
}
