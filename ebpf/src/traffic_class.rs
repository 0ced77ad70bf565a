//! How far the traffic of a connection goes: what crosses zones is paid for in most clouds.

use crate::byte_enum::byte_enum;

byte_enum! {
    /// Where a backend is, as seen from the node that connects.
    pub enum TrafficClass {
        /// The backend's node or zone is not known, or that of this node.
        Unknown = 0,
        /// On this node.
        SameNode = 1,
        /// On another node of this node's zone.
        SameZone = 2,
        /// In another zone.
        OtherZone = 3,
    }
}

impl TrafficClass {
    /// Classes, and what masks a byte to one of them: no index beyond a class is made of what another process wrote.
    pub const COUNT: usize = Self::ALL.len();
    pub const MASK: u8 = Self::COUNT as u8 - 1;
}

const _: () = assert!(TrafficClass::COUNT.is_power_of_two());
