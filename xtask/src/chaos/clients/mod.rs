//! The clients: threads in pods that call services, on short-lived and on long-lived sockets.
//!
//! `chaos` starts them in each client's pod. They ask the oracle whether what they got is allowed at that time.

mod long_lived;
mod short_lived;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
pub(super) use long_lived::echo;
pub(super) use short_lived::{connect, greeting, talk, udp_socket};
use sockline_testbed::{Pod, Task};

use super::{
    oracle::{Observed, Oracle, ServiceId},
    results::{Kind, Results},
    servers::parse_who,
};

/// Longer than a call takes that loops.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A service's addresses for clients.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) service: ServiceId,
    pub(super) tcp: SocketAddr,
    pub(super) udp: SocketAddr,
    /// Whether the service has session affinity.
    pub(super) is_sticky: bool,
}

/// Whether a UDP socket is connected to the address that it calls.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum UdpMode {
    Connected,
    Unconnected,
}

impl UdpMode {
    fn any(random: &mut fastrand::Rng) -> Self {
        if random.bool() { Self::Connected } else { Self::Unconnected }
    }

    /// What its first call counts as.
    const fn kind(self) -> Kind {
        match self {
            Self::Connected => Kind::UdpConnected,
            Self::Unconnected => Kind::UdpUnconnected,
        }
    }
}

/// Shared by all clients.
#[derive(Clone)]
pub(super) struct ClientContext {
    pub(super) oracle: Arc<Oracle>,
    pub(super) results: Arc<Results>,
    pub(super) targets: Arc<Vec<Target>>,
    pub(super) stop: Arc<AtomicBool>,
}

impl ClientContext {
    fn continues(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Records the result of the first call of a socket.
    fn record(
        &self,
        kind: Kind,
        service: ServiceId,
        (from, until): (Instant, Instant),
        got: &Observed,
    ) {
        self.results.record(kind, &self.oracle.classify(service, from, until, got));
        let is_answered = matches!(got, Observed::Answer { service: of, .. } if *of == service);
        if is_answered && !self.oracle.was_bypassed(from, until) {
            self.results.connected(service, from);
        }
    }

    fn any_target(&self, random: &mut fastrand::Rng) -> &Target {
        &self.targets[random.usize(..self.targets.len())]
    }
}

/// Starts the threads of one client pod.
pub(super) fn start(pod: &Pod, context: &ClientContext, seed: u64) -> Result<Vec<Task<()>>> {
    let mut random = fastrand::Rng::with_seed(seed);
    let loops: [fn(&ClientContext, fastrand::Rng); 4] =
        [short_lived::tcp, short_lived::udp, long_lived::tcp, long_lived::udp];
    let mut tasks = Vec::new();
    for work in loops {
        let (context, random) = (context.clone(), random.fork());
        tasks.push(pod.spawn(move || work(&context, random))?);
    }
    Ok(tasks)
}

/// Parses a server's answer.
fn observed(answer: io::Result<String>) -> Observed {
    match answer {
        Ok(answer) => match parse_who(answer.split(' ').next().unwrap_or_default()) {
            Some((pod, service)) => Observed::Answer { pod, service },
            None => Observed::Error(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the server answered {answer:?}"),
            )),
        },
        Err(error) => Observed::Error(error),
    }
}
