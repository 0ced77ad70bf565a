//! The process beside the agent that may do what the agent gives up: enter network namespaces, and
//! close sockets in them.
//!
//! Entering another network namespace takes CAP_SYS_ADMIN. A child process of the agent's own binary
//! keeps it and does nothing but answer bounded, typed requests over a socket pair; the agent, which
//! reads what others write, has no need of it then. The helper ends with the agent.

mod client;
mod close;
mod diag;
mod message;
mod namespaces;
mod serve;

pub use self::{
    client::{Helper, HelperError},
    diag::probe_destroy,
    message::{Action, Answer, MAX_SOCKETS, Method, Outcome, Reach, Wanted},
    serve::{Setup, serve},
};
