//! What the checks look at in a Markdown file.

use std::collections::BTreeSet;

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) lines: usize,
    /// Where links lead to, with the lines that they are in.
    pub(super) links: Vec<(usize, String)>,
    /// Code spans, with their lines.
    pub(super) code: Vec<(usize, String)>,
    /// What a link to a heading ends with.
    pub(super) anchors: BTreeSet<String>,
}

impl Document {
    pub(super) fn parse(text: &str) -> Self {
        let mut document = Self { lines: text.lines().count(), ..Self::default() };
        let line_of = |offset: usize| text[..offset].matches('\n').count() + 1;
        let mut heading: Option<String> = None;
        for (event, range) in Parser::new_ext(text, Options::ENABLE_TABLES).into_offset_iter() {
            match event {
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    document.anchors.extend(heading.take().map(|heading| anchor(&heading)));
                }
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    document.links.push((line_of(range.start), dest_url.into_string()));
                }
                Event::Text(part) => heading.iter_mut().for_each(|heading| *heading += &part),
                Event::Code(code) => {
                    heading.iter_mut().for_each(|heading| *heading += &code);
                    document.code.push((line_of(range.start), code.into_string()));
                }
                _ => {}
            }
        }
        document
    }
}

/// A heading's anchor as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}
