//! `cargo xtask lint words`: words of version 0.1 that are gone, and turns of phrase that are not plain
//! technical English. The list is `words.txt` beside this file.

mod list;
mod text;

use std::fs;

use anyhow::{Result, bail};

use self::{list::List, text::Text};
use crate::{process, repo, term};

/// Not read: the list itself, history, recorded objects and what is no text of ours.
const SKIPPED: [&str; 5] =
    ["xtask/src/lint/words/", "CHANGELOG.md", "Cargo.lock", "tests/fixtures/", "LICENSE"];

pub(super) fn run() -> Result<()> {
    let list = List::parse(include_str!("words.txt"), "xtask/src/lint/words/words.txt")?;
    let files = process::output(repo::command("git")?.args(["ls-files", "--cached"]))?;
    let mut problems = Vec::new();
    let mut count = 0;
    for file in
        files.lines().filter(|file| !SKIPPED.iter().any(|skipped| file.starts_with(skipped)))
    {
        // Deleted, and not committed yet; or not text.
        let Ok(content) = fs::read_to_string(repo::root().join(file)) else { continue };
        count += 1;
        for (line, text) in [(0, Text::new(file)), (1, Text::new(&content))] {
            for entry in list.entries_for(file) {
                for found in text.find(&entry.pattern) {
                    let place = if line == 0 {
                        file.to_owned()
                    } else {
                        format!("{file}:{}", line + found)
                    };
                    problems
                        .push(format!("{place}: {}: write {}", entry.pattern, entry.replacement));
                }
            }
        }
    }
    if problems.is_empty() {
        let words = list.entries.len();
        term::ok("words", &format!("none of {words} words in {count} files"));
        return Ok(());
    }
    problems.iter().for_each(|problem| println!("{problem}"));
    bail!("{} words that are not to be used", problems.len());
}
