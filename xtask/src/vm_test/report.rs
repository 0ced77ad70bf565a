//! Output: progress, failures, and a table at the end.

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{
    Booted,
    outcome::{Failure, Ran},
};
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

/// Prints the result of a group of tests.
pub(super) fn progress(kernel: &str, ran: &Ran) {
    let failed = ran.failures.len();
    let (mark, colour) = if failed == 0 { ("✓", term::GREEN) } else { ("✗", term::RED) };
    println!(
        "  {} {kernel:<14} {:<30} {} passed, {failed} failed, {}",
        term::paint(colour, mark),
        ran.group,
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
        for (name, failure) in booted.failures() {
            let title = format!("── {} {name}", booted.kernel);
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
        for (name, _) in booted.failures() {
            println!("    {name}");
        }
    }
    // On a line of its own, for programs that read it.
    let sum = |of: fn(&Booted) -> usize| kernels.iter().map(of).sum::<usize>();
    println!("\n{} passed, {} failed", sum(Booted::passed), sum(Booted::failed));
}

impl Booted {
    /// Failures, each with its path: `translation::tcp::NAME`, or the group if that is what failed.
    fn failures(&self) -> impl Iterator<Item = (String, &Failure)> {
        self.ran.iter().flat_map(|ran| {
            ran.failures.iter().map(|failure| {
                let binary = ran.group.split("::").next().unwrap_or_default();
                let is_of_group = failure.name == ran.group;
                let path = || format!("{binary}::{}", failure.name);
                (if is_of_group { ran.group.clone() } else { path() }, failure)
            })
        })
    }

    fn passed(&self) -> usize {
        self.ran.iter().map(|ran| ran.passed).sum()
    }

    /// Tests that failed, and groups that could not run.
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
