//! Reads the counters, and asks the agent for the names of clients.

use std::{collections::BTreeSet, net::SocketAddr, time::Instant};

use sockline_ebpf::telemetry::ConnectionCounts;

use super::graph::{Counts, Names, Reading};
use crate::{
    admin,
    cli::node::StateArgs,
    dataplane::{self, ClientConnections},
};

pub struct Reader<'a> {
    place: &'a StateArgs,
    began: Instant,
}

impl<'a> Reader<'a> {
    pub fn new(place: &'a StateArgs) -> Self {
        Self { place, began: Instant::now() }
    }

    /// The node's name, and the counters of all services.
    pub fn read(&self) -> anyhow::Result<(String, Reading)> {
        let snapshot = self.place.snapshot()?;
        let mut reading = Reading { at: self.began.elapsed(), ..Reading::default() };
        for (key, counts) in snapshot.counters()?.services()? {
            reading.services.insert(key, (&counts).into());
        }
        for (key, backends) in snapshot.backends()? {
            let backends = backends.iter().map(|(backend, counts)| {
                (SocketAddr::new(backend.address, backend.port), counts.into())
            });
            reading.backends.insert(key, backends.collect());
        }
        for client in snapshot.clients()?.connections()? {
            let counts = (&client).into();
            reading.clients.entry(client.service).or_default().insert(client.cgroup, counts);
        }
        Ok((snapshot.agent()?.node, reading))
    }

    /// What the agent knows of the clients.
    ///
    /// # Errors
    /// When no agent answers.
    pub fn names(&self, reading: &Reading) -> anyhow::Result<Names> {
        let cgroups: BTreeSet<u64> =
            reading.clients.values().flat_map(|clients| clients.keys()).copied().collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let cgroups = cgroups.into_iter().collect();
        runtime.block_on(admin::clients(&self.place.admin_socket, cgroups))
    }
}

impl From<&ConnectionCounts> for Counts {
    fn from(counts: &ConnectionCounts) -> Self {
        Self {
            active: counts.active(),
            opened: counts.opened,
            failed: counts.failed.iter().sum(),
            sent: counts.sent,
            received: counts.received,
        }
    }
}

impl From<&dataplane::Counts> for Counts {
    fn from(counts: &dataplane::Counts) -> Self {
        let mut all = Self::from(&counts.connections);
        all.failed += counts.refused_no_endpoints + counts.refused_no_local_endpoints;
        all
    }
}

impl From<&ClientConnections> for Counts {
    fn from(client: &ClientConnections) -> Self {
        Self {
            active: client.active,
            opened: client.opened(),
            failed: client.ended.failed,
            sent: client.ended.sent + client.open.sent,
            received: client.ended.received + client.open.received,
        }
    }
}
