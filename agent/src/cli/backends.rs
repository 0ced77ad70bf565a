//! `sockline backends`: the backends of the services that the kernel serves.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use serde::Serialize;

use super::{
    node::NodeArgs,
    output::{Output, print},
    table,
};
use crate::{
    dataplane::ServiceKey,
    model::{
        object::{ObjectName, Protocol},
        plan::Backend,
    },
};

/// Show the backends that connects are spread over now, of all services or of one.
///
/// Read from the pinned maps: works while the agent is down, too.
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
    backends: Vec<Backend>,
}

/// # Errors
/// When there is nothing pinned, it cannot be read, or the named service is not there.
pub fn run(args: &BackendsArgs) -> anyhow::Result<()> {
    let view = args.node.view()?;
    let mut all: BTreeMap<ServiceKey, BTreeSet<Backend>> = BTreeMap::new();
    for frontend in view.frontends()? {
        let key = ServiceKey {
            service: frontend.service.clone(),
            port_name: frontend.port_name.clone(),
            protocol: frontend.protocol,
        };
        if args.service.as_ref().is_none_or(|name| *name == frontend.service.to_string()) {
            all.entry(key).or_default().extend(&frontend.backends);
        }
    }
    if let Some(name) = &args.service
        && all.is_empty()
    {
        anyhow::bail!("the kernel serves no service {name} (`sockline services` lists them)");
    }
    let services = all
        .into_iter()
        .map(|(key, backends)| Service {
            service: key.service,
            port_name: key.port_name.to_string(),
            protocol: key.protocol,
            backends: backends.into_iter().collect(),
        })
        .collect();
    let listing = Listing { node: view.agent()?.node, services };
    print(&match args.node.output {
        Output::Json => serde_json::to_string_pretty(&listing)? + "\n",
        Output::Table => render(&listing),
    })
}

fn render(listing: &Listing) -> String {
    let mut table = table::new(&["SERVICE", "PORT", "PROTOCOL", "WEIGHT", "BACKEND"]);
    for service in &listing.services {
        let row = |weight: String, backend: String| {
            [
                service.service.to_string(),
                if service.port_name.is_empty() { "-".into() } else { service.port_name.clone() },
                service.protocol.to_string(),
                weight,
                backend,
            ]
        };
        if service.backends.is_empty() {
            table.add_row(row("-".into(), "-".into()));
        }
        for backend in &service.backends {
            let address = std::net::SocketAddr::new(backend.address, backend.port);
            table.add_row(row(backend.weight.to_string(), address.to_string()));
        }
    }
    table::render(&table)
}
