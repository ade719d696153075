//! What commands print: results to stdout in one piece, everything else to stderr. Colours only on a terminal, and never
//! with `NO_COLOR` (https://no-color.org) or a dumb one.

use std::io::{self, IsTerminal as _, Write as _};

use clap::ValueEnum;
use serde::Serialize;

use crate::error::Error;

mod table;

pub(crate) use table::Table;

/// How a result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// For either.
    Yaml,
}

/// Prints `text` to stdout.
///
/// # Errors
/// When nobody takes it.
pub(crate) fn print(text: &str) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}

/// Prints `value` as `format` says; `table` makes the form for people.
///
/// # Errors
/// When nobody takes it.
pub(crate) fn print_as<T: Serialize>(
    format: Format,
    value: &T,
    table: impl FnOnce(&Colours) -> String,
) -> Result<(), Error> {
    let unfit = |error: &dyn std::fmt::Display| io::Error::other(error.to_string());
    let text = match format {
        Format::Table => table(&Colours::of_stdout()),
        Format::Json => serde_json::to_string_pretty(value).map_err(|error| unfit(&error))? + "\n",
        Format::Yaml => serde_saphyr::to_string(value).map_err(|error| unfit(&error))?,
    };
    print(&text)
}

/// A line on stderr. A closed stderr is nobody's problem.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// One line on stderr that tells how something goes on: written over on a terminal, else a line for each change.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    shown: String,
}

impl Progress {
    /// Shows `line`, unless it is what is shown already.
    pub(crate) fn show(&mut self, line: &str) {
        if line == self.shown {
            return;
        }
        let mut stderr = io::stderr().lock();
        let _ = if stderr.is_terminal() {
            write!(stderr, "\r\x1b[2K{line}").and_then(|()| stderr.flush())
        } else {
            writeln!(stderr, "{line}")
        };
        self.shown = line.to_owned();
    }

    /// Takes the line away again.
    pub(crate) fn clear(&mut self) {
        let mut stderr = io::stderr().lock();
        if !self.shown.is_empty() && stderr.is_terminal() {
            let _ = write!(stderr, "\r\x1b[2K").and_then(|()| stderr.flush());
        }
        self.shown.clear();
    }
}

/// Whether and how to colour.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Colours(bool);

/// What a colour means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paint {
    /// Green.
    Good,
    /// Yellow.
    Warning,
    /// Red.
    Bad,
    /// Bold.
    Heading,
    /// Grey.
    Quiet,
}

impl Colours {
    /// None.
    #[cfg(test)]
    pub(crate) const NONE: Self = Self(false);

    /// What stdout wants.
    pub(crate) fn of_stdout() -> Self {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let dumb = set("TERM").is_some_and(|term| term == "dumb");
        Self(io::stdout().is_terminal() && set("NO_COLOR").is_none() && !dumb)
    }

    /// `text` in its colour.
    pub(crate) fn paint(self, paint: Paint, text: &str) -> String {
        if !self.0 {
            return text.to_owned();
        }
        let code = match paint {
            Paint::Good => "32",
            Paint::Warning => "33",
            Paint::Bad => "31",
            Paint::Heading => "1",
            Paint::Quiet => "2",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}
