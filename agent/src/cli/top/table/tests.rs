use super::*;
use crate::model::object::{ObjectName, Protocol};

fn totals(opened: u64, active: u64) -> Totals {
    Totals { opened, active, ..Totals::default() }
}

type Measured = (String, Subject, Totals);

fn of(name: &str, totals: Totals) -> Measured {
    let key = ServiceKey {
        service: ObjectName::new("shop", name),
        port_name: "web".into(),
        protocol: Protocol::Tcp,
    };
    (name.to_owned(), Subject::Service(key), totals)
}

/// A table of these samples, two seconds apart.
fn table(samples: &[Vec<Measured>], arrangement: &Arrangement) -> Table {
    let mut table = Table::default();
    for (number, sample) in (0_u32..).zip(samples) {
        table.update(sample.clone(), Duration::from_secs(2) * number, arrangement);
    }
    table
}

fn names(table: &Table) -> Vec<&str> {
    table.shown().map(|row| row.name.as_str()).collect()
}

#[test]
fn rates_are_differences_of_two_samples_in_a_second() {
    let mut last = Totals {
        opened: 30,
        active: 4,
        failed: 3,
        sent: 2048,
        received: 4096,
        ..Totals::default()
    };
    last.round_trips[2] = 9;
    let mut first = totals(10, 9);
    first.round_trips[2] = 4;
    let one = table(&[vec![of("a", first)]], &Arrangement::default());
    assert_eq!(one.shown().next().unwrap().rates, None, "one sample has no rates");
    let two = table(&[vec![of("a", first)], vec![of("a", last)]], &Arrangement::default());
    let row = two.shown().next().unwrap();
    let rates = row.rates.unwrap();
    assert_eq!((row.active, rates.opened, rates.failed), (4, 10.0, 1.5));
    assert_eq!((rates.sent, rates.received, rates.round_trips[2]), (1024.0, 2048.0, 5));
    assert_eq!(two.sums().1.unwrap(), rates);
}

#[test]
fn a_counter_that_fell_started_again_and_a_new_service_counts_from_nothing() {
    let samples = [
        vec![of("again", totals(1000, 0))],
        vec![of("again", totals(8, 0)), of("new", totals(6, 0))],
    ];
    let table = table(&samples, &Arrangement::default());
    let rates: Vec<_> =
        table.shown().map(|row| (row.name.as_str(), row.rates.unwrap().opened)).collect();
    assert_eq!(rates, [("again", 4.0), ("new", 3.0)]);
}

#[test]
fn a_deleted_service_is_gone_and_its_past_is_forgotten() {
    let samples = [
        vec![of("a", totals(10, 0)), of("b", totals(0, 0))],
        vec![of("b", totals(2, 0))],
        vec![of("a", totals(4, 0)), of("b", totals(2, 0))],
    ];
    let gone = table(&samples[..2], &Arrangement::default());
    assert_eq!(names(&gone), ["b"]);
    let again = table(&samples, &Arrangement::default());
    let a = again.shown().find(|row| row.name == "a").unwrap();
    assert_eq!(a.trend, [2.0]);
}

#[test]
fn rows_are_sorted_by_each_column_and_filtered_by_name() {
    let with = |opened, active, failed, sent, bucket: usize| {
        let mut totals = Totals { opened, active, failed, sent, ..Totals::default() };
        totals.round_trips[bucket] = 1;
        totals
    };
    let nothing = ["a", "b", "c"].map(|name| of(name, Totals::default())).to_vec();
    let last = vec![
        of("a", with(9, 1, 0, 50, 3)),
        of("b", with(5, 9, 1, 10, 9)),
        of("c", with(1, 5, 7, 90, 5)),
    ];
    let mut arrangement = Arrangement::default();
    let mut sorted = table(&[nothing, last], &arrangement);
    for expected in ["abc", "bca", "cba", "bca", "cab", "abc"] {
        sorted.arrange(&arrangement);
        assert_eq!(names(&sorted).concat(), expected, "{:?}", arrangement.sort);
        arrangement.direction = Direction::Reverse;
        sorted.arrange(&arrangement);
        assert_eq!(names(&sorted).concat(), expected.chars().rev().collect::<String>());
        arrangement.direction = Direction::Usual;
        arrangement.sort = arrangement.sort.next();
    }
    arrangement.filter = "B".to_owned();
    sorted.arrange(&arrangement);
    assert_eq!(names(&sorted), ["b"]);
    assert_eq!((sorted.len(), sorted.sums().0), (3, 9));
}

#[test]
fn the_same_row_stays_selected_while_the_order_changes() {
    let arrangement = Arrangement::default();
    let sample = |counts: [u64; 3]| -> Vec<Measured> {
        ["a", "b", "c"].into_iter().zip(counts).map(|(name, n)| of(name, totals(n, 0))).collect()
    };
    let mut table = table(&[sample([0, 0, 0]), sample([9, 5, 1])], &arrangement);
    let selected = |table: &Table| table.selected().map(|row| row.name.clone());
    table.move_selection(1);
    assert_eq!(selected(&table).as_deref(), Some("b"));
    table.update(sample([9, 5, 99]), Duration::from_secs(4), &arrangement);
    assert_eq!((names(&table).concat().as_str(), table.selected_place()), ("cab", 2));
    assert_eq!(selected(&table).as_deref(), Some("b"));
    table.move_selection(isize::MIN);
    table.update(sample([9, 500, 99]), Duration::from_secs(5), &arrangement);
    assert_eq!(selected(&table).as_deref(), Some("b"), "the first place stays selected");
    table.move_selection(isize::MAX);
    table.update(sample([9, 5, 99])[..1].to_vec(), Duration::from_secs(6), &arrangement);
    assert_eq!(selected(&table).as_deref(), Some("a"), "the selected row is gone");
    table.update(Vec::new(), Duration::from_secs(8), &arrangement);
    assert_eq!(selected(&table), None);
    table.move_selection(5);
}

#[test]
fn a_trend_has_the_latest_rates() {
    let samples: Vec<Vec<Measured>> = (0..40).map(|n| vec![of("a", totals(n * n, 0))]).collect();
    let table = table(&samples, &Arrangement::default());
    let trend = &table.shown().next().unwrap().trend;
    assert_eq!((trend.len(), trend.back()), (TREND, Some(&38.5)));
}
