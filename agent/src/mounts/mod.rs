//! Finds cgroup v2 and the BPF file system, and mounts them if needed.
//!
//! Called by the agent at its start, by the helper (which mounts the BPF file system again after it was
//! unmounted, and finds network namespaces in the mount table) and by commands that only read. Uses nothing of
//! this crate.
//!
//! Invariant: functions `…_for_reading` mount nothing and create no folder.

mod bpffs;
mod cgroup;
mod file_system;
pub mod table;

pub use self::{
    bpffs::{bpffs, bpffs_for_reading, mount_point_of, remount_bpffs},
    cgroup::{cgroup, cgroup_for_reading},
    file_system::MountError,
};
