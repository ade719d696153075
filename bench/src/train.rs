//! `weft-bench train`: the cases once more, a moment each, for a sidecar that was built to write down which ways through its
//! code are taken (`-Cprofile-generate`). Nothing is measured; what is written is the compiler's to read (`make pgo`).
//!
//! Such a program writes when it ends by itself, so here sidecars are asked to end, where a measurement kills them.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use nix::sys::signal::{Signal, kill};
use weft_e2e::{MeshOptions, probe};
use weft_proto::SIDECAR_UID;

use crate::case::{Case, Load};
use crate::cpu;
use crate::error::{Context, Error, Result};
use crate::interrupt;
use crate::load;
use crate::measure::{progress, turn};
use crate::subject::WEFT;
use crate::world::World;

/// In the folder of a case's world.
const PROFILES: &str = "profiles";

/// How long, and where to.
#[derive(Debug, clap::Args)]
pub(crate) struct TrainArgs {
    /// How long each case takes, in s.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// The folder for what the sidecars wrote down.
    #[arg(long)]
    output: PathBuf,
}

/// Runs every case but `memory`, which only holds still.
///
/// # Errors
/// When a case fails, or a sidecar has written nothing: it was not built for this.
pub(crate) fn train(args: &TrainArgs) -> Result<()> {
    interrupt::listen()?;
    cpu::leave_the_proxy_core()?;
    std::fs::create_dir_all(&args.output).context(|| format!("creating {}", args.output.display()))?;
    for case in Case::value_variants().iter().filter(|case| !matches!(case.plan().load, Load::Memory)) {
        let files = one(*case, args)?;
        progress(format_args!("{}: {files} profiles", case.name()));
    }
    Ok(())
}

fn one(case: Case, args: &TrainArgs) -> Result<usize> {
    let inside = format!("/run/weft/run/{PROFILES}/%p.profraw");
    let options = MeshOptions { sidecar_env: vec![("LLVM_PROFILE_FILE".to_owned(), inside)], ..MeshOptions::default() };
    let world = World::start_with(options, case, &[WEFT], Path::new(""), load::probe)?;
    let folder = world.mesh.folder().join(PROFILES);
    std::fs::create_dir_all(&folder).context(|| format!("creating {}", folder.display()))?;
    chown(&folder, Some(SIDECAR_UID), Some(SIDECAR_UID)).context(|| format!("giving away {}", folder.display()))?;
    for stage in &world.stages {
        turn(case, stage, args.seconds)?;
        for sidecar in &stage.proxies {
            // The first drains, the next ones cut what is left.
            probe::wait_until("a sidecar asked to end", Duration::from_secs(20), || {
                std::thread::sleep(Duration::from_millis(300));
                kill(*sidecar, Signal::SIGTERM).is_err()
            })?;
        }
    }
    let mut files = 0;
    for file in std::fs::read_dir(&folder).context(|| format!("reading {}", folder.display()))? {
        let file = file.context(|| format!("reading {}", folder.display()))?.path();
        let kept = args.output.join(format!("{}-{files}.profraw", case.name()));
        std::fs::copy(&file, &kept).context(|| format!("copying {} to {}", file.display(), kept.display()))?;
        files += 1;
    }
    if files == 0 {
        return Err(Error::Machine(
            "the sidecars wrote no profile: WEFT_BIN_DIR must have one that was built with -Cprofile-generate (`make pgo` builds it)"
                .to_owned(),
        ));
    }
    Ok(files)
}
