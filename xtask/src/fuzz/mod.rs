//! `cargo xtask fuzz`: the targets of `tests/fuzz` under libFuzzer, side by side.
//!
//! The pinned stable compiler can instrument code for coverage, as cargo-fuzz has it done
//! (`tests/fuzz/instrument.sh`); what needs another compiler is the address sanitizer, which code
//! without `unsafe` gains little by. Debug assertions and overflow checks are on.

mod target;

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};

use self::target::{Run, Target};
use crate::{process, repo, setup, term};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these: manifests, planner, events
    #[arg(value_enum)]
    targets: Vec<Target>,
    /// How long each of them runs
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Run one input, such as one that a run left behind, and nothing else
    #[arg(long, value_name = "FILE", requires = "targets", conflicts_with = "seconds")]
    input: Option<PathBuf>,
}

impl Args {
    /// What continuous integration runs.
    pub(crate) fn for_a_minute() -> Self {
        Self { targets: Vec::new(), seconds: 60, input: None }
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure()?;
    if !repo::has("c++")? {
        term::doing("g++", "missing, installing");
        setup::install_packages(&["g++"]).context("libFuzzer is C++: install a C++ compiler")?;
    }
    build()?;
    let targets: &[Target] = if args.targets.is_empty() { &Target::ALL } else { &args.targets };
    if let Some(input) = &args.input {
        let input = fs::canonicalize(input).with_context(|| format!("{}", input.display()))?;
        return targets
            .iter()
            .try_for_each(|target| process::run(Command::new(target.binary()?).arg(&input)));
    }
    let runs: Vec<Run> =
        targets.iter().map(|target| target.start(args.seconds)).collect::<Result<_>>()?;
    let results = runs.into_iter().map(Run::finish).collect::<Result<Vec<_>>>()?;
    println!(
        "  {:<10} {:>8} {:>11} {:>8} {:>9} {:>9} {:>15} {:>8}",
        "target", "seconds", "executions", "per s", "coverage", "features", "corpus", "found"
    );
    for result in &results {
        println!("  {result}");
    }
    let broken: Vec<_> = results.iter().filter(|result| result.failure.is_some()).collect();
    for result in &broken {
        println!("\n{}", result.how_to_go_on());
    }
    if !broken.is_empty() {
        bail!("{} of {} targets found something", broken.len(), results.len());
    }
    Ok(())
}

/// Instruments this workspace's crates and uses the tests' build of all others: those would take
/// longer to build again than a minute of fuzzing gains.
fn build() -> Result<()> {
    let mut cargo = repo::cargo_as_for_tests()?;
    cargo
        .args(["--features", "sockline-fuzz/libfuzzer"])
        .args(Target::ALL.map(|target| format!("--bin={}", target.program())))
        .env("RUSTC_WORKSPACE_WRAPPER", repo::root().join("tests/fuzz/instrument.sh"));
    process::run(&mut cargo)
}
