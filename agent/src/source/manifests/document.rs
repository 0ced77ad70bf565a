//! Splits a file into documents and parses them one by one.

use serde_json::Value;
use serde_saphyr::{Budget, Options, RenderOptions, SnippetMode};

use crate::source::decode::limits::{self, Content};

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syntax {
    Yaml,
    Json,
}

/// Receives the contents of a file while it is read.
pub(super) trait Take {
    /// Receives an element of a document's `items`. The return value stays in the document.
    fn item(&mut self, number: usize, index: usize, content: Content) -> Option<Value>;

    /// Receives a document, or the parser's error with the line in the file. `number` counts from 1, without empty
    /// documents.
    fn document(&mut self, number: usize, content: Result<Content, String>);
}

pub(super) fn read(text: &str, syntax: Syntax, take: &mut impl Take) {
    match syntax {
        Syntax::Yaml => {
            for (chunk, number) in split(text).iter().zip(1..) {
                let content = parse_yaml(chunk, &mut |index, item| take.item(number, index, item));
                take.document(number, content);
            }
        }
        Syntax::Json => read_json(text, take),
    }
}

/// A YAML document's text.
struct Chunk<'a> {
    text: &'a str,
    /// Lines of the file before it.
    line_offset: usize,
}

/// Splits at lines that begin with `---`: YAML reserves those, even inside a block or quoted scalar.
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
            // The rest of the marker's line belongs to the new document.
            start = position + "---".len();
            line_offset = number;
        }
        position += line.len();
    }
    chunks.push(Chunk { text: &text[start..], line_offset });
    chunks.retain(|chunk| !is_blank(chunk.text));
    chunks
}

/// Only blank lines, comments, directives and end markers.
fn is_blank(text: &str) -> bool {
    text.lines().map(str::trim).all(|line| {
        line.is_empty() || line.starts_with('#') || line.starts_with('%') || line == "..."
    })
}

fn parse_yaml(
    chunk: &Chunk<'_>,
    item: &mut impl FnMut(usize, Content) -> Option<Value>,
) -> Result<Content, String> {
    serde_saphyr::with_deserializer_from_str_with_options(
        chunk.text,
        options(chunk.text),
        |parser| limits::document(parser, item),
    )
    .map_err(|error| {
        let mut how = RenderOptions::default();
        how.snippets = SnippetMode::Off;
        how.line_offset = chunk.line_offset as u64;
        one_line(&error.render_with_options(how))
    })
}

/// One document with the services of a large cluster exceeds the parser's default limits. These limits grow with the
/// text, except for aliases: only with aliases does a small text become large.
fn options(text: &str) -> Options {
    let mut budget = Budget::default();
    budget.max_events = budget.max_events.max(text.len());
    budget.max_nodes = budget.max_nodes.max(text.len());
    budget.max_total_scalar_bytes = budget.max_total_scalar_bytes.max(text.len());
    let mut options = Options::default();
    options.budget = Some(budget);
    options.with_snippet = false;
    // Enough for hand-written aliases; stops a text whose aliases multiply.
    options.alias_limits.max_total_replayed_events = 10_000;
    // As in YAML 1.2: a port may be named `y`.
    options.strict_booleans = true;
    options
}

/// A file may have several values. After an error, nobody can tell where the next one begins.
fn read_json(text: &str, take: &mut impl Take) {
    let mut parser = serde_json::Deserializer::from_str(text);
    for number in 1.. {
        // Only blanks follow the last value.
        if parser.end().is_ok() {
            return;
        }
        let mut item = |index, item| take.item(number, index, item);
        let content = limits::document(&mut parser, &mut item);
        let is_broken = content.is_err();
        take.document(number, content.map_err(|error| one_line(&error.to_string())));
        if is_broken {
            return;
        }
    }
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
