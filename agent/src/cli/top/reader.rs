//! Reads samples.

use std::{
    net::SocketAddr,
    path::Path,
    time::{Instant, SystemTime},
};

use super::sample::{Detail, Node, Sample, Totals};
use crate::{
    admin,
    cli::node::StateArgs,
    dataplane::{FeatureSet, ServiceKey, Snapshot, Telemetry},
};

pub struct Reader {
    place: StateArgs,
    began: Instant,
    /// Of the agent that started at this time: whether it counts in detail.
    telemetry: Option<(SystemTime, Option<Telemetry>)>,
}

impl Reader {
    pub fn new(args: &StateArgs) -> Self {
        Self { place: args.clone(), began: Instant::now(), telemetry: None }
    }

    /// Reads all services, and the backends of one service port.
    ///
    /// Opens the maps each time: an agent of another layout has others.
    pub fn read(&mut self, backends_of: Option<&ServiceKey>) -> anyhow::Result<Sample> {
        let snapshot = self.place.snapshot()?;
        let node = self.node(&snapshot)?;
        let services = snapshot.counters()?.services()?;
        let services = services.iter().map(|(key, counts)| (key.clone(), counts.into()));
        Ok(Sample {
            services: Some(services.collect()),
            backends: backends_of.map(|key| backends(&snapshot, key)).transpose()?,
            node,
            at: self.began.elapsed(),
        })
    }

    /// Reads only the backends of one service port.
    pub fn read_backends(&mut self, of: &ServiceKey) -> anyhow::Result<Sample> {
        let snapshot = self.place.snapshot()?;
        let node = self.node(&snapshot)?;
        let backends = Some(backends(&snapshot, of)?);
        Ok(Sample { services: None, backends, node, at: self.began.elapsed() })
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

fn backends(
    snapshot: &Snapshot,
    key: &ServiceKey,
) -> anyhow::Result<(ServiceKey, Vec<(SocketAddr, Totals)>)> {
    let found = snapshot.backends()?.remove(key).unwrap_or_default();
    let backends = found
        .iter()
        .map(|(backend, counts)| (SocketAddr::new(backend.address, backend.port), counts.into()));
    Ok((key.clone(), backends.collect()))
}
