//! The parts that the programs are made of: one mechanism in each file, and the maps beside the code that uses them.
//!
//! `programs.rs` has the hooks. Each calls one function in here:
//!
//! ```text
//! connect, sendmsg ──▶ translate ──▶ frontends      is the address a Service's?
//!                          │    ├──▶ exclusion      is the caller a pod that is excluded?
//!                          │    ├──▶ agent_state    agent gone? its own connection? ──▶ namespaces: excluded?
//!                          │    ├──▶ balance, affinity   which backend?
//!                          │    └──▶ counters       refused, bypassed, faults
//!                          ▼
//! recvmsg, getpeername ▶ sockets ──▶ socket_table, overflow, storage    where the record is
//!                          │    └──▶ flows          UDP flows that a new one ends
//!                          ▼
//! sock_release ───────▶ release ──▶ telemetry       how the connection ended
//! ```
//!
//! Files that others build on: [`hook_context`] (the context of a call, for IPv4 and IPv6), [`helpers`] (the kernel's
//! helpers in safe functions), [`record`] (a record and its owner word), [`config`] (globals that the agent sets before it
//! loads the programs), [`kernel_types`] (fields of the kernel's own structures).
//!
//! | file | maps |
//! |---|---|
//! | [`frontends`] | `FRONTENDS`, `FILTER` |
//! | [`balance`] | `SLOTS`, `BACKENDS` |
//! | [`affinity`] | `AFFINITY` |
//! | [`exclusion`] | `EXCLUDED`, `EXCLUDED_LEVELS` |
//! | [`namespaces`] | `NETWORK_NAMESPACES` |
//! | [`agent_state`] | `AGENT_STATE` |
//! | [`counters`] | `SERVICE_COUNTERS`, `FAULTS` |
//! | [`debug_log`] | `DEBUG_LOG` |
//! | [`socket_table`] | `SOCKETS` |
//! | [`overflow`] | `OVERFLOW`, `OVERFLOW_COUNTS` |
//! | [`storage`] | `UDP_STORAGE`, `TCP_STORAGE` |
//! | [`telemetry`] | `SERVICE_STATS`, `PARTLY_COUNTED`, `CLIENTS`, `CLIENT_TOTALS`, `EVENTS`, `EVENT_COUNTS` |
//!
//! Invariants: what cannot be found, read or kept leaves the call unchanged. A record lives exactly as long as its socket.
//! A value is checked after it was read, because the kernel or the agent may reuse its entry meanwhile. Programs that
//! branch on a feature read it from [`config`], so that the verifier removes the other branch.

pub mod affinity;
pub mod agent_state;
pub mod balance;
pub mod config;
pub mod counters;
pub mod debug_log;
pub mod exclusion;
pub mod flows;
pub mod frontends;
pub mod helpers;
pub mod hook_context;
pub mod kernel_types;
pub mod namespaces;
pub mod overflow;
pub mod record;
pub mod release;
pub mod socket_table;
pub mod sockets;
pub mod storage;
pub mod telemetry;
pub mod translate;
