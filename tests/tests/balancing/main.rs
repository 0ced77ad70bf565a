//! Connections spread over all endpoints of a service, and session affinity keeps a client at one of them.
//!
//! Changes of the endpoints under load cost no connection.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

mod affinity;
mod changes;
mod spread;
