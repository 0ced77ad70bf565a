//! `cargo xtask ci`: setup, format, lints, the tests by the README's own command, and what is too long or
//! too large for a test.

use std::{
    env, fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{audit, chaos, fuzz, image, process, repo, setup, term, vm_test};

/// A name, and what to do; it is told when the run began.
type Step = (&'static str, fn(Instant) -> Result<()>);

const STEPS: [Step; 11] = [
    ("setup", |_| setup::run(&setup::Args::default())),
    ("format", |_| process::run(&mut repo::cargo(&["fmt", "--all", "--check"])?)),
    ("lints", |_| {
        let mut clippy = repo::cargo(&["clippy", "--all-targets"])?;
        process::run(clippy.args(repo::WORKSPACE).args(["--", "-D", "warnings"]))
    }),
    ("lints: layouts", |_| {
        let mut clippy = repo::cargo(&["clippy", "--package", "sockline-ebpf", "--lib"])?;
        process::run(clippy.args(["--", "-D", "warnings"]))
    }),
    ("lints: kernel", |_| lint_kernel_side()),
    ("audit", |_| audit::run(&audit::Args::default())),
    ("tests", |_| run_readme_test()),
    ("chaos", |_| chaos::run(&chaos::Args::for_a_minute())),
    ("fuzz", |_| fuzz::run(&fuzz::Args::for_a_minute())),
    ("image", |_| image::run(&image::Args::with_trial())),
    ("kernels", try_kernels),
];

pub(crate) fn run() -> Result<()> {
    let began = Instant::now();
    let mut times: Vec<(&str, Duration)> = Vec::new();
    for (number, (name, step)) in (1..).zip(STEPS) {
        println!("\n{}", term::paint(term::BOLD, &format!("── {number}/{} {name}", STEPS.len())));
        let start = Instant::now();
        let result = step(began);
        times.push((name, start.elapsed()));
        if let Err(error) = result {
            summary(&times, false);
            return Err(error.context(format!("step `{name}`")));
        }
    }
    summary(&times, true);
    Ok(())
}

/// One line per step that ran, in the end, where a reader of a long log looks first.
fn summary(times: &[(&str, Duration)], passed: bool) {
    println!();
    for (index, (name, time)) in times.iter().enumerate() {
        let mark = if passed || index + 1 < times.len() {
            term::paint(term::GREEN, "✓")
        } else {
            term::paint(term::RED, "✗")
        };
        println!("  {mark} {name:<15} {:>9}", term::seconds(*time));
    }
}

/// The kernel programs are only code for their own target, built as aya-build builds them; in a
/// target folder of their own, because the build script's is inside of the agent's.
fn lint_kernel_side() -> Result<()> {
    let target =
        if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };
    let flags = [
        &format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH),
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
    ];
    let mut clippy = repo::cargo(&["clippy", "--package", "sockline-ebpf", "--bins"])?;
    clippy
        .args(["--target", target, "-Z", "build-std=core", "--release", "--target-dir"])
        .arg(repo::target_dir().join("ebpf-clippy"))
        .args(["--", "-D", "warnings"])
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    process::run(&mut clippy)
}

/// Runs what the README tells a reader to run, so that the README cannot be wrong.
fn run_readme_test() -> Result<()> {
    let path = repo::root().join("README.md");
    let readme =
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let Some(line) = test_command(&readme) else {
        bail!("{}: no `sh` block has a line with `cargo xtask test`", path.display());
    };
    println!("$ {line}");
    let mut shell: Command = repo::command("bash")?;
    process::run(shell.args(["-euo", "pipefail", "-c", line]))
        .with_context(|| format!("the test command of {}", display_name(&path)))
}

/// The oldest and the newest kernel. A slow machine has no time for them within 25 minutes.
fn try_kernels(began: Instant) -> Result<()> {
    const LATEST: Duration = Duration::from_secs(20 * 60);
    if began.elapsed() > LATEST {
        let gone = term::seconds(began.elapsed());
        let what = format!("LEFT OUT, {gone} are gone already: run `cargo xtask vm-test`");
        term::doing("kernels", &what);
        return Ok(());
    }
    vm_test::run(&vm_test::Args::for_minutes())
}

fn display_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// The first line with `cargo xtask test` in a fenced `sh` block.
fn test_command(readme: &str) -> Option<&str> {
    let mut in_shell = false;
    readme.lines().map(str::trim).find(|line| {
        if let Some(info) = line.strip_prefix("```") {
            in_shell = !in_shell && ["sh", "bash", "shell", "console"].contains(&info.trim());
            return false;
        }
        in_shell && line.contains("cargo xtask test")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_command_is_the_one_in_a_shell_block() {
        let readme = "Run `cargo xtask test`.\n\
                      ```text\ncargo xtask test in text\n```\n\
                      ```sh\ncargo xtask setup\ncargo xtask test   # as root\n```\n";
        assert_eq!(test_command(readme), Some("cargo xtask test   # as root"));
    }

    #[test]
    fn a_readme_without_the_command_is_noticed() {
        assert_eq!(test_command("```sh\ncargo build\n```\ncargo xtask test\n"), None);
    }
}
