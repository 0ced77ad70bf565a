//! Tables for people: aligned columns without borders.

use std::sync::Arc;

use comfy_table::{ColumnConstraint, ContentArrangement, Width, presets};

use crate::{
    escape::Escaped,
    model::plan::{Action, Backend, Frontend, Reason},
};

/// Rows of cells. Cells are escaped, so that none looks like another cell or row.
#[derive(Debug)]
pub struct Table(comfy_table::Table);

impl Table {
    pub fn add_row<T: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = T>) {
        let cells = cells.into_iter().map(|cell| Escaped(cell.as_ref()).to_string());
        self.0.add_row(cells);
    }
}

/// The width of an IPv6 address with its port: an address is never wrapped.
const LAST_COLUMN_MIN: u16 = 48;

/// A table with these column heads. In a terminal only the last column wraps, so that the others can be copied. In a
/// pipe every row is one line, for `grep`.
#[must_use]
pub fn new(columns: &[&str]) -> Table {
    let mut table = comfy_table::Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(columns.iter().map(|column| Escaped(column).to_string()));
    for column in table.column_iter_mut() {
        // Padding only on the right, so that the first column starts at the margin.
        column.set_padding((0, 2));
        column.set_constraint(ColumnConstraint::ContentWidth);
    }
    if let Some(last) = columns.len().checked_sub(1).and_then(|last| table.column_mut(last)) {
        last.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(LAST_COLUMN_MIN)));
    }
    Table(table)
}

/// The table's text, without blanks at the ends of lines.
#[must_use]
pub fn render(table: &Table) -> String {
    table.0.trim_fmt() + "\n"
}

/// One row for each frontend.
#[must_use]
pub fn frontends(frontends: &[Arc<Frontend>]) -> String {
    let mut table = new(&[&FRONTEND_COLUMNS[..], &["BACKENDS"]].concat());
    for frontend in frontends {
        let mut row = frontend_cells(frontend);
        row.push(backends(&frontend.backends));
        table.add_row(row);
    }
    render(&table)
}

/// The columns of a frontend, without its backends.
pub const FRONTEND_COLUMNS: [&str; 8] =
    ["SERVICE", "PORT NAME", "TYPE", "ADDRESS", "FAMILY", "PORT", "ACTION", "AFFINITY"];

/// The cells of [`FRONTEND_COLUMNS`].
pub fn frontend_cells(frontend: &Frontend) -> Vec<String> {
    vec![
        frontend.service.to_string(),
        or_dash(frontend.port_name.to_string()),
        format!("{:?}", frontend.kind),
        frontend.address.to_string(),
        frontend.family.to_string(),
        format!("{}/{}", frontend.port, frontend.protocol),
        action(frontend),
        frontend.affinity_seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds}s")),
    ]
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

fn action(frontend: &Frontend) -> String {
    action_and_reason(frontend.action, frontend.reason)
}

/// `refuse (no-endpoints)`
pub fn action_and_reason(action: Action, why: Option<Reason>) -> String {
    let action = match action {
        Action::Forward => "forward",
        Action::Refuse => "refuse",
        Action::Bypass => "bypass",
    };
    why.map_or_else(|| action.to_owned(), |why| format!("{action} ({})", reason(why)))
}

/// The name of a reason, as in JSON.
pub const fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::NoEndpoints => "no-endpoints",
        Reason::NoLocalEndpoints => "no-local-endpoints",
        Reason::SourceRanges => "source-ranges",
        Reason::Protocol => "protocol",
        Reason::RedirectDisabled => "redirect-disabled",
        Reason::TooLarge => "too-large",
    }
}

/// `3: 10.0.0.1:80, …`, with the count first, so that it is visible before a long list.
fn backends(backends: &[Backend]) -> String {
    if backends.is_empty() {
        return "-".to_owned();
    }
    let all: Vec<String> = backends
        .iter()
        .map(|backend| std::net::SocketAddr::new(backend.address, backend.port).to_string())
        .collect();
    format!("{}: {}", all.len(), all.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_cannot_look_like_a_row_or_move_the_cursor() {
        let mut table = new(&["NAME", "VALUE"]);
        table.add_row(["x\nforged  1\u{1b}[2J", "\u{202e}2"]);
        let text = render(&table);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains(r"x\nforged  1\u{1b}[2J") && text.contains(r"\u{202e}2"), "{text}");
    }
}
