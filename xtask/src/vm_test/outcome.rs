//! Reads the tests' output, which is libtest's, line by line.

use std::time::{Duration, Instant};

/// One group of tests that ran in one kernel.
pub(super) struct Ran {
    pub(super) group: String,
    pub(super) passed: usize,
    pub(super) took: Duration,
    pub(super) failures: Vec<Failure>,
}

/// A test that failed, and the end of its output.
pub(super) struct Failure {
    pub(super) name: String,
    pub(super) output: Vec<String>,
}

/// Reads the lines of a job.
pub(super) struct Reader {
    running: Option<Running>,
    pub(super) ran: Vec<Ran>,
}

struct Running {
    group: String,
    start: Instant,
    lines: Vec<String>,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self { running: None, ran: Vec::new() }
    }

    /// Reads a line. Returns the result of a group with its last line.
    pub(super) fn read_line(&mut self, line: &str) -> Option<&Ran> {
        if let Some(group) = line.strip_prefix("@@ begin ") {
            let (group, lines) = (group.to_owned(), Vec::new());
            self.running = Some(Running { group, start: Instant::now(), lines });
        } else if let Some(rest) = line.strip_prefix("@@ end ") {
            let running = self.running.take()?;
            let code = rest.rsplit(' ').next().unwrap_or_default();
            self.ran.push(running.end(code));
            return self.ran.last();
        } else if let Some(running) = &mut self.running {
            running.lines.push(line.to_owned());
        }
        None
    }
}

impl Running {
    fn end(self, code: &str) -> Ran {
        let took = self.start.elapsed();
        let mut failures = failures(&self.lines);
        let summary = self.lines.iter().rev().find_map(|line| summary(line));
        let (passed, failed) = summary.unwrap_or_default();
        if summary.is_none() {
            // The binary was killed or did not start: its output has no summary.
            let why = match code {
                "124" | "137" | "143" => "the binary took too long and was killed".to_owned(),
                code => format!("the binary ended with status {code} before it had run all tests"),
            };
            let mut output = tail(&self.lines);
            output.push(why);
            failures.push(Failure { name: self.group.clone(), output });
        } else if failures.len() != failed || (failed == 0 && code != "0") {
            let why = format!("its summary says that {failed} tests failed, its status is {code}");
            failures.push(Failure { name: self.group.clone(), output: vec![why] });
        }
        Ran { group: self.group, passed, took, failures }
    }
}

/// `test result: FAILED. 11 passed; 2 failed; …`
fn summary(line: &str) -> Option<(usize, usize)> {
    let counts = line.strip_prefix("test result: ")?;
    let of = |what: &str| counts.split(what).next()?.rsplit(' ').next()?.parse().ok();
    Some((of(" passed")?, of(" failed")?))
}

/// The blocks `---- name stdout ----` of the tests that failed.
fn failures(lines: &[String]) -> Vec<Failure> {
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    let mut names = false;
    let mut failures: Vec<Failure> = Vec::new();
    let mut inside = false;
    for line in lines {
        if let Some(name) =
            line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----"))
        {
            found.push((name.to_owned(), Vec::new()));
            inside = true;
        } else if line == "failures:" {
            // Once before the blocks, once before the list of names.
            names = inside;
            inside = false;
        } else if names {
            match line.strip_prefix("    ") {
                Some(name) => {
                    let block = found.iter().find(|(found, _)| found == name);
                    let output = block.map(|(_, lines)| tail(lines)).unwrap_or_default();
                    failures.push(Failure { name: name.to_owned(), output });
                }
                None if failures.is_empty() => {}
                None => names = false,
            }
        } else if inside && let Some((_, block)) = found.last_mut() {
            block.push(line.clone());
        }
    }
    failures
}

fn tail(lines: &[String]) -> Vec<String> {
    const LINES: usize = 30;
    let lines: Vec<_> = lines.iter().filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(LINES)..].iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<Ran> {
        let mut reader = Reader::new();
        for line in text.lines() {
            reader.read_line(line);
        }
        reader.ran
    }

    #[test]
    fn passed_tests_are_counted() {
        let ran = read(
            "@@ begin tcp\n\nrunning 2 tests\ntest one ... ok\ntest two ... ok\n\n\
             test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; \
             finished in 1.00s\n\n@@ end tcp 0\n",
        );
        assert_eq!((ran[0].group.as_str(), ran[0].passed, ran[0].failures.len()), ("tcp", 2, 0));
    }

    #[test]
    fn a_failed_test_has_its_name_and_output() {
        let ran = read(
            "@@ begin tcp\nrunning 2 tests\ntest one ... FAILED\ntest two ... ok\n\nfailures:\n\n\
             ---- one stdout ----\nthread 'one' panicked at x.rs:1:1:\nno way\n\n\nfailures:\n    \
             one\n\ntest result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; \
             0 filtered out; finished in 0.01s\n@@ end tcp 101\n",
        );
        let failures: Vec<_> = ran[0]
            .failures
            .iter()
            .map(|failure| (failure.name.as_str(), failure.output.clone()))
            .collect();
        let said = ["thread 'one' panicked at x.rs:1:1:", "no way"].map(ToOwned::to_owned);
        assert_eq!((ran[0].passed, failures), (1, vec![("one", said.to_vec())]));
    }

    #[test]
    fn a_binary_that_is_killed_is_a_failure() {
        let ran = read("@@ begin tcp\nrunning 2 tests\ntest one ... ok\n@@ end tcp 143\n");
        assert_eq!((ran[0].passed, ran[0].failures.len()), (0, 1));
        assert_eq!(ran[0].failures[0].name, "tcp");
        assert!(ran[0].failures[0].output.last().unwrap().contains("too long"));
    }

    #[test]
    fn a_status_that_contradicts_the_summary_is_a_failure() {
        let text = "@@ begin tcp\ntest result: ok. 2 passed; 0 failed; 0 ignored\n@@ end tcp 139\n";
        assert_eq!(read(text)[0].failures.len(), 1);
    }
}
