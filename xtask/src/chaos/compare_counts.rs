//! Compares the counts of connections with the records of sockets in the maps, and with what the clients did.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{
    cluster::{SERVICES, service_name},
    counts::{Knowledge, PortCounts, opened_by_service},
    harness::Harness,
};

/// For a reading that agrees, among clients that connect.
const AGREES_WITHIN: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(100);
/// After a fault that overwrites counts.
const READINGS: usize = 12;

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

    /// The maps are of another layout now, and new ones. What was counted before is carried over.
    pub(super) fn records_begin_again(&mut self) {
        self.counts = Knowledge::default();
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
