//! What the programs know of the agent: see [`sockline_ebpf::agent_state`].

use std::{
    mem::offset_of,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sockline_ebpf::agent_state::AgentState as Layout;

use super::{error::DataplaneError, maps, pins::Pins, sys::SharedArray};

const BYPASS_COOKIE: usize = offset_of!(Layout, bypass_cookie) / size_of::<u64>();
const OWN_CALLS: usize = offset_of!(Layout, own_calls) / size_of::<u64>();

/// A handle on the map, for any thread. It is the same map for the programs that an earlier agent left
/// attached.
#[derive(Debug, Clone)]
pub struct AgentState {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    words: SharedArray<u64>,
    /// There is room for one socket at a time.
    connecting: Mutex<()>,
}

/// While it lives, the programs let one socket's connects go through unchanged. To be held over the
/// `connect()` system call and no longer: others wait for it. So it cannot be held over an `await`.
#[derive(Debug)]
#[must_use]
pub struct Bypass<'a> {
    words: &'a SharedArray<u64>,
    _connecting: MutexGuard<'a, ()>,
}

impl AgentState {
    /// Opens it to write. An earlier agent may have ended while it connected.
    pub(super) fn open(pins: &Pins) -> Result<Self, DataplaneError> {
        let words = maps::open_agent_state(pins, true)?;
        words.store(BYPASS_COOKIE, 0);
        Ok(Self { shared: Arc::new(Shared { words, connecting: Mutex::new(()) }) })
    }

    /// Lets the connects of the socket with this cookie (`SO_COOKIE`) go through unchanged, as calls to
    /// an address that is no service's, until the guard is dropped.
    pub fn bypass(&self, cookie: u64) -> Bypass<'_> {
        // What a panic left behind is as good: the guard has cleared the word.
        let connecting = self.shared.connecting.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.words.store(BYPASS_COOKIE, cookie);
        Bypass { words: &self.shared.words, _connecting: connecting }
    }

    /// Calls to a service address that went through unchanged because of [`Self::bypass`], also of
    /// earlier agents.
    #[must_use]
    pub fn own_calls(&self) -> u64 {
        self.shared.words.load(OWN_CALLS)
    }
}

impl Drop for Bypass<'_> {
    fn drop(&mut self) {
        // Before the lock is released.
        self.words.store(BYPASS_COOKIE, 0);
    }
}
