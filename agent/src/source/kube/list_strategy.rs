//! How the next list is requested: streamed, or in pages.

use super::watch_error::WatchError;

/// A streaming list (KEP-3157) is the beginning of a watch, so that neither side holds the whole list at once. It is on
/// by default since Kubernetes 1.34; older servers refuse it, and some stores never end it.
#[derive(Debug)]
pub(super) struct ListStrategy {
    mode: Mode,
    /// Streaming lists in a row that did not end.
    stalls: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Stream,
    /// The next list comes in pages, the one after that is streamed again.
    PagesOnce,
    Pages,
}

impl Default for ListStrategy {
    fn default() -> Self {
        Self { mode: Mode::Stream, stalls: 0 }
    }
}

impl ListStrategy {
    pub(super) fn is_streaming(&self) -> bool {
        self.mode == Mode::Stream
    }

    /// The server refused a streaming list, or did not end it. After one list that did not end, the next one is streamed
    /// again: a server that hung once may support streaming.
    pub(super) fn streaming_failed(&mut self, error: &WatchError) {
        let hung_once = matches!(error, WatchError::ListStalled) && self.stalls == 0;
        self.mode = if hung_once { Mode::PagesOnce } else { Mode::Pages };
        self.stalls += 1;
    }

    pub(super) const fn streamed(&mut self) {
        self.stalls = 0;
    }

    pub(super) fn listed_in_pages(&mut self) {
        if self.mode == Mode::PagesOnce {
            self.mode = Mode::Stream;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_two_streaming_lists_in_a_row_that_did_not_end_lists_come_in_pages() {
        let mut strategy = ListStrategy::default();
        assert!(strategy.is_streaming());
        strategy.streaming_failed(&WatchError::ListStalled);
        assert!(!strategy.is_streaming());
        strategy.listed_in_pages();
        assert!(strategy.is_streaming());
        strategy.streaming_failed(&WatchError::ListStalled);
        strategy.listed_in_pages();
        assert!(!strategy.is_streaming());
    }

    #[test]
    fn a_streaming_list_that_ends_forgives_one_that_did_not() {
        let mut strategy = ListStrategy::default();
        for _ in 0..3 {
            strategy.streaming_failed(&WatchError::ListStalled);
            strategy.listed_in_pages();
            assert!(strategy.is_streaming());
            strategy.streamed();
        }
    }
}
