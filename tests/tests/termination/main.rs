//! Sockets whose backend is gone are closed where their service asks for it, and no other socket is.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

#[path = "../common/mod.rs"]
mod common;

mod removed_backends;
