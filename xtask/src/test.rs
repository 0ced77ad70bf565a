//! `cargo xtask test`: every test, with the real kernel under the end-to-end ones.

use std::{env, num::NonZero, thread, time::Instant};

use anyhow::{Result, bail};
use nix::unistd::Uid;

use crate::{process, repo, setup, term, variants};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Arguments for the test binaries, such as a part of a test's name, or --nocapture
    #[arg(last = true)]
    args: Vec<String>,
}

/// As the test harness calls it.
const THREADS: &str = "RUST_TEST_THREADS";

/// End-to-end tests wait more than they compute, so there are two for each core.
fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if !Uid::effective().is_root() {
        bail!(
            "the end-to-end tests make namespaces and load kernel programs: run as root: \
             sudo -E env PATH=$PATH cargo xtask test"
        );
    }
    setup::ensure()?;
    // The end-to-end tests run the built binary, which a test build alone would not make.
    let build = ("build the agent, and the ones to upgrade to", None);
    let steps: [(&str, Option<&[&str]>); 3] = [
        build,
        ("test the workspace", Some(&["test", "--workspace", "--exclude", "sockline-ebpf"])),
        // The kernel programs have no host build; the map layouts they share with the agent do.
        ("test the map layouts", Some(&["test", "--package", "sockline-ebpf", "--lib"])),
    ];
    let start = Instant::now();
    for (number, (name, cargo_args)) in (1..).zip(steps) {
        println!("{}", term::paint(term::BOLD, &format!("[{number}/{}] {name}", steps.len())));
        let Some(cargo_args) = cargo_args else {
            variants::build()?;
            continue;
        };
        let mut cargo = repo::cargo(cargo_args)?;
        if env::var_os(THREADS).is_none() {
            cargo.env(THREADS, (2 * cores()).to_string());
        }
        if !args.args.is_empty() {
            cargo.arg("--").args(&args.args);
        }
        process::run(&mut cargo)?;
    }
    term::ok("tests", &format!("all passed in {}", term::seconds(start.elapsed())));
    Ok(())
}
