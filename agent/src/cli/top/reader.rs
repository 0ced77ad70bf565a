//! Reads samples.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::Path,
    time::{Instant, SystemTime},
};

use super::{
    clients::Clients,
    sample::{BackendSample, Detail, Node, Opened, Sample, Totals},
};
use crate::{
    admin,
    cli::node::StateArgs,
    dataplane::{ClientConnections, FeatureSet, ServiceKey, Snapshot, Telemetry},
    workloads::Client,
};

pub struct Reader {
    place: StateArgs,
    began: Instant,
    /// Of the agent that started at this time: whether it counts in detail.
    telemetry: Option<(SystemTime, Option<Telemetry>)>,
    /// Of the service port that was read last.
    clients: Option<(ServiceKey, Clients)>,
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
        let known = known(&self.place.admin_socket, &read);
        if self.clients.as_ref().is_none_or(|(of, _)| of != key) {
            self.clients = Some((key.clone(), Clients::default()));
        }
        let clients = self.clients.as_mut().map(|(_, clients)| clients);
        Ok(clients.map(|clients| clients.update(&read, known)).unwrap_or_default())
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

/// What the agent knows of clients; `None` if it does not answer.
fn known(socket: &Path, clients: &[ClientConnections]) -> Option<HashMap<u64, Client>> {
    let cgroups = clients.iter().map(|client| client.cgroup).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    runtime.block_on(admin::clients(socket, cgroups)).ok()
}

fn backends(snapshot: &Snapshot, key: &ServiceKey) -> anyhow::Result<Vec<BackendSample>> {
    let found = snapshot.backends()?.remove(key).unwrap_or_default();
    let backends = found.iter().map(|(backend, counts)| BackendSample {
        address: SocketAddr::new(backend.address, backend.port),
        class: backend.traffic_class,
        totals: counts.into(),
    });
    Ok(backends.collect())
}
