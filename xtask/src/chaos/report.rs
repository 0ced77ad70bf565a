//! What a run tells in the end.

use std::time::Duration;

use super::{leaks::Account, results::Results};
use crate::term;

pub(super) fn print(results: &Results, leaks: &Account, took: Duration) {
    println!();
    let rows: Vec<Vec<String>> = results
        .tallies()
        .into_iter()
        .map(|(kind, tally)| {
            let numbers = [
                tally.all,
                tally.right,
                tally.not_yet_heard,
                tally.refused,
                tally.endpoint_dead,
                tally.while_damaged,
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
            "right",
            "by one just removed",
            "none, refused",
            "endpoint dead",
            "while damaged",
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
    term::table(&["fault", "times", "until all was well"], &rows);
    println!();
    let rows: Vec<Vec<String>> = results
        .counts()
        .into_iter()
        .map(|(mistake, what, count)| {
            let verdict = if mistake { "MISTAKE" } else { "" };
            vec![what.to_owned(), count.to_string(), verdict.to_owned()]
        })
        .collect();
    term::table(&["beside that", "times", ""], &rows);
    println!();
    let rows: Vec<Vec<String>> = leaks
        .iter()
        .map(|(what, seen, left)| vec![(*what).to_owned(), seen.to_string(), left.to_string()])
        .collect();
    term::table(&["in the kernel", "seen", "LEFT"], &rows);
    println!();
    term::ok("took", &term::seconds(took));
}

/// The failures, what happened around the first, and what the agent said last.
pub(super) fn print_story(results: &Results, log: &str) {
    let (failures, events) = results.story();
    println!("\n{}", term::paint(term::BOLD, "failures, by seconds since the beginning"));
    failures.iter().for_each(|line| println!("{line}"));
    println!("\n{}", term::paint(term::BOLD, "what happened around the first"));
    events.iter().for_each(|line| println!("{line}"));
    println!("\n{}\n{log}", term::paint(term::BOLD, "the end of the agent's log"));
}
