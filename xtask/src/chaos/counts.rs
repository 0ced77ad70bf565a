//! The counts of connections, compared with the records of sockets in the maps and with what the clients did.
//!
//! `sockline map` has both: how many connections of a service port are counted as active, and how many sockets have a record of
//! it (which it shows by client; from Linux 5.12 on). Programs make and free the records, and count on their own: a close that is
//! not counted leaves an active connection without a record.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{
    cluster::{SERVICES, service_name},
    harness::Harness,
};

/// For a reading that agrees, among clients that connect.
const AGREES_WITHIN: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(100);
/// After a fault that overwrites counts.
const READINGS: usize = 12;

/// What is known of the counts in the maps of one layout.
#[derive(Default)]
pub(super) struct Knowledge {
    /// Sockets were closed while another program or none was attached: their records stay, and they count as active.
    ends_were_missed: bool,
    /// Service ports that have been reported, and those whose counts a fault has overwritten.
    known_to_differ: BTreeSet<String>,
}

impl Knowledge {
    /// A fault had detached the program that sees sockets close.
    pub(super) const fn miss_ends(&mut self) {
        self.ends_were_missed = true;
    }
}

/// The counts of a service port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PortCounts {
    /// `service-1:tcp-80/TCP`.
    port: String,
    service: String,
    opened: u64,
    active: u64,
    /// Sockets that have a record.
    records: u64,
}

impl PortCounts {
    /// Of what `sockline map -o json` prints.
    fn all(text: &str) -> Result<Vec<Self>> {
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

    const fn agrees(&self) -> bool {
        self.active == self.records
    }
}

impl Harness {
    fn port_counts(&mut self) -> Result<Vec<PortCounts>> {
        PortCounts::all(&self.agent()?.cli(&["map", "--interval", "100ms", "-o", "json"])?)
    }

    /// The service ports that have had another number of active connections than of records in each of several readings, and
    /// are not known for it. One reading is not enough: clients connect meanwhile.
    fn never_agree(&mut self) -> Result<Vec<PortCounts>> {
        let mut agreed = self.counts.known_to_differ.clone();
        let deadline = Instant::now() + AGREES_WITHIN;
        loop {
            let mut others = Vec::new();
            for counts in self.port_counts()? {
                if counts.agrees() {
                    agreed.insert(counts.port);
                } else if !agreed.contains(&counts.port) {
                    others.push(counts);
                }
            }
            if others.is_empty() || Instant::now() > deadline {
                return Ok(others);
            }
            thread::sleep(PAUSE);
        }
    }

    /// Compares active connections with records, while clients connect.
    pub(super) fn compare_counts(&mut self) -> Result<()> {
        for counts in self.never_agree()? {
            // Each once.
            self.counts.known_to_differ.insert(counts.port.clone());
            let what = "service ports with another number of active connections than of records";
            self.results.violation(what, &format!("{counts:?}"));
        }
        Ok(())
    }

    /// A fault may have overwritten the counts of service ports: those that differ now may do so from now on. The numbers of such
    /// a port may be equal in a single reading.
    pub(super) fn counts_were_overwritten(&mut self) -> Result<()> {
        let mut differed: BTreeMap<String, usize> = BTreeMap::new();
        for _ in 0..READINGS {
            for counts in self.port_counts()?.into_iter().filter(|counts| !counts.agrees()) {
                *differed.entry(counts.port).or_default() += 1;
            }
            thread::sleep(PAUSE);
        }
        differed.retain(|_, times| *times >= READINGS / 3);
        for port in differed.into_keys() {
            if self.counts.known_to_differ.insert(port) {
                self.results.count("service ports whose counts were overwritten");
            }
        }
        self.results.count_connections_again();
        Ok(())
    }

    /// The maps are of another layout now, and new ones.
    pub(super) fn counts_begin_again(&mut self) {
        self.counts = Knowledge::default();
        self.results.count_connections_again();
    }

    /// Compares the counts once no client has a socket any more: nothing is active, and each connection is counted that
    /// a client made.
    pub(super) fn compare_final_counts(&mut self) -> Result<()> {
        let deadline = Instant::now() + AGREES_WITHIN;
        let made = self.results.connections();
        let mut ports;
        loop {
            ports = self.port_counts()?;
            let is_good = |counts: &PortCounts| self.is_good_at_the_end(counts);
            if ports.iter().all(is_good) || Instant::now() > deadline {
                break;
            }
            thread::sleep(PAUSE);
        }
        ports.retain(|counts| !self.is_good_at_the_end(counts));
        for counts in ports {
            let what = "service ports with active connections that have ended, or without a record";
            self.results.violation(what, &format!("{counts:?}"));
        }
        let opened = opened_by_service(&self.port_counts()?);
        for (service, made) in made {
            let opened = opened.get(&service_name(service)).copied().unwrap_or(0);
            if opened < made {
                let detail = format!("{}: {opened} of {made}", service_name(service));
                self.results.violation("services that did not count each connection", &detail);
            }
        }
        Ok(())
    }

    /// The agent keeps connections to the API server.
    fn is_good_at_the_end(&self, counts: &PortCounts) -> bool {
        if self.counts.known_to_differ.contains(&counts.port) {
            return true;
        }
        let is_of_clients = (0..SERVICES).any(|service| service_name(service) == counts.service);
        let must_be_over = is_of_clients && !self.counts.ends_were_missed;
        counts.agrees() && (!must_be_over || counts.active == 0)
    }
}

fn opened_by_service(ports: &[PortCounts]) -> BTreeMap<String, u64> {
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
