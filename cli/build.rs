//! Embeds the Helm chart: a list of its files, each by `include_bytes!`, so that `weft install` needs nothing but helm.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let chart = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("../charts/weft");
    // A folder is watched with all that is in it; the one above it, because this one may only come into being.
    println!("cargo::rerun-if-changed=../charts");
    println!("cargo::rerun-if-changed=build.rs");
    let mut files = Vec::new();
    if chart.is_dir() {
        collect(&chart, &chart, &mut files)?;
    }
    files.sort();
    let mut code = String::from("pub(super) static FILES: &[(&str, &[u8])] = &[\n");
    for (name, path) in files {
        // Writing to a String cannot fail.
        let _ = writeln!(code, "    ({name:?}, include_bytes!({:?})),", path.display().to_string());
    }
    code.push_str("];\n");
    fs::write(PathBuf::from(variable("OUT_DIR")?).join("chart.rs"), code)
}

/// The files below `folder`, by their names relative to `chart`.
fn collect(chart: &Path, folder: &Path, files: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(chart, &path, files)?;
        } else if let Ok(name) = path.strip_prefix(chart) {
            files.push((name.to_string_lossy().replace('\\', "/"), path.clone()));
        }
    }
    Ok(())
}

fn variable(name: &str) -> io::Result<String> {
    env::var(name).map_err(|error| io::Error::other(format!("{name}: {error}")))
}
