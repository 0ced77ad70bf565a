//! Pods as network namespaces on the real kernel, for the end-to-end tests and the demo.
//!
//! A [`Node`] is a private machine: a network namespace in the role of the host's, its own cgroup v2, a
//! folder in bpffs and a folder for manifests. A [`Pod`] is a namespace behind a veth pair. Both are an
//! [`Ns`], which runs closures and child processes inside. No two tests share a name, and everything is
//! removed when the values are dropped.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use sockline_testbed::Node;
//!
//! let node = Node::new()?;
//! let web = node.pod("web-0", &["10.244.1.1".parse()?])?;
//! let client = node.pod("client", &["10.244.1.2".parse()?])?;
//! let _server = web.tcp_server(80)?;
//! let reply = client.tcp_ask("10.244.1.1:80".parse()?)?;
//! assert_eq!(reply.who, "web-0");
//! # Ok(())
//! # }
//! ```
//!
//! Files by subject:
//!
//! - The node: `node` with its `node_parts`, `pod`, `ns` (a network namespace), `cgroup` and `pod_cgroup`, `bpffs`,
//!   `iproute` (its network).
//! - What a node starts with: `cluster` (a node with its agent), `fixtures` (with services and a client).
//! - The agent: `agent` (as a process), [`strace`] (the same, killed or delayed at a system call).
//! - Kubernetes: [`objects`], [`api`] (a stand-in for the API server), [`kustomize`].
//! - Traffic: `server`, `client`, `socket`, `capture` (packets).
//! - What is read: [`bpf`] (maps of any layout), `metrics` and `http`, `prometheus`, `mounts`, `kernel` (its features).
//! - Each test: `requirements` (checked first), `owner` (what an earlier run left), `wait` (for a condition).

mod agent;
pub mod api;
pub mod bpf;
mod bpffs;
mod capture;
mod cgroup;
mod client;
mod cluster;
mod fixtures;
mod http;
mod iproute;
mod kernel;
pub mod kustomize;
mod metrics;
mod mounts;
mod node;
mod node_parts;
mod ns;
pub mod objects;
mod owner;
mod pod;
mod pod_cgroup;
mod prometheus;
mod requirements;
mod server;
mod socket;
pub mod strace;
mod wait;

pub use agent::{Agent, AgentCgroup, AgentOptions, Build, sockline_binary};
pub use capture::{Capture, Flow, Protocol};
pub use client::{Reply, UdpClient, UdpReply, tcp_ask};
pub use cluster::{Cluster, Counts};
pub use fixtures::{DnsPods, TwoServices, WebAndEmptyService, WebCluster};
pub use http::{HttpReply, http_get};
pub use kernel::{KernelFeatures, kernel_version};
pub use metrics::Metrics;
pub use node::Node;
pub use ns::{Ns, Task};
pub use objects::{Endpoint, Service};
pub use pod::Pod;
pub use pod_cgroup::PodCgroup;
pub use prometheus::{Prometheus, promtool};
pub use server::{TcpServer, UdpServer};
pub use socket::{Socket, at, mapped, to_std};
pub use wait::{ANSWER_TIMEOUT, DEADLINE, patience, repetitions, wait_ok, wait_until};
