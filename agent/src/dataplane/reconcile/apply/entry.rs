//! The entry of a frontend.

use std::sync::Arc;

use sockline_ebpf::{
    frontend::{Frontend, FrontendKey},
    id::SlotIndex,
};

use super::addition::length;
use crate::{
    dataplane::reconcile::{ServicePortState, encode},
    model::plan,
};

/// The entry of a frontend whose backends and slots are written.
pub(super) fn entry(
    installed: &mut ServicePortState,
    frontend: &plan::Frontend,
    key: FrontendKey,
) -> Frontend {
    let list = &frontend.backends;
    let slot_start =
        match installed.slot_ranges.iter_mut().find(|slot_range| slot_range.is_of(list)) {
            Some(slot_range) if !list.is_empty() => {
                // Drops the list that it had, so that memory holds one.
                slot_range.members = Arc::clone(list);
                slot_range.start
            }
            _ => SlotIndex::default(),
        };
    Frontend {
        key,
        service: installed.id,
        slot_start,
        slot_count: length(list),
        affinity_seconds: frontend.affinity_seconds.unwrap_or(0),
        action: encode::action(frontend.action).byte(),
        reason: frontend.reason.map_or(0, |reason| encode::reason(reason).byte()),
        kind: encode::kind(frontend.kind).byte(),
        balance: encode::balance(frontend.balance).byte(),
        scope: encode::scope(frontend.kind),
        padding: 0,
        node: frontend.of_node,
    }
}
