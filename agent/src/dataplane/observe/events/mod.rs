//! Events of connections, which programs write while they are switched on.
//!
//! Called by `watch`, which has one [`Events`] for all who watch. The switch is a deadline in the programs' view of the
//! agent: an agent that is killed leaves nothing switched on.

pub mod decode;

use std::{net::SocketAddr, time::Duration};

use aya::maps::{MapData, PerCpuArray, RingBuf};
use jiff::Timestamp;
use sockline_ebpf::{
    backend::Backend,
    event::EventCounts,
    id::{BackendId, ServiceId},
};

use self::decode::{Clock, Event};
use crate::{
    bpf::{kinds::segmented_array::Reader, syscall},
    dataplane::{
        error::DataplaneError,
        maps::{
            self,
            agent_state::AgentState,
            service_names::{self, ServiceKey},
        },
        pinning::layout::Pins,
        programs::telemetry::tick_nanoseconds,
    },
};

/// How long programs write events without [`Events::renew`]. Long, because what is not written then is not counted either.
const SWITCHED_ON_FOR: Duration = Duration::from_secs(60);

/// The reader of the ring buffer, and its switch. Dropping it switches events off.
pub struct Events {
    pins: Pins,
    ring: RingBuf<MapData>,
    counts: PerCpuArray<MapData, EventCounts>,
    state: AgentState,
    backends: Reader<Backend>,
    /// Nanoseconds of a jiffy.
    tick: u64,
}

impl Events {
    pub(crate) fn open(
        pins: &Pins,
        state: AgentState,
        backends: Reader<Backend>,
    ) -> Result<Self, DataplaneError> {
        let failed =
            |error| DataplaneError::io("ask for the length of a clock tick".to_owned(), error);
        Ok(Self {
            pins: pins.clone(),
            ring: maps::open_events(pins)?,
            counts: maps::open_event_counts(pins)?,
            state,
            backends,
            tick: tick_nanoseconds().map_err(failed)?,
        })
    }

    /// Switches events on. What is left in the ring buffer from an earlier time is dropped.
    pub fn switch_on(&mut self) {
        while self.ring.next().is_some() {}
        self.renew();
    }

    /// Keeps events switched on. To be called every second.
    pub fn renew(&self) {
        self.state.write_events_for(SWITCHED_ON_FOR);
    }

    pub fn switch_off(&self) {
        self.state.write_events_for(Duration::ZERO);
    }

    /// Up to `limit` events that were written since the last call.
    pub fn read(&mut self, limit: usize) -> Vec<Event> {
        let wall = Timestamp::now().as_nanosecond();
        let clock = Clock {
            start: wall - i128::from(syscall::monotonic_nanoseconds()),
            tick_nanoseconds: self.tick,
        };
        let mut events = Vec::new();
        while events.len() < limit
            && let Some(item) = self.ring.next()
        {
            events.extend(decode::decode(&item, clock));
        }
        events
    }

    /// What became of events so far, on all CPUs; those of earlier agents included.
    pub fn counts(&self) -> Result<EventCounts, DataplaneError> {
        counts(&self.counts)
    }

    /// The address of a backend, if it has not been removed.
    #[must_use]
    pub fn backend(&self, (id, generation): (BackendId, u32)) -> Option<SocketAddr> {
        let entry = self.backends.read(id.0)?;
        let is_same = entry.generation == generation && entry.service != ServiceId::NONE;
        is_same.then(|| SocketAddr::new(entry.address.into(), u16::from_be(entry.port)))
    }

    /// Names of service ports. Opened each time, because the agent may put a larger map in its place.
    pub fn service_names(
        &self,
    ) -> Result<impl Fn(ServiceId) -> Option<ServiceKey> + use<>, DataplaneError> {
        let names = maps::open_names(&self.pins)?;
        Ok(move |service| service_names::read(&names, service).ok().flatten())
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.switch_off();
    }
}

pub(super) fn counts(
    counts: &PerCpuArray<MapData, EventCounts>,
) -> Result<EventCounts, DataplaneError> {
    let per_cpu = counts
        .get(&0, 0)
        .map_err(|error| DataplaneError::map(maps::EVENT_COUNTS, "read", error))?;
    let mut sum = EventCounts::default();
    for one in per_cpu.iter() {
        sum.written += one.written;
        sum.lost += one.lost;
        sum.sampled += one.sampled;
    }
    Ok(sum)
}
