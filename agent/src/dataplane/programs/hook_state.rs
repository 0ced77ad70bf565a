//! The state of the hooks: which program is linked, and which programs run.

use std::{collections::BTreeMap, io, os::fd::AsFd as _, path::Path};

use super::{links::open_cgroup, load::HOOKS};
use crate::{
    bpf::{pin, syscall},
    dataplane::{error::DataplaneError, pinning::layout::Pins},
};

/// One hook as the kernel has it.
#[derive(Debug)]
pub struct HookState {
    pub hook: &'static str,
    /// The name that our program has in the kernel, which keeps 15 characters.
    pub program_name: String,
    /// The pinned link: the program in it, and the id of the cgroup that it is attached to (0: that
    /// is gone, or the link was detached).
    pub link: Option<(u32, u64)>,
    /// The programs that run for a socket in the cgroup, in this order, also those of the cgroups
    /// above it.
    pub effective: Vec<u32>,
}

/// A loaded program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedProgram {
    pub name: String,
    /// A hash of its instructions.
    pub tag: [u8; 8],
}

/// The state of every hook of a cgroup, and the cgroup's id.
pub fn hooks(pins: &Pins, cgroup: &Path) -> Result<(u64, Vec<HookState>), DataplaneError> {
    let (directory, id) = open_cgroup(cgroup)?;
    let hooks = HOOKS
        .iter()
        .map(|hook| {
            let failed = |what: &str, error: io::Error| {
                DataplaneError::io(format!("{what} {}", hook.name), error)
            };
            let link = pin::open_link(&pins.link(hook.name))?;
            let link = link.map(|(_, info)| (info.program, info.cgroup));
            let effective = syscall::effective_programs(directory.as_fd(), hook.attach_type)
                .map_err(|error| failed("list the programs on", error))?;
            let program_name = hook.function.chars().take(syscall::PROGRAM_NAME).collect();
            Ok(HookState { hook: hook.name, program_name, link, effective })
        })
        .collect::<Result<_, DataplaneError>>()?;
    Ok((id, hooks))
}

/// Loaded programs by id, without those that were unloaded meanwhile.
pub fn programs_by_id(ids: impl IntoIterator<Item = u32>) -> BTreeMap<u32, LoadedProgram> {
    ids.into_iter()
        .filter_map(|id| {
            let (name, tag) = syscall::program_info(id).ok()?;
            Some((id, LoadedProgram { name, tag }))
        })
        .collect()
}
