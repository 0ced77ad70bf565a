//! One fuzz target: its run, and libFuzzer's results.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result};
use cargo_metadata::Artifact;

use crate::repo;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Target {
    Manifests,
    Planner,
    Events,
}

/// Holds the corpora, the inputs that failed, and the logs.
pub(super) fn folder() -> PathBuf {
    repo::target_dir().join("fuzz")
}

impl Target {
    pub(super) const ALL: [Self; 3] = [Self::Manifests, Self::Planner, Self::Events];

    const fn name(self) -> &'static str {
        match self {
            Self::Manifests => "manifests",
            Self::Planner => "planner",
            Self::Events => "events",
        }
    }

    /// The name in `tests/fuzz/Cargo.toml`.
    pub(super) fn program(self) -> String {
        format!("fuzz-{}", self.name())
    }

    pub(super) fn binary(self, built: &[Artifact]) -> Result<&Path> {
        let name = self.program();
        let artifact = built.iter().find(|artifact| artifact.target.name == name);
        let path = artifact.and_then(|artifact| artifact.executable.as_deref());
        Ok(path.with_context(|| format!("cargo built no program {name}"))?.as_std_path())
    }

    pub(super) fn start(self, seconds: u64, built: &[Artifact]) -> Result<Run> {
        let make = |kind: &str| {
            let path = folder().join(kind).join(self.name());
            fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
            Ok::<_, anyhow::Error>(path)
        };
        let (corpus, found) = (make("corpus")?, make("found")?);
        let regressions = repo::root().join("tests/fuzz/regressions").join(self.name());
        let log = folder().join(format!("{}.log", self.name()));
        let before = count(&corpus);
        let output =
            fs::File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let mut command = Command::new(self.binary(built)?);
        command
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-artifact_prefix={}/", found.display()))
            // An input that takes longer or more memory is a failure as well.
            .args(["-timeout=10", "-rss_limit_mb=1024", "-max_len=16384", "-print_final_stats=1"])
            .arg(&corpus)
            .env("SOCKLINE_FUZZ_SEEDS", &corpus)
            .stdout(Stdio::null())
            .stderr(output);
        if regressions.is_dir() {
            command.arg(regressions);
        }
        let child = command.spawn().with_context(|| format!("starting {}", self.name()))?;
        Ok(Run { target: self, child, corpus, log, before })
    }
}

/// A running target, which is killed when dropped.
pub(super) struct Run {
    target: Target,
    child: Child,
    corpus: PathBuf,
    log: PathBuf,
    /// Inputs in the corpus at the start.
    before: usize,
}

impl Run {
    pub(super) fn finish(mut self) -> Result<Finished> {
        let status = self.child.wait().context("waiting for a fuzz target")?;
        let log = fs::read(&self.log).with_context(|| format!("reading {}", self.log.display()))?;
        let log = String::from_utf8_lossy(&log).into_owned();
        Ok(Finished {
            target: self.target,
            seconds: number_after(&log, "runs in", " in ").unwrap_or(0),
            executions: number_after(&log, "stat::number_of_executed_units", "units:").unwrap_or(0),
            coverage: last_after(&log, " cov: "),
            features: last_after(&log, " ft: "),
            corpus: (self.before, count(&self.corpus)),
            failure: (!status.success()).then(|| tail(&log)),
        })
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(super) struct Finished {
    target: Target,
    seconds: u64,
    executions: u64,
    coverage: u64,
    features: u64,
    corpus: (usize, usize),
    /// The end of its log, if it failed.
    pub(super) failure: Option<String>,
}

impl Finished {
    /// Of the table that a run ends with.
    pub(super) fn row(&self) -> Vec<String> {
        let (before, after) = self.corpus;
        vec![
            self.target.name().to_owned(),
            self.seconds.to_string(),
            self.executions.to_string(),
            (self.executions / self.seconds.max(1)).to_string(),
            self.coverage.to_string(),
            self.features.to_string(),
            format!("{before} -> {after}"),
            if self.failure.is_some() { "YES" } else { "nothing" }.to_owned(),
        ]
    }

    pub(super) fn instructions(&self) -> String {
        let name = self.target.name();
        format!(
            "{}\n{name}: the input is in {}. To run it again:\n  cargo xtask fuzz {name} --input FILE\nAfter the \
             fix, keep the input in tests/fuzz/regressions/{name}/: the tests run all inputs there.",
            self.failure.as_deref().unwrap_or(""),
            folder().join("found").join(name).display()
        )
    }
}

fn count(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

/// The number after `mark` in the last line that contains `what`.
fn number_after(log: &str, what: &str, mark: &str) -> Option<u64> {
    let line = log.lines().rev().find(|line| line.contains(what))?;
    number(line.split_once(mark)?.1)
}

/// The number after the last `mark`.
fn last_after(log: &str, mark: &str) -> u64 {
    log.rsplit_once(mark).and_then(|(_, rest)| number(rest)).unwrap_or(0)
}

fn number(text: &str) -> Option<u64> {
    let digits: String = text.trim_start().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "#8\tpulse  cov: 210 ft: 211 corp: 1/1b exec/s: 4 rss: 62Mb\n\
                       #52\tDONE   cov: 2311 ft: 9000 corp: 20/1Kb exec/s: 10 rss: 80Mb\n\
                       Done 52 runs in 61 second(s)\nstat::number_of_executed_units: 52\n";

    #[test]
    fn results_are_read_from_the_end_of_the_log() {
        assert_eq!((last_after(LOG, " cov: "), last_after(LOG, " ft: ")), (2311, 9000));
        assert_eq!(number_after(LOG, "runs in", " in "), Some(61));
        assert_eq!(number_after(LOG, "stat::number_of_executed_units", "units:"), Some(52));
    }
}
