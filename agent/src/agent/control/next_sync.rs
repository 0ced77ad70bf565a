//! What the next sync has to do.

/// What the next sync has to do, in ascending order: each includes what those above it do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NextSync {
    /// Write the services that changed.
    Changes,
    /// As `Changes`, but a full sync if the node's addresses are not those of the last sync.
    CheckAddresses,
    /// Compare the whole plan with the maps, because the list of changes does not have all that differs.
    Full,
    /// As `Full`, and again until the kernel serves nothing that only an earlier agent confirmed: services
    /// stay as that agent left them, or the programs of another layout serve. Also the state at the start.
    Unconfirmed,
    /// As `Full`, and again at the next tick: the last sync failed as a whole.
    Failed,
}

/// What a sync writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Changes,
    Full,
}

/// How a sync ended.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// It failed as a whole.
    pub failed: bool,
    /// Services that are as an earlier agent left them, because the source is incomplete.
    pub unconfirmed: usize,
    /// The programs serve from the maps.
    pub attached: bool,
    /// All objects of the source could be read.
    pub source_complete: bool,
}

/// What a tick of the loop found.
#[derive(Debug, Clone, Copy)]
pub struct Tick {
    /// The node's addresses are not those of the last sync.
    pub addresses_differ: bool,
    /// Something failed that only a full sync can repair.
    pub needs_full_sync: bool,
}

impl NextSync {
    /// What the next sync has to do after one that ended so.
    pub const fn after(outcome: Outcome) -> Self {
        match outcome {
            Outcome { failed: true, .. } => Self::Failed,
            Outcome { attached: false, .. } => Self::Unconfirmed,
            Outcome { unconfirmed: 1.., .. } => Self::Unconfirmed,
            // What is released when the source becomes complete is in no list of changes.
            Outcome { source_complete: false, .. } => Self::Full,
            Outcome { source_complete: true, .. } => Self::Changes,
        }
    }

    /// Requires that the next sync does at least this.
    pub fn require(&mut self, least: Self) {
        *self = (*self).max(least);
    }

    /// The sync that a tick has to start; `None` if it has to start none.
    pub fn at_tick(mut self, tick: Tick) -> Option<Self> {
        match tick {
            Tick { needs_full_sync: true, .. } => self.require(Self::Full),
            Tick { addresses_differ: true, .. } => self.require(Self::CheckAddresses),
            _ if self == Self::Failed => {}
            _ => return None,
        }
        Some(self)
    }

    /// What to write. `addresses_changed` compares the node's addresses with those of the last sync; it is
    /// called only if the answer depends on it.
    pub fn scope(self, addresses_changed: impl FnOnce() -> bool) -> Scope {
        match self {
            Self::Changes => Scope::Changes,
            Self::CheckAddresses if !addresses_changed() => Scope::Changes,
            Self::CheckAddresses | Self::Full | Self::Unconfirmed | Self::Failed => Scope::Full,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{NextSync::*, *};

    const ALL: [NextSync; 5] = [Changes, CheckAddresses, Full, Unconfirmed, Failed];

    #[test]
    fn the_outcome_of_a_sync_decides_what_the_next_one_does() {
        let table = [
            // failed, unconfirmed, attached, source complete
            (false, 0, true, true, Changes),
            (false, 0, true, false, Full),
            (false, 1, true, true, Unconfirmed),
            (false, 1, true, false, Unconfirmed),
            (false, 7, false, false, Unconfirmed),
            (false, 0, false, true, Unconfirmed),
            (false, 0, false, false, Unconfirmed),
            (true, 0, true, true, Failed),
            (true, 0, true, false, Failed),
            (true, 3, true, false, Failed),
            (true, 0, false, true, Failed),
        ];
        for (failed, unconfirmed, attached, source_complete, next) in table {
            let outcome = Outcome { failed, unconfirmed, attached, source_complete };
            assert_eq!(NextSync::after(outcome), next, "{outcome:?}");
        }
    }

    #[test]
    fn a_requirement_never_makes_the_next_sync_do_less() {
        let table = [
            (Changes, [Changes, CheckAddresses, Full, Unconfirmed, Failed]),
            (CheckAddresses, [CheckAddresses, CheckAddresses, Full, Unconfirmed, Failed]),
            (Full, [Full, Full, Full, Unconfirmed, Failed]),
            (Unconfirmed, [Unconfirmed, Unconfirmed, Unconfirmed, Unconfirmed, Failed]),
            (Failed, [Failed; 5]),
        ];
        for (state, expected) in table {
            for (least, expected) in ALL.into_iter().zip(expected) {
                let mut next = state;
                next.require(least);
                assert_eq!(next, expected, "{state:?}, {least:?} required");
            }
        }
    }

    #[test]
    fn a_tick_starts_a_sync_for_other_addresses_and_for_what_failed() {
        let table = [
            // neither, addresses differ, needs a full sync, both
            (Changes, [None, Some(CheckAddresses), Some(Full), Some(Full)]),
            (CheckAddresses, [None, Some(CheckAddresses), Some(Full), Some(Full)]),
            (Full, [None, Some(Full), Some(Full), Some(Full)]),
            (Unconfirmed, [None, Some(Unconfirmed), Some(Unconfirmed), Some(Unconfirmed)]),
            (Failed, [Some(Failed); 4]),
        ];
        let found = [(false, false), (true, false), (false, true), (true, true)];
        for (state, expected) in table {
            for ((addresses_differ, needs_full_sync), expected) in found.into_iter().zip(expected) {
                let tick = Tick { addresses_differ, needs_full_sync };
                assert_eq!(state.at_tick(tick), expected, "{state:?}, {tick:?}");
            }
        }
    }

    #[test]
    fn only_a_change_of_addresses_makes_a_check_of_addresses_a_full_sync() {
        let table = [
            (Changes, Scope::Changes, Scope::Changes),
            (CheckAddresses, Scope::Changes, Scope::Full),
            (Full, Scope::Full, Scope::Full),
            (Unconfirmed, Scope::Full, Scope::Full),
            (Failed, Scope::Full, Scope::Full),
        ];
        for (state, same, changed) in table {
            assert_eq!(state.scope(|| false), same, "{state:?}, same addresses");
            assert_eq!(state.scope(|| true), changed, "{state:?}, other addresses");
        }
    }
}
