//! Text as a row of words, however they are joined: `left_alone`, `LeftAlone`, and `left` at the end of one
//! line of a comment with `alone` at the start of the next are the same two words.

use std::fmt;

/// What is looked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    /// Words in a row, in lower case.
    Words(Vec<String>),
    /// As it stands, between characters that are no part of a word.
    Literal(String),
}

impl Pattern {
    pub(super) fn parse(text: &str) -> Self {
        match text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
            Some(literal) => Self::Literal(literal.to_owned()),
            None => Self::Words(Text::new(text).words.into_iter().map(|word| word.text).collect()),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Words(words) => write!(f, "{:?}", words.join(" ")),
            Self::Literal(text) => write!(f, "{text:?}"),
        }
    }
}

struct Word {
    text: String,
    line: usize,
    /// Whether only blanks, `_`, `-` and the marks of comments are between this word and the one before.
    follows: bool,
}

pub(super) struct Text<'a> {
    raw: &'a str,
    words: Vec<Word>,
}

impl<'a> Text<'a> {
    pub(super) fn new(raw: &'a str) -> Self {
        let mut words = Vec::new();
        let mut follows = false;
        for (line, text) in raw.lines().enumerate() {
            let body = text.trim_start().trim_start_matches(['/', '!', '#', '*', '>']);
            let mut word = String::new();
            let mut before = None;
            for letter in body.chars() {
                let starts = letter.is_uppercase() && before.is_some_and(char::is_lowercase);
                if !letter.is_alphanumeric() || starts {
                    push(&mut words, &mut word, line, &mut follows);
                    follows &= starts || letter.is_whitespace() || matches!(letter, '_' | '-');
                }
                if letter.is_alphanumeric() {
                    word.extend(letter.to_lowercase());
                }
                before = Some(letter);
            }
            push(&mut words, &mut word, line, &mut follows);
        }
        Self { raw, words }
    }

    /// The lines, counted from 0, at which a pattern begins.
    pub(super) fn find(&self, pattern: &Pattern) -> Vec<usize> {
        match pattern {
            Pattern::Words(wanted) => self
                .words
                .windows(wanted.len().max(1))
                .filter(|window| {
                    window.iter().zip(wanted).all(|(word, wanted)| word.text == *wanted)
                        && window.iter().skip(1).all(|word| word.follows)
                })
                .map(|window| window[0].line)
                .collect(),
            Pattern::Literal(wanted) => {
                let is_part =
                    |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | '-');
                let in_line = |line: &str| {
                    line.match_indices(wanted.as_str())
                        .filter(|(at, _)| {
                            let (before, after) = (&line[..*at], &line[at + wanted.len()..]);
                            !before.ends_with(is_part) && !after.starts_with(is_part)
                        })
                        .count()
                };
                let lines = self.raw.lines().enumerate();
                lines.flat_map(|(line, text)| std::iter::repeat_n(line, in_line(text))).collect()
            }
        }
    }
}

/// Ends a word, if one was begun.
fn push(words: &mut Vec<Word>, word: &mut String, line: usize, follows: &mut bool) {
    if !word.is_empty() {
        words.push(Word { text: std::mem::take(word), line, follows: *follows });
        *follows = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, pattern: &str) -> Vec<usize> {
        Text::new(text).find(&Pattern::parse(pattern))
    }

    #[test]
    fn words_are_found_however_they_are_joined() {
        for text in ["left_alone", "LeftAlone", "LEFT-ALONE", "is left alone", "xLeftAlone2"] {
            let expected = if text == "xLeftAlone2" { vec![] } else { vec![0] };
            assert_eq!(found(text, "left alone"), expected, "{text}");
        }
        assert_eq!(found("// pods that are left\n    /// alone\n", "left_alone"), [0]);
    }

    #[test]
    fn other_words_and_punctuation_between_are_not_the_same() {
        for text in ["lefty alone", "left. Alone", "left(alone)", "left so alone", "leftalone"] {
            assert_eq!(found(text, "left alone"), [0; 0], "{text}");
        }
        assert_eq!(found("a bookkeeper\nand the Keeper", "keeper"), [1]);
    }

    #[test]
    fn a_literal_is_found_as_it_stands() {
        let text = "--listen\nlisten --listen-address\n`--listen=1` --listen";
        assert_eq!(found(text, "\"--listen\""), [0, 2, 2]);
    }
}
