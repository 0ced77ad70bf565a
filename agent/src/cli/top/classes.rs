//! How the traffic of an opened service port is split by how far it goes.

use std::collections::BTreeMap;

use super::table::{Rates, Table};
use crate::model::plan::TrafficClass;

/// What classes are shares of, with its name.
type Shared = (&'static str, fn(&Rates) -> f64);

const SHARES: [Shared; 2] =
    [("connections", |rates| rates.opened), ("bytes", |rates| rates.sent + rates.received)];

/// A line for connections and one for bytes, with the share of each class that a backend has; none if nothing is known
/// of any.
#[must_use]
pub fn lines(backends: &Table) -> Vec<String> {
    let mut classes: BTreeMap<TrafficClass, Rates> = BTreeMap::new();
    for row in backends.shown() {
        if let Some(class) = row.class() {
            classes.entry(class).or_default().add(&row.rates.unwrap_or_default());
        }
    }
    if classes.keys().all(|class| *class == TrafficClass::Unknown) {
        return Vec::new();
    }
    let line = |(what, value): Shared| {
        let whole: f64 = classes.values().map(value).sum();
        let parts = classes
            .iter()
            .map(|(class, rates)| format!("{} {}", class.as_str(), share(value(rates), whole)));
        format!("{what:<11} {}", parts.collect::<Vec<_>>().join(", "))
    };
    SHARES.into_iter().map(line).collect()
}

/// In percent; neither 0 nor 100 unless it is.
fn share(part: f64, whole: f64) -> String {
    if whole <= 0.0 {
        return "-".to_owned();
    }
    let percent = 100.0 * part / whole;
    if percent > 0.0 && percent < 1.0 {
        "<1 %".to_owned()
    } else if percent < 100.0 && percent > 99.0 {
        ">99 %".to_owned()
    } else {
        format!("{percent:.0} %")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::top::{
        sample::Totals,
        table::{Arrangement, Subject},
    };

    use TrafficClass::{OtherZone, SameNode, SameZone, Unknown};

    /// Backends of these classes, with the connections and bytes of one interval, and a client.
    fn table(backends: &[(TrafficClass, u64, u64)]) -> Table {
        let mut table = Table::default();
        for (seconds, factor) in [(0, 0), (2, 1)] {
            let backends = (0..).zip(backends).map(|(place, (class, opened, bytes))| {
                let totals = Totals {
                    opened: opened * factor,
                    sent: bytes * factor / 4,
                    received: bytes * factor * 3 / 4,
                    ..Totals::default()
                };
                (format!("10.0.0.{place}:80"), Subject::Backend(*class), totals)
            });
            let client = Totals { opened: 1000 * factor, ..Totals::default() };
            let client = ("from a".to_owned(), Subject::Client, client);
            let at = Duration::from_secs(seconds);
            table.update(backends.chain([client]), at, &Arrangement::default());
        }
        table
    }

    #[test]
    fn backends_of_a_class_are_summed_up_and_clients_are_not_counted() {
        let backends =
            [(OtherZone, 10, 800), (SameNode, 30, 0), (SameZone, 20, 1600), (SameNode, 40, 1600)];
        assert_eq!(
            lines(&table(&backends)),
            [
                "connections same-node 70 %, same-zone 20 %, other-zone 10 %",
                "bytes       same-node 40 %, same-zone 40 %, other-zone 20 %",
            ]
        );
    }

    #[test]
    fn a_small_share_is_not_none_and_without_traffic_there_is_none() {
        let backends = [(SameNode, 999, 0), (Unknown, 1, 0)];
        assert_eq!(
            lines(&table(&backends)),
            ["connections same-node >99 %, unknown <1 %", "bytes       same-node -, unknown -"]
        );
    }

    #[test]
    fn there_is_nothing_to_say_where_no_class_is_known() {
        assert_eq!(lines(&table(&[(Unknown, 5, 5)])), [""; 0]);
        assert_eq!(lines(&table(&[])), [""; 0]);
    }

    #[test]
    fn the_lines_fit_80_columns() {
        let backends =
            [(SameNode, 4, 1), (SameZone, 4000, 1), (OtherZone, 4, 1), (Unknown, 4, 9999)];
        for line in lines(&table(&backends)) {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }
}
