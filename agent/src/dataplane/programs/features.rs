//! The kernel features that programs are loaded for, probed once at the start.

pub use sockline_ebpf::agent::FeatureSet;
use tracing::Level;

use super::telemetry::SocketFields;
use crate::{
    bpf::probes::{
        self,
        kernel_types::{self, KernelTypes},
    },
    dataplane::error::DataplaneError,
    sock_destroy::{Method, diag, iterator::SocketIterators},
};

/// A kernel feature that has a fallback.
#[derive(Debug)]
pub struct Feature {
    pub flag: FeatureSet,
    /// The value of `--without-features`.
    pub name: &'static str,
    /// What the kernel has or lacks, and since when.
    pub what: &'static str,
    /// The consequence where it is missing. `None` if that alone has none.
    pub without: Option<&'static str>,
    /// The level of the message about it.
    pub level: Level,
}

/// All of them: what the log, `check` and `--without-features` say.
pub const FEATURES: [Feature; 8] = [
    Feature {
        flag: FeatureSet::SET_RETVAL,
        name: "set-retval",
        what: "bpf_set_retval (Linux 5.18)",
        without: Some("refusals are EPERM instead of ECONNREFUSED"),
        level: Level::WARN,
    },
    Feature {
        flag: FeatureSet::NETNS_COOKIE,
        name: "netns-cookie",
        what: "SO_NETNS_COOKIE (Linux 5.14)",
        without: Some("loopback NodePorts are served to the initial network namespace only"),
        level: Level::INFO,
    },
    Feature {
        flag: FeatureSet::MPTCP_SOCK,
        name: "mptcp-sock",
        what: "bpf_skc_to_mptcp_sock (Linux 6.0 with kernel BTF)",
        without: Some("the peer name of MPTCP sockets is the backend's"),
        level: Level::INFO,
    },
    Feature {
        flag: FeatureSet::KERNEL_SOCKETS,
        name: "kernel-sockets",
        what: "fields of its own sockets that programs may read (kernel BTF, CAP_PERFMON)",
        // Some 1,200 ns for each connection.
        without: Some(
            "the records of TCP sockets are in socket storage, which costs more for each connection \
             and cannot be searched, so sockline.dev/close-on-removal closes none",
        ),
        level: Level::INFO,
    },
    Feature {
        flag: FeatureSet::COMPARE_AND_SWAP,
        name: "compare-and-swap",
        what: "compare-and-swap in programs (Linux 5.12)",
        // Some 300 ns for each connection.
        without: Some("the records of sockets are in a hash, which costs more for each connection"),
        level: Level::INFO,
    },
    Feature {
        flag: FeatureSet::SOCK_DESTROY,
        name: "sock-destroy",
        what: "SOCK_DESTROY over netlink (Linux 4.9 with CONFIG_INET_DIAG_DESTROY)",
        without: Some("sockets of removed backends are closed by BPF iterators, if at all"),
        level: Level::INFO,
    },
    Feature {
        flag: FeatureSet::SOCK_ITERATOR,
        name: "sock-iterator",
        what: "bpf_sock_destroy in BPF iterators (Linux 6.5)",
        // Only looked for where SOCK_DESTROY is missing.
        without: None,
        level: Level::INFO,
    },
    Feature {
        flag: FeatureSet::SOCKET_FIELDS,
        name: "socket-fields",
        what: "fields of sockets that programs may read when these are closed (kernel BTF, CAP_PERFMON)",
        without: Some("connections are only counted when they are opened and closed"),
        level: Level::WARN,
    },
];

/// The features that `set` lacks and that have a consequence: the feature, and what follows.
pub fn missing(set: FeatureSet) -> impl Iterator<Item = (&'static Feature, &'static str)> {
    FEATURES
        .iter()
        .filter(move |feature| !set.contains(feature.flag))
        .filter_map(|feature| Some((feature, feature.without?)))
}

/// What the programs are set up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    pub set: FeatureSet,
    /// The cookie of this network namespace, see [`FeatureSet::NETNS_COOKIE`].
    pub netns_cookie: Option<u64>,
    /// Where programs read fields of sockets, see [`FeatureSet::KERNEL_SOCKETS`]. The kernel closes its own
    /// sockets without a hook.
    pub kernel_types: Option<KernelTypes>,
    /// Where programs read how a connection went, see [`FeatureSet::SOCKET_FIELDS`].
    pub socket_fields: Option<SocketFields>,
    /// The kernel describes its own types (`/sys/kernel/btf/vmlinux`).
    pub kernel_btf: bool,
}

impl Features {
    /// Probes the kernel. Features in `unwanted` count as missing, as on an older kernel.
    ///
    /// # Errors
    /// When the kernel's answer to a question was neither yes nor no.
    pub fn probe_without(unwanted: FeatureSet) -> Result<Self, DataplaneError> {
        let is_wanted = |flag| !unwanted.contains(flag);
        let netns_cookie = probes::netns_cookie()?.filter(|_| is_wanted(FeatureSet::NETNS_COOKIE));
        let kernel_types =
            probes::kernel_sockets()?.filter(|_| is_wanted(FeatureSet::KERNEL_SOCKETS));
        let socket_fields = SocketFields::probe()?.filter(|_| is_wanted(FeatureSet::SOCKET_FIELDS));
        let sock_destroy = is_wanted(FeatureSet::SOCK_DESTROY) && diag::probe_destroy();
        let found = [
            (FeatureSet::SET_RETVAL, probes::set_retval()?),
            (FeatureSet::NETNS_COOKIE, netns_cookie.is_some()),
            (FeatureSet::MPTCP_SOCK, probes::mptcp_sock()?),
            (FeatureSet::KERNEL_SOCKETS, kernel_types.is_some()),
            (FeatureSet::COMPARE_AND_SWAP, probes::compare_and_swap()?),
            (FeatureSet::SOCK_DESTROY, sock_destroy),
            (FeatureSet::SOCKET_FIELDS, socket_fields.is_some()),
            (
                FeatureSet::SOCK_ITERATOR,
                !sock_destroy && is_wanted(FeatureSet::SOCK_ITERATOR) && has_sock_iterator(),
            ),
        ];
        let set: FeatureSet =
            found.into_iter().filter(|(_, has)| *has).map(|(flag, _)| flag).collect();
        let kernel_btf = std::path::Path::new(kernel_types::PATH).exists();
        Ok(Self { set: set - unwanted, netns_cookie, kernel_types, socket_fields, kernel_btf })
    }

    #[must_use]
    pub const fn has(&self, flag: FeatureSet) -> bool {
        self.set.contains(flag)
    }

    /// How sockets whose backend is gone can be closed.
    #[must_use]
    pub const fn termination_method(&self) -> Option<Method> {
        if self.has(FeatureSet::SOCK_DESTROY) {
            Some(Method::SockDestroy)
        } else if self.has(FeatureSet::SOCK_ITERATOR) {
            Some(Method::Iterator)
        } else {
            None
        }
    }
}

fn has_sock_iterator() -> bool {
    match SocketIterators::load() {
        Ok(_) => true,
        Err(error) => {
            tracing::debug!("{:#}", anyhow::Error::from(error));
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_feature_has_one_row() {
        for flag in FeatureSet::all() {
            let rows = FEATURES.iter().filter(|feature| feature.flag == flag).count();
            assert_eq!(rows, 1, "{flag:?}");
        }
    }
}
