//! What the terminal shows: colours if it is one, aligned tables, bars.

use std::{
    env,
    io::{IsTerminal, Write, stdout},
    sync::LazyLock,
    time::Duration,
};

/// An ANSI "select graphic rendition" code.
#[derive(Clone, Copy)]
pub(crate) struct Colour(&'static str);

pub(crate) const BOLD: Colour = Colour("1");
pub(crate) const DIM: Colour = Colour("2");
pub(crate) const RED: Colour = Colour("31");
pub(crate) const GREEN: Colour = Colour("32");
pub(crate) const YELLOW: Colour = Colour("33");
pub(crate) const CYAN: Colour = Colour("36");
const HEADING: Colour = Colour("1;36");

static COLOURED: LazyLock<bool> =
    LazyLock::new(|| stdout().is_terminal() && env::var_os("NO_COLOR").is_none());

/// The text in a colour, or as it is where nobody would see it.
pub(crate) fn paint(colour: Colour, text: &str) -> String {
    if *COLOURED { format!("\x1b[{}m{text}\x1b[0m", colour.0) } else { text.to_owned() }
}

/// A line that something was found or done: a mark, a name, what about it.
pub(crate) fn ok(name: &str, what: &str) {
    println!("  {} {name:<16} {what}", paint(GREEN, "✓"));
}

/// A line that something is being done, which may take a while.
pub(crate) fn doing(name: &str, what: &str) {
    println!("  {} {name:<16} {what}", paint(CYAN, "…"));
    let _ = stdout().flush();
}

/// How far a long task has come, on one line of a terminal; silent elsewhere.
pub(crate) fn progress(name: &str, done: usize, of: usize) {
    if stdout().is_terminal() {
        let end = if done == of { "\n" } else { "" };
        print!("\r  {} {name:<16} {done}/{of}{end}", paint(CYAN, "…"));
        let _ = stdout().flush();
    }
}

/// As [`progress`], with more words that change.
pub(crate) fn progress_of(what: &str, done: usize, of: usize) {
    if stdout().is_terminal() {
        print!("\r\x1b[K  {} {done}/{of} s: {what}", paint(CYAN, "…"));
        let _ = stdout().flush();
    }
}

/// The heading of a numbered section.
pub(crate) fn section(number: usize, title: &str) {
    println!("\n{}\n", paint(HEADING, &format!("{number}  {title}")));
}

/// A table with its columns as wide as their widest cell.
pub(crate) fn table(heads: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .chain([heads[column].chars().count()])
            .max()
            .unwrap_or_default()
    };
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::from("  ");
        for (column, cell) in cells.enumerate() {
            line += &format!("{cell:<width$}   ", width = width(column));
        }
        line.trim_end().to_owned()
    };
    println!("{}", paint(DIM, &line(&mut heads.iter().copied())));
    for row in rows {
        println!("{}", line(&mut row.iter().map(String::as_str)));
    }
}

/// One bar per row, the longest as wide as the others are compared with, and the count behind it.
pub(crate) fn bars(rows: &[(String, u64)]) {
    const WIDTH: u64 = 40;
    let longest = rows.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1);
    let total = rows.iter().map(|(_, count)| count).sum::<u64>().max(1);
    let name_width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    for (name, count) in rows {
        let eighths = count * WIDTH * 8 / longest;
        let full = usize::try_from(eighths / 8).expect("a bar is at most as wide as WIDTH");
        let part = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"]
            [usize::try_from(eighths % 8).expect("a remainder of eight is small")];
        let bar = format!("{}{part}", "█".repeat(full));
        let padded = format!("{bar:<width$}", width = usize::try_from(WIDTH).unwrap_or(0));
        let percent = (100 * count + total / 2) / total;
        println!("  {name:<name_width$}  {} {count:>5}  {percent:>3} %", paint(CYAN, &padded));
    }
}

/// A duration for people.
pub(crate) fn seconds(duration: Duration) -> String {
    if duration < Duration::from_millis(1) {
        format!("{} µs", duration.as_micros())
    } else if duration < Duration::from_secs(1) {
        format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}
