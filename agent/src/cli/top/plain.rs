//! A buffer of cells as text.

use ratatui::buffer::{Buffer, Cell};

/// The lines, without blanks at their ends.
#[must_use]
pub fn text(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width).max(1);
    let mut text = String::new();
    for row in buffer.content().chunks(width) {
        let line: String = row.iter().map(Cell::symbol).collect();
        text += line.trim_end();
        text.push('\n');
    }
    text
}
