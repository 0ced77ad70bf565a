//! `cargo xtask fuzz`: the targets of `tests/fuzz` under libFuzzer, in parallel.
//!
//! The pinned stable compiler can instrument code for coverage as cargo-fuzz does (`tests/fuzz/instrument.sh`).
//! Only the address sanitizer needs another compiler, and it finds little in code without `unsafe`. Debug
//! assertions and overflow checks are on.

mod target;

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};

use self::target::{Finished, Run, Target};
use crate::{cargo, process, repo, setup, term};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only these targets [default: all]
    #[arg(value_enum)]
    targets: Vec<Target>,
    /// How long each target runs
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    seconds: u64,
    /// Run the target on one input and stop, such as an input that an earlier run found
    #[arg(long, value_name = "FILE", requires = "targets", conflicts_with = "seconds")]
    input: Option<PathBuf>,
}

impl Args {
    /// What continuous integration runs.
    pub(crate) fn for_20_seconds() -> Self {
        Self { targets: Vec::new(), seconds: 20, input: None }
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure()?;
    install_compiler()?;
    let built = cargo::artifacts(&mut build()?)?;
    let targets: &[Target] = if args.targets.is_empty() { &Target::ALL } else { &args.targets };
    if let Some(input) = &args.input {
        let input = fs::canonicalize(input).with_context(|| format!("{}", input.display()))?;
        return targets
            .iter()
            .try_for_each(|target| process::run(Command::new(target.binary(&built)?).arg(&input)));
    }
    let runs: Vec<Run> =
        targets.iter().map(|target| target.start(args.seconds, &built)).collect::<Result<_>>()?;
    let results = runs.into_iter().map(Run::finish).collect::<Result<Vec<_>>>()?;
    let rows: Vec<Vec<String>> = results.iter().map(Finished::row).collect();
    term::table(
        &["target", "seconds", "executions", "per s", "coverage", "features", "corpus", "found"],
        &rows,
    );
    let broken: Vec<_> = results.iter().filter(|result| result.failure.is_some()).collect();
    for result in &broken {
        println!("\n{}", result.instructions());
    }
    if !broken.is_empty() {
        bail!("{} of {} targets found a failure", broken.len(), results.len());
    }
    Ok(())
}

/// Instruments this workspace's crates, and uses the tests' build of all others: to build those again would
/// take longer than a minute of fuzzing is worth.
fn build() -> Result<Command> {
    let mut build = cargo::build_as_for_tests()?;
    build
        .args(["--features", "sockline-fuzz/libfuzzer"])
        .args(Target::ALL.map(|target| format!("--bin={}", target.program())))
        .env("RUSTC_WORKSPACE_WRAPPER", repo::root().join("tests/fuzz/instrument.sh"));
    Ok(build)
}

/// Builds the targets at the lowest priority.
pub(crate) fn build_in_background() -> Result<()> {
    install_compiler()?;
    process::run(&mut process::at_lowest_priority(&build()?))
}

/// Installs a C++ compiler if there is none: libFuzzer is written in C++.
pub(crate) fn install_compiler() -> Result<()> {
    if !repo::has("c++")? {
        term::doing("g++", "missing, installing");
        setup::install_packages(&["g++"]).context("installing a C++ compiler")?;
    }
    Ok(())
}
