//! The source, the kernel's features, and whether map entries can be reclaimed.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::dataplane::{Features, RcuSupport};

/// Where the objects come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "type")]
pub enum Source {
    Manifests {
        folder: PathBuf,
    },
    Kubernetes {
        /// `None` as a pod of the cluster.
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

/// Whether the agent can wait for running programs, as of its last attempt.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "message")]
pub enum Reclaim {
    Works,
    Fails(String),
    #[serde(rename = "unknown")]
    CannotTell(String),
    #[default]
    NotTried,
}

impl From<RcuSupport> for Reclaim {
    fn from(rcu_support: RcuSupport) -> Self {
        match rcu_support {
            RcuSupport::Supported => Self::Works,
            RcuSupport::Unsupported(why) => Self::Fails(why),
            RcuSupport::Unknown(why) => Self::CannotTell(why),
        }
    }
}

/// What the agent found and uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KernelFeatures {
    pub set_retval: bool,
    pub netns_cookie: bool,
    pub mptcp_sock: bool,
    pub kernel_sockets: bool,
    pub compare_and_swap: bool,
    pub sock_destroy: bool,
    pub kernel_btf: bool,
}

impl From<Features> for KernelFeatures {
    fn from(features: Features) -> Self {
        Self {
            set_retval: features.set_retval,
            netns_cookie: features.netns_cookie.is_some(),
            mptcp_sock: features.mptcp_sock,
            kernel_sockets: features.kernel_sockets.is_some(),
            compare_and_swap: features.compare_and_swap,
            sock_destroy: features.sock_destroy,
            kernel_btf: features.kernel_btf,
        }
    }
}
