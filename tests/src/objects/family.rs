//! Address families, as EndpointSlices have them.

use std::net::IpAddr;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    IPv4,
    IPv6,
}

impl Family {
    pub(super) const ALL: [Self; 2] = [Self::IPv4, Self::IPv6];

    pub(super) fn of(address: IpAddr) -> Self {
        if address.is_ipv6() { Self::IPv6 } else { Self::IPv4 }
    }

    /// Of an address that need not be valid.
    pub(super) fn of_text(address: &str) -> Self {
        if address.contains(':') { Self::IPv6 } else { Self::IPv4 }
    }

    /// The `addressType`.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::IPv4 => "IPv4",
            Self::IPv6 => "IPv6",
        }
    }

    /// In the names of slices.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::IPv4 => "v4",
            Self::IPv6 => "v6",
        }
    }
}
