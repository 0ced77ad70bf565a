//! The process beside the agent with the rights that the agent gives up: it enters network namespaces and
//! closes sockets there, and mounts the BPF file system again.
//!
//! Entering another network namespace takes CAP_SYS_ADMIN. The agent reads what others write, so it does not
//! keep that capability. The helper, a process of the same binary, keeps it and only answers bounded, typed
//! requests over a socket pair. Between the two is a supervisor, the helper's parent: it keeps the rights too,
//! and starts the helper again when the agent asks for it.
//!
//! [`client`] is the agent's side, [`serve`] the helper's, [`supervisor`] the process between them, [`message`]
//! what they exchange; [`close`] searches sockets in the network namespaces that [`namespaces`] visits, and
//! closes them with [`crate::sock_destroy`].
//!
//! Invariants: both processes end with the agent. The helper reads nothing but requests and `/proc`.

mod client;
mod close;
mod message;
mod namespaces;
mod serve;
mod supervisor;

pub use self::{
    client::{Helper, HelperError, State},
    message::{Action, Answer, CloseTarget, Coverage, MAX_SOCKETS, Outcome},
    serve::{Setup, serve},
    supervisor::supervise,
};
