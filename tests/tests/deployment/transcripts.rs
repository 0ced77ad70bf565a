//! The commands in the documents print what the documents show.
//!
//! A fenced block that is marked ```` ```console test ```` is a transcript: each line that begins with `$ ` is
//! run on a node that serves the recorded shop (`tests/fixtures/boutique`), and the lines below it are what it
//! prints. `…` stands for anything in a line, and alone in a line for any lines. A block that is marked ```` ```console ````
//! has a comment above it that says why no test runs it.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::common::{error_of, fixtures, options};
use sockline_testbed::{Agent, Node, sockline_binary};

/// The mark of a block.
const MARK: &str = "console test";

/// What the comment above a transcript without the mark begins with.
const REASON: &str = "<!-- Not run by a test: ";

/// One command of a transcript, and what it prints.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    /// `deploy/README.md:12`
    place: String,
    command: String,
    output: Vec<String>,
}

/// Transcripts that have neither the mark nor a reason: the lines that they begin in.
fn unexplained(text: &str) -> Vec<usize> {
    let mut found = Vec::new();
    let mut above = "";
    for (line, text) in (1..).zip(text.lines()) {
        let info = text.strip_prefix("```").unwrap_or_default().trim();
        if info.starts_with("console") && info != MARK && !above.starts_with(REASON) {
            found.push(line);
        }
        above = text;
    }
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every Markdown file in these folders, and in those below them.
fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join("deploy")];
    let mut top: Vec<PathBuf> =
        fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path()).collect();
    top.retain(|path| path.is_file());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { top.push(path) }
        }
    }
    found.extend(top.into_iter().filter(|path| path.extension().is_some_and(|end| end == "md")));
    found.sort();
    found
}

fn steps(document: &str, text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut is_within = false;
    for (line, text) in (1..).zip(text.lines()) {
        if let Some(info) = text.strip_prefix("```") {
            is_within = !is_within && info.trim() == MARK;
        } else if let Some(command) = text.strip_prefix("$ ").filter(|_| is_within) {
            let (place, command) = (format!("{document}:{line}"), command.to_owned());
            steps.push(Step { place, command, output: Vec::new() });
        } else if is_within && let Some(step) = steps.last_mut() {
            step.output.push(text.to_owned());
        }
    }
    for step in &mut steps {
        while step.output.last().is_some_and(String::is_empty) {
            step.output.pop();
        }
    }
    steps
}

/// Whether a line matches: `…` stands for anything.
fn is_as_shown(shown: &str, line: &str) -> bool {
    let mut parts = shown.trim_end().split('…');
    let Some(mut rest) = line.trim_end().strip_prefix(parts.next().unwrap_or_default()) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        let is_last = parts.peek().is_none();
        let found = if is_last {
            rest.ends_with(part).then(|| rest.len() - part.len())
        } else {
            rest.find(part)
        };
        let Some(at) = found else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}

/// The first line that differs, and what was printed.
fn difference<'a>(shown: &'a [String], lines: &'a [&'a str]) -> Option<(&'a str, &'a str)> {
    match shown {
        [] => lines.first().map(|line| ("the end", *line)),
        [any, shown @ ..] if any == "…" => {
            let fits = |skipped: &usize| difference(shown, &lines[*skipped..]).is_none();
            match (0..=lines.len()).find(fits) {
                Some(_) => None,
                None => shown.first().map(|shown| (shown.as_str(), "no line below is so")),
            }
        }
        [first, shown @ ..] => match lines {
            [line, lines @ ..] if is_as_shown(first, line) => difference(shown, lines),
            _ => Some((first, lines.first().copied().unwrap_or("the end"))),
        },
    }
}

/// A node that serves the recorded shop.
fn serving() -> (Node, Agent) {
    let node = Node::new().unwrap();
    for file in ["services.yaml", "endpointslices.yaml", "nodes.yaml"] {
        fs::copy(fixtures("boutique").join(file), node.manifests().join(file)).unwrap();
    }
    let agent = node.agent(&options(&[])).unwrap();
    (node, agent)
}

/// A shell in the repository's root, where `sockline` is the built binary and looks at this node.
fn shell(node: &Node, command: &str) -> Command {
    let binary = sockline_binary().unwrap();
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders = OsString::from(binary.parent().unwrap());
    folders.push(":");
    folders.push(path);
    let mut shell = Command::new("bash");
    shell
        .args(["-euo", "pipefail", "-c", command])
        .current_dir(root())
        .env("PATH", folders)
        .env("SOCKLINE_BPF_ROOT", node.bpffs())
        .env("SOCKLINE_ADMIN_SOCKET", node.temp().join("admin.sock"))
        .env("SOCKLINE_CGROUP_ROOT", node.cgroup())
        .stdin(Stdio::null());
    shell
}

/// The texts of the documents, with their paths from the root.
fn texts() -> Vec<(String, String)> {
    let text = |path: &PathBuf| {
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        (name, fs::read_to_string(path).unwrap())
    };
    documents().iter().map(text).collect()
}

#[test]
fn every_transcript_in_the_documents_matches_the_output_of_its_commands() {
    let texts = texts();
    let steps: Vec<Step> = texts.iter().flat_map(|(name, text)| steps(name, text)).collect();
    assert!(!steps.is_empty(), "no document has a block that is marked `{MARK}`");
    let (node, _agent) = serving();
    for Step { place, command, output } in steps {
        let ran = node.outside().output(&mut shell(&node, &command)).unwrap();
        let printed = String::from_utf8(ran.stdout.clone()).unwrap();
        assert!(ran.status.success(), "{place}: {command}: {}\n{printed}", error_of(&ran));
        let lines: Vec<&str> = printed.trim_end().lines().collect();
        if let Some((shown, line)) = difference(&output, &lines) {
            panic!("{place}: {command}\nshown: {shown}\nseen:  {line}\n\nall of it:\n{printed}");
        }
    }
}

#[test]
fn a_transcript_in_the_documents_is_run_or_says_why_not() {
    let found: Vec<String> = texts()
        .iter()
        .flat_map(|(name, text)| {
            unexplained(text).into_iter().map(move |line| format!("{name}:{line}"))
        })
        .collect();
    assert_eq!(found, Vec::<String>::new(), "mark it `{MARK}`, or give a reason: {REASON}… -->");
}

#[test]
fn only_a_transcript_without_mark_and_reason_is_found() {
    let text = "```console test\n$ a\n```\n<!-- Not run by a test: it never ends. -->\n```console\n$ b\n```\n\n\
                ```console\n$ c\n```\n";
    assert_eq!(unexplained(text), [9]);
}

#[test]
fn commands_and_their_output_are_read_from_marked_blocks_only() {
    let text = "```console test\n$ a\nx\n\n$ b | c\n```\n```console\n$ d\n```\n";
    let step = |line, command: &str, output: &[&str]| Step {
        place: format!("x.md:{line}"),
        command: command.to_owned(),
        output: output.iter().map(ToString::to_string).collect(),
    };
    assert_eq!(steps("x.md", text), [step(2, "a", &["x"]), step(5, "b | c", &[])]);
}

#[test]
fn an_ellipsis_stands_for_any_text_in_a_line_and_alone_for_any_lines() {
    let shown = ["NODE  …".to_owned(), "…".to_owned(), "last … of …".to_owned()];
    assert_eq!(difference(&shown, &["NODE  a", "b", "c", "last 1 of 2"]), None);
    assert_eq!(difference(&shown, &["NODE  a", "last 1 of 2"]), None);
    assert!(difference(&shown, &["NODE  a", "last 1 of 2", "more"]).is_some());
    assert!(difference(&shown, &["NODES a", "last 1 of 2"]).is_some());
    assert!(difference(&["a".to_owned()], &[]).is_some());
}
