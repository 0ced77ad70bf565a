//! The load: connects, open sockets and changes of endpoints, each at its rate.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt::Linger};
use sockline_testbed::{Endpoint, Service, Task, api::Api};

use crate::chaos::{
    clients::{self, Target, UdpMode},
    cluster::{Cluster, has_endpoints},
};

/// Services without clients, whose endpoints change.
const SERVICES: u32 = 1_000;
const ENDPOINTS: u32 = 10;
/// How many services with clients change. Sockets stay open to the others.
const CHANGING: usize = 20;
/// Threads per client.
const THREADS: usize = 2;

/// Calls a function at a steady rate, and catches up after a delay. Returns the number of calls.
fn at_rate(per_second: f64, mut continues: impl FnMut() -> bool, mut call: impl FnMut(u64)) -> u64 {
    let began = Instant::now();
    let mut number = 0;
    while continues() {
        let due = began + Duration::from_secs_f64(number as f64 / per_second);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        call(number);
        number += 1;
    }
    number
}

/// The services that change.
pub(super) struct Load {
    cluster: Arc<Cluster>,
    random: fastrand::Rng,
}

impl std::fmt::Display for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{SERVICES} more services of {ENDPOINTS} endpoints that change")
    }
}

impl Load {
    /// Creates the services without clients.
    pub(super) fn fill(cluster: &Arc<Cluster>, random: fastrand::Rng) -> Self {
        for number in 0..SERVICES {
            for object in without_clients(number, 0).objects() {
                cluster.api.apply(&object);
            }
        }
        Self { cluster: Arc::clone(cluster), random }
    }

    /// Changes one service after another. Every tenth has clients.
    pub(super) fn change(self, per_second: u32, time: Duration) -> Changes {
        let Self { cluster, mut random } = self;
        let began = Instant::now();
        let thread = thread::spawn(move || {
            let apply_slices = |api: &Api, service: &Service| {
                let objects = service.objects();
                let slices = &objects[1..];
                slices.iter().for_each(|slice| api.apply(slice));
                slices.len() as u64
            };
            let mut sent = 0;
            let continues = || began.elapsed() < time;
            at_rate(f64::from(per_second), continues, |number| {
                sent += if number % 10 == 0 {
                    let service = random.usize(..CHANGING);
                    apply_slices(&cluster.api, &cluster.with_random_endpoints(service, &mut random))
                } else {
                    let turn = u32::try_from(number).unwrap_or(0);
                    let service = turn.wrapping_mul(7_919) % SERVICES;
                    apply_slices(&cluster.api, &without_clients(service, turn))
                };
            });
            sent
        });
        Changes(thread)
    }
}

pub(super) struct Changes(JoinHandle<u64>);

impl Changes {
    /// Waits for the end, and returns the number of changed slices.
    pub(super) fn end(self) -> u64 {
        self.0.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// A service without clients. One of its endpoints depends on the turn.
fn without_clients(number: u32, turn: u32) -> Service {
    let address = |n: u32| IpAddr::from(Ipv4Addr::from_bits((100 << 24) + n));
    let fixed = (1..ENDPOINTS).map(|n| address(number * ENDPOINTS + n));
    let endpoints = fixed.chain([address((1 << 20) + turn % (1 << 22))]);
    Service::new(&format!("without-clients-{number}"))
        .ip(&Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(10, 97, 0, 1)) + number).to_string())
        .tcp(80)
        .endpoints(endpoints.map(|address| Endpoint::at(&[address])))
}

/// The threads that connect.
pub(super) struct Connects {
    shared: Arc<Shared>,
    tasks: Vec<Task<u64>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    failed: AtomicU64,
    first_failure: Mutex<Option<String>>,
}

pub(super) struct Connected {
    pub(super) made: u64,
    pub(super) failed: u64,
    pub(super) first_failure: Option<String>,
}

impl Connects {
    pub(super) fn start(cluster: &Cluster, per_second: u32) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let targets: Vec<SocketAddr> = served(|_| true).map(|target| target.tcp).collect();
        let threads = cluster.clients.len() * THREADS;
        let per_thread = f64::from(per_second) / threads as f64;
        let mut tasks = Vec::new();
        for number in 0..threads {
            let (shared, targets) = (Arc::clone(&shared), targets.clone());
            let pod = &cluster.clients[number % cluster.clients.len()];
            tasks.push(pod.spawn(move || {
                let continues = || !shared.stop.load(Ordering::Relaxed);
                at_rate(per_thread, continues, |turn| {
                    let turn = usize::try_from(turn).unwrap_or(0).wrapping_mul(31) + number;
                    let target = targets[turn % targets.len()];
                    if let Err(error) = connect(target) {
                        shared.failed.fetch_add(1, Ordering::Relaxed);
                        let mut first =
                            shared.first_failure.lock().unwrap_or_else(PoisonError::into_inner);
                        first.get_or_insert_with(|| format!("{target}: {error}"));
                    }
                })
            })?);
        }
        Ok(Self { shared, tasks })
    }

    pub(super) fn end(self) -> Connected {
        self.shared.stop.store(true, Ordering::Relaxed);
        Connected {
            made: self.tasks.into_iter().map(Task::join).sum(),
            failed: self.shared.failed.load(Ordering::Relaxed),
            first_failure: self
                .shared
                .first_failure
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        }
    }
}

/// Connects, and closes with a reset: sockets in TIME_WAIT would use up the ports.
fn connect(target: SocketAddr) -> io::Result<()> {
    let stream = TcpStream::connect_timeout(&target, Duration::from_secs(10))?;
    setsockopt(&stream, Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    Ok(())
}

fn served(wanted: impl Fn(&Target) -> bool) -> impl Iterator<Item = Target> {
    let targets = Cluster::targets().into_iter();
    targets.filter(|target| has_endpoints(target.service)).filter(move |target| wanted(target))
}

/// Sockets that stay open to services that do not change.
pub(super) struct OpenSockets {
    tcp: Vec<TcpStream>,
    udp: Vec<UdpSocket>,
}

impl OpenSockets {
    /// Two fifths are TCP, which take two descriptors each, because the server is in this process as well.
    pub(super) fn open(cluster: &Cluster, count: usize) -> Result<Self> {
        let targets: Vec<Target> = served(|target| target.service >= CHANGING).collect();
        let (mut tcp, mut udp) = (Vec::new(), Vec::new());
        let clients = cluster.clients.len();
        for (number, client) in cluster.clients.iter().enumerate() {
            let mine = |of: usize| (number..of).step_by(clients);
            let opened = client.run(|| -> io::Result<(Vec<TcpStream>, Vec<UdpSocket>)> {
                let (mut tcp, mut udp) = (Vec::new(), Vec::new());
                for one in mine(count * 2 / 5) {
                    let stream = clients::connect(targets[one % targets.len()].tcp)?;
                    clients::greeting(&stream)?;
                    tcp.push(stream);
                }
                for one in mine(count - count * 2 / 5) {
                    let target = targets[one % targets.len()].udp;
                    let socket = clients::udp_socket(target.ip())?;
                    socket.connect(target)?;
                    udp.push(socket);
                }
                Ok((tcp, udp))
            });
            let (more_tcp, more_udp) = opened.context("opening sockets")?;
            tcp.extend(more_tcp);
            udp.extend(more_udp);
        }
        Ok(Self { tcp, udp })
    }

    /// Sends a message on each; returns how many got no answer.
    pub(super) fn test(&mut self) -> usize {
        let tcp = self.tcp.iter().filter(|stream| clients::echo(stream).is_err()).count();
        let udp = self.udp.iter().filter(|socket| {
            let talked = clients::talk(socket, ([0, 0, 0, 0], 0).into(), UdpMode::Connected, "p");
            talked.is_err()
        });
        tcp + udp.count()
    }
}
