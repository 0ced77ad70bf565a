//! What a kernel has that changes are written to, one part of the plan at a time.

use std::{collections::BTreeMap, sync::Arc};

use proptest::{prop_assert, test_runner::TestCaseError};

use crate::model::{
    object::{Family, ObjectName, Protocol},
    plan::{Frontend, FrontendAddress, ServicePlan},
};

/// Who answers an address.
pub(super) type Owners = BTreeMap<(FrontendAddress, Family, u16, Protocol), ObjectName>;

pub(super) fn owners<'a>(frontends: impl IntoIterator<Item = &'a Arc<Frontend>>) -> Owners {
    frontends
        .into_iter()
        .map(|f| ((f.address, f.family, f.port, f.protocol), f.service.clone()))
        .collect()
}

/// What the kernel has when parts of a plan are written to it: first what a part has, then what it
/// has no longer, unless another service has it by then.
#[derive(Default)]
pub(super) struct Kernel {
    pub(super) parts: BTreeMap<ObjectName, Vec<Arc<Frontend>>>,
    pub(super) owners: Owners,
}

impl Kernel {
    /// Fails if one of `steady` has no owner at any moment.
    pub(super) fn write(
        &mut self,
        batch: &[ServicePlan],
        steady: &Owners,
    ) -> Result<(), TestCaseError> {
        let mut leftovers = Vec::new();
        for part in batch {
            let wanted = owners(&part.frontends);
            let before = self.parts.insert(part.service.clone(), part.frontends.clone());
            let gone = owners(before.iter().flatten()).into_keys();
            leftovers.extend(
                gone.filter(|claim| !wanted.contains_key(claim))
                    .map(|claim| (claim, &part.service)),
            );
            self.owners.extend(wanted);
        }
        for (claim, service) in leftovers {
            if self.owners.get(&claim) == Some(service) {
                self.owners.remove(&claim);
                prop_assert!(!steady.contains_key(&claim), "no service has {claim:?}");
            }
        }
        Ok(())
    }
}
