//! Which calls the programs log, see [`sockline_ebpf::debug_log`].

use std::{mem::offset_of, time::Duration};

use sockline_ebpf::{
    debug_log::{DebugLog as Layout, LoggedHook, SELECTED},
    id::ServiceId,
};

use crate::{
    bpf::mmap::SharedArray,
    dataplane::{
        error::DataplaneError,
        maps::{self, agent_state::AgentState},
        pinning::layout::Pins,
    },
};

const HOOKS: usize = offset_of!(Layout, hooks) / size_of::<u64>();
const SKIPPED: usize = offset_of!(Layout, skipped) / size_of::<u64>();
const SERVICES: usize = offset_of!(Layout, services) / size_of::<u64>();

/// How long programs log without [`DebugLog::renew`].
const SWITCHED_ON_FOR: Duration = Duration::from_secs(15);

/// Hooks whose decisions are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoggedHooks(u64);

impl LoggedHooks {
    /// Reads names of hooks: as `connect4`, as `connect` for both families, or `all`.
    ///
    /// # Errors
    /// When there is none, or a name is no hook's; the message has those that are.
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut hooks = 0;
        for name in names {
            let of_name = LoggedHook::ALL.into_iter().filter(|hook| {
                name == "all"
                    || name == hook.name()
                    || name == hook.name().trim_end_matches(['4', '6'])
            });
            let bits = of_name.fold(0, |bits, hook| bits | hook.bit());
            if bits == 0 {
                return Err(format!("{name:?} is not a hook: there are {}", Self::known()));
            }
            hooks |= bits;
        }
        if hooks == 0 {
            return Err(format!("no hook is named: there are {}", Self::known()));
        }
        Ok(Self(hooks))
    }

    fn known() -> String {
        let names = LoggedHook::ALL.map(LoggedHook::name).join(", ");
        format!("{names}; connect, sendmsg, recvmsg and getpeername for both families; all")
    }

    /// The hooks' names.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        let all = LoggedHook::ALL.into_iter();
        all.filter(|hook| self.0 & hook.bit() != 0).map(LoggedHook::name).collect()
    }
}

/// The services whose calls are logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoggedServices {
    All,
    /// At most [`LoggedServices::MOST`]; none, while they are not in the maps.
    Only(Vec<ServiceId>),
}

impl LoggedServices {
    pub const MOST: usize = SELECTED;
}

/// The switch. Dropping it switches the log off.
#[derive(Debug)]
pub struct DebugLog {
    words: SharedArray<u64>,
    state: AgentState,
}

impl DebugLog {
    pub(crate) fn open(pins: &Pins, state: AgentState) -> Result<Self, DataplaneError> {
        Ok(Self { words: maps::open_debug_log(pins)?, state })
    }

    /// Sets what is logged while it is switched on.
    pub fn select(&self, LoggedHooks(hooks): LoggedHooks, services: &LoggedServices) {
        // Programs may run meanwhile: without a hook they take no notice of services.
        self.words.store(HOOKS, 0);
        let ids = match services {
            LoggedServices::All => &[][..],
            // An empty list would be all of them.
            LoggedServices::Only(ids) if ids.is_empty() => return,
            LoggedServices::Only(ids) => ids,
        };
        for index in 0..SELECTED {
            let id = ids.get(index).map_or(0, |id| u64::from(id.0));
            self.words.store(SERVICES + index, id);
        }
        self.words.store(HOOKS, hooks);
    }

    /// Keeps it switched on, for this long at most. To be called every second.
    pub fn renew(&self, at_most: Duration) {
        self.state.log_for(at_most.min(SWITCHED_ON_FOR));
    }

    pub fn switch_off(&self) {
        self.state.log_for(Duration::ZERO);
        self.words.store(HOOKS, 0);
    }

    /// Lines that programs did not write, since the map was made.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.words.load(SKIPPED)
    }
}

impl Drop for DebugLog {
    fn drop(&mut self) {
        self.switch_off();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::HOOKS;

    #[test]
    fn hooks_have_the_names_of_their_pins() {
        let mut names = LoggedHook::ALL.map(LoggedHook::name);
        let mut pins = HOOKS.map(|hook| hook.name);
        names.sort_unstable();
        pins.sort_unstable();
        assert_eq!(names, pins);
    }

    #[test]
    fn hooks_are_read_by_name_by_call_and_all() {
        let names = |text: &[&'static str]| {
            LoggedHooks::parse(text.iter().copied()).map(LoggedHooks::names)
        };
        assert_eq!(names(&["connect4"]).unwrap(), ["connect4"]);
        assert_eq!(
            names(&["connect", "sock_release"]).unwrap(),
            ["connect4", "connect6", "sock_release"]
        );
        assert_eq!(names(&["all"]).unwrap().len(), HOOKS.len());
        let error = names(&["connect5"]).unwrap_err();
        assert!(
            error.starts_with("\"connect5\" is not a hook: there are connect4, connect6, "),
            "{error}"
        );
        assert!(names(&[""]).is_err() && names(&[]).is_err());
    }
}
