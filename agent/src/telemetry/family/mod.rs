//! Families of metrics with typed labels, on top of the `prometheus` crate.
//!
//! Used by [`super::definitions`], whose table names a type from here for each family; uses [`super::labels`]. There
//! are two kinds, each in a file:
//!
//! - `kept.rs`: [`Counter`], [`Gauge`] and [`Histogram`] keep their series. [`Family::replace`] and [`Family::retain`]
//!   remove the series of what is gone.
//! - `scraped.rs`: [`ScrapedCounter`], [`ScrapedGauge`] and [`ScrapedHistogram`] keep nothing: a scrape reads their
//!   series from where they are kept, such as the kernel's maps, and writes them with [`Scraped::write`].
//!
//! `definition.rs` has what a family is for the table and the documentation, `table.rs` the macro that makes a table,
//! `exposition.rs` writes series in the text format of Prometheus.
//!
//! Invariant: only this folder calls `prometheus` to make or to write a metric, so that a label that a family does not
//! have does not compile.

mod definition;
mod exposition;
mod kept;
mod scraped;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use self::table::families;
pub use self::{
    definition::{Definition, FamilyType, MetricKind},
    kept::{Counter, Family, Gauge, Histogram, Metric},
    scraped::{
        CounterSample, GaugeSample, HistogramSample, HistogramValue, Sample, Scraped,
        ScrapedCounter, ScrapedGauge, ScrapedHistogram,
    },
};
