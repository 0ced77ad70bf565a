//! The measured services. Each has one endpoint, the node itself.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::Path,
};

use serde_json::Value;
use sockline_testbed::objects::{self, Endpoint, Service};

pub(super) const SERVICE_PORT: u16 = 80;
/// Contains all service addresses.
pub(super) const NETWORK: &str = "10.200.0.0/13";
/// Where the server listens: the node's own address.
pub(super) const BACKEND: SocketAddr =
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 10), 7001));

pub(super) fn service_address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 200, 0, 1)) + number)
}

/// Services of a file: the agent skips files of more than 32 MiB.
const SERVICES_PER_FILE: usize = 10_000;

/// Writes services, TCP and UDP, with their slices.
pub(super) fn write(folder: &Path, count: u32) -> io::Result<()> {
    let numbers: Vec<u32> = (0..count).collect();
    for (file, numbers) in numbers.chunks(SERVICES_PER_FILE).enumerate() {
        let objects: Vec<Value> =
            numbers.iter().flat_map(|&number| service(number).objects()).collect();
        objects::file::put(
            folder,
            &format!("services-{file}.json"),
            &objects::file::list(&objects),
        )?;
    }
    Ok(())
}

fn service(number: u32) -> Service {
    Service::new(&format!("s{number}"))
        .ip(&service_address(number).to_string())
        .tcp(SERVICE_PORT)
        .to(BACKEND.port())
        .udp(SERVICE_PORT)
        .to(BACKEND.port())
        .endpoints([Endpoint::at(&[BACKEND.ip()])])
}
