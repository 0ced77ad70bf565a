//! The clients: threads in pods that call services, on fresh sockets and on ones that they hold.

mod long_lived;
mod short_lived;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
pub(super) use long_lived::echo;
pub(super) use short_lived::{connect, greeting, talk, udp_socket};
use sockline_testbed::{Pod, Task};

use super::{
    oracle::{Oracle, Seen, ServiceId},
    results::Results,
    servers::parse_who,
};

/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(5);

/// A service as clients see it.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) service: ServiceId,
    pub(super) tcp: SocketAddr,
    pub(super) udp: SocketAddr,
    /// With session affinity.
    pub(super) is_sticky: bool,
}

/// What the threads share.
#[derive(Clone)]
pub(super) struct ClientContext {
    pub(super) oracle: Arc<Oracle>,
    pub(super) results: Arc<Results>,
    pub(super) targets: Arc<Vec<Target>>,
    pub(super) stop: Arc<AtomicBool>,
}

impl ClientContext {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn any_target(&self, random: &mut fastrand::Rng) -> &Target {
        &self.targets[random.usize(..self.targets.len())]
    }
}

/// Starts the threads of one client pod.
pub(super) fn start(pod: &Pod, context: &ClientContext, seed: u64) -> Result<Vec<Task<()>>> {
    let mut random = fastrand::Rng::with_seed(seed);
    let works: [fn(&ClientContext, fastrand::Rng); 4] =
        [short_lived::tcp, short_lived::udp, long_lived::tcp, long_lived::udp];
    let mut tasks = Vec::new();
    for work in works {
        let (context, random) = (context.clone(), random.fork());
        tasks.push(pod.spawn(move || work(&context, random))?);
    }
    Ok(tasks)
}

/// An answer as the oracle judges it: from the server's words.
fn seen(said: io::Result<String>) -> Seen {
    match said {
        Ok(said) => match parse_who(said.split(' ').next().unwrap_or_default()) {
            Some((pod, service)) => Seen::Answer { pod, service },
            None => Seen::Error(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the server said {said:?}"),
            )),
        },
        Err(error) => Seen::Error(error),
    }
}
