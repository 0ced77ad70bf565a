//! Environment variables as options.

use clap::Command;

/// Unsets empty variables, which a manifest with an empty value leaves.
#[must_use]
pub fn without_empty(command: Command) -> Command {
    let command = command.mut_args(|option| {
        let is_empty = option
            .get_env()
            .is_some_and(|name| std::env::var_os(name).is_some_and(|value| value.is_empty()));
        if is_empty { option.env(None::<&'static str>) } else { option }
    });
    command.mut_subcommands(without_empty)
}
