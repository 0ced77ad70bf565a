//! The standard library's sources. The BPF target has no prebuilt `core`, so it is compiled.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Args, debian};
use crate::{process, repo, term};

/// Where rustc and cargo look for the sources, below the sysroot.
const PLACE: &str = "lib/rustlib/src/rust";

pub(super) fn find(args: &Args) -> Result<Option<String>> {
    let sysroot = sysroot(args)?;
    // The first file that `-Z build-std` reads.
    let there = sysroot.join(PLACE).join("library/Cargo.lock").is_file();
    Ok(there.then(|| format!("in {}", sysroot.display())))
}

pub(super) fn install(args: &Args) -> Result<String> {
    let mut reasons = Vec::new();
    if !args.without_rustup {
        match add_component() {
            Ok(()) => return Ok("rustup component add rust-src".to_owned()),
            Err(error) => {
                term::doing("rust-src", "rustup cannot get it, trying Debian's package");
                reasons.push(format!("{error:#}"));
            }
        }
    }
    let version = compiler_version()?;
    debian::install(&version, &sysroot(args)?.join(PLACE)).with_context(|| {
        reasons.push(format!(
            "the sources of Rust {version} belong in <sysroot>/{PLACE}: where rustup cannot \
             download, get the component rust-src of that version there by other means"
        ));
        reasons.join("; ")
    })
}

fn add_component() -> Result<()> {
    let mut rustup = repo::command("rustup")?;
    // Where downloads are blocked, retries only take time.
    rustup.args(["component", "add", "rust-src"]).env("RUSTUP_MAX_RETRIES", "1");
    process::output(&mut rustup).map(drop)
}

fn sysroot(args: &Args) -> Result<PathBuf> {
    if let Some(dir) = &args.sysroot {
        return std::path::absolute(dir).context("finding the given sysroot");
    }
    let mut rustc = repo::command("rustc")?;
    Ok(Path::new(&process::output(rustc.args(["--print", "sysroot"]))?).to_path_buf())
}

/// The active compiler's version, such as `1.95.0`.
fn compiler_version() -> Result<String> {
    let mut rustc = repo::command("rustc")?;
    let line = process::output(rustc.arg("--version"))?;
    Ok(line.split(' ').nth(1).with_context(|| format!("no version in {line:?}"))?.to_owned())
}
