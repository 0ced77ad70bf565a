//! The families of connections, from the kernel's counters: only for service ports that were ever used, since each
//! has 60 series.

use std::collections::{BTreeMap, HashMap};

use sockline_ebpf::{
    id::ServiceId,
    telemetry::{ConnectionCounts, End, LIFETIME_SHIFT, ROUND_TRIP_UNITS_PER_SECOND, ServiceStats},
};

use super::{
    definitions::{
        ClassLabels, EndLabels, FailureLabels, FailureReason, Families, How, LIFETIME_BOUNDS,
        ROUND_TRIP_BOUNDS, ServicePortLabels,
    },
    family::HistogramValue,
};
use crate::{
    dataplane::Counts,
    model::{object::Protocol, plan::TrafficClass},
};

type Services = [(ServicePortLabels, Counts)];
/// Connections that hang while they are opened, by service port; `None` if that is not known.
pub type Hanging = Option<HashMap<ServiceId, u64>>;

/// Writes the families one after the other.
pub fn write(
    families: &Families,
    all: &Services,
    unknown: &UnknownEnds,
    hanging: &Hanging,
    text: &mut String,
) {
    let used = || all.iter().filter(|(_, counts)| counts.connections.opened > 0);
    let of = |value: fn(&Counts) -> u64| {
        used().map(move |(labels, counts)| (labels.clone(), value(counts) as f64))
    };
    families.connections_opened.write(of(|counts| counts.connections.opened), text);
    families.connections_active.write(of(|counts| counts.connections.active()), text);
    let closed = used().flat_map(|(labels, counts)| {
        How::ALL.iter().map(|&how| {
            let count = match how {
                How::Unknown => unknown.of(labels),
                _ => closed(counts, how),
            };
            ((labels.clone(), EndLabels { how }), count as f64)
        })
    });
    families.connections_closed.write(closed, text);
    let failed = used().flat_map(|(labels, counts)| {
        FailureReason::ALL.iter().map(|&reason| {
            let count = counts.connections.failed[place_of_failure(reason)];
            ((labels.clone(), FailureLabels { reason }), count as f64)
        })
    });
    families.connections_failed.write(failed, text);
    families.connections_untracked.write(of(|counts| counts.connections.untracked), text);
    // The rest is of connections that a socket knows.
    let of_tcp = |value: fn(&Counts) -> u64| {
        of(value).filter(|(labels, _)| labels.protocol == Protocol::Tcp)
    };
    if let Some(hanging) = hanging {
        let of_port = |counts: &Counts| hanging.get(&counts.id).copied().unwrap_or(0) as f64;
        let ports = used().filter(|(labels, _)| labels.protocol == Protocol::Tcp);
        let ports = ports.map(|(labels, counts)| (labels.clone(), of_port(counts)));
        families.connections_hanging.write(ports, text);
    }
    families.connections_unanswered.write(of_tcp(|counts| counts.connections.unanswered), text);
    families.sent_bytes.write(of_tcp(|counts| counts.connections.sent), text);
    families.received_bytes.write(of_tcp(|counts| counts.connections.received), text);
    families.retransmitted_segments.write(of_tcp(|counts| counts.connections.retransmitted), text);
    // Most services have endpoints of two or three classes: one that was never used has no series.
    let by_class = |value: fn(&ConnectionCounts) -> u64| {
        used().flat_map(move |(labels, counts)| {
            let of = TrafficClass::ALL.map(|class| (class, counts.of_class(class)));
            of.into_iter().filter(|(_, of_class)| *of_class != ConnectionCounts::NONE).map(
                move |(traffic_class, of_class)| {
                    ((labels.clone(), ClassLabels { traffic_class }), value(&of_class) as f64)
                },
            )
        })
    };
    let of_tcp_by_class = |value: fn(&ConnectionCounts) -> u64| {
        by_class(value).filter(|((labels, _), _)| labels.protocol == Protocol::Tcp)
    };
    families.class_connections_opened.write(by_class(|counts| counts.opened), text);
    families.class_sent_bytes.write(of_tcp_by_class(|counts| counts.sent), text);
    families.class_received_bytes.write(of_tcp_by_class(|counts| counts.received), text);
    let ended =
        || used().filter_map(|(labels, counts)| Some((labels.clone(), counts.ends.as_deref()?)));
    let round_trips = ended()
        .filter(|(labels, _)| labels.protocol == Protocol::Tcp)
        .map(|(labels, ends)| (labels, round_trips(ends)));
    families.round_trip.write(round_trips, text);
    let lifetimes = ended().map(|(labels, ends)| (labels, lifetimes(ends)));
    families.connection_lifetime.write(lifetimes, text);
}

/// The ends that nothing more is known of, as of the last scrapes. They are a difference of counts that the programs
/// change while they are read, and a counter must not fall.
#[derive(Debug, Default)]
pub struct UnknownEnds(BTreeMap<ServicePortLabels, u64>);

impl UnknownEnds {
    /// Records what was read. Services that are gone are forgotten.
    pub fn update(&mut self, all: &Services) {
        let counts = all.iter().map(|(labels, counts)| {
            // A Service that was created again has fewer ends than before.
            let shown = self.of(labels).max(closed(counts, How::Unknown));
            (labels.clone(), shown.min(counts.connections.closed))
        });
        let counts = counts.filter(|(_, shown)| *shown > 0).collect();
        self.0 = counts;
    }

    fn of(&self, labels: &ServicePortLabels) -> u64 {
        self.0.get(labels).copied().unwrap_or(0)
    }
}

fn closed(counts: &Counts, how: How) -> u64 {
    let ends = counts.ends.as_deref();
    let of = |end: End| end.as_closed().zip(ends).map_or(0, |(place, ends)| ends.closed[place]);
    match how {
        How::Client => of(End::Client),
        How::Server => of(End::Server),
        How::ClientReset => of(End::ClientReset),
        How::ServerReset => of(End::ServerReset),
        How::Lost => of(End::Lost),
        How::Failed => counts.connections.failed.iter().sum(),
        How::Unknown => {
            let known = How::ALL.iter().filter(|&&how| how != How::Unknown);
            // What ends while the counts are read may be known and not closed yet: too low, never too high.
            counts.connections.closed.saturating_sub(known.map(|&how| closed(counts, how)).sum())
        }
    }
}

const fn place_of_failure(reason: FailureReason) -> usize {
    let end = match reason {
        FailureReason::Refused => End::Refused,
        FailureReason::TimedOut => End::TimedOut,
        FailureReason::Unreachable => End::Unreachable,
        FailureReason::GivenUp => End::GivenUp,
    };
    match end.as_failure() {
        Some(place) => place,
        None => 0,
    }
}

fn round_trips(ends: &ServiceStats) -> HistogramValue {
    let histogram = &ends.round_trips;
    HistogramValue {
        buckets: buckets(&ROUND_TRIP_BOUNDS, &histogram.buckets),
        sum: histogram.sum as f64 / ROUND_TRIP_UNITS_PER_SECOND,
    }
}

fn lifetimes(ends: &ServiceStats) -> HistogramValue {
    let histogram = &ends.lifetimes;
    HistogramValue {
        buckets: buckets(&LIFETIME_BOUNDS, &histogram.buckets),
        sum: histogram.sum as f64 * f64::from(1 << LIFETIME_SHIFT) / 1e9,
    }
}

fn buckets(bounds: &[f64], counts: &[u64]) -> Vec<(f64, u64)> {
    bounds.iter().copied().chain([f64::INFINITY]).zip(counts.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(service: &str, protocol: Protocol) -> ServicePortLabels {
        let (namespace, port) = ("shop".into(), "http".into());
        ServicePortLabels { namespace, service: service.into(), port, protocol }
    }

    fn read(closed: u64, known: u64) -> [(ServicePortLabels, Counts); 1] {
        let labels = labels("cart", Protocol::Tcp);
        let mut ends = ServiceStats::NONE;
        ends.closed[0] = known;
        let connections = ConnectionCounts { closed, ..ConnectionCounts::NONE };
        [(labels, Counts { connections, ends: Some(Box::new(ends)), ..Counts::default() })]
    }

    #[test]
    fn unknown_ends_never_fall_though_they_are_a_difference() {
        let mut unknown = UnknownEnds::default();
        // 100 of the time without telemetry; then ends that are known before they are closed; then a Service created again.
        for ((closed, known), expected) in [
            ((100, 0), 100),
            ((120, 20), 100),
            ((130, 33), 100),
            ((140, 40), 100),
            ((2, 0), 2),
            ((3, 1), 2),
        ] {
            let all = read(closed, known);
            unknown.update(&all);
            assert_eq!(unknown.of(&all[0].0), expected, "{closed} closed, {known} known");
        }
    }

    #[test]
    fn hanging_connections_are_of_each_tcp_port_that_was_used_or_of_none() {
        let port = |service, protocol, id, opened| {
            let connections = ConnectionCounts { opened, ..ConnectionCounts::NONE };
            let counts = Counts { id: ServiceId(id), connections, ..Counts::default() };
            (labels(service, protocol), counts)
        };
        let all = [
            port("cart", Protocol::Tcp, 1, 9),
            port("search", Protocol::Tcp, 2, 1),
            port("unused", Protocol::Tcp, 3, 0),
            port("dns", Protocol::Udp, 4, 1),
        ];
        let lines = |hanging: Hanging| {
            let mut text = String::new();
            let unknown = UnknownEnds::default();
            write(&Families::default(), &all, &unknown, &hanging, &mut text);
            let lines = text.lines().filter_map(|line| {
                let (labels, value) =
                    line.strip_prefix("sockline_connections_hanging{")?.split_once("} ")?;
                let service = labels.split("service=\"").nth(1)?.split('"').next()?;
                Some(format!("{service} {value}"))
            });
            lines.collect::<Vec<_>>()
        };
        assert_eq!(lines(Some([(ServiceId(1), 3)].into())), ["cart 3", "search 0"]);
        assert_eq!(lines(Some(HashMap::new())), ["cart 0", "search 0"]);
        assert_eq!(lines(None), [""; 0]);
    }
}
