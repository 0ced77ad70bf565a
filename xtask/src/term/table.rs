//! Tables for people: aligned columns without borders.

use comfy_table::{ColumnConstraint, ContentArrangement, Table, presets};

use super::{DIM, paint};

/// Prints a table. No cell is broken into lines, however narrow the terminal is.
pub(crate) fn table(heads: &[&str], rows: &[Vec<String>]) {
    let text = render(heads, rows);
    let (head, body) = text.split_once('\n').unwrap_or((&text, ""));
    println!("{}", paint(DIM, head));
    if !body.is_empty() {
        println!("{body}");
    }
}

fn render(heads: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(heads);
    table.add_rows(rows);
    for (number, column) in table.column_iter_mut().enumerate() {
        column.set_padding((if number == 0 { 2 } else { 0 }, 3));
        column.set_constraint(ColumnConstraint::ContentWidth);
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a", "1"], ["abc", ""]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(render(&["x", "count"], &rows), "  x     count\n  a     1\n  abc");
        assert_eq!(render(&["x"], &[]), "  x");
    }
}
