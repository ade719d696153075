//! `docs/reference/cli.md`, made from the definition of the commands; the test holds the file against it.
//! `WEFT_WRITE_REFERENCE=1 cargo test -p weft reference` writes it.

use std::fmt::Write as _;

use clap::{Arg, Command, CommandFactory as _};

use crate::args::Cli;

const HEAD: &str = "\
# The command line

Made from the commands' own definition; a test keeps it true. `weft COMMAND --help` says the same.

Exit codes: 0 done, 1 something is wrong (said on stderr, or in the findings of `weft check`), 2 a bad command line. Results
go to stdout, everything else to stderr. Colours appear only on a terminal, and never where `NO_COLOR` is set.
";

fn reference() -> String {
    let mut root = Cli::command();
    root.build();
    let mut text = HEAD.to_owned();
    write(&mut text, "## Flags of every command\n\n");
    let global: Vec<&Arg> = root.get_arguments().filter(|arg| arg.is_global_set()).collect();
    flags(&mut text, &global);
    for command in root.get_subcommands() {
        section(&mut text, "weft", command);
    }
    text
}

fn section(text: &mut String, parent: &str, command: &Command) {
    if command.get_name() == "help" {
        return;
    }
    let name = format!("{parent} {}", command.get_name());
    let nested: Vec<&Command> = command.get_subcommands().filter(|command| command.get_name() != "help").collect();
    // Some commands do something by themselves as well.
    if nested.is_empty() || !command.is_subcommand_required_set() {
        write(text, &format!("\n## `{name}`\n\n"));
        let about = command.get_long_about().or(command.get_about());
        write(text, &format!("{}\n", about.map(ToString::to_string).unwrap_or_default().trim()));
        let own: Vec<&Arg> = command
            .get_arguments()
            .filter(|arg| !arg.is_global_set() && !["help", "version"].contains(&arg.get_id().as_str()))
            .collect();
        if !own.is_empty() {
            text.push('\n');
            flags(text, &own);
        }
        if let Some(examples) = command.get_after_help() {
            let examples = examples.to_string();
            let lines: Vec<&str> = examples.lines().skip(1).map(str::trim_start).collect();
            write(text, &format!("\n```sh\n{}\n```\n", lines.join("\n")));
        }
    }
    for command in nested {
        section(text, &name, command);
    }
}

fn flags(text: &mut String, arguments: &[&Arg]) {
    write(text, "| flag | what | default | environment |\n|---|---|---|---|\n");
    for arg in arguments {
        let value = arg.get_value_names().and_then(|names| names.first()).map(ToString::to_string).unwrap_or_default();
        let optional = arg.get_num_args().is_some_and(|range| range.min_values() == 0 && range.takes_values());
        let value = match (arg.get_num_args().is_some_and(|range| range.takes_values()), optional) {
            (false, _) => String::new(),
            (true, true) => format!(" [{value}]"),
            (true, false) => format!(" {value}"),
        };
        let short = arg.get_short().map(|short| format!("-{short}"));
        let longs = arg.get_long().into_iter().chain(arg.get_visible_aliases().into_iter().flatten());
        let mut names: Vec<String> = short.into_iter().chain(longs.map(|long| format!("--{long}"))).collect();
        if arg.is_positional() {
            names = vec![value.trim().to_owned()];
        } else if let Some(last) = names.last_mut() {
            last.push_str(&value);
        }
        let names = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let mut what = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let choices: Vec<String> = arg.get_possible_values().iter().map(|v| format!("`{}`", v.get_name())).collect();
        if !choices.is_empty() && (arg.is_positional() || value.len() > 1) {
            let _ = write!(what, ": {}", choices.join(", "));
        }
        let default = arg.get_default_values().iter().map(|v| v.to_string_lossy().into_owned()).collect::<Vec<_>>();
        let default =
            if value.is_empty() || default.is_empty() { String::new() } else { format!("`{}`", default.join(" ")) };
        let env = arg.get_env().map(|env| format!("`{}`", env.to_string_lossy())).unwrap_or_default();
        write(text, &format!("| {names} | {} | {default} | {env} |\n", what.replace('|', "\\|")));
    }
}

fn write(text: &mut String, more: &str) {
    text.push_str(more);
}

#[test]
fn the_reference_says_what_the_commands_are() {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/cli.md");
    let made = reference();
    if std::env::var_os("WEFT_WRITE_REFERENCE").is_some() {
        std::fs::write(&file, &made).unwrap();
    }
    let held = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(held, made, "run it with WEFT_WRITE_REFERENCE=1 to write the file");
}
