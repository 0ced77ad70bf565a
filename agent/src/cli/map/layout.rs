//! Where the boxes and edges of the picture are. Pure; all lengths are in pixels.
//!
//! Three columns: clients, service ports, backends. A service port's box has a row for each edge of it, so no two
//! labels meet. Clients are ordered by the rows that they connect to, which keeps edges short.

use std::collections::BTreeMap;

use super::{
    document::Traffic,
    view::{Node, Service, View},
};

pub const ROW: f64 = 22.0;
pub const HEAD: f64 = 46.0;
pub const CLIENT_HEIGHT: f64 = 38.0;
pub const CLIENT_WIDTH: f64 = 250.0;
pub const SERVICE_LEFT: f64 = 370.0;
pub const SERVICE_WIDTH: f64 = 320.0;
pub const BACKEND_LEFT: f64 = 790.0;
pub const BACKEND_WIDTH: f64 = 220.0;
pub const MARGIN: f64 = 16.0;
/// Of the title.
const TOP: f64 = 52.0;
/// Of the legend.
const BOTTOM: f64 = 40.0;
const GAP: f64 = 14.0;

pub const WIDTH: f64 = BACKEND_LEFT + BACKEND_WIDTH + MARGIN;

#[derive(Debug, Clone, PartialEq)]
pub struct Layout<'a> {
    pub height: f64,
    pub clients: Vec<ClientBox<'a>>,
    pub services: Vec<ServiceBox<'a>>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ClientBox<'a> {
    pub top: f64,
    pub node: &'a Node,
    /// To service ports: the middle of a row, and what goes there.
    pub edges: Vec<(f64, Traffic)>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ServiceBox<'a> {
    pub top: f64,
    pub height: f64,
    pub service: &'a Service,
}

impl ServiceBox<'_> {
    /// The middle of a row.
    #[must_use]
    pub fn row(&self, place: usize) -> f64 {
        self.top + HEAD + (place as f64 + 0.5) * ROW
    }
}

#[must_use]
pub fn of(view: &View) -> Layout<'_> {
    let mut top = TOP;
    let mut services = Vec::with_capacity(view.services.len());
    for service in &view.services {
        let rows = service.clients.len().max(service.backends.len());
        let height = HEAD + rows as f64 * ROW + if rows > 0 { 6.0 } else { 0.0 };
        services.push(ServiceBox { top, height, service });
        top += height + GAP;
    }
    let mut clients = clients(&services);
    let end = place(&mut clients);
    // The shorter column is in the middle of the longer one.
    let end_of_services = (top - GAP).max(TOP);
    if end > end_of_services {
        let by = (end - end_of_services) / 2.0;
        services.iter_mut().for_each(|service| service.top += by);
        clients.iter_mut().for_each(|client| {
            client.edges.iter_mut().for_each(|(row, _)| *row += by);
        });
    }
    Layout { height: end.max(end_of_services) + BOTTOM, clients, services }
}

/// The clients in their order: each one once, but the rest of a service port's clients is its own.
fn clients<'a>(services: &[ServiceBox<'a>]) -> Vec<ClientBox<'a>> {
    let mut all: BTreeMap<(String, Option<usize>), ClientBox<'a>> = BTreeMap::new();
    for (of, service) in services.iter().enumerate() {
        for (place, node) in service.service.clients.iter().enumerate() {
            let key = (node.label(), node.is_rest.then_some(of));
            let client =
                all.entry(key).or_insert_with(|| ClientBox { top: 0.0, node, edges: Vec::new() });
            client.edges.push((service.row(place), node.traffic));
        }
    }
    let mut clients: Vec<ClientBox<'a>> = all.into_values().collect();
    // Those at the same height keep the order of their names.
    clients.sort_by(|a, b| middle(a).total_cmp(&middle(b)));
    clients
}

/// The mean height of what a client connects to.
fn middle(client: &ClientBox<'_>) -> f64 {
    let sum: f64 = client.edges.iter().map(|(row, _)| row).sum();
    sum / client.edges.len().max(1) as f64
}

/// Puts each client as near to its edges as those above it allow. Returns where they end.
fn place(clients: &mut [ClientBox<'_>]) -> f64 {
    let mut next = TOP;
    for client in clients {
        client.top = (middle(client) - CLIENT_HEIGHT / 2.0).max(next).round();
        next = client.top + CLIENT_HEIGHT + GAP / 2.0;
    }
    (next - GAP / 2.0).max(TOP)
}
