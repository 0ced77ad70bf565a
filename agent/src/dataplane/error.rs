//! What can go wrong between the agent and the kernel.

use std::{io, path::PathBuf};

use aya::maps::MapError;

use crate::{
    bpf::probes::CannotTell,
    dataplane::{maps::agent_record::Record, pinning::layout::Pins},
};

/// A map has no room. Costs only the service that did not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("map `{map}` is full: its limit is {limit} entries")]
pub struct Full {
    pub map: &'static str,
    pub limit: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    #[error(transparent)]
    Full(#[from] Full),
    /// There is room, but in pieces that are too small.
    #[error("map `{map}` has no {wanted} free entries in a row: its limit is {limit}")]
    InPieces { map: &'static str, wanted: u32, limit: u32 },
    #[error("the kernel has no memory for map `{map}`")]
    NoMemory { map: &'static str },
    #[error("cannot {action} map `{map}`")]
    Map { map: &'static str, action: &'static str, source: Box<MapError> },
    #[error("cannot {action}")]
    Io { action: String, source: io::Error },
    #[error("cannot load the kernel programs")]
    Load(#[source] Box<aya::EbpfError>),
    #[error("the kernel does not accept program `{program}`: {reason}")]
    Program { program: &'static str, reason: String, source: Box<aya::programs::ProgramError> },
    #[error(
        "another sockline agent{} already manages {}; stop it first, or give this one its own --bpffs",
        .pid.map(|pid| format!(" (process {pid})")).unwrap_or_default(),
        .directory.display()
    )]
    InUse { directory: PathBuf, pid: Option<u32> },
    #[error(transparent)]
    CannotTell(#[from] CannotTell),
    #[error("{0}")]
    Unsupported(String),
    #[error("nothing of sockline is pinned in {}", .0.display())]
    NotInstalled(PathBuf),
}

impl DataplaneError {
    pub(crate) fn map(map: &'static str, action: &'static str, error: MapError) -> Self {
        if is_for_want_of_memory(&error) {
            return Self::NoMemory { map };
        }
        Self::Map { map, action, source: Box::new(error) }
    }

    /// A write to a map that may have `limit` entries failed, perhaps for want of room.
    pub(crate) fn write(map: &'static str, limit: u32, error: MapError) -> Self {
        if os_error(&error) == Some(libc::E2BIG) {
            Full { map, limit }.into()
        } else {
            Self::map(map, "write", error)
        }
    }

    /// Whether it is only room that is lacking: the same may succeed later.
    #[must_use]
    pub const fn is_for_want_of_room(&self) -> bool {
        matches!(self, Self::Full(_) | Self::InPieces { .. } | Self::NoMemory { .. })
    }

    /// Another agent, of whichever layout, holds the lock.
    pub(crate) fn in_use(pins: &Pins) -> Self {
        // In another process namespace, it is known only by what it noted of itself.
        let noted = || Record::read(pins).ok().map(|record| record.pid);
        Self::InUse { directory: pins.root().to_owned(), pid: pins.holder().or_else(noted) }
    }

    pub(crate) fn io(action: impl Into<String>, source: io::Error) -> Self {
        Self::Io { action: action.into(), source }
    }
}

pub(crate) fn is_for_want_of_memory(error: &MapError) -> bool {
    os_error(error) == Some(libc::ENOMEM)
}

/// What the kernel said.
fn os_error(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(error) => error.io_error.raw_os_error(),
        MapError::CreateError { io_error, .. } => io_error.raw_os_error(),
        _ => None,
    }
}
