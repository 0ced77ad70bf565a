//! Whose calls are excluded: those of processes in the cgroups of some pods.
//!
//! A call is compared with the cgroups above its process, so that it does not matter when a
//! container of the pod was started.

/// Entries that the hash of cgroup ids may have. A kubelet runs 110 pods unless told otherwise;
/// memory follows use.
pub const CGROUPS: u32 = 16_384;

/// The deepest level of the cgroup hierarchy that is looked at; the root's is 0. The kubelet's are
/// 2 and 3, and some more where a node is a container itself.
pub const MAX_LEVEL: u32 = 15;

/// All levels that are looked at, one bit for each: what is meant by a cgroup whose level is not
/// known.
pub const ANY_LEVEL: u32 = (1 << (MAX_LEVEL + 1)) - 2;
