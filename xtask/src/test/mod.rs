//! `cargo xtask test`: all tests; the end-to-end ones on the real kernel.
//!
//! `binaries` asks cargo for the test binaries; here they run, one for each core, and their results are printed. `alone`
//! runs the tests that failed once more.

mod alone;
pub(crate) mod binaries;

use std::{
    cmp::Reverse,
    env, fs,
    io::{self, Write as _},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::unistd::Uid;

use self::binaries::Binary;
use crate::{
    cargo, parallel, process, repo, setup,
    term::{self, Progress},
    variants,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Arguments for the test binaries, such as a part of a test's name or --nocapture
    #[arg(last = true)]
    args: Vec<String>,
}

/// libtest's variable for its number of threads.
const THREADS: &str = "RUST_TEST_THREADS";

/// End-to-end tests mostly wait, so three run for each core. A binary takes as long as its slowest test, so a binary
/// runs on each core.
const THREADS_PER_BINARY: &str = "3";

pub(crate) fn run(args: &Args) -> Result<()> {
    if !Uid::effective().is_root() {
        bail!(
            "the end-to-end tests create namespaces and load kernel programs. Run them as root: \
             sudo -E env PATH=$PATH cargo xtask test"
        );
    }
    setup::ensure()?;
    let start = Instant::now();
    step(1, "build the agent, and the builds that tests upgrade to");
    // The end-to-end tests run the agent, which a build of tests does not include.
    variants::build()?;
    step(2, "test the workspace");
    let flaky = run_in_parallel(&most_tests_first(binaries::build(&[])?)?, &args.args)?;
    run_cargo(&["--doc"], args)?;
    // The kernel programs are not built for the host, the map layouts are.
    step(3, "test the map layouts");
    run_cargo(&["--package", "sockline-ebpf", "--lib"], args)?;
    let took = term::seconds(start.elapsed());
    if flaky.is_empty() {
        term::ok("tests", &format!("all passed in {took}"));
    } else {
        // Not `ok`: each of them is a defect of a test or of what it tests.
        println!("tests: passed in {took}, but {} only when run alone:", flaky.len());
        flaky.iter().for_each(|test| println!("  FLAKY {test}"));
    }
    Ok(())
}

fn step(number: usize, name: &str) {
    println!("{}", term::paint(term::BOLD, &format!("[{number}/3] {name}")));
}

fn run_cargo(which: &[&str], args: &Args) -> Result<()> {
    let mut cargo = cargo::command(&["test"])?;
    process::run(cargo.args(which).arg("--").args(&args.args))
}

/// The result of a binary.
struct Ran<'a> {
    binary: &'a Binary,
    passed: bool,
    said: Vec<u8>,
    took: Duration,
}

/// Sorts the binaries so that no long one starts last, when other cores have nothing left to run.
fn most_tests_first(binaries: Vec<Binary>) -> Result<Vec<Binary>> {
    let count = |binary: Binary| Ok((binary.tests()?.len(), binary));
    let mut counted = binaries.into_iter().map(count).collect::<Result<Vec<_>>>()?;
    counted.sort_by_key(|(tests, _)| Reverse(*tests));
    Ok(counted.into_iter().map(|(_, binary)| binary).collect())
}

/// Runs the binaries, one on each core, and prints the output of each when it ends. Returns the tests that passed only
/// when they ran alone.
fn run_in_parallel(binaries: &[Binary], args: &[String]) -> Result<Vec<String>> {
    let progress = Progress::new("test binaries", binaries.len());
    let writing = Mutex::new(());
    let mut ran = parallel::each(binaries, parallel::cores(), |binary| {
        let start = Instant::now();
        let (passed, said) = run_one(binary, args)?;
        let took = start.elapsed();
        // The lock keeps the output of one binary together.
        let _writing = writing.lock().unwrap_or_else(PoisonError::into_inner);
        progress.suspend(|| show(binary, &said)).context("printing a test's output")?;
        progress.step();
        Ok(Ran { binary, passed, said, took })
    })?;
    drop(progress);
    ran.sort_by_key(|ran| Reverse(ran.took));
    slowest(&ran);
    let failed: Vec<&Ran> = ran.iter().filter(|ran| !ran.passed).collect();
    match alone::candidates(&failed) {
        Ok(tests) => alone::run(&tests),
        Err(why) => {
            let names: Vec<String> = failed.iter().map(|ran| title(ran.binary)).collect();
            let (failed, all) = (failed.len(), ran.len());
            bail!("{failed} of {all} test binaries failed: {} ({why})", names.join(", "))
        }
    }
}

/// Runs one, and returns whether it passed, and its output. The output goes to a file, because a process that a
/// test leaves behind would keep a pipe open.
fn run_one(binary: &Binary, args: &[String]) -> Result<(bool, Vec<u8>)> {
    let file = tempfile::NamedTempFile::new().context("creating a file for a test's output")?;
    // Under `nohup`, and in the background of a shell script, these are ignored, and children inherit that. Tests that send
    // them to the commands that they start want them as usual.
    let mut test = Command::new("env");
    test.arg("--default-signal=HUP,INT,QUIT").arg(&binary.path);
    let path = repo::search_path()?;
    // In append mode, standard output and error do not overwrite each other.
    let end = fs::OpenOptions::new().append(true).open(file.path())?;
    test.args(args).current_dir(&binary.package).env("PATH", path);
    test.stdin(Stdio::null()).stdout(end.try_clone()?).stderr(end);
    if env::var_os(THREADS).is_none() {
        test.env(THREADS, THREADS_PER_BINARY);
    }
    let status = test.status().with_context(|| format!("starting {}", binary.path.display()))?;
    let said = fs::read(file.path()).context("reading a test's output")?;
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

fn slowest(ran: &[Ran]) {
    const SLOWEST: usize = 10;
    let row = |ran: &Ran| vec![title(ran.binary), term::seconds(ran.took)];
    let rows: Vec<Vec<String>> = ran.iter().take(SLOWEST).map(row).collect();
    println!();
    term::table(&["slowest", "time"], &rows);
}
