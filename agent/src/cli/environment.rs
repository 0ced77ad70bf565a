//! Environment variables as options: what an empty one means.

use clap::Command;

/// Takes empty variables for ones that are not set, as a manifest with an unfilled value leaves them.
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
