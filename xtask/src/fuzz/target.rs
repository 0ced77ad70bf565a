//! One fuzz target: its run, and what libFuzzer says of it.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result};

use crate::repo;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Target {
    Manifests,
    Planner,
    Events,
}

/// Where all that fuzzing makes is.
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

    /// As `tests/fuzz/Cargo.toml` calls it.
    pub(super) fn program(self) -> String {
        format!("fuzz-{}", self.name())
    }

    pub(super) fn binary(self) -> Result<PathBuf> {
        let path = repo::target_dir().join("debug").join(self.program());
        path.canonicalize().with_context(|| format!("{} was not built", path.display()))
    }

    pub(super) fn start(self, seconds: u64) -> Result<Run> {
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
        let mut command = Command::new(self.binary()?);
        command
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-artifact_prefix={}/", found.display()))
            // An input that takes this long, or this much memory, is a finding as well.
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

/// A running target; ended when it is dropped.
pub(super) struct Run {
    target: Target,
    child: Child,
    corpus: PathBuf,
    log: PathBuf,
    /// Inputs in the corpus.
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
    /// The end of its log.
    pub(super) failure: Option<String>,
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, after) = self.corpus;
        write!(
            f,
            "{:<10} {:>8} {:>11} {:>8} {:>9} {:>9} {:>15} {:>8}",
            self.target.name(),
            self.seconds,
            self.executions,
            self.executions / self.seconds.max(1),
            self.coverage,
            self.features,
            format!("{before} -> {after}"),
            if self.failure.is_some() { "YES" } else { "nothing" }
        )
    }
}

impl Finished {
    pub(super) fn how_to_go_on(&self) -> String {
        let name = self.target.name();
        format!(
            "{}\n{name}: the input is in {}; again with\n  cargo xtask fuzz {name} --input FILE\nWhen it is \
             mended, keep the input in tests/fuzz/regressions/{name}/: the tests go through it.",
            self.failure.as_deref().unwrap_or(""),
            folder().join("found").join(name).display()
        )
    }
}

fn count(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

/// The number behind `mark` in the last line with `what`.
fn number_after(log: &str, what: &str, mark: &str) -> Option<u64> {
    let line = log.lines().rev().find(|line| line.contains(what))?;
    number(line.split_once(mark)?.1)
}

/// The number behind the last `mark`.
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
    fn the_last_word_of_the_log_counts() {
        assert_eq!((last_after(LOG, " cov: "), last_after(LOG, " ft: ")), (2311, 9000));
        assert_eq!(number_after(LOG, "runs in", " in "), Some(61));
        assert_eq!(number_after(LOG, "stat::number_of_executed_units", "units:"), Some(52));
    }
}
