//! `sockline backends`: the backends of the services that the kernel serves.

use clap::Args;
use serde::Serialize;

use super::{
    node::NodeArgs,
    output::{Output, print},
    table,
};
use crate::model::{
    object::{ObjectName, Protocol},
    plan::Backend,
};

/// Show the current backends of all services or of one, and how often each was chosen.
///
/// Reads the pinned maps, so it works without a running agent.
#[derive(Debug, Args)]
pub struct BackendsArgs {
    /// Only this service
    #[arg(value_name = "NAMESPACE/NAME")]
    service: Option<String>,
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Debug, Serialize)]
struct Listing {
    node: String,
    services: Vec<Service>,
}

#[derive(Debug, Serialize)]
struct Service {
    service: ObjectName,
    port_name: String,
    protocol: Protocol,
    backends: Vec<BackendCount>,
}

#[derive(Debug, Serialize)]
struct BackendCount {
    #[serde(flatten)]
    backend: Backend,
    /// Connections that it was chosen for since it was added.
    connections: u64,
}

/// # Errors
/// When nothing is pinned, the maps cannot be read, or the named service does not exist.
pub fn run(args: &BackendsArgs) -> anyhow::Result<()> {
    let view = args.node.view()?;
    let services: Vec<Service> = view
        .backends()?
        .into_iter()
        .filter(|(key, _)| {
            args.service.as_ref().is_none_or(|name| *name == key.service.to_string())
        })
        .map(|(key, backends)| Service {
            service: key.service,
            port_name: key.port_name.to_string(),
            protocol: key.protocol,
            backends: backends
                .into_iter()
                .map(|(backend, connections)| BackendCount { backend, connections })
                .collect(),
        })
        .collect();
    if let Some(name) = &args.service
        && services.is_empty()
    {
        anyhow::bail!("the kernel serves no service {name} (`sockline services` lists them)");
    }
    let listing = Listing { node: view.agent()?.node, services };
    print(&match args.node.output {
        Output::Json => serde_json::to_string_pretty(&listing)? + "\n",
        Output::Table => render(&listing),
    })
}

fn render(listing: &Listing) -> String {
    let mut table =
        table::new(&["SERVICE", "PORT", "PROTOCOL", "WEIGHT", "CONNECTIONS", "BACKEND"]);
    for service in &listing.services {
        let row = |weight: String, connections: String, backend: String| {
            [
                service.service.to_string(),
                if service.port_name.is_empty() { "-".into() } else { service.port_name.clone() },
                service.protocol.to_string(),
                weight,
                connections,
                backend,
            ]
        };
        if service.backends.is_empty() {
            table.add_row(row("-".into(), "-".into(), "-".into()));
        }
        for BackendCount { backend, connections } in &service.backends {
            let address = std::net::SocketAddr::new(backend.address, backend.port);
            let row = row(backend.weight.to_string(), connections.to_string(), address.to_string());
            table.add_row(row);
        }
    }
    table::render(&table)
}
