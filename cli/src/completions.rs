//! Completion scripts, made from the same definition as the commands.

use std::process::ExitCode;

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::args::Cli;
use crate::error::Error;
use crate::output;

/// Prints the script for `shell`.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn print(shell: Shell) -> Result<ExitCode, Error> {
    output::print(&script(shell))?;
    Ok(ExitCode::SUCCESS)
}

fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "weft", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_learns_every_command() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell);
            let commands = [
                "install",
                "uninstall",
                "check",
                "routes",
                "explain",
                "version",
                "inject",
                "uninject",
                "identity",
                "rotate",
            ];
            for command in commands {
                assert!(script.contains(command), "{shell}: {command}");
            }
        }
    }
}
