//! The sections of the demo, one promise each.

pub(super) mod dial;
pub(super) mod endpoint;
pub(super) mod exclusion;
pub(super) mod packets;
pub(super) mod refuse;
pub(super) mod spread;
pub(super) mod views;
pub(super) mod wire;
