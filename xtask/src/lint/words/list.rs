//! The list of words.

use anyhow::{Context as _, Result, bail, ensure};

use super::text::Pattern;

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) pattern: Pattern,
    pub(super) replacement: String,
    /// The folder that it is gone from; all if empty.
    scope: String,
    /// Files that may have it.
    except: Vec<String>,
}

#[derive(Debug, Default)]
pub(super) struct List {
    pub(super) entries: Vec<Entry>,
}

impl List {
    pub(super) fn parse(text: &str, name: &str) -> Result<Self> {
        let mut list = Self::default();
        let mut section = "";
        for (number, line) in (1..).zip(text.lines().map(str::trim)) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let place = || format!("{name}:{number}");
            if let Some(title) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                section = title;
            } else {
                let entry = Entry::parse(section, line).with_context(place)?;
                list.entries.push(entry);
            }
        }
        Ok(list)
    }

    /// The entries that a file is held to.
    pub(super) fn entries_for(&self, file: &str) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| {
            file.starts_with(&entry.scope) && !entry.except.iter().any(|except| except == file)
        })
    }
}

impl Entry {
    fn parse(section: &str, line: &str) -> Result<Self> {
        let scope = match section.split_once(" in ") {
            _ if ["gone", "turns"].contains(&section) => String::new(),
            Some(("gone", folder)) => format!("{folder}/"),
            _ => bail!("there is no section [{section}]"),
        };
        let (word, rest) = line.split_once(" -> ").context("not of the form `word -> words`")?;
        let (replacement, except) = rest.split_once(" except ").unwrap_or((rest, ""));
        let pattern = Pattern::parse(word.trim());
        ensure!(pattern != Pattern::Words(Vec::new()), "no word on the left");
        let except = except.split_whitespace().map(ToOwned::to_owned).collect();
        Ok(Self { pattern, replacement: replacement.trim().to_owned(), scope, except })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# comment\n[gone]\nkeeper -> harness\n\"--listen\" -> --bind except a/renamed.rs\n\
                        [gone in a]\nledger -> results\n[turns]\nwhoever -> name who\n";

    fn list() -> List {
        List::parse(TEXT, "words.txt").unwrap()
    }

    fn shown(file: &str) -> Vec<String> {
        list().entries_for(file).map(|entry| entry.pattern.to_string()).collect()
    }

    #[test]
    fn a_word_is_gone_from_its_folder_and_may_stay_in_named_files() {
        assert_eq!(shown("a/b.rs"), ["\"keeper\"", "\"--listen\"", "\"ledger\"", "\"whoever\""]);
        assert_eq!(shown("b/a/b.rs"), ["\"keeper\"", "\"--listen\"", "\"whoever\""]);
        assert_eq!(shown("a/renamed.rs"), ["\"keeper\"", "\"ledger\"", "\"whoever\""]);
    }

    #[test]
    fn a_line_that_is_not_understood_is_named() {
        for text in
            ["[gone]\nkeeper harness", "[other]\na -> b", "[turns in a]\na -> b", "[gone]\n?! -> b"]
        {
            let error = List::parse(text, "words.txt").unwrap_err().to_string();
            assert_eq!(error, "words.txt:2", "{text}");
        }
    }
}
