//! The control loop: the only writer of the maps. It applies events to the index, and writes the plan
//! to the maps. It has a thread of its own ([`ControlThread`]), and blocks it.
//!
//! The agent's `run` starts it, with the channels that the source and the admin socket write to. `next_sync`
//! decides what a sync writes, `sync` writes it; `throttle`, `retry_queue` and the loop here decide when. `commands` answers
//! the admin socket, `probe_services` keeps the Services of `sockline check`, `program_log` what the programs log,
//! `reclaimer` frees what the grace period has passed for.
//!
//! Each branch of the loop that changes the maps ends in a state that the next agent can restore.

mod commands;
mod next_sync;
mod probe_services;
mod program_log;
mod reclaimer;
mod retry_queue;
mod sync;
mod thread;
mod throttle;

use std::{
    future::pending,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::mpsc,
    task::JoinError,
    time::{Interval, MissedTickBehavior, interval, sleep_until},
};
use tokio_util::sync::CancellationToken;

pub use self::thread::ControlThread;
use self::{
    next_sync::{NextSync, Tick},
    probe_services::ProbeServices,
    program_log::ProgramLog,
    reclaimer::{Reclaimed, Reclaimer, Waited},
    retry_queue::RetryQueue,
    throttle::Throttle,
};
use super::{
    api_server::ApiServer,
    background_job::BackgroundJob,
    config::Config,
    exclusion::ExcludedPods,
    heartbeat::{self, Heartbeat},
    nested_namespaces::Nested,
    node_addresses::NodeAddresses,
    open_connections::LongConnections,
    reconcile_schedule::ReconcileSchedule,
    status_publisher::StatusPublisher,
};
use crate::{
    admin::Command,
    dataplane::{Dataplane, DebugLog, ScannedUsage},
    model::{
        index::Index,
        object::{InputError, Kind},
    },
    source::{Arrived, Event},
    status::Shared,
    telemetry::Metrics,
    termination::Termination,
};

/// How often to poll what sends no events (the node's addresses, new cgroups, the helper process), and to retry
/// failed operations.
const TICK: Duration = Duration::from_secs(5);
/// How often to reclaim freed map entries, if there are any.
const RECLAIM_INTERVAL: Duration = Duration::from_secs(1);

struct Control {
    dataplane: Dataplane,
    index: Index,
    /// `None` if the source is a folder.
    api_server: Option<ApiServer>,
    probe_services: ProbeServices,
    program_log: ProgramLog,
    excluded_pods: ExcludedPods,
    node_addresses: NodeAddresses,
    next_sync: NextSync,
    throttle: Throttle,
    retry_queue: RetryQueue,
    reconciler: ReconcileSchedule,
    reclaimer: Reclaimer,
    heartbeat: Heartbeat,
    termination: Termination,
    nested: Nested,
    long_connections: LongConnections,
    publisher: StatusPublisher,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
}

/// The kernel's side of the node.
pub struct Kernel {
    pub dataplane: Dataplane,
    pub termination: Termination,
    pub nested: Nested,
    pub debug_log: DebugLog,
    pub long_connections: LongConnections,
    /// What the maps have of the API server that is the source.
    pub api_server: Option<ApiServer>,
}

/// What the loop receives.
pub struct Inputs {
    pub changes: mpsc::Receiver<Arrived>,
    pub commands: mpsc::UnboundedReceiver<Command>,
}

/// Runs until `stop`, or until the source has ended.
pub async fn run(
    kernel: Kernel,
    Inputs { mut changes, mut commands }: Inputs,
    config: &Config,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let mut control = Control::new(kernel, config, shared, metrics);
    let mut renew = every(heartbeat::INTERVAL);
    let mut tick = every(TICK);
    let mut reclaim = every(RECLAIM_INTERVAL);
    let mut reconcile_links = every(ReconcileSchedule::links_interval(config.reconcile_interval));
    // The first count follows at once, so that status and metrics have one.
    let mut count_entries = every(config.reconcile_interval);
    let mut map_usage = BackgroundJob::default();
    loop {
        control.shared.record_turn();
        control.heartbeat.renew();
        tokio::select! {
            () = stop.cancelled() => return,
            change = changes.recv() => {
                let Some(change) = change else { return };
                control.apply(change);
                // One sync for all that has arrived.
                for _ in 0..changes.len() {
                    let Ok(change) = changes.try_recv() else { break };
                    control.apply(change);
                }
                control.sync();
            }
            () = at(control.throttle.due()) => control.sync(),
            () = at(control.retry_queue.due()) => control.retry(),
            _ = renew.tick() => {
                control.program_log.renew(&control.dataplane);
                control.release_if_overdue();
            }
            _ = tick.tick() => control.tick(),
            () = control.excluded_pods.cgroup_created() => {
                control.excluded_pods.sync(&mut control.dataplane);
            }
            () = at(control.termination.due()) => {
                control.termination.pass(&control.dataplane, &control.index);
            }
            ended = control.termination.ended() => {
                control.termination.record(ended, &mut control.dataplane);
            }
            result = control.nested.search_ended() => {
                if let Some(found) = control.nested.apply(result, &control.index) {
                    control.shared.update(|status| status.nested_namespaces = found);
                }
            }
            () = at(control.long_connections.due()) => control.long_connections.start(),
            result = control.long_connections.ended() => {
                control.long_connections.count(result, &mut control.dataplane);
            }
            _ = reclaim.tick(), if control.reclaimer.has_work(&control.dataplane) => {
                control.reclaimer.start(&control.dataplane);
            }
            waited = control.reclaimer.ended() => control.reclaim(waited),
            _ = reconcile_links.tick() => control.reconciler.reconcile_links(&mut control.dataplane),
            () = at(Some(control.reconciler.due())) => {
                control.reconciler.reconcile_maps(&mut control.dataplane);
            }
            _ = count_entries.tick(), if !map_usage.is_running() => {
                let scan = control.dataplane.map_scan();
                // It may take some milliseconds.
                map_usage.start(move || scan.run());
            }
            counted = map_usage.ended() => control.publish_map_usage(counted),
            () = at(control.publisher.due()) => control.publish(),
            Some(command) = commands.recv() => control.handle_command(command),
        }
    }
}

/// Ticks at once, and then in this interval. A late tick delays those after it.
fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Returns at this time; never without one.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => pending().await,
    }
}

impl Control {
    fn new(
        Kernel { dataplane, termination, nested, debug_log, long_connections, api_server }: Kernel,
        config: &Config,
        shared: Arc<Shared>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (policy, ranges) = (config.excluded_pods.clone(), config.node_port_addresses.clone());
        let top = dataplane.cgroup();
        let interval = config.reconcile_interval;
        let control = Self {
            index: Index::new(config.node_name.as_str()).with_node_ports(config.node_ports),
            api_server,
            probe_services: ProbeServices::default(),
            program_log: ProgramLog::new(debug_log, Arc::clone(&shared)),
            excluded_pods: ExcludedPods::new(
                policy,
                top,
                Arc::clone(&shared),
                Arc::clone(&metrics),
            ),
            node_addresses: NodeAddresses::new(ranges, dataplane.node_addresses()),
            next_sync: NextSync::Unconfirmed,
            throttle: Throttle::default(),
            retry_queue: RetryQueue::default(),
            reconciler: ReconcileSchedule::new(interval, Arc::clone(&shared), Arc::clone(&metrics)),
            reclaimer: Reclaimer::new(Arc::clone(&shared)),
            heartbeat: Heartbeat::new(dataplane.agent_state()),
            termination,
            nested,
            long_connections,
            publisher: StatusPublisher::new(Arc::clone(&shared), Arc::clone(&metrics)),
            dataplane,
            shared,
            metrics,
        };
        control.publish_node_addresses_error();
        control
    }

    fn apply(&mut self, Arrived { events, at }: Arrived) {
        events.into_iter().for_each(|event| self.apply_event(event, at));
    }

    fn apply_event(&mut self, event: Event, at: Instant) {
        self.metrics.source_event(&event);
        let is_of_this_node = match &event {
            Event::Replace(kind, _) => *kind == Kind::Node,
            Event::Apply(object) => self.index.is_this_node(&object.reference),
            Event::Delete(reference) => self.index.is_this_node(reference),
            Event::SourceErrors(_) | Event::Completeness(_) => false,
        };
        if is_of_this_node {
            self.next_sync.require(NextSync::CheckAddresses);
        }
        if let Event::SourceErrors(input_errors) = &event {
            let errors = input_errors.iter().map(InputError::to_string).collect();
            self.shared.update(|status| status.source_errors = errors);
        }
        self.index.apply_arrived(event, at);
    }

    /// Polls what sends no events, and retries failed operations.
    fn tick(&mut self) {
        if self.excluded_pods.needs_sync() {
            self.excluded_pods.sync(&mut self.dataplane);
        }
        self.termination.check_helper();
        self.nested.start_search();
        self.node_addresses.read_interfaces();
        self.publish_node_addresses_error();
        let tick = Tick {
            addresses_differ: self.index.synced() && self.node_addresses.differ(&self.index),
            needs_full_sync: self.retry_queue.needs_full_sync(),
        };
        if let Some(next_sync) = self.next_sync.at_tick(tick) {
            self.next_sync = next_sync;
            self.sync();
        } else if !self.retry_queue.is_empty() {
            self.retry();
        }
    }

    fn reclaim(&mut self, waited: Result<Waited, JoinError>) {
        if self.reclaimer.apply(waited, &mut self.dataplane) == Reclaimed::Some {
            self.publisher.mark_dirty();
            self.schedule_retry();
        }
    }

    fn publish(&mut self) {
        let of_api_server = self.api_server.as_ref().and_then(ApiServer::input_error);
        let input_errors = self.index.input_errors().into_iter().chain(of_api_server).collect();
        self.publisher.publish(input_errors, self.index.counts(), &self.dataplane.usage());
    }

    fn publish_map_usage(&mut self, scanned: Result<ScannedUsage, JoinError>) {
        match scanned {
            Ok(scanned) => {
                let counted = scanned.counters.as_ref().and_then(|map| map.counted.as_ref());
                let without_counters = counted.map(|ids| self.dataplane.without_counters(ids));
                self.publisher.map_usage(scanned, without_counters.unwrap_or_default());
            }
            Err(error) => tracing::warn!("counting what is in the maps: {error}"),
        }
    }

    fn publish_node_addresses_error(&self) {
        let error = self.node_addresses.error().map(ToOwned::to_owned);
        self.shared.update(|status| status.node_addresses_error = error);
    }
}
