//! What must be installed. A missing tool is a failure with the install line in its message, never a skipped test.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// A program and the Debian package it comes in.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    /// The program.
    pub program: &'static str,
    /// Its package.
    pub package: &'static str,
}

const fn tool(program: &'static str, package: &'static str) -> Tool {
    Tool { program, package }
}

/// What every world needs.
pub const WORLD: [Tool; 7] = [
    tool("ip", "iproute2"),
    tool("unshare", "util-linux"),
    tool("nsenter", "util-linux"),
    tool("setpriv", "util-linux"),
    tool("mount", "mount"),
    tool("nft", "nftables"),
    tool("tcpdump", "tcpdump"),
];

/// What the demo and some tests run in pods besides.
pub const APPS: [Tool; 5] = [
    tool("nginx", "nginx"),
    tool("redis-server", "redis-server"),
    tool("redis-cli", "redis-tools"),
    tool("curl", "curl"),
    tool("dnsmasq", "dnsmasq-base"),
];

/// What tests with TLS of the apps' own need besides.
pub const TLS: [Tool; 1] = [tool("openssl", "openssl")];

/// The path of `program`, looked for in `PATH` and where daemons live.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Checks for root and for all of `tools` at once.
///
/// # Errors
/// [`Error::Missing`] with everything that is missing and how to get it.
pub fn require(tools: &[Tool]) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::Missing(
            "pods are made of network namespaces and run under several UIDs, which needs root: run it as root \
             (sudo make demo, sudo make test-e2e)"
                .to_owned(),
        ));
    }
    let missing: Vec<_> = tools.iter().filter(|tool| find(tool.program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<_> = missing.iter().map(|tool| tool.package).collect();
    packages.dedup();
    let programs: Vec<_> = missing.iter().map(|tool| tool.program).collect();
    Err(Error::Missing(format!(
        "not installed: {}. Install with: apt-get install -y --no-install-recommends {}",
        programs.join(", "),
        packages.join(" ")
    )))
}

/// A binary of this workspace: `WEFT_BIN_DIR`, or next to this program, or in the build folder above it (where tests
/// live in `deps/`).
///
/// # Errors
/// When it has not been built.
pub fn binary(name: &str) -> Result<PathBuf> {
    let given = std::env::var_os("WEFT_BIN_DIR").map(PathBuf::from);
    let own = std::env::current_exe().ok();
    let near = own.iter().flat_map(|own| own.ancestors().skip(1).take(2).map(Path::to_path_buf));
    given
        .into_iter()
        .chain(near)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .ok_or_else(|| Error::Missing(format!("{name} is not built: run `make build` first")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_is_named_with_its_package() {
        if !nix::unistd::geteuid().is_root() {
            let message = require(&[]).unwrap_err().to_string();
            assert!(message.contains("root"), "{message}");
            return;
        }
        assert!(require(&[tool("sh", "dash")]).is_ok());
        let message = require(&[tool("no-such-program", "a-package")]).unwrap_err().to_string();
        assert!(message.contains("no-such-program") && message.contains("apt-get install"), "{message}");
        assert!(message.ends_with("a-package"), "{message}");
    }
}
