use std::{
    fmt::Write as _,
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
};

use nix::sched::{CloneFlags, unshare};

use super::*;

/// An attribute as the kernel writes it.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap();
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn message(family: i32, device: u32, attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(family).unwrap(), 32, 0, 0];
    bytes.extend(device.to_ne_bytes());
    bytes.extend(attributes.iter().flat_map(|(kind, value)| attribute(*kind, value)));
    bytes
}

#[test]
fn an_address_is_the_devices_own_and_not_its_peers() {
    const IFA_LABEL: u16 = 3;
    let (own, peer) = ([192, 0, 2, 1], [192, 0, 2, 2]);
    let with_peer = message(
        libc::AF_INET,
        7,
        &[(IFA_ADDRESS, &peer), (IFA_LOCAL, &own), (IFA_LABEL, b"kube-ipvs0:x\0")],
    );
    let expected = DeviceAddress { device: 7, ip: own.into() };
    assert_eq!(device_address(&with_peer), Some(expected));
    for end in 0..with_peer.len() {
        // Cut off anywhere, it is no reason to fail.
        let _ = device_address(&with_peer[..end]);
    }
    let loopback = message(libc::AF_INET6, 1, &[(IFA_ADDRESS, &Ipv6Addr::LOCALHOST.octets())]);
    let expected = DeviceAddress { device: 1, ip: Ipv6Addr::LOCALHOST.into() };
    assert_eq!(device_address(&loopback), Some(expected));
    assert_eq!(device_address(&message(libc::AF_PHONET, 1, &[(IFA_LOCAL, &[7])])), None);
}

#[test]
fn loopback_is_read() {
    let read = read().unwrap();
    assert!(read.contains(&Ipv4Addr::LOCALHOST.into()), "{read:?}");
}

/// Begins to run `ip` with these lines, in this thread's network namespace.
fn ip(file: &Path, lines: &str) -> Child {
    fs::write(file, lines).unwrap();
    let mut command = Command::new("ip");
    command.arg("-batch").arg(file).stdin(Stdio::null()).spawn().unwrap()
}

/// As when kube-proxy in IPVS mode has thousands of addresses, one of which goes away between two
/// datagrams of the list: the kernel continues at the same position of a list that is shorter now.
#[test]
fn an_address_that_goes_away_hides_no_other() {
    let in_a_namespace_of_its_own = || {
        const STAY: u32 = 3_000;
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("batch");
        let stay: Vec<IpAddr> = (0..STAY).map(|n| Ipv4Addr::from(0x0a60_1000 + n).into()).collect();
        let mut lines = "link add stay type bridge\n".to_owned();
        stay.iter().for_each(|ip| writeln!(lines, "addr add {ip}/32 dev stay").unwrap());
        assert!(ip(&file, &lines).wait().unwrap().success());
        // Of scope host, it is in front of all others (`__inet_insert_ifa` in `net/ipv4/devinet.c`).
        let flicker = "addr add 192.0.2.1/32 dev stay scope host\naddr del 192.0.2.1/32 dev stay\n";
        // A thread is in the network namespace of the one that made it.
        let churn = thread::spawn(move || ip(&file, &flicker.repeat(2_000)).wait());
        while !churn.is_finished() {
            // Repeated interruptions are an error, and the known addresses stay.
            if let Ok(read) = read() {
                let missing: Vec<&IpAddr> = stay.iter().filter(|ip| !read.contains(ip)).collect();
                assert!(missing.is_empty(), "{missing:?}");
            }
        }
        assert!(churn.join().unwrap().unwrap().success());
        assert!(read().unwrap().is_superset(&stay.into_iter().collect()));
    };
    thread::spawn(in_a_namespace_of_its_own).join().unwrap();
}
