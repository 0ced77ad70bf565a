//! The static binary.

use std::{env, path::PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::{process, repo, setup, term, variants};

/// This machine's architecture, with glibc: rustup's musl targets are no part of the pinned toolchain.
pub(super) fn default_target() -> String {
    format!("{}-unknown-linux-gnu", env::consts::ARCH)
}

/// Builds the agent as it is shipped: optimised and without any shared library. The target is named,
/// so that the flag is for it alone and neither for build scripts nor for the kernel programs.
pub(super) fn build(target: &str) -> Result<PathBuf> {
    setup::ensure()?;
    term::doing("build", "the static binary, optimised: this takes minutes");
    let mut cargo = repo::cargo(&["build", "--package", "sockline", "--release"])?;
    cargo.args(["--locked", "--target", target]).env_remove("CARGO_ENCODED_RUSTFLAGS");
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static");
    // The names of functions are a fifth of the file.
    cargo.env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
    process::run(&mut cargo)?;
    Ok(repo::target_dir().join(target).join("release/sockline"))
}

/// Builds it soon, to try whether an image of it works: what the tests have built, linked without any
/// shared library. For this machine.
pub(super) fn build_fast() -> Result<PathBuf> {
    setup::ensure()?;
    term::doing("build", "the static binary, not optimised");
    let mut cargo = repo::cargo_as_for_tests()?;
    let wrapper = repo::root().join("xtask/src/image/static.sh");
    process::run(cargo.arg("--bin=sockline").env("RUSTC_WORKSPACE_WRAPPER", wrapper))?;
    let folder = repo::target_dir().join("debug");
    let fast = folder.join("sockline-static");
    process::output(repo::command("strip")?.arg("-o").arg(&fast).arg(folder.join("sockline")))?;
    // The tests' own is where everybody looks for it.
    variants::build_agent()?;
    Ok(fast)
}

/// Checks that a binary needs no other file to run. Returns its architecture as OCI names it.
pub(super) fn check(elf: &[u8]) -> Result<&'static str> {
    // Offsets and numbers from elf(5), 64 bit.
    const INTERPRETER: u32 = 3;
    let half = |at: usize| Some(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_le_bytes(elf.get(at..at + 4)?.try_into().ok()?));
    ensure!(
        elf.starts_with(b"\x7fELF\x02\x01"),
        "this is no 64 bit little-endian executable of Linux"
    );
    let headers = elf.get(32..40).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
    let (start, size, count) = (headers, half(54), half(56));
    let (Some(start), Some(size), Some(count)) = (start, size, count) else {
        bail!("the executable's header is cut off");
    };
    let start = usize::try_from(start).context("the offset of the program headers")?;
    for number in 0..usize::from(count) {
        let kind =
            word(start + number * usize::from(size)).context("a program header is cut off")?;
        ensure!(kind != INTERPRETER, "the binary is not static: it asks for a dynamic loader");
    }
    match half(18) {
        Some(62) => Ok("amd64"),
        Some(183) => Ok("arm64"),
        other => bail!("machine {other:?} of the executable has no name here"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_with_a_dynamic_loader_is_refused() {
        // This test itself is one.
        let own = std::fs::read(env::current_exe().unwrap()).unwrap();
        let error = check(&own).unwrap_err();
        assert_eq!(error.to_string(), "the binary is not static: it asks for a dynamic loader");
    }

    #[test]
    fn what_is_no_executable_is_refused() {
        assert!(check(b"#!/bin/sh\n").is_err());
        assert!(check(b"\x7fELF\x02\x01").is_err());
    }
}
