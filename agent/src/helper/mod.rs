//! The process beside the agent that may do what the agent gives up: enter network namespaces, and
//! close sockets in them.
//!
//! Entering another network namespace takes CAP_SYS_ADMIN. A process of the agent's own binary keeps it
//! and does nothing but answer bounded, typed requests over a socket pair; the agent, which reads what
//! others write, has no need of it then. Between the two is a supervisor, the helper's parent, which
//! keeps the rights as well and starts the helper again when the agent says so. Both end with the agent.

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
