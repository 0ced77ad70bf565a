//! What happens to what an earlier agent left in the maps. It is unconfirmed until a plan of this process has it.

/// Whether what is unconfirmed stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnconfirmedPolicy {
    /// It stays until a plan has it, because plans may lack services and endpoints that exist.
    Retain,
    #[default]
    Remove,
}

impl UnconfirmedPolicy {
    pub const fn retains(self) -> bool {
        matches!(self, Self::Retain)
    }
}

/// Whether what is unconfirmed may still be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RestoredState {
    #[default]
    Current,
    /// The earlier agent was gone for so long that kube-proxy knows better: what would stay is released, that is
    /// removed and bypassed.
    Stale,
}

impl RestoredState {
    pub const fn is_stale(self) -> bool {
        matches!(self, Self::Stale)
    }
}
