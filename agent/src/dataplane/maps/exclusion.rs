//! The cgroups whose processes are excluded, as the programs read them.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{Array, HashMap, IterableMap as _, MapData, MapError};

use super::{EXCLUDED, EXCLUDED_LEVELS};
use crate::{
    bpf::{
        error::Full,
        kinds::{growable_hash::MapUsage, hash},
    },
    dataplane::{error::DataplaneError, maps, pinning::layout::Pins, retention::UnconfirmedPolicy},
};

/// The only element of the array of levels.
const LEVELS: u32 = 0;

/// Cgroup id → its level in the hierarchy as a bit, or all bits where it is not known.
pub type CgroupLevels = BTreeMap<u64, u32>;

pub struct ExcludedCgroups {
    cgroups: HashMap<MapData, u64, u32>,
    capacity: u32,
    levels: Array<MapData, u32>,
    /// What should be in the maps. A failed write does not change it, so that the next one can
    /// repair.
    wanted: CgroupLevels,
    /// What is known to be in the maps.
    known: CgroupLevels,
    /// Of that, what an earlier agent left and no sync of this one had yet.
    restored: CgroupLevels,
    unconfirmed: UnconfirmedPolicy,
}

impl ExcludedCgroups {
    /// Opens the pinned maps; what an earlier agent left in them stays until the first sync.
    pub fn open(pins: &Pins) -> Result<Self, DataplaneError> {
        let cgroups = maps::open_excluded(pins)?;
        let info = cgroups.map().info();
        let mut this = Self {
            capacity: info
                .map_err(|error| DataplaneError::map(EXCLUDED, "open", error))?
                .max_entries(),
            cgroups,
            levels: maps::open_excluded_levels(pins)?,
            wanted: CgroupLevels::new(),
            known: CgroupLevels::new(),
            restored: CgroupLevels::new(),
            unconfirmed: UnconfirmedPolicy::default(),
        };
        this.known = this.read()?;
        this.restored.clone_from(&this.known);
        this.wanted.clone_from(&this.known);
        // An agent that ended between two steps left too many levels.
        write_levels(&mut this.levels, union(this.known.values()))?;
        Ok(this)
    }

    /// What happens to restored cgroups that were in no sync yet.
    pub const fn set_unconfirmed_policy(&mut self, policy: UnconfirmedPolicy) {
        self.unconfirmed = policy;
    }

    /// Whether restored cgroups that were in no sync yet are still excluded.
    pub fn has_unconfirmed(&self) -> bool {
        !self.restored.is_empty()
    }

    /// Excludes exactly these cgroups, and retained ones. Returns those that do not fit. After an
    /// error, a part may be done.
    pub fn sync(&mut self, wanted: &CgroupLevels) -> Result<Vec<u64>, DataplaneError> {
        self.restored.retain(|id, _| self.unconfirmed.retains() && !wanted.contains_key(id));
        self.wanted.clone_from(&self.restored);
        self.wanted.extend(wanted);
        let unfit = self.write()?;
        // The caller tries them again.
        self.wanted.retain(|id, _| !unfit.contains(id));
        Ok(unfit)
    }

    pub fn usage(&self) -> MapUsage {
        let capacity = self.capacity.into();
        MapUsage { entries: self.known.len() as u64, capacity, limit: capacity }
    }

    /// Writes the difference between known and wanted cgroups. Returns those that do not fit.
    fn write(&mut self) -> Result<Vec<u64>, DataplaneError> {
        let mut unfit = Vec::new();
        let wanted = &self.wanted;
        if *wanted == self.known {
            return Ok(unfit);
        }
        // The levels are widened before the entries come and narrowed after they went: a cgroup
        // that is in both is found at every moment in between.
        let all = union(wanted.values().chain(self.known.values()));
        write_levels(&mut self.levels, all)?;
        // The old ones first, because the new ones may need their room.
        let gone: Vec<u64> =
            self.known.keys().filter(|id| !wanted.contains_key(id)).copied().collect();
        for id in gone {
            match self.cgroups.remove(&id) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(DataplaneError::map(EXCLUDED, "write", error)),
            }
            self.known.remove(&id);
        }
        for (id, level) in wanted {
            if self.known.get(id) == Some(level) {
                continue;
            }
            match hash::insert(&mut self.cgroups, id, level, 0) {
                Ok(()) => {
                    self.known.insert(*id, *level);
                }
                Err(error) => match DataplaneError::write(EXCLUDED, self.capacity, error) {
                    error if error.is_out_of_room() => unfit.push(*id),
                    error => return Err(error),
                },
            }
        }
        write_levels(&mut self.levels, union(self.known.values()))?;
        Ok(unfit)
    }

    /// How many entries of the maps differ.
    pub fn drift(&self) -> Result<usize, DataplaneError> {
        let found = self.read()?;
        let all: BTreeSet<&u64> = self.wanted.keys().chain(found.keys()).collect();
        let entries: Vec<&u64> =
            all.into_iter().filter(|id| self.wanted.get(id) != found.get(id)).collect();
        let levels = self.read_levels()? != union(self.wanted.values());
        Ok(entries.len() + usize::from(levels))
    }

    /// Repairs what [`Self::drift`] counts, and returns how much that was.
    pub fn repair(&mut self) -> Result<usize, DataplaneError> {
        let drift = self.drift()?;
        if drift > 0 {
            self.known = self.read()?;
            if !self.write()?.is_empty() {
                return Err(Full { map: EXCLUDED, limit: self.capacity }.into());
            }
            write_levels(&mut self.levels, union(self.wanted.values()))?;
        }
        Ok(drift)
    }

    fn read_levels(&self) -> Result<u32, DataplaneError> {
        self.levels
            .get(&LEVELS, 0)
            .map_err(|error| DataplaneError::map(EXCLUDED_LEVELS, "read", error))
    }

    fn read(&self) -> Result<CgroupLevels, DataplaneError> {
        self.cgroups
            .iter()
            .collect::<Result<_, _>>()
            .map_err(|error| DataplaneError::map(EXCLUDED, "read", error))
    }
}

fn union<'a>(levels: impl Iterator<Item = &'a u32>) -> u32 {
    levels.fold(0, |all, level| all | level)
}

fn write_levels(map: &mut Array<MapData, u32>, levels: u32) -> Result<(), DataplaneError> {
    map.set(LEVELS, levels, 0).map_err(|error| DataplaneError::map(EXCLUDED_LEVELS, "write", error))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use aya::maps::Map;

    use super::*;
    use crate::bpf::{kinds::create, syscall};

    fn levels() -> Array<MapData, u32> {
        let map = create::array::<u32>(EXCLUDED_LEVELS, 1, 0).unwrap();
        Map::Array(map).try_into().unwrap()
    }

    fn excluded(wanted: &CgroupLevels) -> ExcludedCgroups {
        let map = create::hash::<u64, u32>(EXCLUDED, 8).unwrap();
        let mut this = ExcludedCgroups {
            cgroups: Map::HashMap(map).try_into().unwrap(),
            capacity: 8,
            levels: levels(),
            wanted: CgroupLevels::new(),
            known: CgroupLevels::new(),
            restored: CgroupLevels::new(),
            unconfirmed: UnconfirmedPolicy::default(),
        };
        assert_eq!(this.sync(wanted).unwrap(), Vec::<u64>::new());
        this
    }

    #[test]
    fn a_repair_that_fails_is_made_good_by_the_next() {
        let wanted = CgroupLevels::from([(7, 2), (8, 4)]);
        let mut this = excluded(&wanted);
        this.cgroups.remove(&7).unwrap();
        let frozen = levels();
        syscall::freeze(frozen.map().fd().as_fd()).unwrap();
        this.levels = frozen;
        this.repair().unwrap_err();
        this.levels = levels();
        assert_eq!(this.drift().unwrap(), 2, "the cgroup, and the levels of the new map");
        assert_eq!(this.repair().unwrap(), 2);
        assert_eq!(this.read().unwrap(), wanted);
        assert_eq!(this.drift().unwrap(), 0);
    }

    #[test]
    fn what_has_no_room_is_no_drift() {
        let wanted: CgroupLevels = (1..=9).map(|id| (id, 1)).collect();
        let mut this = excluded(&CgroupLevels::new());
        assert_eq!(this.sync(&wanted).unwrap().len(), 1);
        assert_eq!(this.drift().unwrap(), 0);
    }
}
