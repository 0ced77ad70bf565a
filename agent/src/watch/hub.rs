//! The task that reads events, and sends them to all who watch.

use std::{path::PathBuf, sync::Arc, time::Duration};

use sockline_ebpf::{
    frontend::{Protocol as KernelProtocol, Reason},
    telemetry::End,
};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{
    document::{Client, ConnectionEnd, ConnectionEvent, EventType, Process, Why},
    names::Names,
    queue::line,
    watcher::{Ends, Watcher, Watchers},
};
use crate::{
    dataplane::{Ended, Event, Events, What},
    model::{object::Protocol, probe_service::is_probe},
    telemetry::Metrics,
    workloads::{self, AskPods},
};

/// How often the ring buffer is read. Waking the agent for each event would cost the programs more.
const POLL: Duration = Duration::from_millis(40);
/// Events that are read at once, so that those who join or leave do not wait: twice the ring buffer.
const BATCH: usize = 8192;
/// Events after which other tasks of the runtime's thread get their turn.
const EVENTS_BETWEEN_YIELDS: usize = 256;

/// Reads events while there is a watcher.
pub struct Hub {
    events: Events,
    names: Names,
    ends: Ends,
    joins: mpsc::Receiver<Watcher>,
    watchers: Vec<Watcher>,
    metrics: Arc<Metrics>,
}

impl Hub {
    /// `top` is the cgroup that all pods are below.
    pub fn new(
        events: Events,
        ends: Ends,
        top: PathBuf,
        ask_pods: AskPods,
        metrics: Arc<Metrics>,
    ) -> (Self, Watchers) {
        let (joins, joined) = mpsc::channel(1);
        let hub = Self {
            events,
            names: Names::new(top, ask_pods),
            ends,
            joins: joined,
            watchers: Vec::new(),
            metrics,
        };
        (hub, Watchers::new(joins))
    }

    /// Runs until `stop`. To be run in a task of its own: a turn with many events takes milliseconds.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let joined = tokio::select! {
                () = stop.cancelled() => return,
                joined = self.joins.recv() => joined,
            };
            let Some(first) = joined else { return stop.cancelled().await };
            self.add(first);
            self.events.switch_on();
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.serve() => {}
            }
            self.events.switch_off();
            self.names.clear();
            self.metrics.watchers(0);
        }
    }

    /// Until there is no watcher any more.
    async fn serve(&mut self) {
        let mut poll = interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.watchers.is_empty() {
            tokio::select! {
                Some(joined) = self.joins.recv() => self.add(joined),
                _ = poll.tick() => self.turn().await,
            }
        }
    }

    fn add(&mut self, mut watcher: Watcher) {
        watcher.baseline = self.losses();
        self.watchers.push(watcher);
    }

    /// Sends what was written since the last turn.
    async fn turn(&mut self) {
        self.events.renew();
        let events = self.events.read(BATCH);
        self.names.prepare(&self.events, &events).await;
        // That may have taken seconds.
        self.events.renew();
        let mut dropped = 0;
        for (done, event) in events.into_iter().enumerate() {
            if done % EVENTS_BETWEEN_YIELDS == EVENTS_BETWEEN_YIELDS - 1 {
                tokio::task::yield_now().await;
            }
            let Some(document) = self.document(event) else { continue };
            let mut text = None;
            for watcher in &mut self.watchers {
                if watcher.filter.matches(&document)
                    && !watcher.offer(text.get_or_insert_with(|| line(&document)))
                {
                    dropped += 1;
                }
            }
        }
        self.metrics.events_dropped(dropped);
        let (losses, now) = (self.losses(), Instant::now());
        for watcher in &mut self.watchers {
            watcher.send(self.ends, losses, now);
        }
        self.watchers.retain(|watcher| !watcher.is_gone());
        self.metrics.watchers(self.watchers.len());
    }

    /// Events that programs did not write, and that the ring had no room for.
    fn losses(&self) -> (u64, u64) {
        self.events.counts().map_or((0, 0), |counts| (counts.lost, counts.sampled))
    }

    /// `None` for connections of `sockline check`.
    fn document(&mut self, event: Event) -> Option<ConnectionEvent> {
        let endpoint = self.names.backend(&self.events, &event).map(Into::into);
        let workloads::Client { pod, workload } = self.names.client(event.cgroup);
        let service = self.names.service(event.service);
        if service.is_some_and(|key| is_probe(&key.service)) {
            return None;
        }
        let (kind, reason) = kind_of(&event.what);
        let end = match event.what {
            What::Ended(Ended { end: End::Untracked, .. }) => None,
            What::Ended(ended) => Some(ConnectionEnd {
                duration_seconds: ended.lifetime.as_secs_f64(),
                sent_bytes: ended.sent,
                received_bytes: ended.received,
                round_trip_seconds: ended.round_trip.map(|time| time.as_secs_f64()),
                retransmitted_segments: ended.retransmitted,
            }),
            _ => None,
        };
        Some(ConnectionEvent {
            time: event.time,
            event: kind,
            reason,
            protocol: match event.protocol {
                KernelProtocol::Tcp => Protocol::Tcp,
                KernelProtocol::Udp => Protocol::Udp,
                KernelProtocol::Sctp => Protocol::Sctp,
            },
            client: Client {
                pod,
                workload,
                process: Process { name: event.process, pid: event.pid },
            },
            service: service.map(|key| key.service.clone()),
            port_name: service.map(|key| key.port_name.to_string()).unwrap_or_default(),
            dialled: event.dialled.map(Into::into),
            endpoint,
            end,
        })
    }
}

const fn kind_of(what: &What) -> (EventType, Option<Why>) {
    let ended = match what {
        What::Opened => return (EventType::Opened, None),
        What::OpenedUntracked => return (EventType::Opened, Some(Why::Untracked)),
        What::Refused(Reason::NoLocalEndpoints) => {
            return (EventType::Refused, Some(Why::NoLocalEndpoints));
        }
        What::Refused(Reason::NoEndpoints) => return (EventType::Refused, Some(Why::NoEndpoints)),
        What::Refused(_) => return (EventType::Refused, None),
        What::Ended(ended) => ended.end,
    };
    match ended {
        End::Client => (EventType::Closed, Some(Why::Client)),
        End::Server => (EventType::Closed, Some(Why::Server)),
        End::ClientReset => (EventType::Closed, Some(Why::ClientReset)),
        End::ServerReset => (EventType::Closed, Some(Why::ServerReset)),
        End::Lost => (EventType::Closed, Some(Why::Lost)),
        End::Unknown => (EventType::Closed, Some(Why::Unknown)),
        End::Refused => (EventType::Failed, Some(Why::Refused)),
        End::TimedOut => (EventType::Failed, Some(Why::TimedOut)),
        End::Unreachable => (EventType::Failed, Some(Why::Unreachable)),
        End::GivenUp => (EventType::Failed, Some(Why::GivenUp)),
        End::Untracked => (EventType::Untracked, None),
    }
}
