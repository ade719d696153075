//! `weft-e2e image`: an OCI image archive of a few files on nothing, without a container engine. `make images` makes the
//! images users run with it, the test cluster its own, so what is tested is what ships.
//!
//! One layer, one configuration, one manifest in an OCI image layout (image-spec 1.1), in a tar that `ctr images import`,
//! `skopeo copy oci-archive:`, `podman load` and `docker load` (25 and later) take. Made twice from the same files, it is
//! the same byte for byte: no time, no user and no order of the file system goes into it.
//!
//! Bound: the files are held in memory.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};

use crate::Result;
use crate::error::Context;

/// What to put into an image.
#[derive(Debug, clap::Args)]
pub struct Image {
    /// What the image is called: `weft.dev/sidecar:0.1.0`
    #[arg(long)]
    name: String,
    /// A file to put in, executable: `target/x/weft-sidecar=/weft-sidecar`
    #[arg(long = "file", value_name = "SOURCE=PATH", value_parser = mapping)]
    files: Vec<(PathBuf, String)>,
    /// The program that it runs; once more for each argument.
    #[arg(long, required = true, allow_hyphen_values = true)]
    entrypoint: Vec<String>,
    /// UID and GID it runs as.
    #[arg(long, default_value_t = 65532)]
    user: u32,
    /// Where to write the archive.
    #[arg(long)]
    output: PathBuf,
}

fn mapping(text: &str) -> std::result::Result<(PathBuf, String), String> {
    match text.rsplit_once('=') {
        Some((source, path)) if path.starts_with('/') && !source.is_empty() => Ok((source.into(), path.to_owned())),
        _ => Err("must be SOURCE=/PATH/IN/IMAGE".to_owned()),
    }
}

/// Writes the archive and says how large it is.
///
/// # Errors
/// When a file cannot be read or the archive not be written.
pub fn run(image: &Image) -> Result<()> {
    let mut contents = Vec::new();
    for (source, path) in &image.files {
        let bytes = std::fs::read(source).context(|| format!("reading {}", source.display()))?;
        contents.push((path.trim_start_matches('/').to_owned(), bytes));
    }
    contents.sort();
    let written = || format!("writing {}", image.output.display());
    let layer = layer(&contents).context(written)?;
    let archive = archive(&image.name, &image.entrypoint, image.user, layer).context(written)?;
    if let Some(folder) = image.output.parent() {
        std::fs::create_dir_all(folder).context(written)?;
    }
    File::create(&image.output).and_then(|mut file| file.write_all(&archive)).context(written)?;
    println!("{:<44} {:>6.1} MB  {}", image.name, archive.len() as f64 / 1e6, image.output.display());
    Ok(())
}

/// A layer: `/tmp` for anybody, and the files, owned by root and executable.
fn layer(contents: &[(String, Vec<u8>)]) -> io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut folders: BTreeSet<&Path> = BTreeSet::from([Path::new("tmp")]);
    folders.extend(contents.iter().flat_map(|(path, _)| Path::new(path).ancestors().skip(1)));
    for folder in folders.into_iter().filter(|folder| !folder.as_os_str().is_empty()) {
        let mode = if folder == Path::new("tmp") { 0o1777 } else { 0o755 };
        let mut header = header(mode, 0);
        header.set_entry_type(tar::EntryType::Directory);
        tar.append_data(&mut header, folder, io::empty())?;
    }
    for (path, bytes) in contents {
        tar.append_data(&mut header(0o755, bytes.len()), path, &bytes[..])?;
    }
    tar.into_inner()
}

fn archive(name: &str, entrypoint: &[String], user: u32, layer: Vec<u8>) -> io::Result<Vec<u8>> {
    let mut blobs = Vec::new();
    let mut blob = |media_type: &str, bytes: Vec<u8>| -> Value {
        let digest = sha256(&bytes);
        let descriptor = json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len()});
        blobs.push((format!("blobs/sha256/{digest}"), bytes));
        descriptor
    };
    let layer_digest = format!("sha256:{}", sha256(&layer));
    let layer = blob("application/vnd.oci.image.layer.v1.tar", layer);
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let configuration = json!({
        "architecture": architecture,
        "os": "linux",
        "config": {"User": format!("{user}:{user}"), "Entrypoint": entrypoint, "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
    });
    let configuration = blob("application/vnd.oci.image.config.v1+json", configuration.to_string().into_bytes());
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": configuration,
        "layers": [layer],
    });
    let mut manifest = blob("application/vnd.oci.image.manifest.v1+json", manifest.to_string().into_bytes());
    manifest["platform"] = json!({"architecture": architecture, "os": "linux"});
    manifest["annotations"] = json!({
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rsplit_once(':').map_or("latest", |(_, tag)| tag),
    });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [manifest],
    });
    let mut tar = tar::Builder::new(Vec::new());
    let layout = json!({"imageLayoutVersion": "1.0.0"});
    let small = [("oci-layout".to_owned(), layout.to_string()), ("index.json".to_owned(), index.to_string())];
    for (path, bytes) in small.into_iter().map(|(path, text)| (path, text.into_bytes())).chain(blobs) {
        tar.append_data(&mut header(0o644, bytes.len()), path, &bytes[..])?;
    }
    tar.into_inner()
}

fn header(mode: u32, size: usize) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_names_its_parts_by_what_they_are() {
        let contents = [("bin/app".to_owned(), b"program".to_vec())];
        let make = || archive("weft.test/app:1", &["/bin/app".to_owned()], 7, layer(&contents).unwrap()).unwrap();
        assert_eq!(make(), make(), "the same files, the same archive");
        let bytes = make();
        let mut tar = tar::Archive::new(&bytes[..]);
        let mut names = Vec::new();
        for entry in tar.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut content = Vec::new();
            io::Read::read_to_end(&mut entry, &mut content).unwrap();
            if let Some(digest) = name.strip_prefix("blobs/sha256/") {
                assert_eq!(sha256(&content), digest);
            }
            names.push(name);
        }
        assert_eq!(names[..2], ["oci-layout", "index.json"]);
        assert_eq!(names.len(), 5, "layer, configuration and manifest: {names:?}");
    }

    #[test]
    fn a_file_has_a_source_and_a_place() {
        assert_eq!(mapping("a/b=/b"), Ok(("a/b".into(), "/b".to_owned())));
        assert!(mapping("a/b").is_err() && mapping("a=b").is_err() && mapping("=/b").is_err());
    }
}
