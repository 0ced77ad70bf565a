//! Agents under `strace`, which ends them at a system call that a test chooses: nothing in the agent
//! knows of it.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::Build;

/// A system call, by its name and how often the thread that makes it has made it then.
#[derive(Clone, Copy, Debug)]
pub struct KillAt {
    pub call: &'static str,
    /// From 1.
    pub number: usize,
}

/// Writes a program into a folder that runs a build's agent until it comes to a call. It is killed
/// before the kernel does anything about that call.
///
/// # Errors
/// Those of writing.
pub fn killed_at(folder: &Path, build: Build, kill: KillAt) -> Result<PathBuf> {
    let KillAt { call, number } = kill;
    let inject =
        format!("--output=/dev/null --trace={call} --inject={call}:signal=KILL:when={number}");
    program(folder, build, "killed", &inject)
}

/// Writes a program that runs a build's agent and writes its calls of this name into a file.
///
/// # Errors
/// Those of writing.
pub fn counted(folder: &Path, build: Build, call: &str, log: &Path) -> Result<PathBuf> {
    program(folder, build, "counted", &format!("--output='{}' --trace={call}", log.display()))
}

/// How often the thread that made it most made a call, by what [`counted`] wrote.
///
/// # Errors
/// Those of reading.
pub fn calls_in(log: &Path) -> Result<usize> {
    let text = fs::read_to_string(log).with_context(|| format!("reading {}", log.display()))?;
    let mut by_thread: HashMap<&str, usize> = HashMap::new();
    // A call that another thread interrupts is told of twice.
    for line in text.lines().filter(|line| line.contains('(') && !line.contains(" resumed>")) {
        *by_thread.entry(line.split(' ').next().unwrap_or_default()).or_default() += 1;
    }
    Ok(by_thread.into_values().max().unwrap_or(0))
}

fn program(folder: &Path, build: Build, name: &str, options: &str) -> Result<PathBuf> {
    let binary = build.binary()?;
    // As a grandchild, so that the process that is started is the agent, and its end is the agent's.
    let text = format!(
        "#!/bin/sh\nexec strace --daemonize --follow-forks --quiet=all {options} -- '{}' \"$@\"\n",
        binary.display()
    );
    let path = folder.join(format!("{name}.sh"));
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}
