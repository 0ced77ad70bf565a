//! Kubernetes' own end-to-end specifications of services, on pods that are network namespaces.
//!
//! - Specifications, of services as such: `basic`, `ports`, `types`, `dual_stack`; of their addresses: `node_port`,
//!   `node_port_of_all_nodes`, `external_ip`, `load_balancer`; of the choice of endpoints: `endpoints`, `no_endpoints`,
//!   `affinity`, `traffic_policy`, `traffic_distribution`; of UDP while servers change: `udp_cycling`.
//! - The cluster that they run on: `kubernetes_cluster`, with `api_server`, `controller`, `pods` and `wires` (the network
//!   between nodes).
//! - Clients: `reach` (who answers), `prober` (UDP without a pause), `hammer` (TCP without a pause).
//! - `table` compares the table below with the tests.
//!
#![doc = include_str!("README.md")]
#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

mod affinity;
mod api_server;
mod basic;
mod controller;
mod dual_stack;
mod endpoints;
mod external_ip;
#[path = "../common/hammer.rs"]
mod hammer;
mod kubernetes_cluster;
mod load_balancer;
mod no_endpoints;
mod node_port;
mod node_port_of_all_nodes;
mod pods;
mod ports;
mod prober;
mod reach;
mod table;
mod traffic_distribution;
mod traffic_policy;
mod types;
mod udp_cycling;
mod wires;
