//! Draws a state. Pure: from a state to a buffer of cells.
//!
//! There is no background colour and no colour but the terminal's own, so that it can be read in a light and in a dark
//! terminal.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Color, Modifier, Style},
    text::{Line, Span},
};

use super::{
    classes,
    columns::{Column, name_title, shortened},
    sample::Detail,
    state::{Mode, Motion, State},
    table::Row,
};
use crate::{cli::output::units, duration, escape::Escaped};

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// With the selected row and the keys.
    Screen,
    Text,
}

/// The styles.
#[derive(Debug, Clone, Copy)]
pub struct Palette {
    head: Style,
    titles: Style,
    selected: Style,
    bad: Style,
    note: Style,
    quiet: Style,
}

impl Palette {
    pub const PLAIN: Self = Self {
        head: Style::new().add_modifier(Modifier::BOLD),
        titles: Style::new().add_modifier(Modifier::BOLD),
        selected: Style::new().add_modifier(Modifier::REVERSED),
        bad: Style::new().add_modifier(Modifier::BOLD),
        note: Style::new().add_modifier(Modifier::BOLD),
        quiet: Style::new(),
    };

    /// With the colours that the terminal gives these names.
    pub const COLOURED: Self = Self {
        bad: Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
        note: Style::new().fg(Color::Magenta).add_modifier(Modifier::BOLD),
        quiet: Style::new().add_modifier(Modifier::DIM),
        ..Self::PLAIN
    };
}

/// What a frame for text needs to have all rows.
#[must_use]
pub fn height(state: &State) -> u16 {
    let lines = head(state, &Palette::PLAIN).len() + 1 + state.table().shown().len().max(1);
    u16::try_from(lines).unwrap_or(u16::MAX)
}

/// Fills the buffer, whose area begins at 0, 0.
pub fn draw(state: &State, palette: &Palette, purpose: Purpose, buffer: &mut Buffer) {
    let area = buffer.area;
    if area.is_empty() {
        return;
    }
    let mut canvas = Canvas { buffer, width: area.width, next: 0, end: area.height };
    if purpose == Purpose::Screen && area.height > 1 {
        canvas.end -= 1;
        let keys = footer(state);
        canvas.buffer.set_stringn(0, area.height - 1, keys, area.width.into(), palette.quiet);
    }
    if state.mode == Mode::Help {
        for line in help(state) {
            canvas.line(&Line::from(line));
        }
        return;
    }
    for line in head(state, palette) {
        canvas.line(&line);
    }
    rows(state, palette, purpose, &mut canvas);
}

/// Lines from the top.
struct Canvas<'a> {
    buffer: &'a mut Buffer,
    width: u16,
    next: u16,
    end: u16,
}

impl Canvas<'_> {
    fn line(&mut self, line: &Line<'_>) {
        if self.next < self.end {
            self.buffer.set_line(0, self.next, line, self.width);
            self.next += 1;
        }
    }

    fn left(&self) -> usize {
        (self.end - self.next).into()
    }

    /// Styles the line that was drawn last, in its whole width.
    fn style_last(&mut self, style: Style) {
        if let Some(y) = self.next.checked_sub(1) {
            self.buffer.set_style(Rect::new(0, y, self.width, 1), style);
        }
    }
}

fn head(state: &State, palette: &Palette) -> Vec<Line<'static>> {
    let Some(node) = &state.node else { return vec![Line::from("reading the counters …")] };
    let table = state.table();
    let (shown, all) = (table.shown_len(), table.len());
    let what = if state.opened().is_some() { "backends" } else { "service ports" };
    let count =
        if shown == all { format!("{all} {what}") } else { format!("{shown} of {all} {what}") };
    let mut first = vec![
        Span::styled(format!("{} ", Escaped(&node.name)), palette.head),
        Span::from(format!(" {count}, every {}", duration::format(state.interval))),
    ];
    if !node.agent_runs {
        first.push(Span::styled("  no agent runs", palette.bad));
    }
    if state.motion == Motion::Paused {
        first.push(Span::styled("  paused", palette.note));
    }
    let (active, rates) = table.sums();
    let sums = match rates {
        None => format!("{} active; rates follow with the next sample", units::count(active)),
        Some(rates) => format!(
            "{} conn/s, {} active, {} failed/s, sent {}/s, received {}/s",
            units::rate(rates.opened),
            units::count(active),
            units::rate(rates.failed),
            units::bytes(rates.sent.round() as u64),
            units::bytes(rates.received.round() as u64),
        ),
    };
    let mut lines = vec![Line::from(first), Line::from(sums)];
    if let Some(key) = state.opened() {
        let key = Escaped(key).to_string();
        lines.push(Line::from(vec![
            Span::from("backends and clients of "),
            Span::styled(key, palette.head),
        ]));
        lines.extend(classes::lines(table).into_iter().map(Line::from));
    }
    let missing = match node.detail {
        Detail::All => None,
        Detail::Off => {
            Some("telemetry is off (--telemetry): no failures, round-trip times and bytes")
        }
        Detail::NotOnThisKernel => Some(
            "this kernel does not let programs read sockets: no failures, round-trip times and bytes",
        ),
    };
    lines.extend(missing.map(|missing| Line::from(Span::styled(missing, palette.note))));
    if let Some(error) = &state.error {
        let error = format!("cannot read the counters: {}", Escaped(error));
        lines.push(Line::from(Span::styled(error, palette.bad)));
    }
    if state.mode == Mode::EditFilter || !state.arrangement.filter.is_empty() {
        let cursor = if state.mode == Mode::EditFilter { "█" } else { "" };
        let filter = format!("filter: {}{cursor}", Escaped(&state.arrangement.filter));
        lines.push(Line::from(Span::styled(filter, palette.note)));
    }
    lines
}

fn rows(state: &State, palette: &Palette, purpose: Purpose, canvas: &mut Canvas<'_>) {
    let (name_width, columns) = Column::within(canvas.width, state);
    let mut titles = format!("{:<name_width$}", shortened(&name_title(state), name_width));
    for column in &columns {
        let title = column.title(state);
        titles += &if *column == Column::Trend { format!(" {title}") } else { column.pad(&title) };
    }
    canvas.line(&Line::from(Span::styled(titles, palette.titles)));
    let table = state.table();
    if table.shown().len() == 0 {
        let what = if table.is_empty() { "nothing is served" } else { "the filter hides all" };
        canvas.line(&Line::from(Span::styled(what, palette.quiet)));
    }
    let selected = table.selected_place();
    // The selected row is always in view.
    let first = match purpose {
        Purpose::Text => 0,
        Purpose::Screen => (selected + 1).saturating_sub(canvas.left()),
    };
    for (place, row) in table.shown().enumerate().skip(first).take(canvas.left()) {
        canvas.line(&row_line(row, name_width, &columns, palette));
        if purpose == Purpose::Screen && place == selected {
            canvas.style_last(palette.selected);
        }
    }
}

fn row_line(row: &Row, name_width: usize, columns: &[Column], palette: &Palette) -> Line<'static> {
    let name = shortened(&Escaped(&row.name).to_string(), name_width);
    let mut spans = vec![Span::from(format!("{name:<name_width$}"))];
    for column in columns {
        let cell = column.cell(row);
        let has_failures = row.rates.is_some_and(|rates| rates.failed > 0.0);
        let style = match column {
            Column::Failed if has_failures => palette.bad,
            Column::Trend => palette.quiet,
            _ if cell == "0" || cell == "-" => palette.quiet,
            _ => Style::new(),
        };
        spans.push(Span::styled(column.pad(&cell), style));
    }
    Line::from(spans)
}

fn footer(state: &State) -> &'static str {
    match (state.mode, state.opened().is_some()) {
        (Mode::Help, _) => "any key goes back  q quit",
        (Mode::EditFilter, _) => "type a part of the name  Enter keep it  Esc show all",
        (Mode::Browse, true) => "q quit  ? help  Esc services  s sort  r reverse  Space pause",
        (Mode::Browse, false) => {
            "q quit  ? help  Enter open  / filter  s sort  r reverse  Space pause"
        }
    }
}

fn help(state: &State) -> Vec<String> {
    const KEYS: [(&str, &str); 9] = [
        ("↑ ↓ PgUp PgDn", "select a row (also k j, Home End, g G)"),
        ("Enter", "show the backends and the clients (from …) of the service port"),
        ("Esc", "go back to the services, or remove the filter"),
        ("s, r", "sort by the next column, reverse the order"),
        ("/", "show only names with a part of this text"),
        ("Space", "pause, continue"),
        ("Ctrl-L", "draw the screen again"),
        ("?", "this page"),
        ("q, Ctrl-C", "quit"),
    ];
    const COLUMNS: [(&str, &str); 8] = [
        ("CONN/S", "connections and UDP flows in a second"),
        ("ACTIVE", "those that are open"),
        ("FAIL/S", "not established, or refused by the programs"),
        ("P50, P99", "round-trip times of half and 99 % of the connections"),
        ("SENT/S", "bytes that clients sent"),
        ("RECV/S", "bytes that they received"),
        ("TREND", "CONN/S before now"),
        ("TRAFFIC", "how far it is to the backend, where there is room"),
    ];
    let line = |(name, meaning): &(&str, &str)| format!("  {name:<14} {meaning}");
    let mut lines =
        vec![format!("Every {} the counters are read.", duration::format(state.interval))];
    lines.extend(KEYS.iter().map(line));
    lines.push(String::new());
    lines.extend(COLUMNS.iter().map(line));
    lines.push(String::new());
    lines.push("Round-trip times are counted when a connection ends.".to_owned());
    lines.push("Bytes are counted then, and about every 10 s while it is open.".to_owned());
    lines
}

#[cfg(test)]
mod tests;
