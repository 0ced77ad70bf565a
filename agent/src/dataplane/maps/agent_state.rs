//! What the programs know of the agent, see [`sockline_ebpf::agent_state`].

use std::{
    mem::offset_of,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sockline_ebpf::{agent_state::AgentState as Layout, id::ServiceId};

use crate::{
    bpf::{
        mmap::{Access, SharedArray},
        syscall,
    },
    dataplane::{error::DataplaneError, maps, pinning::layout::Pins},
};

const DEADLINE: usize = offset_of!(Layout, fail_open_deadline) / size_of::<u64>();
const FAIL_OPEN_AFTER: usize = offset_of!(Layout, fail_open_after) / size_of::<u64>();
const EXCLUDE_NESTED: usize = offset_of!(Layout, exclude_nested) / size_of::<u64>();
const BYPASS_COOKIE: usize = offset_of!(Layout, bypass_cookie) / size_of::<u64>();
const LAST_SERVICE: usize = offset_of!(Layout, last_service) / size_of::<u64>();
const EVENTS_UNTIL: usize = offset_of!(Layout, events_until) / size_of::<u64>();
const DEBUG_LOG_UNTIL: usize = offset_of!(Layout, debug_log_until) / size_of::<u64>();
const OWN_CALLS: usize = offset_of!(Layout, own_calls) / size_of::<u64>();

/// What to do with calls from network namespaces that were made inside of pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NestedNamespaces {
    Translate,
    /// Leave them unchanged.
    Exclude,
}

/// The service id that was given out last, in the same map: it outlives the agent.
#[derive(Debug)]
pub struct LastService {
    words: SharedArray<u64>,
}

impl LastService {
    pub(crate) fn open(pins: &Pins) -> Result<Self, DataplaneError> {
        Ok(Self { words: maps::open_agent_state(pins, Access::Write)? })
    }

    /// `None` if what is there was never a service's.
    pub(super) fn get(&self, limit: u32) -> Option<ServiceId> {
        u32::try_from(self.words.load(LAST_SERVICE)).ok().filter(|&id| id < limit).map(ServiceId)
    }

    pub(super) fn set(&self, id: ServiceId) {
        self.words.store(LAST_SERVICE, id.0.into());
    }
}

/// A handle on the map, for any thread. It is the same map for the programs that an earlier agent left
/// attached.
#[derive(Debug, Clone)]
pub struct AgentState {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    words: SharedArray<u64>,
    /// How far ahead the deadline is set; `None` if it is off.
    fail_open_after: Option<Duration>,
    /// There is room for one socket at a time.
    connecting: Mutex<()>,
}

/// While this exists, programs leave the connects of one socket unchanged. To be held only for the
/// `connect()` system call, because others wait for it; so it cannot be held over an `await`.
#[derive(Debug)]
#[must_use]
pub struct Bypass<'a> {
    words: &'a SharedArray<u64>,
    _connecting: MutexGuard<'a, ()>,
}

impl AgentState {
    /// Opens it to write.
    ///
    /// A deadline that an earlier agent set is not extended here: the maps are as old as it says
    /// until [`Self::renew`] is called after the first full sync. So an agent that restarts
    /// repeatedly and never gets there counts as gone. Programs that are not attached read no
    /// deadline: see [`Self::start`].
    pub(crate) fn open(
        pins: &Pins,
        fail_open_after: Option<Duration>,
        nested: NestedNamespaces,
    ) -> Result<Self, DataplaneError> {
        let words = maps::open_agent_state(pins, Access::Write)?;
        words.store(FAIL_OPEN_AFTER, fail_open_after.map_or(0, nanoseconds));
        let own = fail_open_after.filter(|_| pins.have_links()).map(from_now);
        words.store(DEADLINE, first_deadline(words.load(DEADLINE), own));
        words.store(EXCLUDE_NESTED, u64::from(nested == NestedNamespaces::Exclude));
        // An earlier agent may have ended while it connected, while a client watched, or while programs logged.
        words.store(BYPASS_COOKIE, 0);
        words.store(EVENTS_UNTIL, 0);
        words.store(DEBUG_LOG_UNTIL, 0);
        let shared = Shared { words, fail_open_after, connecting: Mutex::new(()) };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Sets the deadline if there is none yet: programs that are attached next must find one that
    /// is not over.
    pub(crate) fn start(&self) {
        if self.shared.words.load(DEADLINE) == 0 {
            self.renew();
        }
    }

    /// Extends the deadline: this agent runs, and the maps are what it wrote. Returns whether calls
    /// were bypassed until now.
    pub fn renew(&self) -> bool {
        let Some(after) = self.shared.fail_open_after else { return false };
        let ends_bypass = Deadline::of(&self.shared.words).is_over();
        self.shared.words.store(DEADLINE, from_now(after));
        ends_bypass
    }

    /// For how long calls have been bypassed; `None` if they are not.
    #[must_use]
    pub fn bypassed_for(&self) -> Option<Duration> {
        Deadline::of(&self.shared.words).bypassed_for()
    }

    /// How far ahead the deadline is set; `None` if it is off.
    #[must_use]
    pub fn fail_open_after(&self) -> Option<Duration> {
        self.shared.fail_open_after
    }

    /// Time until calls are bypassed if no agent extends the deadline; zero if they are already. `None` if
    /// there is no deadline.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        let deadline = Deadline::of(&self.shared.words);
        if deadline.is_over() { Some(Duration::ZERO) } else { deadline.left() }
    }

    /// Until the guard is dropped, programs leave the connects of the socket with this cookie
    /// (`SO_COOKIE`) unchanged, as calls to an address that is no service's.
    pub fn bypass(&self, cookie: u64) -> Bypass<'_> {
        // Poisoning does not matter: the guard has cleared the word.
        let connecting = self.shared.connecting.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.words.store(BYPASS_COOKIE, cookie);
        Bypass { words: &self.shared.words, _connecting: connecting }
    }

    /// Has the programs write events for this long; zero ends it.
    pub(crate) fn write_events_for(&self, time: Duration) {
        let until = if time.is_zero() { 0 } else { from_now(time) };
        self.shared.words.store(EVENTS_UNTIL, until);
    }

    /// Has the programs log what they decide for this long; zero ends it.
    pub(super) fn log_for(&self, time: Duration) {
        let until = if time.is_zero() { 0 } else { from_now(time) };
        self.shared.words.store(DEBUG_LOG_UNTIL, until);
    }

    /// Calls to a service address that were bypassed because of [`Self::bypass`], including those
    /// of earlier agents.
    #[must_use]
    pub fn own_calls(&self) -> u64 {
        self.shared.words.load(OWN_CALLS)
    }
}

/// When all calls are bypassed, as readers see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    /// How long after the agent's last heartbeat; `None` if never.
    pub after: Option<Duration>,
    /// In nanoseconds of the kernel's `CLOCK_MONOTONIC`; 0 is never, or not yet.
    deadline: u64,
    /// The same.
    now: u64,
}

impl Deadline {
    pub(crate) fn read(pins: &Pins) -> Result<Self, DataplaneError> {
        let read = Self::of(&maps::open_agent_state(pins, Access::Read)?);
        // Programs that are not attached bypass nothing. Those of another layout may serve meanwhile.
        Ok(if pins.have_links() { read } else { Self { deadline: 0, ..read } })
    }

    fn of(words: &SharedArray<u64>) -> Self {
        let after = words.load(FAIL_OPEN_AFTER);
        Self {
            after: (after != 0).then(|| Duration::from_nanos(after)),
            deadline: words.load(DEADLINE),
            now: syscall::monotonic_nanoseconds(),
        }
    }

    const fn is_over(&self) -> bool {
        self.deadline != 0 && self.now > self.deadline
    }

    /// For how long calls have been bypassed; `None` if they are not.
    #[must_use]
    pub fn bypassed_for(&self) -> Option<Duration> {
        self.is_over().then(|| Duration::from_nanos(self.now - self.deadline))
    }

    /// Time until calls are bypassed if no agent extends the deadline; `None` if they are already,
    /// or never will.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        let left = Duration::from_nanos(self.deadline.saturating_sub(self.now));
        (self.deadline != 0 && !self.is_over()).then_some(left)
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn from_now(after: Duration) -> u64 {
    syscall::monotonic_nanoseconds().saturating_add(nanoseconds(after))
}

/// The deadline at the start of an agent: an earlier one's, unless that is later than this agent's own
/// would be. 0 is none, before and after.
fn first_deadline(before: u64, own: Option<u64>) -> u64 {
    match (before, own) {
        (_, None) => 0,
        (0, Some(own)) => own,
        (before, Some(own)) => before.min(own),
    }
}

impl Drop for Bypass<'_> {
    fn drop(&mut self) {
        // Before the lock is released.
        self.words.store(BYPASS_COOKIE, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_of_an_agent_never_puts_off_the_deadline_and_takes_it_back_where_it_is_off() {
        for (before, own, expected) in [
            (0, None, 0),
            (70, None, 0),
            (0, Some(100), 100),
            (70, Some(100), 70),
            (170, Some(100), 100),
        ] {
            assert_eq!(first_deadline(before, own), expected, "{before} {own:?}");
        }
    }
}
