//! Reads samples.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    time::{Instant, SystemTime},
};

use super::sample::{Detail, Node, Opened, Sample, Totals};
use crate::{
    admin,
    cli::node::StateArgs,
    dataplane::{ClientConnections, FeatureSet, ServiceKey, Snapshot, Telemetry},
    escape::Escaped,
    workloads::{Growth, Readings},
};

pub struct Reader {
    place: StateArgs,
    began: Instant,
    /// Of the agent that started at this time: whether it counts in detail.
    telemetry: Option<(SystemTime, Option<Telemetry>)>,
    /// Of the service port that was read last.
    clients: Option<(ServiceKey, Clients)>,
}

/// The clients of a service port, by the name of their workload. Counts of a pod that is gone stay in the sum, so that
/// it does not fall.
#[derive(Default)]
struct Clients {
    readings: Readings,
    sums: BTreeMap<String, Growth>,
}

impl Reader {
    pub fn new(args: &StateArgs) -> Self {
        Self { place: args.clone(), began: Instant::now(), telemetry: None, clients: None }
    }

    /// Reads all services, and the backends and clients of one service port.
    ///
    /// Opens the maps each time: an agent of another layout has others.
    pub fn read(&mut self, opened: Option<&ServiceKey>) -> anyhow::Result<Sample> {
        let snapshot = self.place.snapshot()?;
        let node = self.node(&snapshot)?;
        let services = snapshot.counters()?.services()?;
        let services = services.iter().map(|(key, counts)| (key.clone(), counts.into()));
        Ok(Sample {
            services: Some(services.collect()),
            opened: opened.map(|key| self.opened(&snapshot, key)).transpose()?,
            node,
            at: self.began.elapsed(),
        })
    }

    /// Reads only the backends and clients of one service port.
    pub fn read_opened(&mut self, of: &ServiceKey) -> anyhow::Result<Sample> {
        let snapshot = self.place.snapshot()?;
        let node = self.node(&snapshot)?;
        let opened = Some(self.opened(&snapshot, of)?);
        Ok(Sample { services: None, opened, node, at: self.began.elapsed() })
    }

    fn opened(&mut self, snapshot: &Snapshot, key: &ServiceKey) -> anyhow::Result<Opened> {
        let (backends, clients) = (backends(snapshot, key)?, self.clients(snapshot, key)?);
        Ok(Opened { key: key.clone(), backends, clients })
    }

    fn clients(
        &mut self,
        snapshot: &Snapshot,
        key: &ServiceKey,
    ) -> anyhow::Result<Vec<(String, Totals)>> {
        let mut read = snapshot.clients()?.connections()?;
        read.retain(|client| client.service == *key);
        let names = names(&self.place.admin_socket, &read);
        if self.clients.as_ref().is_none_or(|(of, _)| of != key) {
            self.clients = Some((key.clone(), Clients::default()));
        }
        let clients = self.clients.as_mut().map(|(_, clients)| clients);
        Ok(clients.map(|clients| clients.update(&read, &names)).unwrap_or_default())
    }

    fn node(&mut self, snapshot: &Snapshot) -> anyhow::Result<Node> {
        let record = snapshot.agent()?;
        let agent_runs = snapshot.agent_runs()?;
        if agent_runs && self.telemetry.is_none_or(|(started, _)| started != record.started) {
            // An agent that has just started may not answer yet.
            self.telemetry =
                telemetry(&self.place.admin_socket).map(|telemetry| (record.started, telemetry));
        }
        let is_off = matches!(self.telemetry, Some((_, Some(Telemetry::Off))));
        let detail = if !record.features.contains(FeatureSet::SOCKET_FIELDS) {
            Detail::NotOnThisKernel
        } else if is_off {
            Detail::Off
        } else {
            Detail::All
        };
        Ok(Node { name: record.node, agent_runs, detail })
    }
}

/// What the agent says; `None` if none answers.
fn telemetry(socket: &Path) -> Option<Option<Telemetry>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    runtime.block_on(admin::status(socket)).ok().map(|status| status.telemetry)
}

/// The names of clients' workloads, as far as the agent has them.
fn names(socket: &Path, clients: &[ClientConnections]) -> Vec<String> {
    let cgroups: Vec<u64> = clients.iter().map(|client| client.cgroup).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok();
    let known = runtime.and_then(|runtime| runtime.block_on(admin::clients(socket, cgroups)).ok());
    let known = known.unwrap_or_default();
    let label = |client: &ClientConnections| {
        let client = known.get(&client.cgroup).cloned().unwrap_or_default();
        let label = match client.label() {
            (name, "") => name,
            (name, kind) => format!("{name} ({kind})"),
        };
        Escaped(label).to_string()
    };
    clients.iter().map(label).collect()
}

impl Clients {
    /// Adds a reading. A workload without clients is forgotten.
    fn update(&mut self, read: &[ClientConnections], names: &[String]) -> Vec<(String, Totals)> {
        let mut active: BTreeMap<&String, u64> = BTreeMap::new();
        let growths = self.readings.update(read);
        for ((client, name), growth) in read.iter().zip(names).zip(growths) {
            *active.entry(name).or_default() += client.active;
            self.sums.entry(name.clone()).or_default().add(&growth);
        }
        self.sums.retain(|name, _| active.contains_key(name));
        let totals = self.sums.iter().map(|(name, sum)| {
            let totals = Totals {
                opened: sum.opened,
                active: active.get(name).copied().unwrap_or(0),
                failed: sum.failed,
                sent: sum.sent,
                received: sum.received,
                ..Totals::default()
            };
            (name.clone(), totals)
        });
        totals.collect()
    }
}

fn backends(snapshot: &Snapshot, key: &ServiceKey) -> anyhow::Result<Vec<(SocketAddr, Totals)>> {
    let found = snapshot.backends()?.remove(key).unwrap_or_default();
    let backends = found
        .iter()
        .map(|(backend, counts)| (SocketAddr::new(backend.address, backend.port), counts.into()));
    Ok(backends.collect())
}
