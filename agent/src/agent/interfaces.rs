//! The node's own addresses: what a NodePort is at.

use std::{collections::HashMap, io, net::IpAddr};

use nix::{ifaddrs::getifaddrs, sys::socket::SockProtocol};

use crate::{
    model::{
        index::Index,
        node_addresses::{Device, InterfaceAddress, NodePortAddresses, node_addresses},
    },
    netlink::{Netlink, Request, attribute},
    trouble::Trouble,
};

/// `linux/rtnetlink.h`, `linux/if_link.h`.
const RTM_GETLINK: u16 = 18;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
/// `struct ifinfomsg`.
const LINK_HEADER: usize = 16;

/// Pods that come and go change the devices while they are listed.
const TRIES: u32 = 4;

/// What is known of the addresses of this host's interfaces.
#[derive(Debug)]
pub struct Interfaces {
    ranges: NodePortAddresses,
    /// As last read: when they cannot be read, they are what they were.
    addresses: Vec<InterfaceAddress>,
    are_known: bool,
    trouble: Trouble,
}

impl Interfaces {
    pub fn new(ranges: NodePortAddresses) -> Self {
        let trouble = Trouble::new(
            "cannot read the addresses of the node's interfaces, those known stay as they are",
        );
        let mut this = Self { ranges, addresses: Vec::new(), are_known: false, trouble };
        this.look();
        this
    }

    /// They were read at least once. Until then NodePorts that an earlier agent left are as good as
    /// any.
    pub const fn are_known(&self) -> bool {
        self.are_known
    }

    /// Reads the interfaces again.
    pub fn look(&mut self) {
        match read() {
            Ok(addresses) => {
                self.addresses = addresses;
                self.are_known = true;
                self.trouble.is_news(Ok(()));
            }
            Err(error) => {
                self.trouble.is_news(Err(&error));
            }
        }
    }

    /// The node's own addresses, with what the objects say of it.
    pub fn node_addresses(&self, index: &Index) -> Vec<IpAddr> {
        node_addresses(&self.ranges, &self.addresses, index.node(), |ip| index.service_use(ip))
    }
}

fn read() -> io::Result<Vec<InterfaceAddress>> {
    let kinds = kinds_of_devices()?;
    let addresses = getifaddrs()?.filter_map(|interface| {
        let address = interface.address?;
        let address = address
            .as_sockaddr_in()
            .map(|v4| IpAddr::V4(v4.ip()))
            .or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))?;
        let name = interface.interface_name;
        let device = Device::of(&name, kinds.get(&name).map(String::as_str));
        Some(InterfaceAddress { address, device })
    });
    Ok(addresses.collect())
}

/// The kinds of the devices that have one: physical ones do not.
fn kinds_of_devices() -> io::Result<HashMap<String, String>> {
    let mut result = list_kinds();
    for _ in 1..TRIES {
        match &result {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => result = list_kinds(),
            _ => break,
        }
    }
    result
}

fn list_kinds() -> io::Result<HashMap<String, String>> {
    let netlink = Netlink::open(SockProtocol::NetlinkRoute)?;
    netlink.send(RTM_GETLINK, Request::Dump, &[0; LINK_HEADER])?;
    let mut kinds = HashMap::new();
    netlink.receive(|link| kinds.extend(name_and_kind(link)))?;
    Ok(kinds)
}

fn name_and_kind(link: &[u8]) -> Option<(String, String)> {
    let attributes = link.get(LINK_HEADER..)?;
    let name = attribute(attributes, IFLA_IFNAME)?;
    let kind = attribute(attribute(attributes, IFLA_LINKINFO)?, IFLA_INFO_KIND)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
    Some((text(name), text(kind)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An attribute as the kernel writes it.
    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn a_device_of_kind_dummy_is_recognised() {
        let info = attribute(IFLA_INFO_KIND, b"dummy\0");
        let mut link = vec![0; LINK_HEADER];
        link.extend(attribute(IFLA_IFNAME, b"kube-dummy-if\0"));
        // A number that nobody asks for, and the flag of nested attributes.
        link.extend(attribute(4, &[1, 2, 3, 4]));
        link.extend(attribute(IFLA_LINKINFO | 0x8000, &info));
        assert_eq!(name_and_kind(&link), Some(("kube-dummy-if".to_owned(), "dummy".to_owned())));
        for end in 0..link.len() {
            // Cut off anywhere, it is no reason to fail.
            let _ = name_and_kind(&link[..end]);
        }
    }

    #[test]
    fn loopback_is_read_and_is_no_device_of_services() {
        let read = read().unwrap();
        let loopback =
            InterfaceAddress { address: [127, 0, 0, 1].into(), device: Device::Ordinary };
        assert!(read.contains(&loopback), "{read:?}");
    }
}
