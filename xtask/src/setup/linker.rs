//! bpf-linker, in the version that reads the bitcode of the pinned compiler.

use anyhow::{Context, Result};

use super::Args;
use crate::{cargo, process, repo, term};

/// Pinned together with the compiler in rust-toolchain.toml: 0.10.3 reads LLVM 22 through the
/// compiler's own library, so no LLVM package is needed; later ones link the system's.
const VERSION: &str = "0.10.3";

pub(super) fn find(_: &Args) -> Result<Option<String>> {
    let mut linker = repo::command("bpf-linker")?;
    let version = process::output(linker.arg("--version")).unwrap_or_default();
    Ok((version.split(' ').nth(1) == Some(VERSION)).then(|| VERSION.to_owned()))
}

pub(super) fn install(_: &Args) -> Result<String> {
    term::doing("bpf-linker", "compiling it takes about a minute");
    let args = ["install", "bpf-linker", "--version", VERSION, "--locked", "--force", "--quiet"];
    process::run(&mut cargo::command(&args)?)
        .context("cargo needs its package registry for this step: is there a network?")?;
    Ok("cargo install".to_owned())
}
