//! Drift: what differs from what it should be, by kind.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// How many entries of the maps, maps and links differ. A reader must know all fields: with one that it does not know,
/// or without one, it would take maps with drift for sound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Drift {
    pub frontends_missing: usize,
    pub frontends_changed: usize,
    /// Frontends that are in no plan.
    pub frontends_foreign: usize,
    pub backends: usize,
    pub slots: usize,
    /// Words of the bitmap in front of the frontends.
    pub filter_words: usize,
    /// Names of service ports.
    pub names: usize,
    /// Excluded cgroups, and their levels.
    pub exclusion: usize,
    /// Inner maps that are missing from their array of maps.
    pub maps: usize,
    /// Maps and links that had lost their pins.
    pub pins: usize,
    /// Hooks whose link did not have the agent's program on the cgroup.
    pub links: usize,
    /// Service ports of the plan that are not in the maps as planned, or in the maps and not in the
    /// plan.
    pub services: usize,
}

/// A kind of drift that can be repaired, by which repairs are counted in logs and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DriftKind(&'static str);

/// Counts the drift of a kind.
type Count = fn(&Drift) -> usize;

impl DriftKind {
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.0
    }
}

impl Drift {
    /// All kinds, and how many of each there are.
    pub const KINDS: [(DriftKind, Count); 9] = [
        (DriftKind("frontend"), |drift| {
            drift.frontends_missing + drift.frontends_changed + drift.frontends_foreign
        }),
        (DriftKind("backend"), |drift| drift.backends),
        (DriftKind("slot"), |drift| drift.slots),
        (DriftKind("filter"), |drift| drift.filter_words),
        (DriftKind("name"), |drift| drift.names),
        (DriftKind("exclusion"), |drift| drift.exclusion),
        (DriftKind("map"), |drift| drift.maps),
        (DriftKind("pin"), |drift| drift.pins),
        (DriftKind("link"), |drift| drift.links),
    ];

    /// The counts of what can be repaired.
    pub fn by_kind(&self) -> impl Iterator<Item = (DriftKind, usize)> {
        Self::KINDS.into_iter().map(|(kind, count)| (kind, count(self)))
    }

    /// All that can be repaired.
    #[must_use]
    pub fn repairs(&self) -> usize {
        self.by_kind().map(|(_, count)| count).sum()
    }
}

impl AddAssign for Drift {
    fn add_assign(&mut self, other: Self) {
        self.frontends_missing += other.frontends_missing;
        self.frontends_changed += other.frontends_changed;
        self.frontends_foreign += other.frontends_foreign;
        self.backends += other.backends;
        self.slots += other.slots;
        self.filter_words += other.filter_words;
        self.names += other.names;
        self.exclusion += other.exclusion;
        self.maps += other.maps;
        self.pins += other.pins;
        self.links += other.links;
        self.services += other.services;
    }
}

impl std::fmt::Display for Drift {
    /// `2 frontend, 1 link`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kinds = self.by_kind().filter(|(_, count)| *count > 0);
        let kinds: Vec<String> =
            kinds.map(|(kind, count)| format!("{count} {}", kind.name())).collect();
        f.write_str(&kinds.join(", "))
    }
}
