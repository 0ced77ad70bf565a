//! Alias tables: a weighted draw in constant time (M. D. Vose, "A linear algorithm for generating
//! random numbers with a given distribution", 1991).

use sockline_ebpf::{backend::Slot, id::BackendId};

/// The share of a slot that is all its own backend's.
const WHOLE: u32 = u32::MAX;

/// Builds the table for backends (id, weight); as many slots as backends. Weights of 0 count as 1.
#[must_use]
pub fn table(backends: &[(BackendId, u16)]) -> Vec<Slot> {
    let weight = |&(_, weight): &(BackendId, u16)| u64::from(weight.max(1));
    let total: u64 = backends.iter().map(weight).sum();
    let count = backends.len() as u64;
    // In units of 1/total of a slot: a backend of average weight has exactly one slot's worth.
    let mut shares: Vec<u64> = backends.iter().map(|backend| weight(backend) * count).collect();
    let mut slots: Vec<Slot> = backends
        .iter()
        .map(|&(id, _)| Slot { backend: id, alias: id, threshold: WHOLE, padding: 0 })
        .collect();
    let (mut small, mut large): (Vec<usize>, Vec<usize>) =
        (0..backends.len()).partition(|&index| shares[index] < total);
    while let (Some(&poor), Some(&rich)) = (small.last(), large.last()) {
        small.pop();
        // `shares[poor] < total`, so the quotient fits.
        let threshold = (u128::from(shares[poor]) << 32) / u128::from(total);
        slots[poor].threshold = u32::try_from(threshold).unwrap_or(WHOLE);
        slots[poor].alias = backends[rich].0;
        shares[rich] -= total - shares[poor];
        if shares[rich] < total {
            large.pop();
            small.push(rich);
        }
    }
    slots
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// Each backend's share of all draws, computed from the table.
    fn shares(slots: &[Slot]) -> HashMap<BackendId, f64> {
        let mut shares = HashMap::new();
        for slot in slots {
            let own = f64::from(slot.threshold) / 2f64.powi(32) / slots.len() as f64;
            *shares.entry(slot.backend).or_default() += own;
            *shares.entry(slot.alias).or_default() += 1.0 / slots.len() as f64 - own;
        }
        shares
    }

    #[test]
    fn equal_weights_give_each_backend_its_own_slot() {
        let slots = table(&[7, 9, 4].map(|id| (BackendId(id), 1)));
        let ids: Vec<_> = slots.iter().map(|slot| (slot.backend, slot.alias)).collect();
        assert_eq!(ids, [7, 9, 4].map(|id| (BackendId(id), BackendId(id))));
    }

    #[test]
    fn no_backends_make_no_slots() {
        assert!(table(&[]).is_empty());
    }

    proptest! {
        #[test]
        fn shares_are_proportional_to_weights(weights in prop::collection::vec(1u16.., 1..200)) {
            let backends: Vec<_> = (0..).map(BackendId).zip(weights.iter().copied()).collect();
            let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
            let shares = shares(&table(&backends));
            for (id, weight) in backends {
                let wanted = f64::from(weight) / total;
                let got = shares.get(&id).copied().unwrap_or_default();
                prop_assert!((got - wanted).abs() < 1e-6, "backend {id}: {got}, wanted {wanted}");
            }
        }
    }
}
