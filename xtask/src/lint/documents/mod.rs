//! `cargo xtask lint documents`: every Markdown file links to what exists, names files that exist, and is
//! no longer than its reader has time for. `ARCHITECTURE.md` and the agent's crate page name all of its modules.
//!
//! `document` parses a file, `modules` compares with the modules; all else is here.

mod document;
mod modules;

use std::{
    collections::BTreeMap,
    fs,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use self::document::Document;
use crate::{process, repo, term};

/// How many lines a document may have.
const LONGEST: [(&str, usize); 5] = [
    ("README.md", 120),
    ("ARCHITECTURE.md", 300),
    ("ebpf/README.md", 80),
    ("tests/README.md", 80),
    ("xtask/README.md", 80),
];

/// A code span that begins with one of these is the path of a file or folder.
const FOLDERS: [&str; 5] = ["agent/", "deploy/", "ebpf/", "tests/", "xtask/"];

pub(crate) fn run() -> Result<()> {
    let root = repo::root();
    let documents = read(root, &paths()?)?;
    let mut problems = check(root, &documents);
    problems.extend(modules::check(root, &documents)?);
    if problems.is_empty() {
        let links: usize = documents.values().map(|document| document.links.len()).sum();
        term::ok("documents", &format!("{links} links in {} files", documents.len()));
        return Ok(());
    }
    for problem in &problems {
        println!("{problem}");
    }
    bail!("{} mistakes in documents", problems.len());
}

/// Those that git knows or would take.
fn paths() -> Result<Vec<PathBuf>> {
    let mut git = repo::command("git")?;
    git.args(["ls-files", "--cached", "--others", "--exclude-standard", "--", "*.md"]);
    let names = process::output(&mut git)?;
    // One that was removed is known until that is committed.
    let there = names.lines().map(PathBuf::from).filter(|path| repo::root().join(path).exists());
    Ok(there.collect())
}

/// All lines of all documents.
#[cfg(test)]
pub(crate) fn lines() -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for path in paths()? {
        let text = fs::read_to_string(repo::root().join(path))?;
        lines.extend(text.lines().map(ToOwned::to_owned));
    }
    Ok(lines)
}

/// By their paths, relative to the root.
fn read(root: &Path, paths: &[PathBuf]) -> Result<BTreeMap<PathBuf, Document>> {
    let read = |path: &PathBuf| {
        let text = fs::read_to_string(root.join(path))
            .with_context(|| format!("reading {}", path.display()))?;
        Ok((path.clone(), Document::parse(&text)))
    };
    paths.iter().map(read).collect()
}

/// What is wrong, one line each.
fn check(root: &Path, documents: &BTreeMap<PathBuf, Document>) -> Vec<String> {
    let mut problems = Vec::new();
    for (path, document) in documents {
        let longest = LONGEST.iter().find(|(name, _)| Path::new(name) == path);
        if let Some((_, longest)) = longest.filter(|(_, longest)| document.lines > *longest) {
            let lines = document.lines;
            problems.push(format!("{}: {lines} lines, at most {longest}", path.display()));
        }
        let mut found = |line: usize, problem: String| {
            problems.push(format!("{}:{line}: {problem}", path.display()));
        };
        for (line, link) in &document.links {
            if let Some(problem) = problem_of_link(root, documents, path, link) {
                found(*line, format!("{link}: {problem}"));
            }
        }
        for (line, code) in &document.code {
            if is_path(code) && !exists(root, path, code) {
                found(*line, format!("`{code}`: there is no such file or folder"));
            }
        }
    }
    problems
}

fn problem_of_link(
    root: &Path,
    documents: &BTreeMap<PathBuf, Document>,
    from: &Path,
    link: &str,
) -> Option<&'static str> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let folder = from.parent().unwrap_or(Path::new(""));
    let to = if file.is_empty() { from.to_owned() } else { plain(&folder.join(file)) };
    if !root.join(&to).exists() {
        return Some("there is no such file");
    }
    let has_anchor =
        anchor.is_empty() || documents.get(&to).is_some_and(|to| to.anchors.contains(anchor));
    if has_anchor { None } else { Some("there is no such heading") }
}

/// Without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

fn is_path(code: &str) -> bool {
    let is_of_path = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    FOLDERS.iter().any(|folder| code.starts_with(folder)) && code.chars().all(is_of_path)
}

/// In the root, or in a folder that the document is in.
fn exists(root: &Path, document: &Path, path: &str) -> bool {
    document.ancestors().skip(1).any(|folder| root.join(folder).join(path).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong with `docs/page.md` of this text, beside a `README.md` with a heading.
    fn problems(page: &str) -> Vec<String> {
        let root = tempfile::tempdir().expect("a temporary folder");
        let files = [
            ("README.md", "# Title\n\n## What `it` does, and why\n"),
            ("agent/src/main.rs", ""),
            ("docs/page.md", page),
        ];
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("made");
            fs::write(path, text).expect("written");
        }
        let paths = ["README.md", "docs/page.md"].map(PathBuf::from);
        check(root.path(), &read(root.path(), &paths).expect("they can be read"))
    }

    #[test]
    fn a_link_leads_to_a_file_and_a_heading() {
        let page = "# Page\n\n[a](../README.md) [b](../README.md#what-it-does-and-why) [c](#page) \
                    [d](https://example.com/x)\n";
        assert_eq!(problems(page), Vec::<String>::new());
    }

    #[test]
    fn a_link_to_a_file_that_is_missing_is_named_with_its_line() {
        let expected = ["docs/page.md:3: ../GONE.md: there is no such file"];
        assert_eq!(problems("# Page\n\nSee [it](../GONE.md).\n"), expected);
    }

    #[test]
    fn a_link_to_a_heading_that_is_missing_is_named() {
        let expected = ["docs/page.md:1: ../README.md#gone: there is no such heading"];
        assert_eq!(problems("[it](../README.md#gone)\n"), expected);
    }

    #[test]
    fn a_path_in_a_code_span_exists() {
        let page =
            "`agent/src/main.rs` `agent/src/` `agent/gone.rs` `agent/src/*.rs` `cargo run`\n";
        let expected = ["docs/page.md:1: `agent/gone.rs`: there is no such file or folder"];
        assert_eq!(problems(page), expected);
    }

    #[test]
    fn what_is_in_a_code_block_is_no_link() {
        assert_eq!(problems("```text\n[a](gone.md) `agent/gone.rs`\n```\n"), Vec::<String>::new());
    }

    #[test]
    fn a_document_that_is_too_long_is_named() {
        let long =
            BTreeMap::from([(PathBuf::from("README.md"), Document::parse(&"x\n".repeat(121)))]);
        assert_eq!(check(Path::new("/"), &long), ["README.md: 121 lines, at most 120"]);
    }
}
