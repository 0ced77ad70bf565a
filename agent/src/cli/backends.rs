//! `sockline backends`: the backends of the services that the kernel serves.

use clap::Args;
use serde::Serialize;

use super::{
    node::NodeArgs,
    output::{Output, print, table},
};
use crate::{
    api::Document,
    model::{
        object::{ObjectName, Protocol},
        plan::Backend,
    },
};

/// Show the backends of all services or of one, and how many connections each was chosen for.
///
/// Reads the pinned maps, so it also works while the agent is down.
#[derive(Debug, Args)]
pub struct BackendsArgs {
    /// Only this service
    #[arg(value_name = "NAMESPACE/NAME")]
    service: Option<String>,
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct BackendList {
    node_name: String,
    items: Vec<ServicePort>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ServicePort {
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
    let snapshot = args.node.snapshot()?;
    let items: Vec<ServicePort> = snapshot
        .backends()?
        .into_iter()
        .filter(|(key, _)| {
            args.service.as_ref().is_none_or(|name| *name == key.service.to_string())
        })
        .map(|(key, backends)| ServicePort {
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
        && items.is_empty()
    {
        anyhow::bail!("the kernel serves no service {name} (`sockline services` lists them)");
    }
    let list = BackendList { node_name: snapshot.agent()?.node, items };
    print(&match args.node.output {
        Output::Json => Document::new("BackendList", &list).to_text()?,
        Output::Table => render(&list),
    })
}

fn render(list: &BackendList) -> String {
    let mut table =
        table::new(&["SERVICE", "PORT", "PROTOCOL", "WEIGHT", "CONNECTIONS", "BACKEND"]);
    for service in &list.items {
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
