//! The two fenced blocks of `ARCHITECTURE.md`: which module may use which, and today's exceptions.

use anyhow::{Result, ensure};

/// The word behind the fence of the block with the rules.
const RULES: &str = "architecture";
/// The same for the block with exceptions.
const EXCEPTIONS: &str = "architecture-exceptions";

/// `left -> right right`.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) module: String,
    pub(super) may_use: Vec<String>,
    pub(super) line: usize,
}

/// `from -> to`: a use that breaks a rule, or that closes a circle.
#[derive(Debug)]
pub(super) struct Exception {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) line: usize,
}

#[derive(Debug)]
pub(super) struct Table {
    /// Of the file that it was read from.
    pub(super) document: String,
    pub(super) rules: Vec<Rule>,
    pub(super) exceptions: Vec<Exception>,
}

impl Table {
    pub(super) fn parse(text: &str, document: &str) -> Result<Self> {
        let mut table =
            Self { document: document.to_owned(), rules: Vec::new(), exceptions: Vec::new() };
        let mut block: Option<&str> = None;
        for (line, text) in (1..).zip(text.lines()) {
            if let Some(info) = text.trim().strip_prefix("```") {
                block = if block.is_some() { None } else { Some(info.trim()) };
                continue;
            }
            let entry = text.split('#').next().unwrap_or_default().trim();
            if entry.is_empty() || !matches!(block, Some(RULES | EXCEPTIONS)) {
                continue;
            }
            let (left, right) = entry.split_once("->").unwrap_or((entry, ""));
            let module = left.trim().to_owned();
            let words: Vec<String> = right.split_whitespace().map(ToOwned::to_owned).collect();
            ensure!(
                !module.is_empty() && !module.contains(char::is_whitespace),
                "{document}:{line}: {entry:?} is not of the form `module -> module module`"
            );
            if block == Some(RULES) {
                ensure!(
                    table.rules.iter().all(|rule| rule.module != module),
                    "{document}:{line}: {module} has two lines"
                );
                table.rules.push(Rule { module, may_use: words, line });
            } else {
                let [to] = words.as_slice() else {
                    anyhow::bail!(
                        "{document}:{line}: {entry:?} is not of the form `module -> module`"
                    );
                };
                table.exceptions.push(Exception { from: module, to: to.clone(), line });
            }
        }
        ensure!(!table.rules.is_empty(), "{document} has no block ```{RULES}");
        Ok(table)
    }

    /// The rule for a module: the line with the longest name that the module is in.
    pub(super) fn rule_for(&self, module: &str) -> Option<&Rule> {
        let rules = self.rules.iter().filter(|rule| is_in(module, &rule.module));
        rules.max_by_key(|rule| rule.module.len())
    }
}

/// Whether a module is a folder or in it.
pub(super) fn is_in(module: &str, folder: &str) -> bool {
    module.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
