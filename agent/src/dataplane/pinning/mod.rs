//! The folder in bpffs where maps and links are pinned, which keeps the kernel state over restarts of the
//! agent.
//!
//! [`layout`] names the paths, [`lock`] takes the lock, [`removal`] removes pins, [`permissions`] gives them to root
//! alone, and [`held_maps`] keeps the pinned maps open, so that a pin that was removed can be made again.
//!
//! Invariants: one writer at a time, by an exclusive lock on the folder. Agents of different layout versions
//! never open each other's maps.

pub mod held_maps;
pub mod layout;
pub mod lock;
pub mod permissions;
pub mod removal;
