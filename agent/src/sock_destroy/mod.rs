//! How the kernel closes a socket for its application: over netlink ([`diag`]), or in a BPF iterator
//! ([`iterator`]).
//!
//! [`crate::dataplane`] probes which of them the kernel has, [`crate::helper`] uses it.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub mod diag;
pub mod iterator;

/// How sockets are closed.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// `SOCK_DESTROY` over netlink (Linux 4.9 with CONFIG_INET_DIAG_DESTROY).
    SockDestroy,
    /// `bpf_sock_destroy` in BPF iterators (Linux 6.5).
    Iterator,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SockDestroy => "sock-destroy",
            Self::Iterator => "iterator",
        })
    }
}
