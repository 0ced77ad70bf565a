//! The scenes of the demo, one promise each.

pub(super) mod commands;
pub(super) mod connect;
pub(super) mod distribution;
pub(super) mod endpoint;
pub(super) mod exclusion;
pub(super) mod packets;
pub(super) mod refuse;
pub(super) mod wire;
