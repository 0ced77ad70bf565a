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
    Bpf(BpfError),
    #[error("{0}{option}", option = option_of(.0.map))]
    Full(Full),
    /// There is room, but no free range is large enough.
    #[error("map `{map}` has no {wanted} free entries in a row: its limit is {limit}{}", option_of(.map))]
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
    #[error(
        "nothing of sockline is pinned in {}: start an agent, or pass the --bpf-root of the one that runs",
        .0.display()
    )]
    NotInstalled(PathBuf),
}

impl From<BpfError> for DataplaneError {
    fn from(error: BpfError) -> Self {
        match error {
            BpfError::Full(full) => Self::Full(full),
            error => Self::Bpf(error),
        }
    }
}

impl From<Full> for DataplaneError {
    fn from(full: Full) -> Self {
        Self::Full(full)
    }
}

/// The option of the agent that sets the limit of a map, as the end of a message about it.
fn option_of(map: &str) -> &'static str {
    match map {
        "FRONTENDS" | "SERVICE_NAMES" | "REMOVED_BACKENDS" | "CARRIED_COUNTS" => {
            " (--max-frontends)"
        }
        "BACKENDS" => " (--max-backends)",
        "SLOTS" => " (--max-slots)",
        _ => "",
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
            Self::Full(_) | Self::Fragmented { .. } => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::maps::{
        BACKENDS, CARRIED_COUNTS, EXCLUDED, FRONTENDS, REMOVED_BACKENDS, SERVICE_NAMES, SLOTS,
    };

    #[test]
    fn a_full_map_is_named_with_the_option_that_sets_its_limit() {
        for (map, option) in [
            (FRONTENDS, " (--max-frontends)"),
            (SERVICE_NAMES, " (--max-frontends)"),
            (REMOVED_BACKENDS, " (--max-frontends)"),
            (CARRIED_COUNTS, " (--max-frontends)"),
            (BACKENDS, " (--max-backends)"),
            (SLOTS, " (--max-slots)"),
            (EXCLUDED, ""),
        ] {
            let expected = format!("map `{map}` is full: its limit is 8 entries{option}");
            let full = Full { map, limit: 8 };
            let errors = [full.clone().into(), BpfError::from(full).into()];
            for error in errors {
                let error: DataplaneError = error;
                assert_eq!(error.to_string(), expected);
                assert!(error.is_out_of_room(), "{error}");
            }
        }
        let fragmented = DataplaneError::Fragmented { map: SLOTS, wanted: 3, limit: 8 };
        assert_eq!(
            fragmented.to_string(),
            "map `SLOTS` has no 3 free entries in a row: its limit is 8 (--max-slots)"
        );
    }
}
