//! The parts that the programs are made of.

pub mod affinity;
pub mod agent_state;
pub mod balance;
pub mod config;
pub mod counters;
pub mod exclusion;
pub mod frontends;
pub mod helpers;
pub mod hook_context;
pub mod kernel_types;
pub mod namespaces;
pub mod overflow;
pub mod record;
pub mod sockets;
pub mod storage;
pub mod translate;
