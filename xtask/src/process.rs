//! Child processes, with errors that name the command.

use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// The command line as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs a command that inherits the terminal.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = shown(command);
    let status = command.status().with_context(|| format!("starting `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed, {status}");
    }
    Ok(())
}

/// Runs a command whose standard error is for the reader, and returns its standard output.
pub(crate) fn output_with_progress(command: &mut Command) -> Result<String> {
    let line = shown(command);
    let Output { status, stdout, .. } = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("starting `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed, {status}");
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

/// Runs a command and returns its standard output. An error contains its standard error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let line = shown(command);
    let Output { status, stdout, stderr } =
        command.stdin(Stdio::null()).output().with_context(|| format!("starting `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed, {status}: {}", String::from_utf8_lossy(&stderr).trim());
    }
    Ok(String::from_utf8_lossy(&stdout).trim().to_owned())
}

/// The same command at the lowest priority: beside work that must not become slower.
pub(crate) fn at_lowest_priority(command: &Command) -> Command {
    let mut low = Command::new("nice");
    low.args(["-n", "19"]).arg(command.get_program()).args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        low.current_dir(folder);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => low.env(name, value),
            None => low.env_remove(name),
        };
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_at_the_lowest_priority_is_otherwise_the_same() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $WHO $HOME; pwd; nice"]).env("WHO", "me").env_remove("HOME");
        let output = output(at_lowest_priority(&command).current_dir("/")).unwrap();
        assert_eq!(output.lines().collect::<Vec<_>>(), ["me", "/", "19"]);
    }
}
