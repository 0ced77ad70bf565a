//! UDP sockets, connected and unconnected: which pod answers, and from which address the answer seems to
//! come.

mod answers;
mod backends;
mod connect;
mod ipv6_sockets;
mod records;

use std::net::SocketAddr;

use sockline_testbed::{DnsPods, Service, UdpClient, at};

const V4: &str = DnsPods::V4;
const V6: &str = DnsPods::V6;

/// One service of all pods, at [`V4`] and [`V6`].
fn one_service(pods: usize) -> DnsPods {
    DnsPods::new(pods).unwrap().serve().unwrap()
}

/// One service per pod, at the addresses of [`numbered`].
fn service_per_pod(pods: usize) -> DnsPods {
    let mut setup = DnsPods::new(pods).unwrap();
    let services: Vec<Service> = (0..pods)
        .map(|n| {
            let ip = numbered(n).ip().to_string();
            let service = Service::new(&format!("svc-{n}")).ip(&ip).udp(53).to(DnsPods::PORT);
            service.endpoints([&setup.pods[n]])
        })
        .collect();
    setup.cluster.apply(services).unwrap();
    setup
}

fn numbered(n: usize) -> SocketAddr {
    SocketAddr::from(([10, 96, 1, u8::try_from(n).unwrap()], 53))
}

fn unconnected() -> UdpClient {
    UdpClient::unconnected(at(V4).ip()).unwrap()
}

/// One question with `sendto`; the answer must seem to come from where the question went.
fn ask(client: &UdpClient, to: SocketAddr) -> String {
    let reply = client.ask_to(to, "who").unwrap();
    assert_eq!((reply.from, reply.payload.as_str()), (to, "who"));
    reply.who
}
