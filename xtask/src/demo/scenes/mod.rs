//! The scenes of the demo, one promise each.
//!
//! `demo` calls them in order, on one cluster. A scene fails if what it shows is not so.

pub(super) mod commands;
pub(super) mod connect;
pub(super) mod distribution;
pub(super) mod endpoint;
pub(super) mod exclusion;
pub(super) mod packets;
pub(super) mod refuse;
pub(super) mod wire;
