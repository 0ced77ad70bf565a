//! The agent's own account of itself, over a UNIX socket: `GET /status`.

mod client;
mod server;

pub use self::{client::status, server::Server};

/// Where the socket is unless `--admin-socket` says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/sockline/admin.sock";
