//! The report at the end of a run.

use std::time::Duration;

use super::{leaks::LeakReport, results::Results};
use crate::term;

pub(super) fn print(results: &Results, leaks: &LeakReport, took: Duration) {
    println!();
    let rows: Vec<Vec<String>> = results
        .tallies()
        .into_iter()
        .map(|(kind, tally)| {
            let numbers = [
                tally.all,
                tally.correct,
                tally.stale_endpoint,
                tally.refused,
                tally.endpoint_dead,
                tally.during_damage,
                tally.failed,
                tally.misrouted,
                tally.lost,
            ];
            let name = kind.name().to_owned();
            std::iter::once(name).chain(numbers.iter().map(ToString::to_string)).collect()
        })
        .collect();
    term::table(
        &[
            "calls",
            "all",
            "correct",
            "stale endpoint",
            "refused",
            "endpoint dead",
            "during damage",
            "FAILED",
            "MISROUTED",
            "LOST",
        ],
        &rows,
    );
    println!();
    let rows: Vec<Vec<String>> = results
        .faults()
        .into_iter()
        .map(|(name, count, time)| {
            let mean = time / u32::try_from(count).unwrap_or(1).max(1);
            vec![name.to_owned(), count.to_string(), term::seconds(mean)]
        })
        .collect();
    term::table(&["fault", "times", "mean time to recover"], &rows);
    println!();
    let rows: Vec<Vec<String>> = results
        .counts()
        .into_iter()
        .map(|(violation, what, count)| {
            let verdict = if violation { "VIOLATION" } else { "" };
            vec![what.to_owned(), count.to_string(), verdict.to_owned()]
        })
        .collect();
    term::table(&["other counts", "times", ""], &rows);
    println!();
    let rows: Vec<Vec<String>> = leaks
        .iter()
        .map(|(what, seen, left)| vec![(*what).to_owned(), seen.to_string(), left.to_string()])
        .collect();
    term::table(&["in the kernel", "created", "LEFT"], &rows);
    println!();
    term::ok("took", &term::seconds(took));
}

/// Prints the failures, the events around the first one, and the end of the agent's log.
pub(super) fn print_failures(results: &Results, log: &str) {
    let (failures, events) = results.failures_and_events();
    println!("\n{}", term::paint(term::BOLD, "failures, with the seconds since the start"));
    failures.iter().for_each(|line| println!("{line}"));
    println!("\n{}", term::paint(term::BOLD, "events around the first failure"));
    events.iter().for_each(|line| println!("{line}"));
    println!("\n{}\n{log}", term::paint(term::BOLD, "the end of the agent's log"));
}
