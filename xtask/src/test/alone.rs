//! Runs tests that failed once more, each alone.
//!
//! Some 900 tests run in parallel, with real sockets, and the machine may be busy with other work. A test that fails
//! alone as well is broken. One that passes alone is flaky: it is named at the end, and does not fail the run.

use anyhow::{Result, bail};

use super::{Ran, binaries::Binary, run_one, show};
use crate::term;

/// More than this are no accident: then nothing runs again.
const MOST: usize = 3;

/// A test that failed beside others.
pub(super) struct Candidate<'a> {
    binary: &'a Binary,
    test: String,
}

/// The failed tests of binaries that failed. `Err` says why no second run can tell more.
pub(super) fn candidates<'a>(failed: &[&Ran<'a>]) -> Result<Vec<Candidate<'a>>, String> {
    let mut candidates = Vec::new();
    for ran in failed {
        let tests = failed_tests(&String::from_utf8_lossy(&ran.said));
        if tests.is_empty() {
            return Err(format!("{} ended before it named its failed tests", ran.binary.name));
        }
        candidates.extend(tests.into_iter().map(|test| Candidate { binary: ran.binary, test }));
    }
    if candidates.len() > MOST {
        return Err(format!("{} tests", candidates.len()));
    }
    Ok(candidates)
}

/// Runs each; returns the names of those that pass now, and fails if one does not.
pub(super) fn run(candidates: &[Candidate]) -> Result<Vec<String>> {
    let mut flaky = Vec::new();
    let mut broken = Vec::new();
    for Candidate { binary, test } in candidates {
        let name = format!("{}::{test}", binary.name);
        println!("\n{}", term::paint(term::BOLD, &format!("once more, alone: {name}")));
        let args = ["--exact".into(), test.clone()];
        let (passed, said) = run_one(binary, &args)?;
        show(binary, &said)?;
        if passed { flaky.push(name) } else { broken.push(name) }
    }
    if !broken.is_empty() {
        bail!("failed beside other tests and alone: {}", broken.join(", "));
    }
    Ok(flaky)
}

/// The names in libtest's lines `test NAME ... FAILED`.
fn failed_tests(said: &str) -> Vec<String> {
    let name = |line: &str| line.strip_prefix("test ")?.strip_suffix(" ... FAILED").map(Into::into);
    said.lines().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn binary() -> Binary {
        Binary {
            name: "udp".into(),
            is_integration: true,
            path: "/bin/true".into(),
            package: "/".into(),
        }
    }

    fn ran<'a>(binary: &'a Binary, said: &str) -> Ran<'a> {
        Ran { binary, passed: false, said: said.into(), took: Duration::ZERO }
    }

    #[test]
    fn failed_tests_are_found_in_the_output() {
        let binary = binary();
        let said = "test a::b ... ok\ntest a::c ... FAILED\nnoise\ntest d ... FAILED\n";
        let ran = ran(&binary, said);
        let found = candidates(&[&ran]).unwrap();
        let names: Vec<&str> = found.iter().map(|candidate| candidate.test.as_str()).collect();
        assert_eq!(names, ["a::c", "d"]);
    }

    #[test]
    fn a_binary_that_crashed_and_many_failures_are_not_run_again() {
        let binary = binary();
        let crashed = ran(&binary, "test a ... ok\n");
        let why = candidates(&[&crashed]).err().unwrap();
        assert_eq!(why, "udp ended before it named its failed tests");
        let many = ran(&binary, &"test a ... FAILED\n".repeat(MOST + 1));
        assert_eq!(candidates(&[&many]).err().unwrap(), "4 tests");
    }

    #[test]
    fn a_test_that_fails_alone_as_well_fails_the_run() {
        let (passes, fails) = (binary(), Binary { path: "/bin/false".into(), ..binary() });
        let one = |binary| Candidate { binary, test: "a".into() };
        assert_eq!(run(&[one(&passes)]).unwrap(), ["udp::a"]);
        let error = run(&[one(&passes), one(&fails)]).unwrap_err();
        assert_eq!(error.to_string(), "failed beside other tests and alone: udp::a");
    }
}
