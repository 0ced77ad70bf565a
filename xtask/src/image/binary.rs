//! The static binary of the agent.

use std::{env, path::PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::{cargo, process, repo, setup, term, variants};

/// This machine's architecture, with glibc: the pinned toolchain does not include rustup's musl targets.
pub(super) fn default_target() -> String {
    format!("{}-unknown-linux-gnu", env::consts::ARCH)
}

/// Builds the agent as it is shipped: optimised, and without shared libraries. The target is named, so that the
/// flag applies to it alone, and neither to build scripts nor to the kernel programs.
pub(super) fn build(target: &str) -> Result<PathBuf> {
    setup::ensure()?;
    term::doing("build", "the static binary, optimised: this takes minutes");
    let mut build = cargo::command(&["build", "--package", "sockline", "--release"])?;
    build.args(["--locked", "--target", target]).env_remove("CARGO_ENCODED_RUSTFLAGS");
    build.env("RUSTFLAGS", "-C target-feature=+crt-static");
    // The names of functions are a fifth of the file.
    build.env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
    cargo::program(&mut build, "sockline")
}

/// Builds a binary that is not optimised, for this machine, from what the tests have built.
pub(crate) fn build_fast() -> Result<PathBuf> {
    setup::ensure()?;
    term::doing("build", "the static binary, not optimised");
    let mut build = cargo::build_as_for_tests()?;
    let wrapper = repo::root().join("xtask/src/image/static.sh");
    build.arg("--bin=sockline").env("RUSTC_WORKSPACE_WRAPPER", wrapper);
    let built = cargo::program(&mut build, "sockline")?;
    let fast = built.with_file_name("sockline-static");
    process::output(repo::command("strip")?.arg("-o").arg(&fast).arg(&built))?;
    // The testbed looks for the tests' own agent in the same place.
    variants::build_agent()?;
    Ok(fast)
}

/// Checks that a binary needs no other file to run. Returns its architecture as OCI names it.
pub(super) fn check(elf: &[u8]) -> Result<&'static str> {
    // Offsets and numbers from elf(5), 64 bit.
    const INTERPRETER: u32 = 3;
    let half = |at: usize| Some(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_le_bytes(elf.get(at..at + 4)?.try_into().ok()?));
    ensure!(elf.starts_with(b"\x7fELF\x02\x01"), "not a 64 bit little-endian ELF file");
    let headers = elf.get(32..40).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
    let (start, size, count) = (headers, half(54), half(56));
    let (Some(start), Some(size), Some(count)) = (start, size, count) else {
        bail!("the ELF header is incomplete");
    };
    let start = usize::try_from(start).context("the offset of the program headers")?;
    for number in 0..usize::from(count) {
        let kind =
            word(start + number * usize::from(size)).context("a program header is incomplete")?;
        ensure!(kind != INTERPRETER, "the binary is not static: it needs a dynamic loader");
    }
    match half(18) {
        Some(62) => Ok("amd64"),
        Some(183) => Ok("arm64"),
        other => bail!("unknown ELF machine {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_with_a_dynamic_loader_is_refused() {
        // The program of this test has one.
        let own = std::fs::read(env::current_exe().unwrap()).unwrap();
        let error = check(&own).unwrap_err();
        assert_eq!(error.to_string(), "the binary is not static: it needs a dynamic loader");
    }

    #[test]
    fn a_file_that_is_not_elf_is_refused() {
        assert!(check(b"#!/bin/sh\n").is_err());
        assert!(check(b"\x7fELF\x02\x01").is_err());
    }
}
