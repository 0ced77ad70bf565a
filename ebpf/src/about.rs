//! What a socket's record says about its connection in one word.

use crate::{frontend::Protocol, traffic_class::TrafficClass};

/// The protocol, whether the end is seen, whether a part is counted, the class of the traffic, and the client's cgroup, in
/// one word: a record is copied word by word right after it was made, and a load waits if what it loads was stored in parts.
///
/// From the lowest bit: 8 of the protocol, 1 that is set if no hook sees the socket's end, 1 that the agent sets if a part
/// of the connection is counted ([`crate::partly_counted`]), 2 of the class, 4 that are free, 48 of the cgroup's id. The upper
/// bits of that are 0 until the kernel has used up all numbers of 32 bits 65,536 times (`kernfs`).
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct About(pub u64);

impl About {
    const UNTRACKED: u64 = 1 << 8;
    const PARTLY_COUNTED: u64 = 1 << 9;
    const CLASS: u32 = 10;
    const CGROUP: u32 = 16;

    /// Of a connection whose end is seen; the protocol is a byte of [`Protocol`].
    #[inline(always)]
    #[must_use]
    pub const fn new(protocol: u8, cgroup: u64) -> Self {
        Self(protocol as u64 | cgroup << Self::CGROUP)
    }

    /// No hook sees the socket's end, so that the connection counts as untracked.
    #[inline(always)]
    #[must_use]
    pub const fn untracked(self) -> Self {
        Self(self.0 | Self::UNTRACKED)
    }

    #[inline(always)]
    #[must_use]
    pub const fn is_untracked(self) -> bool {
        self.0 & Self::UNTRACKED != 0
    }

    /// With the class of the traffic, a byte of [`TrafficClass`].
    #[inline(always)]
    #[must_use]
    pub const fn with_class(self, class: u8) -> Self {
        Self(self.0 | ((class & TrafficClass::MASK) as u64) << Self::CLASS)
    }

    /// A byte of [`TrafficClass`].
    #[inline(always)]
    #[must_use]
    pub const fn class(self) -> u8 {
        (self.0 >> Self::CLASS) as u8 & TrafficClass::MASK
    }

    /// A part of the connection is counted. Only the agent sets it, and only in the socket table.
    #[must_use]
    pub const fn partly_counted(self) -> Self {
        Self(self.0 | Self::PARTLY_COUNTED)
    }

    #[inline(always)]
    #[must_use]
    pub const fn is_partly_counted(self) -> bool {
        self.0 & Self::PARTLY_COUNTED != 0
    }

    pub(crate) const fn unmarked(self) -> Self {
        Self(self.0 & !Self::PARTLY_COUNTED)
    }

    /// `None` in what no program wrote.
    #[inline(always)]
    #[must_use]
    pub const fn protocol(self) -> Option<Protocol> {
        Protocol::from_byte(self.0 as u8)
    }

    /// 0 if it is not known.
    #[inline(always)]
    #[must_use]
    pub const fn cgroup(self) -> u64 {
        self.0 >> Self::CGROUP
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{socket::SocketRecord, traffic_class::TrafficClass};

    #[test]
    fn a_word_has_the_protocol_the_cgroup_the_class_and_whether_the_end_is_seen() {
        for cgroup in [0, 1, 77, (1 << 48) - 1] {
            let about = About::new(Protocol::Udp.byte(), cgroup);
            assert_eq!((about.protocol(), about.cgroup()), (Some(Protocol::Udp), cgroup));
            assert!(!about.is_untracked() && about.untracked().is_untracked());
            assert_eq!(about.untracked().cgroup(), cgroup);
            for class in TrafficClass::ALL {
                let about = about.with_class(class.byte());
                assert_eq!((about.class(), about.cgroup()), (class.byte(), cgroup));
                assert_eq!(about.protocol(), Some(Protocol::Udp));
                assert!(!about.is_untracked() && about.untracked().is_untracked());
            }
            assert_eq!(about.with_class(0xff).cgroup(), cgroup);
            let marked = about.partly_counted();
            assert!(marked.is_partly_counted() && !about.is_partly_counted());
            assert_eq!((marked.protocol(), marked.cgroup()), (Some(Protocol::Udp), cgroup));
            let of = |about| SocketRecord { about, ..SocketRecord::default() };
            assert!(of(marked).is_same(&of(about)) && !of(marked).is_same(&of(about.untracked())));
        }
        assert_eq!(About::default().protocol(), None);
    }
}
