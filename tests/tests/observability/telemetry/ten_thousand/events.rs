//! What `sockline watch` shows, by service, protocol, kind and reason.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{RACE, expected::Expected};

/// Of a service, a protocol, a kind of event and a reason. A kind without one has an empty reason.
pub(super) type Events = BTreeMap<[String; 4], u64>;

/// What is counted of the ends in a service and protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amounts {
    sent: u64,
    received: u64,
    pub(super) retransmitted: u64,
}

pub(super) fn expected(expected: &Expected) -> Events {
    let mut events = Events::new();
    let mut add = |service: &str, protocol: &str, event: &str, reason: &str, count: u64| {
        if count > 0 {
            let key = [service, protocol, event, reason].map(ToOwned::to_owned);
            *events.entry(key).or_default() += count;
        }
    };
    for (service, protocol, seen) in expected.all() {
        let protocol = protocol.to_string();
        add(service, &protocol, "opened", "", seen.opened);
        for (how, &count) in seen.closed.iter().filter(|(how, _)| *how != "failed") {
            add(service, &protocol, "closed", first(service, how), count);
        }
        for (reason, &count) in &seen.failed {
            add(service, &protocol, "failed", reason, count);
        }
    }
    for (service, protocol, count) in expected.refused() {
        add(service, &protocol.to_string(), "refused", "no-endpoints", count);
    }
    events
}

pub(super) fn seen(events: &[Value]) -> Events {
    let mut seen = Events::new();
    for event in events {
        let (service, protocol) = of(event);
        let kind = event["event"].as_str().unwrap();
        let reason = first(&service, event["reason"].as_str().unwrap_or_default()).to_owned();
        *seen.entry([service, protocol, kind.to_owned(), reason]).or_default() += 1;
    }
    seen
}

pub(super) fn expected_amounts(expected: &Expected) -> BTreeMap<(String, String), (u64, u64)> {
    let all = expected.all().filter(|(_, _, seen)| seen.opened > 0);
    let bytes = all.map(|(service, protocol, seen)| {
        ((service.to_owned(), protocol.to_string()), (seen.sent, seen.received))
    });
    bytes.collect()
}

pub(super) fn seen_amounts(events: &[Value]) -> BTreeMap<(String, String), Amounts> {
    let mut sums: BTreeMap<_, Amounts> = BTreeMap::new();
    for event in events.iter().filter(|event| event["end"].is_object()) {
        let of_end = |field: &str| event["end"][field].as_u64().unwrap();
        let sum = sums.entry(of(event)).or_default();
        sum.sent += of_end("sentBytes");
        sum.received += of_end("receivedBytes");
        sum.retransmitted += of_end("retransmittedSegments");
    }
    sums
}

impl Amounts {
    pub(super) const fn bytes(self) -> (u64, u64) {
        (self.sent, self.received)
    }
}

fn of(event: &Value) -> (String, String) {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&event["service"]["name"]), text(&event["protocol"]))
}

/// Who ended a connection, where both sides end it: the server.
fn first<'a>(service: &str, how: &'a str) -> &'a str {
    if service == RACE && how == "client" { "server" } else { how }
}
