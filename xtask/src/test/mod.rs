//! `cargo xtask test`: every test, with the real kernel under the end-to-end ones.

pub(crate) mod binaries;

use std::{
    env, fs,
    io::{self, Write as _},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::unistd::Uid;

use self::binaries::Binary;
use crate::{parallel, process, repo, setup, term, variants};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Arguments for the test binaries, such as a part of a test's name, or --nocapture
    #[arg(last = true)]
    args: Vec<String>,
}

/// As the test harness calls it.
const THREADS: &str = "RUST_TEST_THREADS";

/// End-to-end tests wait more than they compute, so there are two for each core; and a binary waits for
/// its slowest test, so there is a binary for each core.
const THREADS_PER_BINARY: &str = "2";

pub(crate) fn run(args: &Args) -> Result<()> {
    if !Uid::effective().is_root() {
        bail!(
            "the end-to-end tests make namespaces and load kernel programs: run as root: \
             sudo -E env PATH=$PATH cargo xtask test"
        );
    }
    setup::ensure()?;
    let start = Instant::now();
    step(1, "build the agent, and the ones to upgrade to");
    // The end-to-end tests run the built binary, which a test build alone would not make.
    variants::build()?;
    step(2, "test the workspace");
    run_in_parallel(&binaries::build(&[])?, &args.args)?;
    run_cargo(&[&["--doc"][..], &repo::WORKSPACE].concat(), args)?;
    // The kernel programs have no host build; the map layouts they share with the agent do.
    step(3, "test the map layouts");
    run_cargo(&["--package", "sockline-ebpf", "--lib"], args)?;
    term::ok("tests", &format!("all passed in {}", term::seconds(start.elapsed())));
    Ok(())
}

fn step(number: usize, name: &str) {
    println!("{}", term::paint(term::BOLD, &format!("[{number}/3] {name}")));
}

fn run_cargo(which: &[&str], args: &Args) -> Result<()> {
    let mut cargo = repo::cargo(&["test"])?;
    process::run(cargo.args(which).arg("--").args(&args.args))
}

/// A binary that has ended.
struct Ran<'a> {
    binary: &'a Binary,
    passed: bool,
    took: Duration,
}

/// Runs the binaries, as many at a time as there are cores, and prints what each said when it has ended.
fn run_in_parallel(binaries: &[Binary], args: &[String]) -> Result<()> {
    let ended = Mutex::new(0);
    let mut ran = parallel::each(binaries, parallel::cores(), |binary| {
        let start = Instant::now();
        let (passed, said) = run_one(binary, args)?;
        let took = start.elapsed();
        // Under the lock: the words of one binary stay together.
        let mut ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
        *ended += 1;
        show(binary, &said).context("writing what a test said")?;
        term::progress("test binaries", *ended, binaries.len());
        Ok(Ran { binary, passed, took })
    })?;
    summary(&mut ran)
}

/// Runs one, and returns whether it passed and what it said. It says so into a file, and not into a pipe
/// that a process which it left behind could hold open.
fn run_one(binary: &Binary, args: &[String]) -> Result<(bool, Vec<u8>)> {
    let file = tempfile::NamedTempFile::new().context("making a file for what tests say")?;
    let mut test = Command::new(&binary.path);
    let path = repo::search_path()?;
    // Appended, or standard output and error would write over each other.
    let end = fs::OpenOptions::new().append(true).open(file.path())?;
    test.args(args).current_dir(&binary.package).env("PATH", path);
    test.stdin(Stdio::null()).stdout(end.try_clone()?).stderr(end);
    if env::var_os(THREADS).is_none() {
        test.env(THREADS, THREADS_PER_BINARY);
    }
    let status = test.status().with_context(|| format!("starting {}", binary.path.display()))?;
    let said = fs::read(file.path()).context("reading what a test said")?;
    Ok((status.success(), said))
}

fn show(binary: &Binary, said: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "\n{}", term::paint(term::BOLD, &format!("── {}", title(binary))))?;
    out.write_all(said)?;
    out.flush()
}

fn title(binary: &Binary) -> String {
    let kind = if binary.is_integration { "" } else { " (unit tests)" };
    format!("{}{kind}", binary.name)
}

/// What took longest, and what failed.
fn summary(ended: &mut [Ran]) -> Result<()> {
    const SLOWEST: usize = 10;
    ended.sort_by_key(|ran| std::cmp::Reverse(ran.took));
    let rows: Vec<Vec<String>> = ended
        .iter()
        .take(SLOWEST)
        .map(|ran| vec![title(ran.binary), term::seconds(ran.took)])
        .collect();
    println!();
    term::table(&["slowest", "time"], &rows);
    let failed: Vec<String> =
        ended.iter().filter(|ran| !ran.passed).map(|ran| title(ran.binary)).collect();
    if !failed.is_empty() {
        bail!("{} of {} test binaries failed: {}", failed.len(), ended.len(), failed.join(", "));
    }
    Ok(())
}
