//! One watcher: what it wants, and the queue of what it has not read yet.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, stream};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    document::{EventFilter, EventLosses},
    queue::{Queue, line},
};

/// Bytes that wait for a watcher at most; some 2,000 events.
const QUEUE: usize = 1 << 20;
/// Maximum number of watchers. Each can hold two times [`QUEUE`]: what waits, and what its connection writes.
const MAX_WATCHERS: usize = 8;
/// A watcher whose queue is full, and that reads nothing for so long, is ended: events would stay switched on for it.
pub const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// A handle for those who want to watch.
#[derive(Debug, Clone)]
pub struct Watchers {
    joins: mpsc::Sender<Watcher>,
    places: Arc<Semaphore>,
}

/// Why a client cannot watch.
#[derive(Debug, thiserror::Error)]
pub enum SubscribeError {
    #[error("the agent is about to end")]
    Ended,
    #[error("too many watchers: at most {MAX_WATCHERS} at a time")]
    TooMany,
}

/// Events for one client.
pub struct Subscription<S> {
    /// Documents, one on each line. Dropping it ends the watch.
    pub lines: S,
    /// Is cancelled when the watch has ended, on either side.
    pub end: CancellationToken,
}

/// Whether programs read from sockets how connections end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    Read,
    Unread,
}

/// The hub's side of a watcher.
#[derive(Debug)]
pub(super) struct Watcher {
    pub filter: EventFilter,
    lines: mpsc::UnboundedSender<Bytes>,
    queued: Arc<AtomicUsize>,
    /// What is sent next.
    batch: Vec<u8>,
    /// Events that did not fit.
    dropped: u64,
    /// An event did not fit since the last [`Self::send`].
    is_full: bool,
    /// Since when nothing was read from a full queue.
    full_since: Option<Instant>,
    /// Bytes that were sent, and those of them that were read at the last [`Self::send`].
    sent: usize,
    read: usize,
    /// Ends its connection.
    end: CancellationToken,
    /// As they were last sent.
    losses: Option<EventLosses>,
    /// The programs' counts when it joined: lost, and sampled.
    pub baseline: (u64, u64),
}

impl Watchers {
    /// The watchers that are to join are sent to `joins`.
    pub(super) fn new(joins: mpsc::Sender<Watcher>) -> Self {
        Self { joins, places: Arc::new(Semaphore::new(MAX_WATCHERS)) }
    }

    /// Documents from now on: first [`EventLosses`], then events as they happen, and at last [`WatchEnd`].
    ///
    /// # Errors
    /// When there are too many, or the agent is about to end.
    pub async fn subscribe(
        &self,
        filter: EventFilter,
    ) -> Result<Subscription<impl Stream<Item = Result<Bytes, Infallible>> + use<>>, SubscribeError>
    {
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| SubscribeError::TooMany)?;
        let (watcher, lines) = Watcher::new(filter, Some(place));
        let end = watcher.end.clone();
        self.joins.send(watcher).await.map_err(|_| SubscribeError::Ended)?;
        Ok(Subscription { lines, end })
    }
}

impl Watcher {
    /// `place` is kept until the stream is dropped.
    fn new(
        filter: EventFilter,
        place: Option<OwnedSemaphorePermit>,
    ) -> (Self, impl Stream<Item = Result<Bytes, Infallible>> + use<>) {
        let (lines, received) = mpsc::unbounded_channel::<Bytes>();
        let (queued, end) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
        let queue = Queue::new(received, Arc::clone(&queued), end.clone(), place);
        let watcher = Self {
            filter,
            lines,
            queued,
            batch: Vec::new(),
            dropped: 0,
            is_full: false,
            full_since: None,
            sent: 0,
            read: 0,
            end,
            losses: None,
            baseline: (0, 0),
        };
        let stream = stream::unfold(queue, |mut queue| async {
            let lines = queue.next().await?;
            Some((Ok(lines), queue))
        });
        (watcher, stream)
    }

    pub fn is_gone(&self) -> bool {
        self.lines.is_closed() || self.end.is_cancelled()
    }

    /// Adds a line to what is sent next. Returns whether there was room.
    pub fn offer(&mut self, line: &[u8]) -> bool {
        let has_room = self.has_room(line.len());
        if has_room {
            self.batch.extend_from_slice(line);
        } else {
            self.dropped += 1;
            self.is_full = true;
        }
        has_room
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.queued.load(Ordering::Relaxed) + self.batch.len() + bytes <= QUEUE
    }

    /// Sends the lines that were offered, and the losses if they changed: `counts` are those of the programs. Ends the
    /// watch if it was not read for too long.
    pub fn send(&mut self, ends: Ends, counts: (u64, u64), now: Instant) {
        let read = self.sent.wrapping_sub(self.queued.load(Ordering::Relaxed));
        if std::mem::replace(&mut self.read, read) != read {
            self.full_since = None;
        }
        if std::mem::take(&mut self.is_full) {
            self.full_since.get_or_insert(now);
        }
        if self.full_since.is_some_and(|since| now.duration_since(since) >= READ_TIMEOUT) {
            self.end.cancel();
            return;
        }
        let losses = EventLosses {
            reads_sockets: ends == Ends::Read,
            ring_full: counts.0.saturating_sub(self.baseline.0),
            sampled: counts.1.saturating_sub(self.baseline.1),
            slow_reader: self.dropped,
        };
        if self.losses != Some(losses) {
            let line = line(&losses);
            // They grow, so that a later one says all of it.
            if self.has_room(line.len()) {
                self.batch.extend_from_slice(&line);
                self.losses = Some(losses);
            }
        }
        if !self.batch.is_empty() {
            let batch = Bytes::from(std::mem::take(&mut self.batch));
            self.queued.fetch_add(batch.len(), Ordering::Relaxed);
            self.sent = self.sent.wrapping_add(batch.len());
            // An error means that it is gone.
            let _ = self.lines.send(batch);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, StreamExt as _};

    use super::super::document::{EndReason, WatchEnd};
    use super::*;
    use crate::api;

    fn losses(chunk: &[u8]) -> Vec<EventLosses> {
        chunk.split(|&byte| byte == b'\n').filter_map(|line| api::read(line).ok()).collect()
    }

    /// What comes until the stream has ended.
    fn rest(stream: &mut (impl Stream<Item = Result<Bytes, Infallible>> + Unpin)) -> Vec<Bytes> {
        let chunks = std::iter::from_fn(|| stream.next().now_or_never().unwrap());
        chunks.map(|chunk| chunk.unwrap()).collect()
    }

    fn last(reason: EndReason) -> Bytes {
        line(&WatchEnd { reason }).into()
    }

    #[test]
    fn what_a_watcher_does_not_read_is_counted_and_reported_once_it_reads_again() {
        let (mut watcher, stream) = Watcher::new(EventFilter::default(), None);
        let mut stream = Box::pin(stream);
        let now = Instant::now();
        watcher.baseline = (5, 0);
        watcher.send(Ends::Read, (5, 0), now);
        let first = stream.next().now_or_never().unwrap().unwrap().unwrap();
        let none = EventLosses { reads_sockets: true, ..EventLosses::default() };
        assert_eq!(losses(&first), [none]);
        let line = vec![b'x'; QUEUE / 4];
        let taken = (0..7).filter(|_| watcher.offer(&line)).count();
        assert_eq!(taken, 4);
        // There is no room for the losses either.
        watcher.send(Ends::Read, (6, 2), now);
        let second = stream.next().now_or_never().unwrap().unwrap().unwrap();
        assert_eq!((second.len(), losses(&second)), (QUEUE, vec![]));
        watcher.send(Ends::Read, (6, 2), now);
        let third = stream.next().now_or_never().unwrap().unwrap().unwrap();
        assert_eq!(
            losses(&third),
            [EventLosses { ring_full: 1, sampled: 2, slow_reader: 3, ..none }]
        );
        watcher.send(Ends::Read, (6, 2), now);
        assert!(stream.next().now_or_never().is_none(), "they have not changed");
        drop(stream);
        assert!(watcher.is_gone());
    }

    #[test]
    fn a_watcher_that_reads_nothing_from_a_full_queue_is_ended() {
        let (mut watcher, stream) = Watcher::new(EventFilter::default(), None);
        let mut stream = Box::pin(stream);
        let start = Instant::now();
        let full = vec![b'x'; QUEUE];
        let at = |seconds: u64, watcher: &mut Watcher| {
            watcher.send(Ends::Read, (0, 0), start + Duration::from_secs(seconds));
            watcher.is_gone()
        };
        assert!(watcher.offer(&full));
        assert!(!at(0, &mut watcher));
        assert!(!at(100, &mut watcher), "it has lost nothing");
        assert!(!watcher.offer(&full));
        assert!(!at(101, &mut watcher));
        assert!(!at(160, &mut watcher));
        // A reader that is slow is not ended.
        assert!(stream.next().now_or_never().unwrap().unwrap().is_ok());
        assert!(!at(161, &mut watcher));
        assert!(!at(300, &mut watcher));
        while watcher.offer(&full[..QUEUE / 2]) {}
        assert!(!at(301, &mut watcher));
        assert!(!at(360, &mut watcher));
        assert!(at(361, &mut watcher));
        // Its queue is still full.
        assert_eq!(rest(&mut stream), [last(EndReason::NotRead)]);
    }

    #[test]
    fn a_watcher_reads_all_that_waits_before_the_agent_stops() {
        let (mut watcher, stream) = Watcher::new(EventFilter::default(), None);
        assert!(watcher.offer(b"x\n"));
        watcher.send(Ends::Unread, (0, 0), Instant::now());
        drop(watcher);
        let all = rest(&mut Box::pin(stream));
        assert!(all[0].starts_with(b"x\n"), "{all:?}");
        assert_eq!(all[1..], [last(EndReason::AgentStopping)]);
    }

    #[tokio::test]
    async fn there_is_a_limit_of_watchers_and_one_that_ends_makes_room() {
        let (joins, _joined) = mpsc::channel(2 * MAX_WATCHERS);
        let watchers = Watchers::new(joins);
        let mut all = Vec::new();
        for _ in 0..MAX_WATCHERS {
            all.push(watchers.subscribe(EventFilter::default()).await.unwrap());
        }
        let refused = watchers.subscribe(EventFilter::default()).await.err().unwrap();
        assert_eq!(refused.to_string(), "too many watchers: at most 8 at a time");
        let end = all.pop().unwrap().end;
        assert!(end.is_cancelled());
        watchers.subscribe(EventFilter::default()).await.map(drop).unwrap();
    }
}
