//! Claims, each printed with its result and counted.

use crate::term;

#[derive(Default)]
pub(super) struct Checks {
    made: usize,
    failed: Vec<String>,
}

impl Checks {
    /// Prints a claim, and whether it is true.
    pub(super) fn claim(&mut self, holds: bool, claim: &str) {
        self.made += 1;
        if holds {
            println!("  {} {claim}", term::paint(term::GREEN, "✓"));
        } else {
            println!("  {} {}", term::paint(term::RED, "✗"), term::paint(term::RED, claim));
            self.failed.push(claim.to_owned());
        }
    }

    pub(super) fn made(&self) -> usize {
        self.made
    }

    pub(super) fn failed(&self) -> &[String] {
        &self.failed
    }
}
