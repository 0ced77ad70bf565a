//! What can fail between the agent and the kernel. This module does no I/O: callers pass what they know.

use std::{io, path::PathBuf};

use aya::maps::MapError;

use crate::{
    bpf::{
        error::{BpfError, Full},
        probes::CannotTell,
    },
    mounts::MountError,
};

#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    #[error(transparent)]
    Bpf(#[from] BpfError),
    /// There is room, but no free range is large enough.
    #[error("map `{map}` has no {wanted} free entries in a row: its limit is {limit}")]
    Fragmented { map: &'static str, wanted: u32, limit: u32 },
    #[error("cannot load the kernel programs")]
    Load(#[source] Box<aya::EbpfError>),
    #[error("the kernel does not accept program `{program}`: {reason}")]
    Program { program: &'static str, reason: String, source: Box<aya::programs::ProgramError> },
    #[error(
        "another sockline agent{} already manages {}; stop it first, or give this one its own --bpf-root",
        .pid.map(|pid| format!(" (process {pid})")).unwrap_or_default(),
        .directory.display()
    )]
    InUse { directory: PathBuf, pid: Option<u32> },
    #[error(transparent)]
    CannotTell(#[from] CannotTell),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error("{0}")]
    Unsupported(String),
    #[error("nothing of sockline is pinned in {}", .0.display())]
    NotInstalled(PathBuf),
}

impl From<Full> for DataplaneError {
    fn from(full: Full) -> Self {
        Self::Bpf(full.into())
    }
}

impl DataplaneError {
    pub(super) fn map(map: &'static str, action: &'static str, error: MapError) -> Self {
        BpfError::map(map, action, error).into()
    }

    pub(super) fn write(map: &'static str, limit: u32, error: MapError) -> Self {
        BpfError::write(map, limit, error).into()
    }

    pub(super) fn io(action: impl Into<String>, source: io::Error) -> Self {
        BpfError::io(action, source).into()
    }

    /// Whether only room is missing: the same call may succeed later.
    #[must_use]
    pub const fn is_out_of_room(&self) -> bool {
        match self {
            Self::Bpf(error) => error.is_out_of_room(),
            Self::Fragmented { .. } => true,
            _ => false,
        }
    }
}
