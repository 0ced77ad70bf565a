//! `sockline backends`: the backends of the services that the kernel serves.

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    node::ListArgs,
    output::{ListOutput, live::ConnectionsOfBackend, print, table},
};
use crate::{
    api::{Document, Kind},
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
    list: ListArgs,
}

/// The backends of the services that the kernel serves now.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct BackendList {
    /// The name of this node's Node object, as the last agent had it.
    node_name: String,
    /// The service ports, sorted by Service, port name and protocol.
    items: Vec<ServicePort>,
}

impl Kind for BackendList {
    const KIND: &'static str = "BackendList";
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ServicePort {
    /// The Service.
    service: ObjectName,
    /// The name of the Service's port; empty if it has none.
    port_name: String,
    /// The protocol.
    protocol: Protocol,
    /// The backends that a connect chooses from; empty if the service port has none.
    backends: Vec<BackendCount>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct BackendCount {
    #[serde(flatten)]
    backend: Backend,
    #[serde(flatten)]
    counts: ConnectionsOfBackend,
}

/// # Errors
/// When nothing is pinned, the maps cannot be read, or the named service does not exist.
pub fn run(args: &BackendsArgs) -> anyhow::Result<()> {
    let snapshot = args.list.snapshot()?;
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
                .map(|(backend, counts)| BackendCount { backend, counts: counts.into() })
                .collect(),
        })
        .collect();
    if let Some(name) = &args.service
        && items.is_empty()
    {
        anyhow::bail!("the kernel serves no service {name} (`sockline services` lists them)");
    }
    let list = BackendList { node_name: snapshot.agent()?.node, items };
    print(&match args.list.output {
        ListOutput::Json => Document::new(&list).to_text()?,
        ListOutput::Table => render(&list, Columns::Usual),
        ListOutput::Wide => render(&list, Columns::All),
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Columns {
    Usual,
    All,
}

fn render(list: &BackendList, columns: Columns) -> String {
    let (live, class): (&[_], &[_]) = match columns {
        Columns::Usual => (&[], &[]),
        Columns::All => (ConnectionsOfBackend::COLUMNS, &["TRAFFIC"]),
    };
    let before = ["SERVICE", "PORT", "PROTOCOL", "WEIGHT", "CONNECTIONS"];
    let mut table = table::new(&[&before[..], live, class, &["BACKEND"]].concat());
    for service in &list.items {
        let row = |weight: String, connections: String, live: Vec<String>, backend: String| {
            let mut row = vec![
                service.service.to_string(),
                if service.port_name.is_empty() { "-".into() } else { service.port_name.clone() },
                service.protocol.to_string(),
                weight,
                connections,
            ];
            row.extend(live);
            row.push(backend);
            row
        };
        if service.backends.is_empty() {
            let no_cells = vec!["-".into(); live.len() + class.len()];
            table.add_row(row("-".into(), "-".into(), no_cells, "-".into()));
        }
        for BackendCount { backend, counts } in &service.backends {
            let address = std::net::SocketAddr::new(backend.address, backend.port);
            let mut cells = counts.cells();
            cells.push(backend.traffic_class.as_str().to_owned());
            cells.truncate(live.len() + class.len());
            table.add_row(row(
                backend.weight.to_string(),
                counts.connections.to_string(),
                cells,
                address.to_string(),
            ));
        }
    }
    table::render(&table)
}
