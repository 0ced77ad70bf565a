//! Sockets whose backend is gone: connected UDP sockets are closed, TCP connections if their service says so,
//! and no other socket is.

mod other_nodes;
mod overflow;
mod reports;
mod tcp;
mod udp;

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
};

use aya::maps::{HashMap, Map, MapData};
use serde_json::Value;
use sockline::dataplane::Pins;
use sockline_ebpf::socket::OverflowEntry;
use sockline_testbed::{
    ANSWER_TIMEOUT, Cluster, DnsPods, Endpoint, KernelFeatures, Ns, Service, UdpClient, patience,
};

use crate::common::{REPAIRS, eventually, holds};

const V4: &str = DnsPods::V4;
const V6: &str = DnsPods::V6;
const CLOSE_ON_REMOVAL: &str = "sockline.dev/close-on-removal";

/// Pods without a service.
fn without_service(pods: usize, args: &[&str]) -> DnsPods {
    // The agent also looks for sockets with each reconciliation, so that there is always another pass.
    let mut args = args.to_vec();
    if !args.contains(&REPAIRS[0]) {
        args.extend(REPAIRS);
    }
    DnsPods::with_agent_args(pods, &args).unwrap()
}

/// Whether the agent can close TCP connections to removed backends. Without kernel BTF it cannot search their records.
fn closes_tcp(cluster: &Cluster) -> bool {
    cluster.features().unwrap().kernel_sockets
}

/// [`closes_tcp`] of a node with this status.
fn searches_tcp(status: &Value) -> bool {
    KernelFeatures::of_status(status).unwrap().kernel_sockets
}

/// All pods behind one service.
fn with_service(pods: usize, args: &[&str]) -> DnsPods {
    without_service(pods, args).serve().unwrap()
}

/// Backends are removed, and the agent closes sockets.
trait Closing {
    fn remove(&mut self, name: &str);

    /// Sockets are counted after they were closed.
    fn eventually_counted(&self, protocol: &str, count: f64);

    fn closed(&self, protocol: &str) -> f64;

    /// Waits for more passes over the sockets than the agent makes for one that is not as expected.
    fn wait_for_passes(&self);
}

impl Closing for DnsPods {
    fn remove(&mut self, name: &str) {
        let service = Self::service().endpoints(self.without(name));
        self.cluster.apply([service]).unwrap();
    }

    #[track_caller]
    fn eventually_counted(&self, protocol: &str, count: f64) {
        eventually(&format!("{count} closed over {protocol}"), || {
            let seen = self.closed(protocol);
            holds(seen == count, seen)
        });
    }

    fn closed(&self, protocol: &str) -> f64 {
        let metrics = self.cluster.metrics().unwrap();
        metrics.sum("sockline_sockets_closed_total", &[("protocol", protocol)])
    }

    fn wait_for_passes(&self) {
        let passes = || {
            let metrics = self.cluster.metrics().unwrap();
            metrics.sum("sockline_socket_scan_duration_seconds_count", &[])
        };
        let before = passes();
        eventually("the agent to look for sockets again", || {
            let now = passes();
            holds(now >= before + 3.0, format!("{now} passes, {before} before"))
        });
    }
}

/// A connected socket that has received an answer, and the name of the pod that answered.
fn connected(ns: &Ns, to: SocketAddr) -> (UdpClient, String) {
    let client = ns.run(|| UdpClient::connected(to).unwrap());
    let who = ask(&client);
    (client, who)
}

fn ask(client: &UdpClient) -> String {
    client.ask("?").unwrap().who
}

/// Waits until the kernel says that the socket has no peer any more.
#[track_caller]
fn eventually_closed(client: &UdpClient) {
    let error = eventually("the socket to be closed", || match client.ask("?") {
        Ok(reply) => Err(format!("{} still answers", reply.who)),
        Err(error) => Ok::<_, String>(error),
    });
    let expected = [libc::ECONNABORTED, libc::EDESTADDRREQ];
    assert!(error.raw_os_error().is_some_and(|error| expected.contains(&error)), "{error}");
    // The error of the socket is reported once.
    client.socket().take_error().unwrap();
}

/// An open TCP connection and the name of the pod that answered.
fn stream(ns: &Ns, to: SocketAddr) -> (TcpStream, String) {
    ns.run(|| {
        let mut stream = TcpStream::connect(to).unwrap();
        stream.set_read_timeout(Some(patience(ANSWER_TIMEOUT))).unwrap();
        let mut who = Vec::new();
        while who.last() != Some(&b'\n') {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            who.push(byte[0]);
        }
        who.pop();
        (stream, String::from_utf8(who).unwrap())
    })
}

fn echo(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])
}

/// Waits until a connection was aborted here (and not ended by the other side).
#[track_caller]
fn eventually_aborted(stream: &mut TcpStream) {
    let error = eventually("the connection to be closed", || match echo(stream) {
        Ok(()) => Err("it is still open".to_owned()),
        Err(error) => Ok(error),
    });
    let expected = [libc::ECONNABORTED, libc::EPIPE];
    assert!(error.raw_os_error().is_some_and(|error| expected.contains(&error)), "{error}");
}

/// A connection to the service is closed when its endpoints are gone, and one to the pod's own address
/// is not.
#[track_caller]
fn assert_tcp_is_closed(setup: &mut DnsPods, service: &impl Fn() -> Service, to: SocketAddr) {
    setup.cluster.apply([service().endpoints(&setup.pods)]).unwrap();
    let (mut open, _) = stream(&setup.client, to);
    let direct = SocketAddr::new(setup.pods[0].addresses()[0], 5353);
    let (mut stranger, _) = stream(&setup.client, direct);
    setup.cluster.apply([service().endpoints(Vec::<Endpoint>::new())]).unwrap();
    eventually_aborted(&mut open);
    echo(&mut stranger).unwrap();
}

/// What sockets have beyond the table, by their cookies.
fn overflow(bpffs: &Path) -> HashMap<MapData, u64, OverflowEntry> {
    let pin = Pins::in_bpffs(bpffs).map("OVERFLOW");
    Map::HashMap(MapData::from_pin(pin).unwrap()).try_into().unwrap()
}
