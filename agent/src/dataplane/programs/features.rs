//! The kernel features that programs are loaded for, probed once at the start.

use sockline_ebpf::agent::{
    COMPARE_AND_SWAP, KERNEL_SOCKETS, MPTCP_SOCK, NETNS_COOKIE, SET_RETVAL, SOCK_DESTROY,
};

use crate::{
    bpf::probes::{
        self,
        kernel_types::{self, KernelTypes},
    },
    dataplane::error::DataplaneError,
    sock_destroy::{Method, diag, iterator::SocketIterators},
};

/// A kernel feature that has a fallback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Feature {
    SetRetval,
    NetnsCookie,
    MptcpSock,
    KernelSockets,
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
    /// Where the kernel says of a socket that it made it itself, which programs may read with kernel
    /// BTF: those are closed without a hook. Without it, TCP sockets are remembered in socket storage,
    /// which ends by itself, costs about 1,200 ns more per connection and cannot be searched.
    pub kernel_sockets: Option<KernelTypes>,
    /// Programs may compare and swap (Linux 5.12); without it, sockets are remembered in the overflow
    /// hash only, which costs some 300 ns more per connection.
    pub compare_and_swap: bool,
    /// Sockets can be closed over netlink (`SOCK_DESTROY` of TCP and UDP: Linux 4.9 with
    /// CONFIG_INET_DIAG_DESTROY); without it, BPF iterators do so.
    pub sock_destroy: bool,
    /// BPF iterators can close sockets (`bpf_sock_destroy`, Linux 6.5). Only looked for where
    /// `sock_destroy` is missing; without either, sockets stay with a backend that is gone.
    pub sock_iterator: bool,
    /// The kernel describes its own types (`/sys/kernel/btf/vmlinux`).
    pub kernel_btf: bool,
}

impl Features {
    /// Probes the kernel. Features in `unwanted` count as missing, as on an older kernel.
    ///
    /// # Errors
    /// When the kernel's answer to a question was neither yes nor no.
    pub fn probe_without(unwanted: &[Feature]) -> Result<Self, DataplaneError> {
        let mut features = Self {
            set_retval: probes::set_retval()?,
            netns_cookie: probes::netns_cookie()?,
            mptcp_sock: probes::mptcp_sock()?,
            kernel_sockets: probes::kernel_sockets()?,
            compare_and_swap: probes::compare_and_swap()?,
            sock_destroy: diag::probe_destroy(),
            sock_iterator: false,
            kernel_btf: std::path::Path::new(kernel_types::PATH).exists(),
        };
        for feature in unwanted {
            match feature {
                Feature::SetRetval => features.set_retval = false,
                Feature::NetnsCookie => features.netns_cookie = None,
                Feature::MptcpSock => features.mptcp_sock = false,
                Feature::KernelSockets => features.kernel_sockets = None,
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
        Ok(features)
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

    /// As in the agent's record.
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
        if self.kernel_sockets.is_some() {
            bits |= KERNEL_SOCKETS;
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
