//! The columns: their widths, and which ones are omitted where there is no room.

use super::{
    state::State,
    table::{Direction, Rates, Row, Sort, TREND},
};
use crate::cli::output::units;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    Class,
    Rate,
    Active,
    Failed,
    P50,
    P99,
    Sent,
    Received,
    Trend,
}

/// The least width of the name, before columns are omitted for it.
const NAME: usize = 16;
/// The width of the longest class of traffic.
const CLASS: usize = "other-zone".len();

impl Column {
    /// In their order.
    const ALL: [Self; 9] = [
        Self::Class,
        Self::Rate,
        Self::Active,
        Self::Failed,
        Self::P50,
        Self::P99,
        Self::Sent,
        Self::Received,
        Self::Trend,
    ];
    /// In the order in which they are omitted.
    const EXPENDABLE: [Self; 7] =
        [Self::Trend, Self::Class, Self::Received, Self::Sent, Self::P50, Self::P99, Self::Active];

    /// The columns of a table with this width, and the width of the name before them.
    #[must_use]
    pub fn within(width: u16, state: &State) -> (usize, Vec<Self>) {
        // Round-trip times are not counted for each backend, and only a backend has a class.
        let has = |column: &Self| match column {
            Self::Class => state.opened().is_some(),
            Self::P50 | Self::P99 => state.opened().is_none(),
            _ => true,
        };
        let mut columns: Vec<Self> = Self::ALL.into_iter().filter(has).collect();
        let rest = |columns: &[Self]| {
            let taken: usize = columns.iter().map(|column| column.width() + 1).sum();
            usize::from(width).saturating_sub(taken)
        };
        for expendable in Self::EXPENDABLE {
            // These are not worth a name that is cut: it tells clients apart, and the classes are in the head, too.
            let is_extra = matches!(expendable, Self::Trend | Self::Class);
            let enough = if is_extra { 2 * NAME } else { NAME };
            if rest(&columns) < enough {
                columns.retain(|column| *column != expendable);
            }
        }
        (rest(&columns), columns)
    }

    #[must_use]
    pub const fn width(self) -> usize {
        match self {
            Self::Rate | Self::Active | Self::Failed => 7,
            Self::P50 | Self::P99 | Self::Sent | Self::Received => 7,
            Self::Class => CLASS,
            Self::Trend => TREND,
        }
    }

    /// In the width of the column, behind a blank. Numbers are on the right.
    #[must_use]
    pub fn pad(self, text: &str) -> String {
        let width = self.width();
        if self == Self::Class { format!(" {text:<width$}") } else { format!(" {text:>width$}") }
    }

    #[must_use]
    pub fn title(self, state: &State) -> String {
        let (title, sort) = match self {
            Self::Class => ("TRAFFIC", None),
            Self::Rate => ("CONN/S", Some(Sort::Rate)),
            Self::Active => ("ACTIVE", Some(Sort::Active)),
            Self::Failed => ("FAIL/S", Some(Sort::Failed)),
            Self::P50 => ("P50", None),
            Self::P99 => ("P99", Some(Sort::RoundTrip)),
            Self::Sent => ("SENT/S", Some(Sort::Bytes)),
            Self::Received => ("RECV/S", Some(Sort::Bytes)),
            Self::Trend => ("TREND", None),
        };
        titled(title, sort, state)
    }

    #[must_use]
    pub fn cell(self, row: &Row) -> String {
        let rate = |of: fn(&Rates) -> f64| row.rates.as_ref().map(of);
        let text = match self {
            Self::Class => row.class().map(|class| class.as_str().to_owned()),
            Self::Active => return units::count(row.active),
            Self::Trend => return trend(row.trend.iter().copied()),
            Self::Rate => rate(|rates| rates.opened).map(units::rate),
            Self::Failed => rate(|rates| rates.failed).map(units::rate),
            Self::Sent => rate(|rates| rates.sent).map(|sent| units::bytes(sent.round() as u64)),
            Self::Received => {
                rate(|rates| rates.received).map(|received| units::bytes(received.round() as u64))
            }
            Self::P50 => row.rates.and_then(|rates| units::round_trip(&rates.round_trips, 0.5)),
            Self::P99 => row.rates.and_then(|rates| units::round_trip(&rates.round_trips, 0.99)),
        };
        text.unwrap_or_else(|| "-".to_owned())
    }
}

/// The title of the names.
#[must_use]
pub fn name_title(state: &State) -> String {
    let title = if state.opened().is_some() { "BACKEND" } else { "SERVICE" };
    titled(title, Some(Sort::Name), state)
}

/// A title, with a mark if the rows are in its order.
fn titled(title: &str, sort: Option<Sort>, state: &State) -> String {
    let is_up = (state.arrangement.direction == Direction::Reverse) != (sort == Some(Sort::Name));
    let mark = if is_up { '▲' } else { '▼' };
    if sort == Some(state.arrangement.sort) { format!("{title}{mark}") } else { title.to_owned() }
}

/// Rates as bars, the highest of them in full height.
#[must_use]
pub fn trend(rates: impl Iterator<Item = f64> + Clone) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let highest = rates.clone().fold(0.0, f64::max);
    let bar = |rate: f64| {
        if rate <= 0.0 || highest <= 0.0 {
            return BARS[0];
        }
        let height = (rate / highest * (BARS.len() - 1) as f64).ceil() as usize;
        BARS[height.min(BARS.len() - 1)]
    };
    rates.map(bar).collect()
}

/// Shortens a text to a width in characters, at its front: the end tells names apart.
#[must_use]
pub fn shortened(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().skip(length - width.saturating_sub(1)).collect();
    if width == 0 { String::new() } else { format!("…{kept}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trend_is_as_high_as_its_highest_rate() {
        assert_eq!(trend([0.0, 1.0, 4.0, 8.0].into_iter()), "▁▂▅█");
        assert_eq!(trend([0.0, 0.0].into_iter()), "▁▁");
        assert_eq!(trend(std::iter::empty()), "");
    }

    #[test]
    fn a_long_name_keeps_its_end() {
        assert_eq!(shortened("shop/cart:web", 13), "shop/cart:web");
        assert_eq!(shortened("shop/cart:web", 8), "…art:web");
        assert_eq!([shortened("abc", 1), shortened("abc", 0)], ["…", ""]);
    }
}
