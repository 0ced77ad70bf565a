//! Cuts a file into documents and parses each by itself.

use serde_json::Value;
use serde_saphyr::{Budget, Options, RenderOptions, SnippetMode};

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syntax {
    Yaml,
    Json,
}

/// One document of a file, parsed or not.
pub(super) struct Document {
    /// Counted from 1; documents with nothing in them do not count.
    pub(super) number: usize,
    /// Or what the parser says, with the line in the file.
    pub(super) content: Result<Value, String>,
}

pub(super) fn read(text: &str, syntax: Syntax) -> Vec<Document> {
    let contents: Vec<_> = match syntax {
        Syntax::Yaml => split(text).into_iter().map(|chunk| parse_yaml(&chunk)).collect(),
        Syntax::Json => parse_json(text),
    };
    contents.into_iter().zip(1..).map(|(content, number)| Document { number, content }).collect()
}

/// A YAML document's text.
struct Chunk<'a> {
    text: &'a str,
    /// Lines of the file before it.
    line_offset: usize,
}

/// Splits at the lines that YAML reserves for it: `---` at the very start of a line separates
/// documents even inside a block or quoted scalar.
fn split(text: &str) -> Vec<Chunk<'_>> {
    let mut chunks = Vec::new();
    let mut start = 0;
    let mut line_offset = 0;
    let mut position = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let marker =
            line.strip_prefix("---").filter(|rest| rest.trim_start() != *rest || rest.is_empty());
        if marker.is_some() {
            chunks.push(Chunk { text: &text[start..position], line_offset });
            // What follows on the marker's own line belongs to the new document.
            start = position + "---".len();
            line_offset = number;
        }
        position += line.len();
    }
    chunks.push(Chunk { text: &text[start..], line_offset });
    chunks.retain(|chunk| !is_blank(chunk.text));
    chunks
}

/// Nothing but blank lines, comments, directives and end markers.
fn is_blank(text: &str) -> bool {
    text.lines().map(str::trim).all(|line| {
        line.is_empty() || line.starts_with('#') || line.starts_with('%') || line == "..."
    })
}

fn parse_yaml(chunk: &Chunk<'_>) -> Result<Value, String> {
    serde_saphyr::from_str_with_options(chunk.text, options(chunk.text)).map_err(|error| {
        let mut how = RenderOptions::default();
        how.snippets = SnippetMode::Off;
        how.line_offset = chunk.line_offset as u64;
        one_line(&error.render_with_options(how))
    })
}

/// A list of a large cluster's services in one document is longer than the parser's defaults
/// allow. The limits here grow with the text; those on aliases, the only way in which a small
/// text becomes large, stay.
fn options(text: &str) -> Options {
    let mut budget = Budget::default();
    budget.max_events = budget.max_events.max(text.len());
    budget.max_nodes = budget.max_nodes.max(text.len());
    budget.max_total_scalar_bytes = budget.max_total_scalar_bytes.max(text.len());
    let mut options = Options::default();
    options.budget = Some(budget);
    options.with_snippet = false;
    // As in YAML 1.2: a port may be named `y`.
    options.strict_booleans = true;
    options
}

/// Several values may follow each other. After an error there is no telling where the next begins.
fn parse_json(text: &str) -> Vec<Result<Value, String>> {
    let values = serde_json::Deserializer::from_str(text).into_iter();
    values.map(|value| value.map_err(|error| one_line(&error.to_string()))).collect()
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
