//! Commands that need root: through sudo for other users.

use std::process::Command;

use anyhow::{Result, bail};
use nix::unistd::Uid;

use crate::{process, repo, term};

/// A command that changes the system. Prints it if it uses sudo.
pub(super) fn command(program: &str, args: &[&str]) -> Result<Command> {
    let mut command = if Uid::effective().is_root() {
        repo::command(program)?
    } else if repo::has("sudo")? {
        let mut sudo = repo::command("sudo")?;
        sudo.arg(program);
        sudo
    } else {
        bail!(
            "`{program} {}` needs root, and there is no sudo: run `cargo xtask setup` as root",
            args.join(" ")
        );
    };
    command.args(args);
    if !Uid::effective().is_root() {
        term::doing("as root", &process::shown(&command));
    }
    Ok(command)
}
