//! Kubernetes' own end-to-end specifications of services, on pods that are network namespaces.
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
