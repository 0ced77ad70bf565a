//! Taking over from another layout of the maps: first the attachments, then what its programs had counted.
//!
//! An agent may be killed at any time, and the next one may have either layout, or a third one. So the directory of the other
//! layout gets another name once its programs do not run any more: from then on no agent serves from it, and its counts do
//! not change. They are added to those of this layout in one step, together with where they come from; then the
//! directory is removed. An agent that finds such a directory continues there.

use std::{collections::BTreeMap, path::PathBuf};

use sockline_ebpf::carried::{CARRIED_SOURCES, CarriedCounts};

use super::{
    Dataplane,
    error::DataplaneError,
    maps::service_names::ServiceKey,
    observe::replaced::{self, ReplacedCounts},
    programs::links::Attached,
};

impl Dataplane {
    /// See [`super::programs::links::Links::attach`].
    pub(super) fn attach_links(&mut self, attached: &mut Attached) -> Result<(), DataplaneError> {
        self.links.attach(&self.programs, &self.pins, &self.cgroup, attached)?;
        loop {
            let mut directories = self.pins.replaced();
            directories.truncate(CARRIED_SOURCES);
            if directories.is_empty() {
                return Ok(());
            }
            // To serve is more important than to count.
            if let Err(error) = self.carry_counts(&directories) {
                tracing::warn!(
                    "counts of another layout are lost: {:#}",
                    anyhow::Error::from(error)
                );
            }
            for directory in directories {
                self.pins.remove_other(&directory)?;
            }
        }
    }

    fn carry_counts(&mut self, directories: &[PathBuf]) -> Result<(), DataplaneError> {
        // Programs that ran when they were replaced still count.
        self.reconciler.rcu().synchronize_rcu()?;
        let mut counts: BTreeMap<u32, ReplacedCounts> = BTreeMap::new();
        for directory in directories {
            match replaced::read(directory) {
                Ok(Some(read)) => {
                    counts.insert(replaced::backends_map(directory)?, read);
                }
                Ok(None) => tracing::info!(
                    layout = %directory.display(),
                    "the other layout does not say where its counts are; they begin at 0"
                ),
                Err(error) => tracing::warn!(
                    layout = %directory.display(),
                    "counts of another layout are lost: {:#}",
                    anyhow::Error::from(error)
                ),
            }
        }
        let Some((sum, sources)) = combine(counts, &self.reconciler.carried_sources()?) else {
            return Ok(());
        };
        self.reconciler.carry(&sum, sources)
    }
}

/// The sum of counts by the id of their source, without those that are in others, or were carried over `before`; and all of their
/// sources. `None` if there are none.
fn combine(
    counts: BTreeMap<u32, ReplacedCounts>,
    before: &[u32; CARRIED_SOURCES],
) -> Option<(BTreeMap<ServiceKey, CarriedCounts>, [u32; CARRIED_SOURCES])> {
    if counts.is_empty() {
        return None;
    }
    let mut sources = [0; CARRIED_SOURCES];
    sources.iter_mut().zip(counts.keys()).for_each(|(place, &id)| *place = id);
    let mut included: Vec<u32> = before.to_vec();
    included.extend(counts.values().flat_map(|one| one.sources));
    let mut sum: BTreeMap<ServiceKey, CarriedCounts> = BTreeMap::new();
    for (_, one) in counts.into_iter().filter(|(id, _)| !included.contains(id)) {
        for (key, counts) in one.by_service {
            sum.entry(key).or_insert(CarriedCounts::NONE).add(&counts);
        }
    }
    Some((sum, sources))
}

#[cfg(test)]
mod tests {
    use sockline_ebpf::telemetry::ConnectionCounts;

    use super::*;
    use crate::model::object::{ObjectName, Protocol};

    fn key(service: &str) -> ServiceKey {
        ServiceKey {
            service: ObjectName::new("shop", service),
            port_name: "http".into(),
            protocol: Protocol::Tcp,
        }
    }

    /// A layout with these counts, which had carried over from these.
    fn replaced(opened: &[(&str, u64)], carried_from: &[u32]) -> ReplacedCounts {
        let mut counts = ReplacedCounts::default();
        for &(service, opened) in opened {
            let mut of_service = CarriedCounts::NONE;
            *of_service.stats.of_removed.of_byte(1) =
                ConnectionCounts { opened, ..ConnectionCounts::NONE };
            counts.by_service.insert(key(service), of_service);
        }
        counts.sources[..carried_from.len()].copy_from_slice(carried_from);
        counts
    }

    fn combined(
        counts: impl IntoIterator<Item = (u32, ReplacedCounts)>,
        before: &[u32],
    ) -> Option<Vec<(String, u64)>> {
        let mut sources = [0; CARRIED_SOURCES];
        sources[..before.len()].copy_from_slice(before);
        let (sum, _) = combine(counts.into_iter().collect(), &sources)?;
        let opened = sum.into_iter().map(|(key, counts)| {
            (key.service.name.to_string(), counts.stats.of_removed.total().opened)
        });
        Some(opened.collect())
    }

    #[test]
    fn counts_of_several_layouts_are_added_by_service() {
        let layouts =
            [(7, replaced(&[("cart", 3), ("ship", 1)], &[])), (9, replaced(&[("cart", 4)], &[]))];
        let expected = vec![("cart".to_owned(), 7), ("ship".to_owned(), 1)];
        assert_eq!(combined(layouts, &[]), Some(expected));
        assert_eq!(combined([], &[]), None);
    }

    #[test]
    fn a_layout_whose_counts_another_one_had_carried_over_counts_once() {
        let layouts = [(7, replaced(&[("cart", 3)], &[])), (9, replaced(&[("cart", 5)], &[7]))];
        assert_eq!(combined(layouts, &[]), Some(vec![("cart".to_owned(), 5)]));
    }

    #[test]
    fn after_a_kill_between_the_step_and_the_removal_nothing_is_added_again() {
        let layouts = [(7, replaced(&[("cart", 3)], &[]))];
        assert_eq!(combined(layouts, &[4, 7]), Some(vec![]));
    }
}
