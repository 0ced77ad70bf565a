//! Faults of a server.

use super::{Once, Refusal, Scripted};

/// Faults of the requests for a resource.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It accepts the request and never answers.
    Hang,
    /// It closes the connection instead of answering.
    Close,
    Refuse(Refusal),
    /// Resumed watches are refused with HTTP 410.
    Gone,
    /// Resumed watches begin with an ERROR event of code 410.
    GoneEvent,
    /// As before Kubernetes 1.27, or with the feature gate WatchList off.
    NoStreamingLists,
    /// The bookmark at the end of a streaming list never comes (kine).
    EndlessList,
    /// A streaming list breaks off in the middle.
    BrokenList,
    /// A streaming list begins with the state of this version and sends later changes before its end, like
    /// one from a watch cache that is catching up.
    CatchingUp(u64),
    NoFieldSelector,
    /// Watches have no bookmarks, except the one that ends a list.
    NoBookmarks,
    /// One bookmark after the other.
    BookmarkStorm,
    /// A few bytes at a time.
    Trickle,
    /// Lists show the state of this version: a server that lags behind the others.
    Stale(u64),
    Scripted(Scripted),
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// In order, as after `timeoutSeconds`.
    End,
    /// The connection breaks between two events.
    Between,
    /// The connection breaks within an event.
    Within,
    /// An ERROR event of code 410, then the end.
    Expired,
    /// It stays open and sends nothing any more, even after faults are lifted: the peer is gone.
    Silence,
    /// It stays open, and its next event cannot be parsed.
    Corrupt,
}

/// The current faults of a resource.
#[derive(Default)]
pub(super) struct Faults {
    pub(super) standing: Option<Fault>,
    pub(super) once: Once,
    pub(super) held: bool,
    /// How often all faults were lifted.
    pub(super) lifts: u64,
    /// How often the watches were cut, and how the last time; a watch that saw fewer is cut.
    pub(super) cuts: u64,
    pub(super) cut: Option<Cut>,
    /// Lines that open watches must send, in this order; each watch records its position.
    pub(super) said: Vec<String>,
    pub(super) bookmarks: u64,
    pub(super) repeats: u64,
    pub(super) repeat: usize,
}
