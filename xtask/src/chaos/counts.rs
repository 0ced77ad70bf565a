//! The counts of connections by service port, and the records of sockets in the maps.
//!
//! `sockline map` has both: how many connections of a service port are counted as active, and how many sockets have a record of
//! it (which it shows by client; from Linux 5.12 on). Programs make and free the records, and count on their own: a close that is
//! not counted leaves an active connection without a record.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use serde_json::Value;

/// What is known of the counts in the maps of one layout.
#[derive(Default)]
pub(super) struct Knowledge {
    /// Sockets were closed while another program or none was attached: their records stay, and they count as active.
    pub(super) ends_were_missed: bool,
    /// Service ports that have been reported, and those whose counts a fault has overwritten.
    pub(super) known_to_differ: BTreeSet<String>,
}

impl Knowledge {
    /// A fault had detached the program that sees sockets close.
    pub(super) const fn miss_ends(&mut self) {
        self.ends_were_missed = true;
    }
}

/// The counts of a service port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PortCounts {
    /// `service-1:tcp-80/TCP`.
    pub(super) port: String,
    pub(super) service: String,
    pub(super) opened: u64,
    pub(super) active: u64,
    /// Sockets that have a record.
    pub(super) records: u64,
}

impl PortCounts {
    /// Of what `sockline map -o json` prints.
    pub(super) fn all(text: &str) -> Result<Vec<Self>> {
        let map: Value =
            serde_json::from_str(text).context("reading what `sockline map` prints")?;
        let services = map["services"].as_array().context("`sockline map` has no `services`")?;
        services
            .iter()
            .map(|one| Self::of(one).with_context(|| format!("`sockline map` has {one}")))
            .collect()
    }

    fn of(one: &Value) -> Option<Self> {
        let service = one["service"]["name"].as_str()?.to_owned();
        let (name, protocol) = (one["portName"].as_str()?, one["protocol"].as_str()?);
        let clients = one["clients"].as_array()?;
        let records = clients.iter().map(|client| client["traffic"]["active"].as_u64());
        Some(Self {
            port: format!("{service}:{name}/{protocol}"),
            service,
            opened: one["traffic"]["opened"].as_u64()?,
            active: one["traffic"]["active"].as_u64()?,
            records: records.sum::<Option<u64>>()?,
        })
    }

    pub(super) const fn agrees(&self) -> bool {
        self.active == self.records
    }
}

pub(super) fn opened_by_service(ports: &[PortCounts]) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for counts in ports {
        *sums.entry(counts.service.clone()).or_default() += counts.opened;
    }
    sums
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_service_port_has_its_counts_and_the_records_of_all_clients() {
        let clients = [2, 3].map(|active| json!({"cgroups": 1, "traffic": {"active": active}}));
        let port = |name: &str, protocol: &str, active: u64| {
            json!({
                "service": {"namespace": "default", "name": "service-1"},
                "portName": name,
                "protocol": protocol,
                "traffic": {"active": active, "opened": 7},
                "clients": clients,
            })
        };
        let map = json!({"services": [port("tcp-80", "TCP", 5), port("udp-53", "UDP", 6)]});
        let ports = PortCounts::all(&map.to_string()).unwrap();
        let first = PortCounts {
            port: "service-1:tcp-80/TCP".to_owned(),
            service: "service-1".to_owned(),
            opened: 7,
            active: 5,
            records: 5,
        };
        assert_eq!(ports[0], first);
        assert_eq!(ports.iter().map(PortCounts::agrees).collect::<Vec<_>>(), [true, false]);
        assert_eq!(opened_by_service(&ports), [("service-1".to_owned(), 14)].into());
        assert!(PortCounts::all(r#"{"services": [{}]}"#).is_err());
    }
}
