//! Names in the documents for operators: every option's variable, metric, label and annotation that they
//! mention exists.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use clap::CommandFactory as _;
use sockline::{
    api, cli::Cli, dataplane::map_names, source::decode::convert::annotations,
    telemetry::definitions,
};

/// Variables of the tests.
const OF_TESTS: [&str; 1] = ["SOCKLINE_TEST_PATIENCE"];

/// The documents for operators, with their text.
fn documents() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let pages = fs::read_dir(root.join("deploy/docs")).expect("the folder is there");
    let pages = pages.map(|page| page.expect("it can be listed").path());
    let pages = pages.filter(|page| page.extension().is_some_and(|extension| extension == "md"));
    [root.join("README.md"), root.join("deploy/README.md")]
        .into_iter()
        .chain(pages)
        .map(|path| {
            let text = fs::read_to_string(&path).expect("a document can be read");
            (path, text)
        })
        .collect()
}

/// Words that begin so, up to the first character that is not `of_word`, with the file that they are in.
fn words(beginning: &str, of_word: impl Fn(char) -> bool) -> BTreeSet<(String, PathBuf)> {
    let mut words = BTreeSet::new();
    for (path, text) in documents() {
        for (at, _) in text.match_indices(beginning) {
            let is_within = text[..at].chars().next_back().is_some_and(&of_word);
            let word: String = text[at..].chars().take_while(|c| of_word(*c)).collect();
            if !is_within {
                words.insert((word.trim_end_matches(['.', '/']).to_owned(), path.clone()));
            }
        }
    }
    assert!(!words.is_empty(), "no document mentions {beginning}");
    words
}

fn assert_all(mentioned: &BTreeSet<(String, PathBuf)>, there: &BTreeSet<String>) {
    let missing: Vec<_> = mentioned.iter().filter(|(name, _)| !there.contains(name)).collect();
    assert!(missing.is_empty(), "documents mention what does not exist: {missing:?}");
}

#[test]
fn every_variable_is_one_of_the_binary() {
    let cli = Cli::command();
    let arguments = cli.get_subcommands().flat_map(clap::Command::get_arguments);
    let variables = arguments.filter_map(|argument| Some(argument.get_env()?.to_str()?.to_owned()));
    let there = variables.chain(OF_TESTS.map(ToOwned::to_owned)).collect();
    assert_all(&words("SOCKLINE_", |c| c.is_ascii_uppercase() || c == '_'), &there);
}

#[test]
fn every_metric_is_one_of_the_agent() {
    let there = definitions::ALL.iter().map(|metric| metric.name.to_owned()).collect();
    assert_all(&words("sockline_", |c| c.is_ascii_lowercase() || c == '_'), &there);
}

#[test]
fn every_label_and_annotation_is_one_that_is_read() {
    // The label of a Node is read by the DaemonSets' affinity, not by the agent.
    let there =
        annotations::ALL.iter().map(|key| key.name).chain([api::VERSION, "sockline.dev/agent"]);
    let there = there.map(ToOwned::to_owned).collect();
    let of_key = |c: char| c.is_ascii_alphanumeric() || "-./".contains(c);
    assert_all(&words("sockline.dev/", of_key), &there);
}

#[test]
fn every_option_is_one_of_the_binary() {
    let cli = Cli::command();
    let arguments = cli.get_subcommands().flat_map(clap::Command::get_arguments);
    let there: BTreeSet<String> =
        arguments.filter_map(|argument| Some(format!("--{}", argument.get_long()?))).collect();
    // Those of other commands are in their own documents, and in blocks with the command before them.
    let mentioned = words("`--", |c| c.is_ascii_lowercase() || c == '-' || c == '`')
        .into_iter()
        .map(|(option, path)| (option.trim_matches('`').to_owned(), path))
        .filter(|(option, _)| !OF_OTHERS.contains(&option.as_str()));
    assert_all(&mentioned.collect(), &there);
}

/// The table of limits once lacked a map of 577 KiB.
#[test]
fn every_map_is_in_the_table_of_limits_and_in_that_of_the_architecture() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for document in ["deploy/docs/limits.md", "ARCHITECTURE.md"] {
        let text = fs::read_to_string(root.join(document)).expect("a document can be read");
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
        for map in map_names() {
            let is_first = |row: &&str| {
                row[1..].split('|').next().is_some_and(|cell| cell.contains(&format!("`{map}`")))
            };
            assert!(rows.iter().any(is_first), "{document} has no row of {map}");
        }
    }
}

/// Options of other programs.
const OF_OTHERS: [&str; 8] = [
    "--dry-run",
    "--enable-admission-plugins",
    "--every-call",
    "--only",
    "--seed",
    "--sockets",
    "--target",
    "--without",
];
