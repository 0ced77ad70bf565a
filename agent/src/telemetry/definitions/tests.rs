//! What all families and labels have in common.

use std::collections::BTreeSet;

use sockline_ebpf::counters::Fault;

use super::*;
use crate::{
    model::object::Kind,
    telemetry::{family::MetricKind, labels::LabelValue},
};

#[test]
fn every_family_can_be_made_and_written() {
    let families = Families::default();
    families.sync_duration.with(()).observe(1.0);
    families.network_programming_duration.with(ProgrammingLabels { since: Since::Arrival });
    families.socket_scan_duration.with(());
    let mut text = String::new();
    families.write_kept(&mut text).unwrap();
    assert!(text.contains("sockline_sync_duration_seconds_bucket{le=\"0.0001\"} 0\n"), "{text}");
}

#[test]
fn names_follow_the_rules_of_prometheus() {
    let mut names = BTreeSet::new();
    for family in ALL {
        let name = family.name;
        assert!(names.insert(name), "{name} is there twice");
        let prefixes = ["sockline_", "process_", "istio_tcp_"];
        assert!(prefixes.iter().any(|prefix| name.starts_with(prefix)), "{name}");
        let is_total = name.ends_with("_total");
        assert_eq!(is_total, family.kind == MetricKind::Counter, "{name}");
        assert_eq!(family.buckets.is_empty(), family.kind != MetricKind::Histogram, "{name}");
        assert!(family.help.ends_with('.') && !family.help.contains('\n'), "{name}");
    }
}

#[test]
fn values_of_labels_are_kebab_case_or_the_words_of_kubernetes() {
    let labels = ALL.iter().flat_map(|family| (family.labels)());
    let values = labels.flat_map(|label| label.values).map(|value| value.name);
    for value in values {
        let is_kebab = value.chars().all(|c| c.is_ascii_lowercase() || c == '-');
        let is_of_kubernetes = Kind::ALL.iter().any(|kind| kind.as_str() == value);
        assert!(is_kebab || is_of_kubernetes || ["TCP", "UDP"].contains(&value), "{value}");
    }
}

#[test]
fn every_kind_and_fault_is_a_known_value() {
    for kind in Kind::ALL {
        assert!(Kind::VALUES.iter().any(|value| value.name == kind.as_str()), "{kind}");
    }
    let faults: BTreeSet<&str> = Fault::ALL.iter().map(LabelValue::as_label).collect();
    assert_eq!(faults.len(), Fault::VALUES.len());
}
