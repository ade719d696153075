//! Ends cleanly on Ctrl-C and SIGTERM. Everything that runs for us lives in namespaces whose first process ends with us
//! (`weft_e2e::Sandbox`), so ending is enough for processes, links and mounts; what is left is the folder of the run.

use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use tokio::signal::unix::{SignalKind, signal};

use crate::error::{Context, Result};

static FOLDER: Mutex<Option<PathBuf>> = Mutex::new(None);

/// From now on, an interrupt removes `folder`; the one named before is no longer in use.
pub(crate) fn on_interrupt_remove(folder: &Path) {
    *FOLDER.lock() = Some(folder.to_owned());
}

/// Listens on a thread of its own. The handlers are not inherited by what we start.
///
/// # Errors
/// When the thread cannot be started.
pub(crate) fn listen() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context(|| "starting to listen for signals".to_owned())?;
    std::thread::Builder::new()
        .name("interrupt".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                let (Ok(mut terminate), Ok(mut interrupt)) =
                    (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
                else {
                    return;
                };
                tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
                eprintln!("weft-bench: interrupted; no figures are written");
                if let Some(folder) = FOLDER.lock().take() {
                    let _ = std::fs::remove_dir_all(folder);
                }
                std::process::exit(130);
            });
        })
        .context(|| "starting to listen for signals".to_owned())?;
    Ok(())
}
