//! IPv6 sockets that talk to services over IPv4.

use std::net::{SocketAddr, UdpSocket};

use sockline_testbed::{Socket, UdpClient, at, mapped};

use super::{V4, V6, ask, one_service};

#[test]
fn an_ipv6_socket_sends_to_the_mapped_address_and_receives_from_it() {
    let setup = one_service(1);
    let to = mapped(at(V4));
    setup.client.run(|| {
        let client = UdpClient::unconnected(to.ip()).unwrap();
        assert_eq!(ask(&client, to), "dns-0");
        // The same socket, to the other family.
        assert_eq!(ask(&client, at(V6)), "dns-0");
    });
    let seen: Vec<_> = setup.servers[0].0.peers().iter().map(SocketAddr::ip).collect();
    assert_eq!(seen, setup.client.addresses(), "the first over IPv4, the second over IPv6");
}

#[test]
fn an_ipv6_socket_connects_to_the_mapped_address() {
    let setup = one_service(1);
    let to = mapped(at(V4));
    setup.client.run(|| {
        let client = UdpClient::connected(to).unwrap();
        assert_eq!(client.socket().peer_addr().unwrap(), to);
        let reply = client.ask("x").unwrap();
        assert_eq!((reply.who.as_str(), reply.from), ("dns-0", to));
    });
}

#[test]
fn an_ipv6_socket_may_name_the_service_with_an_ipv4_sockaddr() {
    let setup = one_service(1);
    let mut buffer = [0; 64];
    setup.client.run(|| {
        // Linux takes AF_INET on dual-stack UDP sockets, and answers with mapped addresses.
        let connected = Socket::udp(libc::AF_INET6).unwrap();
        connected.connect(at(V4)).unwrap();
        assert_eq!(connected.peer().unwrap(), mapped(at(V4)));
        let connected: UdpSocket = connected.into_std();
        connected.send(b"x").unwrap();
        let (length, from) = connected.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from), (&b"dns-0:x"[..], mapped(at(V4))));

        let any = Socket::udp(libc::AF_INET6).unwrap();
        any.send_to(b"y", at(V4), 0).unwrap();
        let any: UdpSocket = any.into_std();
        let (length, from) = any.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from), (&b"dns-0:y"[..], mapped(at(V4))));
    });
}
