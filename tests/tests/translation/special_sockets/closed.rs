//! Closed sockets leave no record, and sockets of other protocols have none.

use std::{fs, net::TcpStream};

use sockline_testbed::{Protocol, Socket, UdpClient, WebAndEmptyService, at};

use super::{EMPTY, V4, family, forms, talk};

#[test]
fn closed_sockets_leave_no_records() {
    let setup = WebAndEmptyService::new().unwrap();
    setup.client.run(|| {
        let mut open = Vec::new();
        for to in forms() {
            for n in 0..50 {
                let udp = UdpClient::unconnected(to.ip()).unwrap();
                udp.ask_to(to, "x").unwrap();
                let connected = UdpClient::connected(to).unwrap();
                let tcp = Socket::tcp(family(to)).unwrap();
                tcp.connect(to).unwrap();
                // Refused, reset, disconnected and shut down: all ways to end.
                let refused = Socket::tcp(libc::AF_INET).unwrap();
                refused.connect(at(EMPTY)).unwrap_err();
                if n % 2 == 0 {
                    tcp.disconnect().unwrap();
                }
                open.push((udp, connected, tcp, refused));
            }
        }
        setup.cluster.wait_for_sockets(450).unwrap();
    });
    setup.cluster.wait_for_sockets(0).unwrap();
    let faults = &setup.cluster.status().unwrap()["faults"];
    let counts: Vec<_> = faults.as_array().unwrap().iter().map(|f| &f["count"]).collect();
    assert!(counts.iter().all(|count| **count == 0), "{faults}");
    assert!(setup.servers.0.hits() >= 75 && setup.servers.1.hits() == 150);
}

#[test]
fn a_connection_that_lingers_after_close_keeps_no_record() {
    let setup = WebAndEmptyService::new().unwrap();
    setup.client.run(|| {
        for _ in 0..20 {
            // Closed by the client first: the connection stays in TIME_WAIT.
            assert_eq!(talk(&TcpStream::connect(at(V4)).unwrap()), "web");
        }
    });
    setup.cluster.wait_for_sockets(0).unwrap();
}

#[test]
fn a_datagram_socket_of_another_protocol_is_not_translated() {
    let setup = WebAndEmptyService::new().unwrap();
    setup.client.run(|| {
        // ICMP "ping" sockets connect too, with a port of no meaning.
        fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647").unwrap();
        let ping = Socket::open(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP).unwrap();
        ping.connect(at(V4)).unwrap();
        assert_eq!(ping.peer().unwrap().ip(), at(V4).ip());
        let raw = Socket::open(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_UDP).unwrap();
        raw.connect(at(V4)).unwrap();
        assert_eq!(raw.peer().unwrap().ip(), at(V4).ip());
    });
    let counts = setup.cluster.counts("web", Protocol::Udp).unwrap();
    assert_eq!(counts.translated, 0);
}
