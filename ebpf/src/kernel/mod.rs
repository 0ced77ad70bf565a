//! The parts that the programs are made of.

pub mod affinity;
pub mod agent_state;
pub mod balance;
pub mod call;
pub mod config;
pub mod counters;
pub mod frontends;
pub mod helpers;
pub mod kernel_types;
pub mod left_alone;
pub mod namespaces;
pub mod overflow;
pub mod record;
pub mod sockets;
pub mod storage;
pub mod translate;
