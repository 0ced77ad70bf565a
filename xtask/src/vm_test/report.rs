//! Output: progress, failures, and a table at the end.

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{Booted, outcome::Ran};
use crate::term;

/// The whole output of the tests, in a file.
pub(super) struct Log {
    file: File,
    path: PathBuf,
}

impl Log {
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Self { file, path: path.to_owned() })
    }

    pub(super) fn write(&mut self, line: &str) {
        if let Err(error) = writeln!(self.file, "{line}") {
            eprintln!("writing {}: {error}", self.path.display());
        }
    }
}

/// Prints the result of a binary.
pub(super) fn progress(kernel: &str, ran: &Ran) {
    let failed = ran.failures.len();
    let (mark, colour) = if failed == 0 { ("✓", term::GREEN) } else { ("✗", term::RED) };
    println!(
        "  {} {kernel:<14} {:<16} {} passed, {failed} failed, {}",
        term::paint(colour, mark),
        ran.test,
        ran.passed,
        term::seconds(ran.took)
    );
}

/// Prints that a machine broke down.
pub(super) fn breakdown(kernel: &str, why: &str) {
    println!("  {} {kernel:<14} the machine broke down: {why}", term::paint(term::RED, "✗"));
}

/// Prints failures with their output, then the table, then a line for each kernel.
pub(super) fn print(kernels: &[Booted]) {
    for booted in kernels {
        for (test, failure) in booted.failures() {
            let title = format!("── {} {test}: {}", booted.kernel, failure.name);
            println!("\n{}", term::paint(term::BOLD, &title));
            failure.output.iter().for_each(|line| println!("  {line}"));
        }
    }
    println!();
    let rows: Vec<Vec<String>> = kernels.iter().map(Booted::row).collect();
    term::table(&["kernel", "package", "boot", "passed", "failed", "time", ""], &rows);
    println!();
    for booted in kernels {
        let name = term::paint(term::BOLD, &format!("Linux {}:", booted.kernel));
        println!("{name} {} passed, {} failed", booted.passed(), booted.failed());
        for (test, failure) in booted.failures() {
            println!("    {test}::{}", failure.name);
        }
    }
    // On a line of its own, for programs that read it.
    let sum = |of: fn(&Booted) -> usize| kernels.iter().map(of).sum::<usize>();
    println!("\n{} passed, {} failed", sum(Booted::passed), sum(Booted::failed));
}

impl Booted {
    fn failures(&self) -> impl Iterator<Item = (&str, &super::outcome::Failure)> {
        self.ran
            .iter()
            .flat_map(|ran| ran.failures.iter().map(|failure| (ran.test.as_str(), failure)))
    }

    fn passed(&self) -> usize {
        self.ran.iter().map(|ran| ran.passed).sum()
    }

    /// Tests that failed, and files of tests that could not run.
    fn failed(&self) -> usize {
        self.failures().count() + self.not_run.len()
    }

    fn row(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        if !self.breakdowns.is_empty() {
            remarks.push(format!("machine broke down {} times", self.breakdowns.len()));
        }
        if !self.not_run.is_empty() {
            remarks.push(format!("did not run: {}", self.not_run.join(", ")));
        }
        vec![
            self.kernel.clone(),
            self.version.clone(),
            self.boot.map_or("-".into(), term::seconds),
            self.passed().to_string(),
            self.failed().to_string(),
            term::seconds(self.took),
            remarks.join("; "),
        ]
    }
}
