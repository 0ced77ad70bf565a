//! Which service is at an address.

use aya_ebpf::{
    btf_maps::{Array, ArrayOfMaps, HashMap},
    macros::btf_map,
};
use sockline_ebpf::{
    MMAPABLE, NO_PREALLOC, filter,
    frontend::{CURRENT, FIRST_CAPACITY, Frontend, FrontendKey, Protocol},
};

use super::{
    config,
    hook_context::{Family, HookContext},
};

/// One bit per address and port that is a frontend, written by the agent.
#[btf_map]
static FILTER: Array<u64, { filter::WORDS as usize }, MMAPABLE> = Array::new();

/// The hash lies in an array of maps so that the agent can put a larger one in its place.
#[btf_map]
static FRONTENDS: ArrayOfMaps<
    HashMap<FrontendKey, Frontend, { FIRST_CAPACITY as usize }, NO_PREALLOC>,
    1,
> = ArrayOfMaps::new();

/// The key of the frontend that the call's destination could be; `None` proves that it is none.
///
/// The addresses of the local host are the node's own only in its own network namespace (they are
/// NodePorts there). A socket that is bound to one of them keeps it as its source, and would never
/// get an answer from a pod.
#[inline(always)]
pub fn key_of<F: Family>(hook: &HookContext<'_, F>, protocol: Protocol) -> Option<FrontendKey> {
    let (mut address, port) = (hook.address(), hook.port());
    let loopback = address.as_loopback();
    if let Some(canonical) = loopback {
        address = canonical;
    }
    let key = FrontendKey { address, port, protocol: protocol.byte(), padding: 0 };
    if !may_be(&key)? {
        if config::node_ports_of_all_nodes() && loopback.is_none() {
            return at_all_nodes(&key);
        }
        return None;
    }
    if loopback.is_some() && (!hook.is_from_host() || hook.is_bound_to_loopback()) {
        return None;
    }
    Some(key)
}

/// `Some(false)` proves that there is no frontend.
#[inline(always)]
fn may_be(key: &FrontendKey) -> Option<bool> {
    let (word, mask) = filter::bit(&key.address, key.port);
    Some(FILTER.get(word)? & mask != 0)
}

/// The key that stands for this port of all nodes, if the address is one's.
#[inline(always)]
fn at_all_nodes(key: &FrontendKey) -> Option<FrontendKey> {
    let at_all_nodes = key.at_all_nodes();
    if !may_be(&at_all_nodes)? {
        return None;
    }
    look_up(&FrontendKey::node_mark(key.address))?;
    Some(at_all_nodes)
}

/// The frontend at a key, as it is at this moment. The key becomes the one of all nodes if that is
/// what there is.
#[inline(always)]
pub fn find(key: &mut FrontendKey) -> Option<&'static Frontend> {
    let found = look_up(key);
    if found.is_none() && config::node_ports_of_all_nodes() {
        *key = at_all_nodes(key)?;
        return look_up(key);
    }
    found
}

#[inline(always)]
fn look_up(key: &FrontendKey) -> Option<&'static Frontend> {
    let current = FRONTENDS.get(CURRENT)?;
    // SAFETY: the element may be reused for another key while it is looked at; the caller
    // compares its copy of the key afterwards (`translate::decide`).
    let found = unsafe { current.get(key) }?;
    // SAFETY: the memory itself stays a frontend of this map until the program ends (RCU).
    Some(unsafe { &*core::ptr::from_ref(found) })
}
