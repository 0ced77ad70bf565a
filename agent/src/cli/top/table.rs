//! Rows of services or backends: rates from two samples, their order, and which one is selected.

use std::{
    cmp::Ordering,
    collections::{HashMap, VecDeque},
    time::Duration,
};

use super::sample::Totals;
use crate::{
    cli::output::units::{RoundTrips, quantile},
    dataplane::ServiceKey,
    model::plan::TrafficClass,
};

/// How many rates a trend has.
pub const TREND: usize = 20;

/// What happened between two samples.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rates {
    /// Connections per second.
    pub opened: f64,
    pub failed: f64,
    /// Bytes per second.
    pub sent: f64,
    pub received: f64,
    /// Of connections that ended.
    pub round_trips: RoundTrips,
}

impl Rates {
    fn between(before: &Totals, now: &Totals, seconds: f64) -> Self {
        let rate = |before: u64, now: u64| growth(before, now) as f64 / seconds;
        let mut round_trips = RoundTrips::default();
        for (bucket, growing) in round_trips.iter_mut().enumerate() {
            *growing = growth(before.round_trips[bucket], now.round_trips[bucket]);
        }
        Self {
            opened: rate(before.opened, now.opened),
            failed: rate(before.failed, now.failed),
            sent: rate(before.sent, now.sent),
            received: rate(before.received, now.received),
            round_trips,
        }
    }

    pub fn add(&mut self, other: &Self) {
        self.opened += other.opened;
        self.failed += other.failed;
        self.sent += other.sent;
        self.received += other.received;
        self.round_trips.iter_mut().zip(&other.round_trips).for_each(|(sum, one)| *sum += one);
    }
}

/// How much a counter grew. One that fell started again: the service was created again, or the maps were.
const fn growth(before: u64, now: u64) -> u64 {
    if now >= before { now - before } else { now }
}

/// What a row is about, in the order of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    Service(ServiceKey),
    Backend(TrafficClass),
    /// A client of the same service port: its connections are those of backends, too.
    Client,
}

/// A service port, a backend or a client.
#[derive(Debug, Clone)]
pub struct Row {
    pub name: String,
    pub subject: Subject,
    pub active: u64,
    /// `None` until there are two samples.
    pub rates: Option<Rates>,
    /// The latest rates of connections, the newest last.
    pub trend: VecDeque<f64>,
    totals: Totals,
}

impl Row {
    #[must_use]
    pub fn is_client(&self) -> bool {
        self.subject == Subject::Client
    }

    /// The class of the traffic to a backend.
    #[must_use]
    pub const fn class(&self) -> Option<TrafficClass> {
        match self.subject {
            Subject::Backend(class) => Some(class),
            Subject::Service(_) | Subject::Client => None,
        }
    }
}

/// What rows are ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sort {
    #[default]
    Rate,
    Active,
    Failed,
    RoundTrip,
    Bytes,
    Name,
}

impl Sort {
    const ALL: [Self; 6] =
        [Self::Rate, Self::Active, Self::Failed, Self::RoundTrip, Self::Bytes, Self::Name];

    #[must_use]
    pub fn next(self) -> Self {
        let place = Self::ALL.iter().position(|sort| *sort == self).unwrap_or(0);
        Self::ALL[(place + 1) % Self::ALL.len()]
    }

    /// The largest values first, names in their order.
    fn compare(self, a: &Row, b: &Row) -> Ordering {
        let of = |row: &Row| row.rates.unwrap_or_default();
        let (x, y) = (of(a), of(b));
        match self {
            Self::Rate => y.opened.total_cmp(&x.opened),
            Self::Active => b.active.cmp(&a.active),
            Self::Failed => y.failed.total_cmp(&x.failed),
            Self::RoundTrip => quantile(&y.round_trips, 0.99).cmp(&quantile(&x.round_trips, 0.99)),
            Self::Bytes => (y.sent + y.received).total_cmp(&(x.sent + x.received)),
            Self::Name => Ordering::Equal,
        }
    }
}

/// The direction of the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Direction {
    #[default]
    Usual,
    Reverse,
}

/// The order of rows, and which ones are shown.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Arrangement {
    pub sort: Sort,
    pub direction: Direction,
    /// A part of the name; case does not matter.
    pub filter: String,
}

#[derive(Debug, Clone, Default)]
pub struct Table {
    /// All of them.
    rows: Vec<Row>,
    /// Those that are shown, in their order.
    shown: Vec<usize>,
    /// The place of the selected row among those.
    selected: usize,
    /// When the last sample was taken.
    at: Option<Duration>,
}

impl Table {
    /// Makes rows of a sample. What is in it no more is forgotten. The same row stays selected, unless it is the
    /// first one.
    pub fn update(
        &mut self,
        now: impl IntoIterator<Item = (String, Subject, Totals)>,
        at: Duration,
        arrangement: &Arrangement,
    ) {
        let selected = self.selected().map(|row| row.name.clone());
        let seconds = self.at.map(|before| at.saturating_sub(before).as_secs_f64());
        let mut before: HashMap<String, Row> =
            std::mem::take(&mut self.rows).into_iter().map(|row| (row.name.clone(), row)).collect();
        self.rows = now
            .into_iter()
            .map(|(name, subject, totals)| {
                let known = before.remove(&name);
                // What was not there in the sample before has counted all since then.
                let (earlier, mut trend) =
                    known.map_or_else(Default::default, |row| (row.totals, row.trend));
                // Two samples at one time have no rates.
                let rates = seconds
                    .filter(|seconds| *seconds > 0.0)
                    .map(|seconds| Rates::between(&earlier, &totals, seconds));
                trend.extend(rates.map(|rates| rates.opened));
                if trend.len() > TREND {
                    trend.pop_front();
                }
                Row { name, subject, active: totals.active, rates, trend, totals }
            })
            .collect();
        self.at = Some(at);
        self.show(arrangement, selected);
    }

    /// Orders and filters the rows, as [`Self::update`].
    pub fn arrange(&mut self, arrangement: &Arrangement) {
        let selected = self.selected().map(|row| row.name.clone());
        self.show(arrangement, selected);
    }

    fn show(&mut self, arrangement: &Arrangement, selected: Option<String>) {
        let wanted = arrangement.filter.to_lowercase();
        let is_shown = |row: &Row| wanted.is_empty() || row.name.to_lowercase().contains(&wanted);
        let rows = &self.rows;
        self.shown = (0..rows.len()).filter(|&place| is_shown(&rows[place])).collect();
        self.shown.sort_by(|&a, &b| {
            let (a, b) = (&rows[a], &rows[b]);
            let order = arrangement.sort.compare(a, b).then_with(|| a.name.cmp(&b.name));
            let is_reversed = arrangement.direction == Direction::Reverse;
            let order = if is_reversed { order.reverse() } else { order };
            a.is_client().cmp(&b.is_client()).then(order)
        });
        // At the first place, what is there is selected, whichever it is.
        let same = selected
            .filter(|_| self.selected > 0)
            .and_then(|name| self.shown.iter().position(|&place| self.rows[place].name == name));
        self.selected = same.unwrap_or(self.selected).min(self.shown.len().saturating_sub(1));
    }

    /// Moves the selection by this many rows, to the first or the last one at most.
    pub fn move_selection(&mut self, by: isize) {
        let last = self.shown.len().saturating_sub(1);
        self.selected = self.selected.saturating_add_signed(by).min(last);
    }

    #[must_use]
    pub fn selected(&self) -> Option<&Row> {
        self.shown.get(self.selected).map(|&place| &self.rows[place])
    }

    /// The place of the selected row among [`Self::shown`].
    #[must_use]
    pub const fn selected_place(&self) -> usize {
        self.selected
    }

    /// The rows in their order, without those that the filter hides.
    pub fn shown(&self) -> impl ExactSizeIterator<Item = &Row> {
        self.shown.iter().map(|&place| &self.rows[place])
    }

    /// How many rows there are, with those that the filter hides and without clients.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.iter().filter(|row| !row.is_client()).count()
    }

    /// How many of them are shown.
    #[must_use]
    pub fn shown_len(&self) -> usize {
        self.shown().filter(|row| !row.is_client()).count()
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The sums of the rows that are shown, without clients.
    #[must_use]
    pub fn sums(&self) -> (u64, Option<Rates>) {
        let active = self.shown().filter(|row| !row.is_client()).map(|row| row.active).sum();
        let mut sum: Option<Rates> = None;
        for rates in self.shown().filter(|row| !row.is_client()).filter_map(|row| row.rates) {
            sum.get_or_insert_default().add(&rates);
        }
        (active, sum)
    }
}

#[cfg(test)]
mod tests;
