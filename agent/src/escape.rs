//! Escapes text from outside for terminals and logs.

use std::fmt::{self, Display, Write as _};

/// Displays a value on one line. Control characters (line ends, terminal sequences) and the characters with which
/// Unicode reverses or hides text are escaped as in Rust (`\n`, `\u{1b}`, `\u{202e}`). Everything else stays as
/// it is.
#[derive(Debug, Clone, Copy)]
pub struct Escaped<T>(pub T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

/// JSON with the characters that [`Escaped`] escapes as `\uXXXX`, which does not change its value. `serde_json` writes
/// those beyond ASCII as they are.
#[must_use]
pub fn json(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        // ASCII has the syntax, and is escaped in strings up to U+001F.
        if c.is_ascii() && c != '\u{7f}' || c.escape_debug().len() == 1 {
            escaped.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(escaped, "\\u{unit:04x}");
        }
    }
    escaped
}

/// Escapes what is written through it.
struct Escaping<'a, W>(&'a mut W);

impl<W: fmt::Write> fmt::Write for Escaping<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match c {
                // `escape_debug` escapes these too, which only literals need.
                '"' | '\'' | '\\' => self.0.write_char(c)?,
                // Control, format, private and unassigned characters, and spaces other than U+0020.
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
    fn characters_that_move_the_cursor_or_reverse_text_are_escaped() {
        for (text, shown) in [
            ("a\nb\r\tc", r"a\nb\r\tc"),
            ("\u{1b}[31mred\u{7f}\u{9b}0m", r"\u{1b}[31mred\u{7f}\u{9b}0m"),
            ("\u{202e}txt.exe\u{2066}", r"\u{202e}txt.exe\u{2066}"),
            ("zero\u{200b}width\u{feff}", r"zero\u{200b}width\u{feff}"),
            ("\u{2028}\u{2029}\u{e0041}\0", r"\u{2028}\u{2029}\u{e0041}\0"),
        ] {
            assert_eq!(Escaped(text).to_string(), shown);
        }
    }

    #[test]
    fn escaped_json_has_the_same_value() {
        let text = "a\n\u{7f}\u{9b}2J\u{202e}\u{e0041} Grüße, 世界 \"\\\u{1b}";
        let plain = serde_json::to_string_pretty(&[text, "b"]).unwrap();
        let escaped = json(&plain);
        let shown = r#""a\n\u007f\u009b2J\u202e\udb40\udc41 Grüße, 世界 \"\\\u001b""#;
        assert_eq!(escaped, format!("[\n  {shown},\n  \"b\"\n]"));
        assert_eq!(serde_json::from_str::<Vec<String>>(&escaped).unwrap(), [text, "b"]);
    }

    #[test]
    fn ordinary_text_is_unchanged() {
        for text in [r#"field "a\b": it's → 3 µs"#, "Grüße, 世界", "shop/cart:web/TCP"] {
            assert_eq!(Escaped(text).to_string(), text);
        }
    }
}
