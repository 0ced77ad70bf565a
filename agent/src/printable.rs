//! Text from outside, for terminals and logs.

use std::fmt::{self, Display, Write as _};

/// Shows a value in one line that is what it looks like: line ends, other control characters (which may
/// begin a terminal's commands), and what Unicode has to turn text around or to hide it, are escaped as
/// in Rust (`\n`, `\u{1b}`, `\u{202e}`). Everything else stays as it is.
#[derive(Debug, Clone, Copy)]
pub struct Printable<T>(pub T);

impl<T: Display> Display for Printable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

/// Escapes what is written through it.
struct Escaping<'a, W>(&'a mut W);

impl<W: fmt::Write> fmt::Write for Escaping<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match c {
                // These are escaped in literals only.
                '"' | '\'' | '\\' => self.0.write_char(c)?,
                // As `char`'s own `Debug`: control and format characters, private and unassigned ones,
                // blanks other than the space.
                _ => write!(self.0, "{}", c.escape_debug())?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_the_cursor_or_turns_text_around_is_escaped() {
        for (text, shown) in [
            ("a\nb\r\tc", r"a\nb\r\tc"),
            ("\u{1b}[31mred\u{7f}\u{9b}0m", r"\u{1b}[31mred\u{7f}\u{9b}0m"),
            ("\u{202e}txt.exe\u{2066}", r"\u{202e}txt.exe\u{2066}"),
            ("zero\u{200b}width\u{feff}", r"zero\u{200b}width\u{feff}"),
            ("\u{2028}\u{2029}\u{e0041}\0", r"\u{2028}\u{2029}\u{e0041}\0"),
        ] {
            assert_eq!(Printable(text).to_string(), shown);
        }
    }

    #[test]
    fn what_people_write_stays() {
        for text in [r#"field "a\b": it's → 3 µs"#, "Grüße, 世界", "shop/cart:web/TCP"] {
            assert_eq!(Printable(text).to_string(), text);
        }
    }
}
