//! What the running kernel has, probed once at start.

use sockline_ebpf::agent::{COMPARE_AND_SWAP, MPTCP_SOCK, NETNS_COOKIE, SET_RETVAL, SOCK_DESTROY};

use super::{iterator::SocketIterators, sys};
use crate::helper::{self, Method};

/// A kernel feature that can be done without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Feature {
    SetRetval,
    NetnsCookie,
    MptcpSock,
    CompareAndSwap,
    SockDestroy,
    SockIterator,
}

/// Kernel features that the programs are set up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// Refusals are ECONNREFUSED and not EPERM (`bpf_set_retval`, Linux 5.18).
    pub set_retval: bool,
    /// The cookie of this network namespace (`SO_NETNS_COOKIE`, Linux 5.14); without it, NodePorts
    /// on loopback are served to the initial network namespace.
    pub netns_cookie: Option<u64>,
    /// The connection of an MPTCP subflow can be found (`bpf_skc_to_mptcp_sock`, Linux 6.0 with
    /// kernel BTF); without it, the peer name of MPTCP sockets is the backend's.
    pub mptcp_sock: bool,
    /// Programs may compare and swap (Linux 5.12); without it, sockets are remembered in socket
    /// storage only, which costs about 1,400 ns more per connection.
    pub compare_and_swap: bool,
    /// Sockets can be closed over netlink (`SOCK_DESTROY` of TCP and UDP: Linux 4.9 with
    /// CONFIG_INET_DIAG_DESTROY); without it, BPF iterators do so.
    pub sock_destroy: bool,
    /// BPF iterators can close sockets (`bpf_sock_destroy`, Linux 6.5). Only looked for where
    /// `sock_destroy` is missing; without either, sockets stay with a backend that is gone.
    pub sock_iterator: bool,
    /// The kernel describes its own types (`/sys/kernel/btf/vmlinux`). Sockline does not need it.
    pub kernel_btf: bool,
}

impl Features {
    #[must_use]
    pub fn probe() -> Self {
        Self {
            set_retval: sys::has_set_retval(),
            netns_cookie: sys::netns_cookie().ok(),
            mptcp_sock: sys::has_mptcp_sock(),
            compare_and_swap: sys::has_compare_and_swap(),
            sock_destroy: helper::probe_destroy(),
            sock_iterator: false,
            kernel_btf: std::path::Path::new("/sys/kernel/btf/vmlinux").exists(),
        }
    }

    /// As [`Self::probe`], but without these, as if the kernel were older.
    #[must_use]
    pub fn probe_without(unwanted: &[Feature]) -> Self {
        let mut features = Self::probe();
        for feature in unwanted {
            match feature {
                Feature::SetRetval => features.set_retval = false,
                Feature::NetnsCookie => features.netns_cookie = None,
                Feature::MptcpSock => features.mptcp_sock = false,
                Feature::CompareAndSwap => features.compare_and_swap = false,
                Feature::SockDestroy => features.sock_destroy = false,
                Feature::SockIterator => {}
            }
        }
        if !features.sock_destroy && !unwanted.contains(&Feature::SockIterator) {
            features.sock_iterator = match SocketIterators::load() {
                Ok(_) => true,
                Err(error) => {
                    tracing::debug!("{:#}", anyhow::Error::from(error));
                    false
                }
            };
        }
        features
    }

    /// How sockets whose backend is gone can be closed.
    #[must_use]
    pub const fn closing(self) -> Option<Method> {
        if self.sock_destroy {
            Some(Method::SockDestroy)
        } else if self.sock_iterator {
            Some(Method::Iterator)
        } else {
            None
        }
    }

    /// As the agent notes it in the kernel.
    #[must_use]
    pub const fn bits(self) -> u32 {
        let mut bits = 0;
        if self.set_retval {
            bits |= SET_RETVAL;
        }
        if self.netns_cookie.is_some() {
            bits |= NETNS_COOKIE;
        }
        if self.mptcp_sock {
            bits |= MPTCP_SOCK;
        }
        if self.compare_and_swap {
            bits |= COMPARE_AND_SWAP;
        }
        if self.sock_destroy {
            bits |= SOCK_DESTROY;
        }
        bits
    }
}
