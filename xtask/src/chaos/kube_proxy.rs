//! A stand-in for kube-proxy: serves all services on the node, from the cluster's current state.
//!
//! It answers itself in place of the endpoints, once for each connection. For a service without endpoints it answers
//! [`NO_ENDPOINTS`]: one listener serves all services, and cannot refuse for some.

use std::{
    collections::HashMap,
    fs,
    io::{self, Write as _},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sockline_testbed::{Node, Pod, Task};

use super::{
    cluster::{Cluster, UNTRANSLATED},
    iproute::ip,
    oracle::{Oracle, ServiceId},
};

/// The services' addresses, without that of the API server.
const RANGES: [(&str, &str); 2] = [("-4", "10.96.1.0/24"), ("-6", "fd00:10:96::/112")];
/// The answer for a service without endpoints.
const NO_ENDPOINTS: &str = "none";

/// Stopped when dropped.
pub(super) struct KubeProxy {
    node: Arc<Node>,
    shared: Arc<Shared>,
    serving: Option<Task<()>>,
}

struct Shared {
    oracle: Arc<Oracle>,
    listener: TcpListener,
    services: HashMap<IpAddr, ServiceId>,
    /// One for each address, so that an answer comes from the address of the request.
    sockets: Vec<(UdpSocket, ServiceId)>,
    answers: AtomicU64,
    stop: AtomicBool,
}

impl KubeProxy {
    /// Listens at the services' addresses. Clients reach it after [`Self::open`].
    pub(super) fn start(node: &Arc<Node>, oracle: &Arc<Oracle>) -> Result<Self> {
        for (family, range) in RANGES {
            ip(node.outside(), &format!("{family} route replace local {range} dev lo"))?;
        }
        let targets = Cluster::targets();
        let opened = node.outside().run(|| -> io::Result<_> {
            // For IPv6, a local route is not enough to bind an address.
            fs::write("/proc/sys/net/ipv6/ip_nonlocal_bind", "1")?;
            let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 80))?;
            listener.set_nonblocking(true)?;
            let mut sockets = Vec::new();
            for target in &targets {
                let socket = UdpSocket::bind(target.udp)?;
                socket.set_nonblocking(true)?;
                sockets.push((socket, target.service));
            }
            Ok((listener, sockets))
        });
        let (listener, sockets) = opened.context("listening at the services' addresses")?;
        let shared = Arc::new(Shared {
            oracle: Arc::clone(oracle),
            listener,
            services: targets.iter().map(|target| (target.tcp.ip(), target.service)).collect(),
            sockets,
            answers: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let server = Arc::clone(&shared);
        let serving = node.outside().spawn(move || server.run())?;
        Ok(Self { node: Arc::clone(node), shared, serving: Some(serving) })
    }

    /// From now on, untranslated calls come here.
    pub(super) fn open(&self, clients: &[Pod]) -> Result<()> {
        change_routes(clients, "delete")
    }

    /// From now on, untranslated calls fail again.
    pub(super) fn close(&self, clients: &[Pod]) -> Result<()> {
        change_routes(clients, "replace")
    }

    /// The number of its answers so far.
    pub(super) fn answers(&self) -> u64 {
        self.shared.answers.load(Ordering::Relaxed)
    }
}

fn change_routes(clients: &[Pod], how: &str) -> Result<()> {
    for client in clients {
        for (family, range) in UNTRANSLATED {
            ip(client, &format!("{family} route {how} unreachable {range}"))?;
        }
    }
    Ok(())
}

impl Drop for KubeProxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.serving.take().map(Task::join);
        for (family, range) in RANGES {
            let line = format!("{family} route delete local {range} dev lo");
            if let Err(error) = ip(self.node.outside(), &line) {
                eprintln!("chaos: {error:#}");
            }
        }
    }
}

impl Shared {
    fn run(&self) {
        let mut random = fastrand::Rng::new();
        let mut waiting = vec![PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        for (socket, _) in &self.sockets {
            waiting.push(PollFd::new(socket.as_fd(), PollFlags::POLLIN));
        }
        while !self.stop.load(Ordering::Acquire) {
            if poll(&mut waiting, PollTimeout::from(100_u8)).is_err() {
                continue;
            }
            while let Ok((mut stream, _)) = self.listener.accept() {
                let service = stream.local_addr().ok().and_then(|address| self.at(address));
                if let Some(service) = service {
                    let answer = self.answer_for(service, &mut random);
                    // The client may have gone.
                    let _ = stream.write_all(format!("{answer}\n").as_bytes());
                }
            }
            for (socket, service) in &self.sockets {
                let mut buffer = [0; 512];
                while let Ok((length, client)) = socket.recv_from(&mut buffer) {
                    let answer = format!("{} ", self.answer_for(*service, &mut random));
                    let _ =
                        socket.send_to(&[answer.as_bytes(), &buffer[..length]].concat(), client);
                }
            }
        }
    }

    fn at(&self, address: SocketAddr) -> Option<ServiceId> {
        self.services.get(&address.ip().to_canonical()).copied()
    }

    /// The answer of a random endpoint.
    fn answer_for(&self, service: ServiceId, random: &mut fastrand::Rng) -> String {
        self.answers.fetch_add(1, Ordering::Relaxed);
        let endpoints = self.oracle.endpoints(service);
        let pod = random.choice(endpoints.iter());
        pod.map_or_else(|| NO_ENDPOINTS.to_owned(), |pod| format!("{pod}:{service}"))
    }
}
