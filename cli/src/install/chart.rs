//! The Helm chart inside this program: `build.rs` embeds `charts/weft` file by file, and helm gets it as a folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::error::Error;

include!(concat!(env!("OUT_DIR"), "/chart.rs"));

const HIGH_AVAILABILITY: &str = "values-ha.yaml";

/// The chart as a folder, which lives as long as this.
pub(super) struct Chart {
    folder: TempDir,
}

impl Chart {
    /// Unpacks it.
    ///
    /// # Errors
    /// When it cannot be written, or this program was built without it.
    pub(super) fn unpack() -> Result<Self, Error> {
        if !FILES.iter().any(|(name, _)| *name == "Chart.yaml") {
            return Err(Error::NoChart { what: "the chart" });
        }
        let folder = tempfile::Builder::new().prefix("weft-chart-").tempdir().map_err(Error::Unpack)?;
        FILES.iter().try_for_each(|(name, bytes)| write(folder.path(), name, bytes)).map_err(Error::Unpack)?;
        Ok(Self { folder })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Its values for high availability.
    ///
    /// # Errors
    /// When it has none.
    pub(super) fn high_availability(&self) -> Result<PathBuf, Error> {
        let file = self.path().join(HIGH_AVAILABILITY);
        if file.is_file() { Ok(file) } else { Err(Error::NoChart { what: "the chart's values-ha.yaml" }) }
    }
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let file = folder.join(name);
    if let Some(parent) = file.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(file, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chart_is_unpacked_as_it_is_in_the_checkout() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/weft");
        match Chart::unpack() {
            Ok(chart) => {
                for file in ["Chart.yaml", "values.yaml"] {
                    assert_eq!(
                        fs::read(chart.path().join(file)).unwrap(),
                        fs::read(source.join(file)).unwrap(),
                        "{file}"
                    );
                }
            }
            Err(error) => assert!(!source.join("Chart.yaml").exists(), "{error}"),
        }
    }
}
