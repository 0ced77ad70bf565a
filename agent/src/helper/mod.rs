//! The helper process, which keeps the capabilities that the agent drops: it enters network namespaces,
//! closes and reads sockets there, and mounts the BPF file system again.
//!
//! Entering another network namespace takes CAP_SYS_ADMIN. The agent parses input from other sources,
//! so it does not keep that capability. The helper, a process of the same binary, keeps it and only answers bounded,
//! typed requests over a socket pair. Between the two is a supervisor, the helper's parent: it keeps the capabilities too,
//! and starts the helper again on the agent's command.
//!
//! `termination/`, the agent's count of open connections, its search of nested namespaces and its mount of the BPF file
//! system call [`client`]. [`serve`] is the helper, [`supervisor`] the process between the two, [`message`] their protocol;
//! [`close`] searches sockets in the network namespaces that [`namespaces`] visits, and closes them with
//! [`crate::sock_destroy`]; [`read`] reads what the kernel has counted of connections there.
//!
//! Invariants: both processes end with the agent. The helper reads nothing but requests and `/proc`.

mod client;
mod close;
mod message;
mod namespaces;
mod read;
mod serve;
mod supervisor;

pub use self::{
    client::{Helper, HelperError, State},
    message::{
        Action, CloseTarget, Coverage, Handshake, MAX_SOCKETS, Outcome, ReadConnection, Response,
        SearchScope, Wanted,
    },
    serve::{Setup, serve},
    supervisor::supervise,
};
