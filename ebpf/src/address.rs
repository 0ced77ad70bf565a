//! Addresses as the programs compare them: always 16 bytes, IPv4 as `::ffff:a.b.c.d`.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv6 or IPv4-mapped address: four words, each holding four octets in network byte order
/// as they lie in memory (the form of `bpf_sock_addr.user_ip6`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Address {
    pub words: [u32; 4],
}

// SAFETY: four integers, no padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Address {}

/// The third word of an IPv4-mapped address.
const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

impl Address {
    pub const IPV4_LOOPBACK: Self = Self::from_ipv4_word(u32::from_ne_bytes([127, 0, 0, 1]));
    pub const IPV6_LOOPBACK: Self = Self { words: [0, 0, 0, u32::from_ne_bytes([0, 0, 0, 1])] };

    /// From an IPv4 address in network byte order (`bpf_sock_addr.user_ip4`).
    #[inline(always)]
    #[must_use]
    pub const fn from_ipv4_word(word: u32) -> Self {
        Self { words: [0, 0, MAPPED, word] }
    }

    #[inline(always)]
    #[must_use]
    pub const fn is_ipv4(&self) -> bool {
        (self.words[0] | self.words[1]) == 0 && self.words[2] == MAPPED
    }

    /// The loopback address that stands for this one when it can only mean the local host:
    /// 127.0.0.0/8 and `::1`, and also the unspecified addresses, which `connect()` takes as
    /// loopback (Linux `ip_route_connect`, `tcp_v6_connect`).
    #[inline(always)]
    #[must_use]
    pub const fn as_loopback(&self) -> Option<Self> {
        if self.words[0] | self.words[1] != 0 {
            return None;
        }
        let last = self.words[3];
        if self.words[2] == MAPPED {
            return if last == 0 || last.to_ne_bytes()[0] == 127 {
                Some(Self::IPV4_LOOPBACK)
            } else {
                None
            };
        }
        if self.words[2] == 0 && (last == 0 || last == Self::IPV6_LOOPBACK.words[3]) {
            return Some(Self::IPV6_LOOPBACK);
        }
        None
    }

    /// The unspecified address of the same family.
    #[inline(always)]
    #[must_use]
    pub const fn to_unspecified(&self) -> Self {
        if self.is_ipv4() { Self::from_ipv4_word(0) } else { Self { words: [0; 4] } }
    }

    #[inline(always)]
    #[must_use]
    pub const fn is_unspecified(&self) -> bool {
        self.words[0] | self.words[1] | self.words[3] == 0
            && (self.words[2] == 0 || self.words[2] == MAPPED)
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        let octets = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let mut words = [0; 4];
        for (word, four) in words.iter_mut().zip(octets.chunks_exact(4)) {
            *word = u32::from_ne_bytes([four[0], four[1], four[2], four[3]]);
        }
        Self { words }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        let mut octets = [0; 16];
        for (four, word) in octets.chunks_exact_mut(4).zip(address.words) {
            four.copy_from_slice(&word.to_ne_bytes());
        }
        let v6 = Ipv6Addr::from(octets);
        if address.is_ipv4() {
            let [.., a, b, c, d] = octets;
            Self::V4(Ipv4Addr::new(a, b, c, d))
        } else {
            Self::V6(v6)
        }
    }
}

const _: () = assert!(size_of::<Address>() == 16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_round_trip() {
        for text in ["10.96.0.10", "0.0.0.0", "255.255.255.255", "::1", "fd00:10:96::12a8", "::"] {
            let ip: IpAddr = text.parse().expect("an address");
            assert_eq!(IpAddr::from(Address::from(ip)), ip, "{text}");
            assert_eq!(Address::from(ip).is_ipv4(), ip.is_ipv4(), "{text}");
        }
    }

    #[test]
    fn only_addresses_of_the_local_host_are_loopback() {
        let loopback =
            |text: &str| Address::from(text.parse::<IpAddr>().expect("an address")).as_loopback();
        assert_eq!(loopback("127.0.0.1"), Some(Address::IPV4_LOOPBACK));
        assert_eq!(loopback("127.255.3.4"), Some(Address::IPV4_LOOPBACK));
        assert_eq!(loopback("0.0.0.0"), Some(Address::IPV4_LOOPBACK));
        assert_eq!(loopback("::1"), Some(Address::IPV6_LOOPBACK));
        assert_eq!(loopback("::"), Some(Address::IPV6_LOOPBACK));
        for other in ["10.0.0.127", "128.0.0.1", "::2", "fe80::1", "::127.0.0.1"] {
            assert_eq!(loopback(other), None, "{other}");
        }
    }
}
