//! One count as Sockline, the server and the client have it.

use std::time::Duration;

use anyhow::Result;
use sockline_testbed::wait_ok;

use crate::term;

/// The last connections may end, and be written to a log, a moment after the client.
const SETTLED_WITHIN: Duration = Duration::from_secs(10);

/// What a program says of a count.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Count {
    Exactly(u64),
    /// It counts only a part.
    AtLeast(u64),
    Unknown,
}

impl Count {
    const fn allows(self, sockline: u64) -> bool {
        match self {
            Self::Exactly(count) => count == sockline,
            Self::AtLeast(count) => count <= sockline,
            Self::Unknown => true,
        }
    }

    fn cell(self) -> String {
        match self {
            Self::Exactly(count) => grouped(count),
            Self::AtLeast(count) => format!("≥ {}", grouped(count)),
            Self::Unknown => "–".to_owned(),
        }
    }
}

pub(super) struct Row {
    pub(super) what: &'static str,
    pub(super) sockline: u64,
    pub(super) server: Count,
    pub(super) client: Count,
    /// Where the others have it from, and why one has not.
    pub(super) source: String,
}

impl Row {
    pub(super) fn new(what: &'static str, sockline: u64, server: Count, client: Count) -> Self {
        Self { what, sockline, server, client, source: String::new() }
    }

    pub(super) fn from(self, source: impl Into<String>) -> Self {
        Self { source: source.into(), ..self }
    }

    /// A count of what must not happen.
    pub(super) fn none(what: &'static str, sockline: u64) -> Self {
        Self::new(what, sockline, Count::Exactly(0), Count::Exactly(0))
    }

    pub(super) fn holds(&self) -> bool {
        self.server.allows(self.sockline) && self.client.allows(self.sockline)
    }
}

/// Counts again until all is equal, or the time is over.
pub(super) fn settled(mut count: impl FnMut() -> Result<Vec<Row>>) -> Result<Vec<Row>> {
    let mut last = Vec::new();
    let equal = wait_ok(SETTLED_WITHIN, "equal counts", || {
        last = count()?;
        let differs = last.iter().find(|row| !row.holds());
        differs.map_or(Ok(()), |row| Err(anyhow::anyhow!("{} differ", row.what)))
    });
    // The rows show what differs; only what could not be counted at all is an error.
    if last.is_empty() {
        equal?;
    }
    Ok(last)
}

pub(super) fn print(rows: &[Row]) {
    let cells = |row: &Row| {
        let verdict = if row.holds() {
            term::paint(term::GREEN, "equal")
        } else {
            term::paint(term::RED, "DIFFERENT")
        };
        vec![
            row.what.to_owned(),
            grouped(row.sockline),
            row.server.cell(),
            row.client.cell(),
            verdict,
            row.source.clone(),
        ]
    };
    let rows: Vec<_> = rows.iter().map(cells).collect();
    term::table(&["", "Sockline", "server", "client", "", "counted by"], &rows);
}

/// `1,234,567`.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_that_one_of_the_others_does_not_have_is_different() {
        let row = |server, client| Row::new("connections", 7, server, client);
        assert!(row(Count::Exactly(7), Count::Exactly(7)).holds());
        assert!(row(Count::Unknown, Count::AtLeast(5)).holds());
        assert!(!row(Count::Exactly(8), Count::Exactly(7)).holds());
        assert!(!row(Count::Exactly(7), Count::Exactly(6)).holds());
        assert!(!row(Count::Exactly(7), Count::AtLeast(8)).holds());
    }

    #[test]
    fn digits_are_in_groups_of_three() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
