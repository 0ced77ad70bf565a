//! The addresses of the node's network interfaces, and which of them serve NodePorts.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use nix::{errno::Errno, net::if_::if_nametoindex, sys::socket::SockProtocol};

use crate::{
    dataplane::{Dataplane, DataplaneError},
    log_on_change::LogOnChange,
    model::{
        index::Index,
        node_addresses::{NodePortAddresses, SERVICE_DEVICES, node_addresses},
        other_nodes::OtherNodes,
    },
    netlink::{Netlink, Request, attribute, field},
};

/// `linux/rtnetlink.h`, `linux/if_addr.h`.
const RTM_GETADDR: u16 = 22;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// `struct ifaddrmsg`.
const ADDRESS_HEADER: usize = 8;

/// The kernel interrupts a list during which addresses change, as pods that start and stop do.
const TRIES: u32 = 4;

#[derive(Debug)]
pub struct NodeAddresses {
    ranges: NodePortAddresses,
    /// Of all interfaces but those with service addresses, as last read.
    of_interfaces: BTreeSet<IpAddr>,
    /// As of the last [`Self::update`].
    current: Vec<IpAddr>,
    /// [`Index::service_use_version`] as of the last [`Self::update`].
    service_use_version: u64,
    /// [`OtherNodes::version`] of the addresses in the kernel.
    other_nodes: Option<u64>,
    log: LogOnChange,
}

impl NodeAddresses {
    /// Until the interfaces can be read, the addresses of an earlier agent's NodePorts are used.
    pub fn new(ranges: NodePortAddresses, of_earlier_agent: BTreeSet<IpAddr>) -> Self {
        let log = LogOnChange::new(
            "cannot read the addresses of the node's interfaces, NodePorts stay at those known",
        );
        let mut this = Self {
            ranges,
            of_interfaces: of_earlier_agent,
            current: Vec::new(),
            service_use_version: 0,
            other_nodes: None,
            log,
        };
        this.read_interfaces();
        this
    }

    /// Reads the addresses of the interfaces again.
    pub fn read_interfaces(&mut self) {
        match read() {
            Ok(addresses) => {
                self.of_interfaces = addresses;
                self.log.record(Ok(()));
            }
            Err(error) => {
                self.log.record(Err(&error));
            }
        }
    }

    /// Why the addresses may be out of date.
    pub fn error(&self) -> Option<&str> {
        self.log.error()
    }

    /// The addresses that serve NodePorts, as of the last [`Self::update`].
    pub fn current(&self) -> &[IpAddr] {
        &self.current
    }

    /// Whether [`Self::update`] would change the addresses.
    pub fn differ(&self, index: &Index) -> bool {
        self.select(index) != self.current
    }

    /// Whether services have taken or given up addresses since the last [`Self::update`].
    pub const fn service_use_changed(&self, index: &Index) -> bool {
        index.service_use_version() != self.service_use_version
    }

    /// Selects the addresses that serve NodePorts. Returns whether they changed.
    pub fn update(&mut self, index: &Index) -> bool {
        self.service_use_version = index.service_use_version();
        let addresses = self.select(index);
        let changed = addresses != self.current;
        self.current = addresses;
        changed
    }

    /// From the addresses of the interfaces, the Node object and the addresses of services.
    fn select(&self, index: &Index) -> Vec<IpAddr> {
        node_addresses(&self.ranges, &self.of_interfaces, index.node(), |ip| index.service_use(ip))
    }

    /// Writes the other nodes' addresses to the kernel. `None` if they have not changed since this last
    /// succeeded.
    pub fn sync_others(
        &mut self,
        index: &Index,
        dataplane: &mut Dataplane,
    ) -> Option<Result<(), DataplaneError>> {
        let version = index.other_nodes().map_or(0, OtherNodes::version);
        if self.other_nodes == Some(version) {
            return None;
        }
        let addresses = index.other_nodes().map(OtherNodes::all).unwrap_or_default();
        let result = dataplane.set_other_nodes(&addresses);
        if result.is_ok() && index.is_complete() {
            self.other_nodes = Some(version);
        }
        Some(result)
    }
}

fn read() -> io::Result<BTreeSet<IpAddr>> {
    let mut of_services = service_devices()?;
    let addresses = addresses()?;
    // Again, because interfaces may have been added meanwhile.
    of_services.extend(service_devices()?);
    Ok(addresses
        .into_iter()
        .filter(|address| !of_services.contains(&address.device))
        .map(|address| address.ip)
        .collect())
}

/// Indexes of the interfaces that only have addresses of services.
fn service_devices() -> io::Result<Vec<u32>> {
    let mut indexes = Vec::new();
    for name in SERVICE_DEVICES {
        match if_nametoindex(name) {
            Ok(index) => indexes.push(index),
            Err(Errno::ENODEV) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(indexes)
}

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct DeviceAddress {
    /// The interface's index. An address has no interface name: `IFA_LABEL` of IPv4, which `getifaddrs`
    /// returns as the name, can be any text.
    device: u32,
    ip: IpAddr,
}

fn addresses() -> io::Result<Vec<DeviceAddress>> {
    let mut result = list_addresses();
    for _ in 1..TRIES {
        match &result {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => result = list_addresses(),
            _ => break,
        }
    }
    result
}

fn list_addresses() -> io::Result<Vec<DeviceAddress>> {
    let netlink = Netlink::open(SockProtocol::NetlinkRoute)?;
    netlink.send(RTM_GETADDR, Request::Dump, &[0; ADDRESS_HEADER])?;
    let mut addresses = Vec::new();
    netlink.receive(|message| addresses.extend(device_address(message)))?;
    Ok(addresses)
}

/// `None` for other address families.
fn device_address(message: &[u8]) -> Option<DeviceAddress> {
    let attributes = message.get(ADDRESS_HEADER..)?;
    // With a peer, IFA_ADDRESS is the peer's.
    let own = attribute(attributes, IFA_LOCAL).or_else(|| attribute(attributes, IFA_ADDRESS))?;
    let ip = match i32::from(message[0]) {
        libc::AF_INET => Ipv4Addr::from(<[u8; 4]>::try_from(own).ok()?).into(),
        libc::AF_INET6 => Ipv6Addr::from(<[u8; 16]>::try_from(own).ok()?).into(),
        _ => return None,
    };
    Some(DeviceAddress { device: u32::from_ne_bytes(field(message, 4)), ip })
}

#[cfg(test)]
mod tests;
