//! Whether the agent's modules are all in the documents that list them: the table in `ARCHITECTURE.md`, and the page of
//! the crate.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::document::Document;

const SOURCES: &str = "agent/src";
const CRATE: &str = "agent/src/lib.rs";
const ARCHITECTURE: &str = "ARCHITECTURE.md";

/// The modules that are missing in one of them, one line each.
pub(super) fn check(root: &Path, documents: &BTreeMap<PathBuf, Document>) -> Result<Vec<String>> {
    let text = fs::read_to_string(root.join(CRATE)).with_context(|| format!("reading {CRATE}"))?;
    let page: Vec<&str> = text.lines().filter(|line| line.starts_with("//!")).collect();
    let page = page.join("\n");
    let table: BTreeSet<&str> = documents
        .get(Path::new(ARCHITECTURE))
        .into_iter()
        .flat_map(|document| document.code.iter().map(|(_, code)| code.as_str()))
        .collect();

    let mut problems = Vec::new();
    for module in modules(root)? {
        let is_in_table = [format!("{SOURCES}/{module}/"), format!("{SOURCES}/{module}.rs")]
            .iter()
            .any(|path| table.contains(path.as_str()));
        if !is_in_table {
            problems.push(format!("{ARCHITECTURE}: does not name {SOURCES}/{module}"));
        }
        // `main` is a crate of its own.
        if module != "main" && !page.contains(&format!("`{module}`")) {
            problems.push(format!("{CRATE}: its page does not name `{module}`"));
        }
    }
    Ok(problems)
}

/// The files and folders beside the crate's root.
fn modules(root: &Path) -> Result<BTreeSet<String>> {
    let folder = root.join(SOURCES);
    let mut modules = BTreeSet::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("reading {SOURCES}"))? {
        let path = entry?.path();
        modules.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    modules.remove("lib");
    Ok(modules)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is missing of a folder, a file and `main` in these texts.
    fn problems(architecture: &str, page: &str) -> Vec<String> {
        let root = tempfile::tempdir().expect("a temporary folder");
        let sources = root.path().join(SOURCES);
        fs::create_dir_all(sources.join("model")).expect("made");
        let files = [("lib.rs", page), ("main.rs", ""), ("escape.rs", "")];
        for (name, text) in files {
            fs::write(sources.join(name), text).expect("written");
        }
        let documents =
            BTreeMap::from([(PathBuf::from(ARCHITECTURE), Document::parse(architecture))]);
        check(root.path(), &documents).expect("they can be read")
    }

    #[test]
    fn modules_that_both_name_are_no_problem() {
        let architecture = "`agent/src/main.rs`, `agent/src/model/`, `agent/src/escape.rs`";
        let page = "//! [`model`]\n//! `escape`\n";
        assert_eq!(problems(architecture, page), Vec::<String>::new());
    }

    #[test]
    fn a_module_that_is_missing_is_named_with_the_document() {
        let expected = [
            "ARCHITECTURE.md: does not name agent/src/escape",
            "agent/src/lib.rs: its page does not name `escape`",
        ];
        let page =
            "//! [`model`]\n\npub mod model;\n/// Not of the page: `escape`.\npub mod escape;\n";
        assert_eq!(problems("`agent/src/main.rs` `agent/src/model/`", page), expected);
    }
}
