//! The control loop: takes in changes, plans, and brings the kernel to the plan. It has a thread of its
//! own, and blocks it.

mod probe_services;
mod retry_queue;
mod thread;
mod throttle;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use jiff::Timestamp;
use tokio::{
    sync::mpsc,
    task::{JoinError, JoinHandle, spawn_blocking},
    time::{MissedTickBehavior, interval, sleep_until},
};
use tokio_util::sync::CancellationToken;

pub use self::thread::ControlThread;
use self::{probe_services::ProbeServices, retry_queue::RetryQueue, throttle::Throttle};
use super::{
    Config,
    api_server::ApiServer,
    exclusion::ExcludedPods,
    heartbeat::{self, Heartbeat},
    nested_namespaces::Nested,
    node_addresses::NodeAddresses,
    reconcile::Reconciler,
    status_publisher::StatusPublisher,
};
use crate::{
    admin::Command,
    dataplane::{BpfError, CanWait, Dataplane, DataplaneError, ScannedUsage, SyncReport, Synced},
    error_chain::chain,
    log_on_change::LogOnChange,
    model::{
        index::Index,
        object::{Kind, Problem},
        other_nodes::OtherNodes,
        plan::{Plan, ServicePlan},
    },
    source::{Arrived, Event},
    status::{Shared, Unconfirmed},
    telemetry::Metrics,
    termination::Termination,
};

/// How often the node's addresses are looked at and failed services tried again.
const LOOK_AROUND: Duration = Duration::from_secs(5);
/// How often to take back what was put to rest, if there is anything.
const SETTLE: Duration = Duration::from_secs(1);

/// What a change of the maps' layout waits for: what the other layout serves cannot be taken over
/// service by service.
const ANOTHER_LAYOUT: &str = "a source that can be read in full; until then, the kernel serves what an \
                              agent of another layout left";

struct Control {
    dataplane: Dataplane,
    index: Index,
    excluded_pods: ExcludedPods,
    /// The kernel may not know all pods that are left alone.
    exclusion_failed: bool,
    exclusion_log: LogOnChange,
    throttle: Throttle,
    /// When services that had to wait may be brought to the kernel.
    next_batch: Option<Instant>,
    node_addresses: NodeAddresses,
    /// Which version of the other nodes' addresses is in the kernel.
    other_nodes: Option<u64>,
    /// The node's own addresses, as of the last sync.
    addresses: Vec<IpAddr>,
    /// As of when they were chosen: see [`Index::service_use_version`].
    service_use_version: u64,
    /// The node's addresses may have changed.
    addresses_stale: bool,
    /// The next sync is one of everything.
    whole: bool,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    publisher: StatusPublisher,
    /// The last sync failed as a whole.
    failed: bool,
    retry_queue: RetryQueue,
    /// How many services the last sync left as an earlier agent did.
    held_back: usize,
    /// The source could be read in full, as of the last sync.
    complete: bool,
    probe_services: ProbeServices,
    reconciler: Reconciler,
    heartbeat: Heartbeat,
    reclaim_log: LogOnChange,
    closing: Termination,
    nested: Nested,
    /// Where the source is one.
    api_server: Option<ApiServer>,
}

/// The kernel's side of the node.
pub struct Kernel {
    pub dataplane: Dataplane,
    pub closing: Termination,
    pub nested: Nested,
    /// What it holds of the API server that is the source.
    pub api_server: Option<ApiServer>,
}

/// What the loop is told.
pub struct Inputs {
    pub changes: mpsc::Receiver<Arrived>,
    pub commands: mpsc::UnboundedReceiver<Command>,
}

/// Runs until `stop`, or until the source is gone.
pub async fn run(
    Kernel { dataplane, closing, nested, api_server }: Kernel,
    Inputs { mut changes, mut commands }: Inputs,
    config: &Config,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let node_addresses =
        NodeAddresses::new(config.node_port_addresses.clone(), dataplane.node_addresses());
    let mut control = Control {
        closing,
        nested,
        api_server,
        excluded_pods: ExcludedPods::new(config.leave_alone.clone(), dataplane.cgroup()),
        exclusion_failed: false,
        heartbeat: Heartbeat::new(dataplane.agent_state()),
        reclaim_log: LogOnChange::new("what is not used any more cannot be given out again"),
        exclusion_log: LogOnChange::new("cannot leave pods alone"),
        dataplane,
        index: Index::new(config.node_name.as_str()).with_node_ports(config.node_ports),
        other_nodes: None,
        throttle: Throttle::default(),
        next_batch: None,
        node_addresses,
        addresses: Vec::new(),
        service_use_version: 0,
        addresses_stale: true,
        whole: false,
        publisher: StatusPublisher::new(Arc::clone(&shared), Arc::clone(&metrics)),
        reconciler: Reconciler::new(
            config.repair_interval,
            Arc::clone(&shared),
            Arc::clone(&metrics),
        ),
        shared,
        metrics,
        failed: false,
        retry_queue: RetryQueue::default(),
        held_back: 0,
        complete: false,
        probe_services: ProbeServices::default(),
    };
    control.publish_node_addresses_error();
    let mut heartbeat = interval(heartbeat::INTERVAL);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut settle = interval(SETTLE);
    settle.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut settling: Option<JoinHandle<Result<Instant, BpfError>>> = None;
    let mut look_around = interval(LOOK_AROUND);
    look_around.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reconcile_links = interval(Reconciler::links_interval(config.repair_interval));
    reconcile_links.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The fill of the maps that programs write; soon for the first time, to have something to say.
    let mut census = interval(config.repair_interval);
    census.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut counting: Option<JoinHandle<Result<ScannedUsage, DataplaneError>>> = None;
    loop {
        control.shared.record_turn();
        control.heartbeat.renew();
        tokio::select! {
            () = stop.cancelled() => return,
            change = changes.recv() => {
                let Some(change) = change else { return };
                control.apply(change);
                // Whatever else has arrived costs no plan of its own.
                for _ in 0..changes.len() {
                    let Ok(change) = changes.try_recv() else { break };
                    control.apply(change);
                }
                control.sync();
            }
            _ = heartbeat.tick() => control.release_if_overdue(),
            () = at(control.next_batch) => control.sync(),
            () = at(control.retry_queue.due()) => control.retry(),
            () = at(control.publisher.due()) => control.publish(),
            () = control.excluded_pods.cgroup_created() => control.exclude_pods(),
            () = at(control.closing.due()) => {
                control.closing.pass(&control.dataplane, &control.index);
            }
            ended = control.closing.ended() => {
                control.closing.record(ended, &mut control.dataplane);
            }
            result = control.nested.search_ended() => {
                if let Some(found) = control.nested.apply(result, &control.index) {
                    control.shared.update(|status| status.nested_namespaces = found);
                }
            }
            _ = look_around.tick() => {
                if control.exclusion_failed || control.excluded_pods.is_incomplete() {
                    control.exclude_pods();
                }
                control.closing.check_helper();
                control.nested.start_search();
                if control.addresses_changed() || control.failed || control.retry_queue.needs_full_sync() {
                    control.addresses_stale = true;
                    control.sync();
                } else if !control.retry_queue.is_empty() {
                    control.retry();
                }
            }
            _ = settle.tick(), if settling.is_none() && control.dataplane.has_reclaimable() => {
                // Elsewhere: changes shall not wait for the programs that run.
                let programs = control.dataplane.running_programs();
                let wait = move |began| programs.synchronize_rcu().map(|()| began);
                settling = Some(spawn_blocking(move || wait(Instant::now())));
            }
            waited = async { settling.as_mut().expect("the branch's condition").await },
                if settling.is_some() => {
                settling = None;
                control.settle(waited);
            }
            _ = census.tick(), if counting.is_none() => {
                match control.dataplane.map_scan() {
                    // Elsewhere: it may take some milliseconds.
                    Ok(census) => counting = Some(spawn_blocking(move || census.run())),
                    Err(error) => tracing::warn!("cannot count what is in the maps: {}", chain(&error)),
                }
            }
            counted = async { counting.as_mut().expect("the branch's condition").await },
                if counting.is_some() => {
                counting = None;
                control.counted(counted);
            }
            _ = reconcile_links.tick() => control.reconciler.reconcile_links(&mut control.dataplane),
            () = at(Some(control.reconciler.due())) => {
                control.reconciler.reconcile_maps(&mut control.dataplane);
            }
            Some(command) = commands.recv() => control.handle_command(command),
        }
    }
}

/// Returns at this time; never if there is none.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

impl Control {
    fn apply(&mut self, Arrived { events, at }: Arrived) {
        events.into_iter().for_each(|event| self.apply_event(event, at));
    }

    fn apply_event(&mut self, event: Event, at: Instant) {
        self.metrics.source_event(&event);
        self.addresses_stale |= match &event {
            Event::Replace(kind, _) => *kind == Kind::Node,
            Event::Apply(object) => self.index.is_this_node(&object.reference),
            Event::Delete(reference) => self.index.is_this_node(reference),
            Event::Trouble(_) | Event::Complete(_) => false,
        };
        if let Event::Trouble(problems) = &event {
            let errors = problems.iter().map(Problem::to_string).collect();
            self.shared.update(|status| status.source_errors = errors);
        }
        self.index.apply_arrived(event, at);
    }

    fn addresses_changed(&mut self) -> bool {
        self.node_addresses.read_interfaces();
        self.publish_node_addresses_error();
        self.index.synced() && self.node_addresses.select(&self.index) != self.addresses
    }

    fn publish_node_addresses_error(&self) {
        let error = self.node_addresses.error().map(ToOwned::to_owned);
        self.shared.update(|status| status.node_addresses_error = error);
    }

    fn sync(&mut self) {
        self.next_batch = None;
        self.publisher.mark_dirty();
        if !self.index.synced() {
            return;
        }
        let complete = self.index.complete();
        // What was released is in no list of changes.
        self.whole |= complete != std::mem::replace(&mut self.complete, complete);
        self.dataplane.retain_unconfirmed(!complete);
        self.dataplane.retain(self.index.retained());
        self.dataplane.release_unconfirmed(self.heartbeat.is_overdue());
        // First, so that no pod is redirected by programs that are just being attached.
        let pods = self.index.left_alone(self.excluded_pods.policy());
        if pods.is_some() || (complete && self.dataplane.has_unconfirmed_exclusions()) {
            pods.into_iter().for_each(|pods| self.excluded_pods.set_pods(pods));
            self.exclude_pods();
        }
        let began = Instant::now();
        let (report, result) = self.bring_to_kernel();
        // Also of what was done before something failed: it is not told again.
        self.closing.synced(&report, &mut self.index);
        match result {
            Ok(()) => {
                self.failed = false;
                self.done(&report, began);
            }
            Err(error) => {
                self.failed = true;
                self.publisher.sync_failed(&error.into());
            }
        }
        self.notice_room();
    }

    /// Gives up what only the agent before knew of when that is too old to be served, rather than have
    /// all other services bypassed with it.
    fn release_if_overdue(&mut self) {
        let is_waiting = self.held_back > 0 || !self.dataplane.is_attached();
        if is_waiting && !self.failed && self.index.synced() && self.heartbeat.is_overdue() {
            self.sync();
        }
    }

    /// Tries again to bring services to the kernel that were left out.
    fn retry(&mut self) {
        let began = Instant::now();
        self.mark_other_nodes();
        let mut services: Vec<ServicePlan> = self
            .retry_queue
            .services()
            // Of one that has changed, the change will be taken in anyway.
            .filter(|service| !self.index.is_waiting(service))
            .map(|service| self.index.planned_of(service))
            .collect();
        self.keep_endpoints(&mut services);
        if self.dataplane.is_local(&services) {
            let report = self.dataplane.retry(&services);
            self.metrics.wrote("left-out");
            self.closing.synced(&report, &mut self.index);
            self.retry_queue.record_services(&services, &report.failures);
            if report.services_changed > 0 {
                tracing::info!(services = report.services_changed, "services fit now");
                self.publisher.mark_dirty();
            }
            self.publish_unsynced();
        } else {
            // Addresses of the node are concerned.
            self.addresses_stale = true;
            self.whole = true;
            self.sync();
        }
        self.retry_queue.retried(began.elapsed());
        // What these services themselves took or gave back is no news.
        self.dataplane.take_freed();
    }

    fn notice_room(&mut self) {
        if self.dataplane.take_freed() {
            self.retry_queue.room_freed();
        }
    }

    fn publish_unsynced(&mut self) {
        if self.retry_queue.take_changed() {
            self.publisher.unsynced(self.retry_queue.ports());
        }
    }

    /// Takes in what was found in the maps that programs write.
    fn counted(&mut self, counted: Result<Result<ScannedUsage, DataplaneError>, JoinError>) {
        match counted {
            Ok(Ok(counted)) => {
                let uncounted =
                    counted.counted.as_ref().map(|ids| self.dataplane.without_counters(ids));
                self.publisher.map_usage(&counted, uncounted.unwrap_or_default());
            }
            Ok(Err(error)) => tracing::warn!("cannot count what is in the maps: {}", chain(&error)),
            Err(error) => tracing::warn!("counting what is in the maps: {error}"),
        }
    }

    /// Writes what changed since the last time, or compares the whole plan where that is not all.
    fn bring_to_kernel(&mut self) -> Synced {
        let complete = self.index.complete();
        self.mark_other_nodes();
        let use_version = self.index.service_use_version();
        let use_changed =
            std::mem::replace(&mut self.service_use_version, use_version) != use_version;
        let addresses_are_known = !(std::mem::take(&mut self.addresses_stale) || use_changed) || {
            let addresses = self.node_addresses.select(&self.index);
            let known = addresses == self.addresses;
            self.addresses = addresses;
            known
        };
        let is_whole = std::mem::take(&mut self.whole);
        if self.shared.is_ready()
            && complete
            && self.held_back == 0
            && !self.failed
            && !is_whole
            && addresses_are_known
        {
            return self.bring_changes_to_kernel();
        }
        let changes = self.index.changes();
        let synced = self.sync_all();
        self.programmed(&changes.services);
        synced
    }

    /// Brings the other nodes' addresses to the kernel. Without room for them, all else goes on.
    fn mark_other_nodes(&mut self) {
        let version = self.index.other_nodes().map_or(0, OtherNodes::version);
        if self.other_nodes == Some(version) {
            return;
        }
        let addresses = self.index.other_nodes().map(OtherNodes::all).unwrap_or_default();
        let result = self.dataplane.set_other_nodes(&addresses);
        if result.is_ok() && self.index.complete() {
            self.other_nodes = Some(version);
        }
        self.retry_queue.record_other_nodes(result.as_ref().err());
        if result.is_err() {
            self.metrics.sync_failed();
        }
    }

    fn sync_all(&mut self) -> Synced {
        let mut plan = self.index.plan();
        self.complete(&mut plan);
        let (report, result) = self.dataplane.sync(&plan, &self.addresses);
        self.metrics.wrote("everything");
        self.retry_queue.record_full(&report.failures);
        (report, result)
    }

    /// Adds what is in the kernel and in no object.
    fn complete(&mut self, plan: &mut Plan) {
        if let Some(api_server) = &mut self.api_server {
            api_server.keep_endpoints(&mut plan.frontends);
        }
        plan.frontends.extend(self.probe_services.frontends());
    }

    /// As [`Self::complete`], for single services.
    fn keep_endpoints(&mut self, services: &mut [ServicePlan]) {
        let Some(api_server) = &mut self.api_server else { return };
        if let Some(plan) = services.iter_mut().find(|plan| api_server.is(&plan.service)) {
            api_server.keep_endpoints(&mut plan.frontends);
        }
    }

    fn bring_changes_to_kernel(&mut self) -> Synced {
        let batch = self.throttle.batch(Instant::now(), |service| self.index.is_waiting(service));
        let mut changes = self.index.changes_except(|service| batch.is_throttled(service));
        let next_batch = batch.next();
        self.keep_endpoints(&mut changes.services);
        if !self.dataplane.is_local(&changes.services) {
            let waiting = self.index.changes();
            let synced = self.sync_all();
            self.programmed(&changes.services);
            self.programmed(&waiting.services);
            return synced;
        }
        self.next_batch = next_batch.filter(|_| self.index.has_waiting());
        // An address that moves from one service to another must be in one step.
        let (costly, cheap): (Vec<_>, Vec<_>) = changes.services.into_iter().partition(|change| {
            !changes.addresses_moved && self.throttle.is_costly(&change.service)
        });
        let (mut all, mut result) = (SyncReport::default(), Ok(()));
        for batch in [cheap, costly] {
            if !batch.is_empty() {
                let (report, synced) = self.dataplane.sync_services(&batch);
                self.metrics.wrote("services");
                self.retry_queue.record_services(&batch, &report.failures);
                self.programmed(&batch);
                all.merge(report);
                result = result.and(synced);
            }
        }
        (all, result)
    }

    /// Takes note of changes that are in the kernel now.
    fn programmed(&mut self, changes: &[ServicePlan]) {
        let now = Instant::now();
        for change in changes {
            self.throttle.record(&change.service, throttle::cost(change), now);
        }
        // The first sync is of objects that are older than this agent.
        if self.shared.is_ready() {
            let causes = changes.iter().flat_map(|change| &change.causes);
            causes.for_each(|cause| self.metrics.programmed(cause));
        }
    }

    fn done(&mut self, report: &SyncReport, began: Instant) {
        if !report.failures.is_empty() {
            self.metrics.sync_failed();
        }
        self.publish_unsynced();
        if self.held_back != report.services_unconfirmed {
            self.held_back = report.services_unconfirmed;
            tracing::info!(
                services = self.held_back,
                "services stay as the last agent left them until the source can be read in full"
            );
        }
        if report.services_released > 0 {
            tracing::warn!(
                services = report.services_released,
                "the last agent has been gone for --fail-open-after: services that stayed as it left \
                 them are bypassed until their objects can be read"
            );
        }
        // What is held back is as old as the last sign of life of the agent before. It is released when
        // that is too long ago (see `Heartbeat::is_overdue`), so this comes in any case.
        if self.dataplane.is_attached() && self.held_back == 0 {
            self.heartbeat.start();
        }
        // Also while some services wait for their turn: they may do so all the time.
        let took = began.elapsed();
        self.metrics.synced(took);
        self.shared.update(|status| {
            status.last_sync = Some(Timestamp::now());
            status.last_sync_seconds = took.as_secs_f64();
            status.syncs += 1;
        });
        if self.shared.is_ready() {
            tracing::debug!(
                changed = report.services_changed,
                removed = report.services_removed,
                microseconds = took.as_micros(),
                "synced"
            );
        } else if !self.dataplane.is_attached() {
            self.publish();
            if self.shared.wait_for(ANOTHER_LAYOUT) {
                tracing::warn!("waiting for {ANOTHER_LAYOUT}");
            }
        } else {
            self.publish();
            let usage = self.dataplane.usage();
            tracing::info!(
                services = usage.services,
                frontends = usage.frontends,
                backends = usage.allocator.backends,
                milliseconds = took.as_millis(),
                "the first full sync is in the kernel"
            );
            self.shared.set_ready();
        }
    }

    /// Brings the kernel to the cgroups of the pods that are left alone.
    fn exclude_pods(&mut self) {
        let result = self
            .excluded_pods
            .cgroups()
            .context("reading the cgroup hierarchy")
            .and_then(|cgroups| Ok(self.dataplane.exclude_cgroups(&cgroups)?));
        self.exclusion_failed = !matches!(&result, Ok(no_room) if no_room.is_empty());
        self.exclusion_log.record(result.as_ref().map(|_| ()).map_err(AsRef::as_ref));
        match result {
            Ok(no_room) => self.excluded_pods.record_no_room(&no_room),
            Err(_) => self.metrics.sync_failed(),
        }
        let account = self.excluded_pods.status();
        self.metrics.left_alone(&account);
        self.shared.update(|status| status.left_alone = account);
    }

    fn publish(&mut self) {
        let of_api_server = self.api_server.as_ref().and_then(ApiServer::problem);
        let problems = self.index.problems().into_iter().chain(of_api_server);
        let usage = self.dataplane.usage();
        let unconfirmed = Unconfirmed {
            held_back: self.held_back,
            retained: usage.retained,
            released: usage.released,
        };
        self.publisher.publish(problems.collect(), self.index.counts(), &usage, unconfirmed);
    }

    fn settle(&mut self, waited: Result<Result<Instant, BpfError>, JoinError>) {
        if let Ok(waited) = &waited {
            self.reclaims(waited.as_ref().map(|_| ()));
        }
        let settled = match waited {
            Ok(Ok(began)) => {
                self.publisher.mark_dirty();
                self.dataplane.reclaim_before(began)
            }
            // Told already.
            Ok(Err(_)) => return,
            Err(error) => return tracing::warn!("waiting for running programs: {error}"),
        };
        if let Err(error) = settled {
            tracing::warn!("{}", chain(&error));
        }
        self.notice_room();
    }

    /// Takes in whether running programs could be waited for.
    fn reclaims(&mut self, waited: Result<(), &BpfError>) {
        self.reclaim_log.record(waited.map_err(|error| error as &dyn std::error::Error));
        let reclaim = CanWait::of(waited).into();
        self.shared.update(|status| status.reclaim = reclaim);
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::AddProbeService { listeners, reply } => {
                let result = if self.shared.is_ready() {
                    self.probe_services.add(&mut self.dataplane, listeners)
                } else {
                    Err("the agent waits for its first full sync".into())
                };
                // Whoever asked may have gone meanwhile.
                if let Err(Ok(service)) = reply.send(result) {
                    self.probe_services.remove(&mut self.dataplane, &service);
                }
            }
            Command::RemoveProbeService(service) => {
                self.probe_services.remove(&mut self.dataplane, &service);
            }
            // Whoever asked is gone: it costs time that others wait for.
            Command::FindDrift { reply } if reply.is_closed() => {}
            Command::FindDrift { reply } => {
                let result = if self.shared.is_ready() {
                    let mut plan = self.index.planned();
                    self.complete(&mut plan);
                    self.dataplane.compare(&plan).map_err(|error| chain(&error))
                } else {
                    Err("the agent waits for its first full sync".into())
                };
                let _ = reply.send(result);
            }
        }
    }
}
