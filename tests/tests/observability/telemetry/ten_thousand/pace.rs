//! Clients are not faster than what shows their connections: then no event is lost, and each can be compared.

use std::sync::{Mutex, PoisonError};

use sockline_ebpf::event::{BUDGET, WINDOW_SHIFT};

use super::{
    super::{now, watch::Watch},
    events,
    expected::Expected,
};
use crate::common::{eventually, holds};

/// Events of rounds that nobody has seen. The ring buffer has room for 4,000, and what lies behind it for 3,000.
const UNSEEN: usize = 2_000;
/// Events of rounds that begin in the time for which each CPU has its budget. Others may last until then, or are not made in
/// rounds.
const IN_WINDOW: usize = BUDGET as usize / 2;

pub(super) struct Pace<'a> {
    watch: &'a Watch,
    of_round: usize,
    begun: Mutex<Begun>,
}

/// Events of the rounds that have begun.
#[derive(Default)]
struct Begun {
    all: usize,
    window: u64,
    in_window: usize,
}

impl<'a> Pace<'a> {
    pub(super) fn new(watch: &'a Watch) -> Self {
        let of_round = events::expected(&Expected::of_rounds(1)).values().sum::<u64>() as usize;
        Self { watch, of_round, begun: Mutex::default() }
    }

    /// Waits until a client may make the connections of another round.
    pub(super) fn wait(&self) {
        eventually("events of earlier rounds to be seen", || {
            // Another client may have failed here: each says what it saw.
            let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
            let window = now() >> WINDOW_SHIFT;
            if begun.window != window {
                (begun.window, begun.in_window) = (window, 0);
            }
            let seen = self.watch.count();
            let (all, in_window) = (begun.all + self.of_round, begun.in_window + self.of_round);
            let may_begin = all <= seen + UNSEEN && in_window <= IN_WINDOW;
            if may_begin {
                (begun.all, begun.in_window) = (all, in_window);
            }
            holds(may_begin, format!("{seen} seen of {}", begun.all))
        });
    }
}
