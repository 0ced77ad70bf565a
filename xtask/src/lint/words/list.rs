//! The list of words.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};

use super::text::Pattern;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A word of version 0.1.
    Gone,
    /// A turn of phrase.
    Turn,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) pattern: Pattern,
    pub(super) replacement: String,
    /// The folder that it is gone from; all if empty.
    scope: String,
    /// Files that may have it.
    except: Vec<String>,
}

#[derive(Debug, Default)]
pub(super) struct List {
    name: String,
    pub(super) entries: Vec<Entry>,
    /// How many turns a folder may have.
    limits: BTreeMap<String, usize>,
}

impl List {
    pub(super) fn parse(text: &str, name: &str) -> Result<Self> {
        let mut list = Self { name: name.to_owned(), ..Self::default() };
        let mut section = "";
        for (number, line) in (1..).zip(text.lines().map(str::trim)) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let place = || format!("{name}:{number}");
            if let Some(title) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                section = title;
            } else if section == "turns left in" {
                let (folder, count) = line.split_once(' ').with_context(place)?;
                list.limits.insert(folder.to_owned(), count.trim().parse().with_context(place)?);
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

    /// What is wrong about turns, found as (file, message): all of a folder that has more than its limit, which
    /// is 0 for a folder that is not listed.
    pub(super) fn judge(&self, turns: &[(String, String)]) -> Vec<String> {
        let mut problems = Vec::new();
        for (folder, found) in self.by_folder(turns) {
            let limit = self.limits.get(folder).copied().unwrap_or(0);
            if found.len() > limit {
                problems.extend(found.iter().map(|message| (*message).to_owned()));
                if limit > 0 {
                    problems.push(format!(
                        "{}: {folder} has {} turns, and may have {limit}",
                        self.name,
                        found.len()
                    ));
                }
            }
        }
        problems
    }

    /// What there still is, and which limits can be lowered.
    pub(super) fn rest(&self, turns: &[(String, String)]) -> String {
        let found = self.by_folder(turns);
        let lines = self.limits.iter().map(|(folder, limit)| {
            let count = found.get(folder.as_str()).map_or(0, Vec::len);
            let hint =
                if count < *limit { format!(" (limit {limit}: lower it)") } else { String::new() };
            format!("; {folder} has {count} turns{hint}")
        });
        lines.collect()
    }

    fn by_folder<'a>(&'a self, turns: &'a [(String, String)]) -> BTreeMap<&'a str, Vec<&'a str>> {
        let mut folders: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (file, message) in turns {
            let listed = self.limits.keys().filter(|folder| file.starts_with(*folder));
            let folder = listed.max_by_key(|folder| folder.len()).map_or("", String::as_str);
            folders.entry(folder).or_default().push(message);
        }
        folders
    }
}

impl Entry {
    fn parse(section: &str, line: &str) -> Result<Self> {
        let (kind, scope) = match section.split_once(" in ") {
            _ if section == "gone" => (Kind::Gone, String::new()),
            Some(("gone", folder)) => (Kind::Gone, format!("{folder}/")),
            _ if section == "turns" => (Kind::Turn, String::new()),
            _ => bail!("there is no section [{section}]"),
        };
        let (word, rest) = line.split_once(" -> ").context("not of the form `word -> words`")?;
        let (replacement, except) = rest.split_once(" except ").unwrap_or((rest, ""));
        let pattern = Pattern::parse(word.trim());
        ensure!(pattern != Pattern::Words(Vec::new()), "no word on the left");
        let except = except.split_whitespace().map(ToOwned::to_owned).collect();
        Ok(Self { kind, pattern, replacement: replacement.trim().to_owned(), scope, except })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# comment\n[gone]\nkeeper -> harness\n\"--listen\" -> --bind except a/renamed.rs\n\
                        [gone in a]\nledger -> results\n[turns]\nwhoever -> name who\n\
                        [turns left in]\na 2\n";

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
    fn a_folder_may_have_as_many_turns_as_its_limit() {
        let turn = |file: &str, line: u32| (file.to_owned(), format!("{file}:{line}: whoever"));
        let within = [turn("a/x.rs", 1), turn("a/y.rs", 2)];
        assert!(list().judge(&within).is_empty());
        assert_eq!(list().rest(&within[..1]), "; a has 1 turns (limit 2: lower it)");
        let above = [&within[..], &[turn("a/z.rs", 3)]].concat();
        let said = list().judge(&above);
        assert_eq!(said.len(), 4);
        assert_eq!(said[3], "words.txt: a has 3 turns, and may have 2");
        assert_eq!(list().judge(&[turn("b/x.rs", 1)]), ["b/x.rs:1: whoever"]);
    }

    #[test]
    fn a_line_that_is_not_understood_is_named() {
        for text in
            ["[gone]\nkeeper harness", "[other]\na -> b", "[turns left in]\na", "[gone]\n?! -> b"]
        {
            let error = List::parse(text, "words.txt").unwrap_err().to_string();
            assert_eq!(error, "words.txt:2", "{text}");
        }
    }
}
