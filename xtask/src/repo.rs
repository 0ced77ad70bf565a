//! Where things are, and commands run from the repository's root folder.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

/// The repository's root folder.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the repository")
}

/// Where cargo puts what it builds.
pub(crate) fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// Where `cargo install` puts binaries. Not every PATH has it.
pub(crate) fn cargo_bin() -> Option<PathBuf> {
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cargo")))
        .map(|home| home.join("bin"))
}

/// The PATH of child processes: the caller's, with cargo's folder before it and the administrator's behind it
/// if they are missing.
pub(crate) fn search_path() -> Result<OsString> {
    let current = env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = env::split_paths(&current).collect();
    if let Some(own) = cargo_bin().filter(|own| !dirs.contains(own)) {
        dirs.insert(0, own);
    }
    for dir in ["/usr/sbin", "/sbin"].map(PathBuf::from) {
        if !dirs.contains(&dir) {
            dirs.push(dir);
        }
    }
    env::join_paths(dirs).context("putting PATH together")
}

/// Where a program is in the PATH of child processes, if it is.
pub(crate) fn which(program: &str) -> Result<Option<PathBuf>> {
    let path = search_path()?;
    Ok(env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file()))
}

/// Whether a program is in the PATH of child processes.
pub(crate) fn has(program: &str) -> Result<bool> {
    Ok(which(program)?.is_some())
}

/// A command in the root folder, without the variables that `cargo run` sets about this crate: build scripts
/// would run again because of them.
pub(crate) fn command(program: &str) -> Result<Command> {
    let mut command = Command::new(program);
    command.current_dir(root()).env("PATH", search_path()?);
    for (name, _) in env::vars_os() {
        let own = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];
        if name.to_str().is_some_and(|name| own.iter().any(|prefix| name.starts_with(prefix))) {
            command.env_remove(name);
        }
    }
    Ok(command)
}
