//! Kubernetes objects in, the desired frontends and backends out. Pure: no I/O, no async, no
//! kernel, no Kubernetes client.

pub mod object;
pub mod plan;
