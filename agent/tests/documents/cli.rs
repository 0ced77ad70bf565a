//! `cli.md`, from the definitions that `--help` is made of.

use clap::{Arg, Command, CommandFactory as _, builder::StyledStr};
use sockline::cli::Cli;

use crate::{cell, head, row};

pub fn page() -> String {
    let mut sockline = Cli::command();
    sockline.build();
    let mut page = head("Command line", "agent/src/cli/");
    page += "If an option is not given, its variable is used. An empty variable is the same as one \
             that is not set. Boolean variables take 1, true, yes, 0, false, no. `sockline COMMAND --help` \
             prints the same.\n\n";
    let commands = || sockline.get_subcommands().filter(|command| !command.is_hide_set());
    page += &row(&["command", "purpose"]);
    page += "|---|---|\n";
    for command in commands().filter(|command| command.get_name() != "help") {
        let name = command.get_name();
        page +=
            &row(&[&format!("[`sockline {name}`](#sockline-{name})"), &text(command.get_about())]);
    }
    for command in commands().filter(|command| command.get_name() != "help") {
        page += &section(command);
    }
    page
}

fn section(command: &Command) -> String {
    let mut section = format!("\n## `sockline {}`\n\n", command.get_name());
    let about = command.get_long_about().or_else(|| command.get_about());
    section += &about.map(ToString::to_string).unwrap_or_default();
    section += "\n\n```text\n";
    section += &command.clone().render_usage().to_string().replace("Usage: ", "");
    section += "\n```\n\n";
    section += &row(&["argument", "variable", "default", "meaning"]);
    section += "|---|---|---|---|\n";
    let visible = |arg: &&Arg| !arg.is_hide_set() && arg.get_id() != "help";
    for arg in command.get_arguments().filter(visible) {
        section += &argument(arg);
    }
    if let Some(after) = command.get_after_help() {
        section += &format!("\n```text\n{after}\n```\n");
    }
    section
}

fn argument(arg: &Arg) -> String {
    let values: Vec<String> =
        arg.get_value_names().unwrap_or_default().iter().map(ToString::to_string).collect();
    let takes_values = arg.get_action().takes_values();
    let value = if takes_values { values.join(" ") } else { String::new() };
    let names = [
        arg.get_long().map(|long| format!("--{long}")),
        arg.get_short().map(|short| format!("-{short}")),
    ];
    let names: Vec<String> = names.into_iter().flatten().collect();
    let name = if names.is_empty() {
        format!("`[{value}]`")
    } else {
        let spelled = names.iter().map(|name| format!("{name} {value}"));
        spelled.map(|name| format!("`{}`", name.trim_end())).collect::<Vec<_>>().join(", ")
    };
    let variable = arg.get_env().map(|env| format!("`{}`", env.to_string_lossy()));
    let (mut meaning, mut default) = with_default(&text(arg.get_help()));
    if takes_values && let [value] = arg.get_default_values() {
        default = format!("`{}`", value.to_string_lossy());
    }
    let possible = arg.get_possible_values();
    if takes_values && !possible.is_empty() && possible.len() < 10 {
        let possible = possible.iter().map(|value| format!("`{}`", value.get_name()));
        meaning += &format!(". One of {}", possible.collect::<Vec<_>>().join(", "));
    }
    row(&[&name, &variable.unwrap_or_default(), &default, &meaning])
}

/// Help that ends with `[default: …]`, in two.
fn with_default(help: &str) -> (String, String) {
    match help.strip_suffix(']').and_then(|help| help.rsplit_once(" [default: ")) {
        Some((meaning, default)) => (meaning.to_owned(), default.to_owned()),
        None => (help.to_owned(), String::new()),
    }
}

fn text(styled: Option<&StyledStr>) -> String {
    cell(&styled.map(ToString::to_string).unwrap_or_default())
}
