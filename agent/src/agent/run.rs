//! Runs the agent's tasks: the source, the control loop on its own thread, and the two servers.

use std::{
    io,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{FutureExt as _, future::FusedFuture as _};
use tokio::{
    sync::{Mutex, mpsc},
    time::interval,
};
use tokio_util::sync::CancellationToken;

use super::{
    api_server::ApiServer,
    config::Source,
    control::{self, ControlThread, Inputs, Kernel},
    metrics_server,
    nested_namespaces::Nested,
    open_connections::LongConnections,
    start::{Ready, Started},
};
use crate::{
    admin,
    check::Readiness,
    dataplane::{AgentState, FeatureSet, Telemetry},
    source::{
        self, Arrived, ClientError, ConnectBypass, Connections, ServerAddresses, SourceStats,
        kube::Watched, manifests,
    },
    status::Shared,
    telemetry::{ClientReader, Metrics},
    termination::Termination,
    watch::{Ends, Hub},
    workloads::{AskPods, Resolver},
};

/// Maximum number of events that are queued for the control loop. The source waits when the queue is full.
const EVENTS: usize = 4096;
/// How long the end waits for clients of the admin socket to read that the agent ends.
const CLIENTS_TIMEOUT: Duration = Duration::from_millis(500);
/// How often the connections of clients are read for their metrics, if there are any.
const CLIENTS_INTERVAL: Duration = Duration::from_secs(5);

/// Runs until `stop`. The kernel state stays in place afterwards.
///
/// # Errors
/// When maps or programs that were just opened cannot be read, or a task ends with an error.
pub async fn run(started: Started, stop: CancellationToken) -> anyhow::Result<()> {
    let Started { config, source, mut dataplane, rcu_support, helper, listener, admin } = started;
    dataplane.forward_log();
    if !config.metrics_bind_address.ip().is_loopback() {
        tracing::info!(metrics_bind_address = %config.metrics_bind_address, "the metrics are readable by all clients that reach this address");
    }
    let listener = tokio::net::TcpListener::from_std(listener)?;

    let stats = Arc::new(SourceStats::default());
    let shared = Arc::new(Shared::new(
        config.node_name.clone(),
        config.source.clone(),
        dataplane.features(),
        Arc::clone(&stats),
        config.log_level.clone(),
    ));
    shared.update(|status| {
        status.reclaim = rcu_support.into();
        status.telemetry = Some(config.telemetry);
        status.client_counts = Some(config.client_counts);
    });
    // Unbounded, because there are few: each client of the admin socket waits for its reply.
    let (commands, asked) = mpsc::unbounded_channel();
    let find_pods = commands.clone();
    // If the control loop has ended, pods have no names.
    let ask_pods: AskPods =
        Arc::new(move |query| drop(find_pods.send(admin::Command::FindPods(query))));
    let top = dataplane.cgroup().to_owned();
    let names = Arc::new(Mutex::new(Resolver::new(top.clone(), Arc::clone(&ask_pods))));
    let families = config.client_families;
    let client_reader = if families.are_any() {
        Some(ClientReader::new(dataplane.clients()?, Arc::clone(&names))?)
    } else {
        None
    };
    let clients = client_reader.as_ref().map(|reader| reader.metrics(families));
    let programs = dataplane.program_stats()?;
    let metrics =
        Arc::new(Metrics::new(dataplane.counters()?, programs, clients, Arc::clone(&stats)));
    let debug_log = dataplane.debug_log()?;
    let nested = Nested::new(config.nested, &dataplane, helper.clone())?;
    let long_connections = LongConnections::new(
        config.open_connections_interval,
        config.telemetry,
        &dataplane,
        helper.clone(),
        Arc::clone(&metrics),
    );
    shared.update(|status| status.bytes_counted = Some(long_connections.bytes_counted()));
    let termination = Termination::new(
        helper,
        config.reconcile_interval,
        &dataplane,
        Arc::clone(&shared),
        Arc::clone(&metrics),
    );
    let readiness = Arc::new(Readiness::new(Arc::clone(&shared), &dataplane)?);
    let (events, changes) = mpsc::channel(EVENTS);
    let (hub, watchers) = Hub::new(
        dataplane.events()?,
        match config.telemetry {
            Telemetry::On if dataplane.features().has(FeatureSet::SOCKET_FIELDS) => Ends::Read,
            Telemetry::On | Telemetry::Off => Ends::Unread,
        },
        top,
        ask_pods,
        Arc::clone(&metrics),
    );
    let state = admin::State {
        shared: Arc::clone(&shared),
        commands,
        programs: dataplane.program_ids()?,
        watchers,
        names,
    };
    let addresses = Arc::new(ServerAddresses::default());
    if config.source == (Source::Kubernetes { kubeconfig: None })
        && source::kube::is_at_service_address()
    {
        addresses.set_through_service();
    }
    let api_server = source
        .api_server()
        .map(|configured| ApiServer::new(Arc::clone(&addresses), configured, &dataplane));
    let connections =
        Connections { addresses, bypass: Arc::new(BypassPrograms(dataplane.agent_state())) };

    // The end of one of these ends the process: an agent without its source or its metrics would seem to
    // work.
    let mut control = {
        let (config, stop) = (config.clone(), stop.clone());
        let (shared, metrics) = (Arc::clone(&shared), Arc::clone(&metrics));
        let kernel =
            Kernel { dataplane, termination, nested, debug_log, long_connections, api_server };
        let inputs = Inputs { changes, commands: asked };
        ControlThread::start(move || async move {
            control::run(kernel, inputs, &config, shared, metrics, stop).await;
        })?
    };
    // A task of its own, so that changes of the cluster do not wait for events of connections.
    let mut hub = tokio::spawn(hub.run(stop.clone()));
    let mut clients = {
        let (shared, stop) = (Arc::clone(&shared), stop.clone());
        tokio::spawn(async move {
            match client_reader {
                Some(reader) => read_clients(reader, shared, stop).await,
                None => stop.cancelled().await,
            }
        })
    };
    let mut admin = Box::pin(admin.serve(state, stop.clone()).fuse());
    let ended = tokio::select! {
        result = source.feed(config.watched(), connections, events, stats, stop.clone()) => {
            result.map_err(anyhow::Error::from)
        }
        () = metrics_server::serve(listener, readiness, metrics, stop.clone()) => Ok(()),
        result = &mut admin => result,
        ended = &mut hub => ended.map_err(anyhow::Error::from),
        ended = &mut clients => ended.map_err(anyhow::Error::from),
        () = stop.cancelled() => Ok(()),
        () = control.ended() => Ok(()),
    };
    stop.cancel();
    if !hub.is_finished() {
        // It switches events off, and watches end.
        let _ = hub.await;
    }
    if !admin.is_terminated() {
        wait_for_clients(&mut admin).await;
    }
    // Removes the file of the admin socket.
    drop(admin);
    // Last: this releases the lock on the pins, and the next agent may start then.
    control.join().await.and(ended)
}

/// Waits until the server of the admin socket has ended, which its clients delay until they have read its last answer.
/// One that does not read delays the agent's end no longer than [`CLIENTS_TIMEOUT`].
async fn wait_for_clients<T>(server: impl Future<Output = T>) {
    let _ = tokio::time::timeout(CLIENTS_TIMEOUT, server).await;
}

/// Connects without redirection by this agent's programs.
struct BypassPrograms(AgentState);

impl ConnectBypass for BypassPrograms {
    fn connect(&self, cookie: u64, connect: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        let _bypass = self.0.bypass(cookie);
        connect()
    }
}

/// Reads the connections of clients also between scrapes: a client may be gone at the next one.
async fn read_clients(mut reader: ClientReader, shared: Arc<Shared>, stop: CancellationToken) {
    let mut turn = interval(CLIENTS_INTERVAL);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = turn.tick() => {
                // Before that the agent knows no pod, and what is counted would stay without a name.
                if shared.is_ready() {
                    reader.update().await;
                    turn.reset();
                }
            }
        }
    }
}

/// Adds the time at which each change of a folder was read; the control loop may receive it later.
async fn add_arrival_time(
    mut read: mpsc::Receiver<Vec<source::Event>>,
    arrived: mpsc::Sender<Arrived>,
) {
    while let Some(events) = read.recv().await {
        if arrived.send(Arrived { events, at: Instant::now() }).await.is_err() {
            return;
        }
    }
}

impl Ready {
    /// The configured address of the API server: `None` without one, `Some(None)` if it is a name.
    fn api_server(&self) -> Option<Option<(IpAddr, u16)>> {
        let Self::Kubernetes(config) = self else { return None };
        let url = &config.cluster_url;
        let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
        let port = url.port_u16().unwrap_or(443);
        Some(host.parse().ok().map(|address| (address, port)))
    }

    /// Sends all objects and their changes, until `stop`.
    async fn feed(
        self,
        watched: Watched<'_>,
        connections: Connections,
        events: mpsc::Sender<Arrived>,
        stats: Arc<SourceStats>,
        stop: CancellationToken,
    ) -> Result<(), ClientError> {
        match self {
            Self::Manifests(folder) => {
                let (send, read) = mpsc::channel(1);
                let follow =
                    manifests::follow::follow(folder, manifests::folder::reader(), send, stop);
                tokio::join!(follow, add_arrival_time(read, events));
            }
            Self::Kubernetes(config) => {
                let addresses = Arc::clone(&connections.addresses);
                let client = source::client(*config, connections)?;
                source::kube::watch((client, addresses), watched, events, stats, stop).await;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_end_waits_for_clients_that_read() {
        let (began, reading) = (Instant::now(), CLIENTS_TIMEOUT / 2);
        wait_for_clients(sleep(reading)).await;
        assert_eq!(began.elapsed(), reading);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_reads_delays_the_end_for_half_a_second_at_most() {
        let began = Instant::now();
        wait_for_clients(pending::<()>()).await;
        assert!(began.elapsed() <= Duration::from_millis(501), "{:?}", began.elapsed());
    }
}
