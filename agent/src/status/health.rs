//! The source, the kernel's features, and whether map entries can be reclaimed.

use std::{fmt, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::dataplane::{FeatureSet, Features, RcuSupport};

/// Where the objects come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "type")]
pub enum Source {
    /// A folder of manifests.
    Manifests {
        /// The folder.
        folder: PathBuf,
    },
    /// The Kubernetes API.
    Kubernetes {
        /// The kubeconfig file; absent if the agent is configured as a pod of its cluster.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kubeconfig: Option<PathBuf>,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifests { folder } => write!(f, "manifests in {}", folder.display()),
            Self::Kubernetes { kubeconfig: Some(file) } => {
                write!(f, "Kubernetes API of {}", file.display())
            }
            Self::Kubernetes { kubeconfig: None } => f.write_str("Kubernetes API of this cluster"),
        }
    }
}

/// When bytes and retransmissions of TCP connections are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BytesCounted {
    /// Those of long connections from time to time, the rest when they end.
    WhileOpen,
    /// When they end, if at all: `--telemetry=off`, a feature that the kernel lacks, or no helper process.
    AtEnd,
}

/// Whether the agent can wait for running programs, as of its last attempt.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Reclaim {
    /// They are reclaimed.
    Works,
    /// They are not, so that the maps fill up.
    Fails {
        /// Why.
        message: String,
    },
    /// The last attempt failed, for a reason that may pass.
    #[serde(rename = "unknown")]
    CannotTell {
        /// Why.
        message: String,
    },
    /// Nothing was freed yet.
    #[default]
    NotTried,
}

impl From<RcuSupport> for Reclaim {
    fn from(rcu_support: RcuSupport) -> Self {
        match rcu_support {
            RcuSupport::Supported => Self::Works,
            RcuSupport::Unsupported(message) => Self::Fails { message },
            RcuSupport::Unknown(message) => Self::CannotTell { message },
        }
    }
}

/// The features of the status. A test compares them with the table of features.
macro_rules! kernel_features {
    ($($(#[$doc:meta])+ $name:ident: $flag:ident,)+) => {
        /// What the agent found and uses.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "camelCase")]
        pub struct KernelFeatures {
            $($(#[$doc])+ pub $name: bool,)+
            /// The kernel describes its own types (`/sys/kernel/btf/vmlinux`).
            pub kernel_btf: bool,
        }

        impl From<Features> for KernelFeatures {
            fn from(features: Features) -> Self {
                Self {
                    $($name: features.has(FeatureSet::$flag),)+
                    kernel_btf: features.kernel_btf,
                }
            }
        }
    };
}

kernel_features! {
    /// Refused calls fail with ECONNREFUSED and not EPERM (`bpf_set_retval`, Linux 5.18).
    set_retval: SET_RETVAL,
    /// NodePorts on loopback are served in the agent's network namespace (`SO_NETNS_COOKIE`, Linux 5.14), and not in
    /// the initial one.
    netns_cookie: NETNS_COOKIE,
    /// `getpeername()` on an MPTCP socket returns the Service's address (`bpf_skc_to_mptcp_sock`, Linux 6.0), and not
    /// the endpoint's.
    mptcp_sock: MPTCP_SOCK,
    /// The programs can identify the kernel's own sockets (kernel BTF), so that TCP sockets have records in the table.
    kernel_sockets: KERNEL_SOCKETS,
    /// The programs can compare and swap (Linux 5.12), so that records of sockets are in the table.
    compare_and_swap: COMPARE_AND_SWAP,
    /// Sockets can be closed over netlink (`SOCK_DESTROY`).
    sock_destroy: SOCK_DESTROY,
    /// The programs can read from a socket that is closed how its connection went.
    socket_fields: SOCKET_FIELDS,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::FEATURES;

    #[test]
    fn every_feature_of_the_table_is_in_the_status() {
        let features = Features {
            set: FeatureSet::all(),
            netns_cookie: None,
            kernel_types: None,
            socket_fields: None,
            kernel_btf: false,
        };
        let status = serde_json::to_value(KernelFeatures::from(features)).unwrap();
        for feature in FEATURES {
            let mut words = feature.name.split('-');
            let mut name = words.next().unwrap_or_default().to_owned();
            for word in words {
                name.push_str(&word[..1].to_uppercase());
                name.push_str(&word[1..]);
            }
            // Only looked for where SOCK_DESTROY is missing; `Termination` has the method.
            if feature.flag != FeatureSet::SOCK_ITERATOR {
                assert_eq!(status[&name], true, "{name}: {status}");
            }
        }
    }
}
