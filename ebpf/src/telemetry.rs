//! What is counted of connections when they end: by backend, and by service port and CPU.
//!
//! A connection is active from the count of [`ConnectionCounts::opened`] to that of its end, so that at any time
//! `opened = active + closed + untracked`, exactly.

use crate::{id::BackendId, traffic_class::TrafficClass};

/// How a connection or a flow ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum End {
    /// The client closed it first. So it is for a flow of a UDP socket.
    Client = 0,
    /// The server closed it first.
    Server = 1,
    /// The client reset it: it closed with unread data or with `SO_LINGER` of 0, or was closed by another process.
    ClientReset = 2,
    /// The server reset it.
    ServerReset = 3,
    /// It was established, and then nothing answered any more.
    Lost = 4,
    /// Not established: the endpoint refused it. Of UDP: an ICMP error said that no process has the port.
    Refused = 5,
    /// Not established: nothing answered.
    TimedOut = 6,
    /// Not established: there is no way to the endpoint.
    Unreachable = 7,
    /// Not established: the client closed the socket before there was an answer.
    GivenUp = 8,
    /// Closed, and nothing more is known: the programs do not read sockets here.
    Unknown = 9,
    /// Its end will not be seen.
    Untracked = 10,
}

impl End {
    pub const ALL: [Self; 11] = [
        Self::Client,
        Self::Server,
        Self::ClientReset,
        Self::ServerReset,
        Self::Lost,
        Self::Refused,
        Self::TimedOut,
        Self::Unreachable,
        Self::GivenUp,
        Self::Unknown,
        Self::Untracked,
    ];

    /// Ends of established connections come first.
    pub const ESTABLISHED: usize = 5;
    /// Then those of connections that were not established.
    pub const FAILURES: usize = 4;

    /// Its place in [`ServiceStats::closed`], if it is that of an established connection.
    #[inline(always)]
    #[must_use]
    pub const fn as_closed(self) -> Option<usize> {
        let number = self as usize;
        if number < Self::ESTABLISHED { Some(number) } else { None }
    }

    /// Whether the connection was never established.
    #[inline(always)]
    #[must_use]
    pub const fn is_failure(self) -> bool {
        (self as usize).wrapping_sub(Self::ESTABLISHED) < Self::FAILURES
    }

    /// Its place in [`ConnectionCounts::failed`], if it is a failure.
    #[inline(always)]
    #[must_use]
    pub const fn as_failure(self) -> Option<usize> {
        if self.is_failure() { Some(self as usize - Self::ESTABLISHED) } else { None }
    }
}

/// The connections of a backend, or those of a service's former backends.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ConnectionCounts {
    #[cfg(feature = "test-layout")]
    pub retransmitted: u64,
    /// Connections that the backend was chosen for.
    pub opened: u64,
    /// Of these, those that ended, in whichever way.
    pub closed: u64,
    /// Bytes that clients wrote to established connections, counted when those end, and by the agent while they are open.
    pub sent: u64,
    /// Bytes that came from the backend, counted as those.
    pub received: u64,
    /// Connections whose end is not seen: there was no room for a record of the socket, or the kernel closes it
    /// without a hook.
    pub untracked: u64,
    /// Segments that were sent again.
    #[cfg(not(feature = "test-layout"))]
    pub retransmitted: u64,
    /// Established connections that ended without a byte from the backend, though the client had sent some.
    pub unanswered: u64,
    /// Connections that were never established, by [`End::as_failure`].
    pub failed: [u64; End::FAILURES],
}

impl ConnectionCounts {
    pub const NONE: Self = Self {
        opened: 0,
        closed: 0,
        sent: 0,
        received: 0,
        untracked: 0,
        retransmitted: 0,
        unanswered: 0,
        failed: [0; End::FAILURES],
    };

    /// Adds those of another backend. What was moved from one class to another is negative in one of the terms: hence
    /// wrapping, here and in [`Self::subtract`].
    pub fn add(&mut self, other: &Self) {
        self.combine(other, u64::wrapping_add);
    }

    pub fn subtract(&mut self, other: &Self) {
        self.combine(other, u64::wrapping_sub);
    }

    fn combine(&mut self, other: &Self, with: fn(u64, u64) -> u64) {
        let Self { opened, closed, sent, received, untracked, retransmitted, unanswered, failed } =
            self;
        let singles = [
            (opened, other.opened),
            (closed, other.closed),
            (sent, other.sent),
            (received, other.received),
            (untracked, other.untracked),
            (retransmitted, other.retransmitted),
            (unanswered, other.unanswered),
        ];
        let failures = failed.iter_mut().zip(other.failed);
        singles.into_iter().chain(failures).for_each(|(sum, one)| *sum = with(*sum, one));
    }

    /// Connections that are open now, or being opened. Not below 0 while programs count.
    #[must_use]
    pub const fn active(&self) -> u64 {
        self.opened.saturating_sub(self.closed).saturating_sub(self.untracked)
    }
}

/// Connections by the class of their traffic, see [`TrafficClass`]. Their sum is all connections.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClassCounts(pub [ConnectionCounts; TrafficClass::COUNT]);

impl ClassCounts {
    pub const NONE: Self = Self([ConnectionCounts::NONE; TrafficClass::COUNT]);

    /// Adds those of others.
    pub fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(sum, one)| sum.add(one));
    }

    /// Those of a class, which is a byte of [`TrafficClass`].
    pub fn of_byte(&mut self, class: u8) -> &mut ConnectionCounts {
        &mut self.0[usize::from(class & TrafficClass::MASK)]
    }

    #[must_use]
    pub const fn of(&self, class: TrafficClass) -> &ConnectionCounts {
        &self.0[class as usize]
    }

    /// Those of all classes.
    #[must_use]
    pub fn total(&self) -> ConnectionCounts {
        let mut total = ConnectionCounts::NONE;
        self.0.iter().for_each(|one| total.add(one));
        total
    }
}

/// A histogram with buckets that grow by powers of two: bucket `i` has values below
/// `FIRST << (i * STEP)`, the last one all others.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Histogram<const BUCKETS: usize> {
    pub sum: u64,
    pub buckets: [u64; BUCKETS],
}

impl<const BUCKETS: usize> Histogram<BUCKETS> {
    pub const NONE: Self = Self { sum: 0, buckets: [0; BUCKETS] };

    /// Adds another one, such as that of another CPU.
    pub fn add(&mut self, other: &Self) {
        self.sum += other.sum;
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(sum, one)| *sum += one);
    }
}

/// How many bits a number has, without the zeroes at its front. Without branches, each of which would double the paths
/// that the verifier follows.
#[inline(always)]
const fn bits(value: u32) -> u32 {
    u32::BITS - value.leading_zeros()
}

/// Round-trip times: 8 µs, 16 µs … 0.5 s, and more.
pub const ROUND_TRIP_BUCKETS: usize = 18;
/// They are counted as the kernel has them, in eighths of a microsecond.
pub const ROUND_TRIP_UNITS_PER_SECOND: f64 = 8e6;
const ROUND_TRIP_SHIFT: u32 = 6;

/// The bucket of a round-trip time in eighths of a microsecond.
#[inline(always)]
#[must_use]
pub const fn round_trip_bucket(eighths: u32) -> usize {
    let bucket = bits(eighths >> ROUND_TRIP_SHIFT) as usize;
    if bucket < ROUND_TRIP_BUCKETS { bucket } else { ROUND_TRIP_BUCKETS - 1 }
}

/// The upper bound of a bucket of round-trip times in seconds; of the last one, none.
#[must_use]
pub const fn round_trip_bound(bucket: usize) -> f64 {
    (1_u64 << (bucket as u32 + ROUND_TRIP_SHIFT)) as f64 / ROUND_TRIP_UNITS_PER_SECOND
}

/// Lifetimes: 1 ms, 4 ms … 19 hours, and more, in units of 2^20 ns.
pub const LIFETIME_BUCKETS: usize = 15;
/// A unit of lifetimes is 2 to this many nanoseconds.
pub const LIFETIME_SHIFT: u32 = 20;

/// The bucket of a lifetime.
#[inline(always)]
#[must_use]
pub const fn lifetime_bucket(units: u64) -> usize {
    let units = if units > u32::MAX as u64 { u32::MAX } else { units as u32 };
    let bucket = (bits(units) as usize).div_ceil(2);
    if bucket < LIFETIME_BUCKETS { bucket } else { LIFETIME_BUCKETS - 1 }
}

/// The upper bound of a bucket of lifetimes in seconds; of the last one, none.
#[must_use]
pub const fn lifetime_bound(bucket: usize) -> f64 {
    (1_u64 << (bucket as u32 * 2 + LIFETIME_SHIFT)) as f64 / 1e9
}

/// Of a service port and a CPU; the entry is made when the first connection ends on that CPU.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServiceStats {
    /// Established connections and flows that ended, by [`End::as_closed`].
    #[cfg(not(feature = "test-layout"))]
    pub closed: [u64; End::ESTABLISHED],
    /// The smoothed round-trip time that the kernel had at the end.
    pub round_trips: Histogram<ROUND_TRIP_BUCKETS>,
    #[cfg(feature = "test-layout")]
    pub closed: [u64; End::ESTABLISHED],
    /// From `connect()` to `close()`; that of a connection which was not established is not in it.
    pub lifetimes: Histogram<LIFETIME_BUCKETS>,
    /// Connections that ended after their backend had been removed, by the class that it had when they were opened;
    /// `opened` is not used.
    pub of_removed: ClassCounts,
}

impl ServiceStats {
    pub const NONE: Self = Self {
        closed: [0; End::ESTABLISHED],
        round_trips: Histogram::NONE,
        lifetimes: Histogram::NONE,
        of_removed: ClassCounts::NONE,
    };

    /// Adds those of another CPU.
    pub fn add(&mut self, other: &Self) {
        self.closed.iter_mut().zip(&other.closed).for_each(|(sum, one)| *sum += one);
        self.round_trips.add(&other.round_trips);
        self.lifetimes.add(&other.lifetimes);
        self.of_removed.add(&other.of_removed);
    }
}

/// Of a service port: the connections of backends that were removed, as far as they had ended before, and what backends
/// counted before their class changed: for the former class, and negative for the next one. No program reads it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RemovedBackends {
    pub counts: ClassCounts,
    /// The backend that was added last. If its entry still has this generation, an agent ended before it had cleared
    /// the entry, which must not be added again.
    pub last: BackendId,
    pub last_generation: u32,
}

// SAFETY: integers only, no padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for ConnectionCounts {}
// SAFETY: integers only, no padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for ClassCounts {}
// SAFETY: integers only, no padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for RemovedBackends {}
// SAFETY: integers only, no padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for ServiceStats {}

const _: () = assert!(size_of::<ConnectionCounts>() == 88);
const _: () = assert!(size_of::<RemovedBackends>() == 360);
const _: () = assert!(size_of::<ServiceStats>() == 672);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_in_the_bucket_whose_bound_is_the_first_above_it() {
        for value in (0..2_000_000).step_by(7).chain([0, 63, 64, 65, u32::MAX]) {
            let (bucket, seconds) =
                (round_trip_bucket(value), f64::from(value) / ROUND_TRIP_UNITS_PER_SECOND);
            assert!(bucket == ROUND_TRIP_BUCKETS - 1 || seconds < round_trip_bound(bucket));
            assert!(bucket == 0 || seconds >= round_trip_bound(bucket - 1), "{value}");
        }
        for value in (0..1_000_000).step_by(3).chain([0, 1, 3, 4, 5, u64::MAX >> LIFETIME_SHIFT]) {
            let seconds = (value << LIFETIME_SHIFT) as f64 / 1e9;
            let bucket = lifetime_bucket(value);
            assert!(bucket == LIFETIME_BUCKETS - 1 || seconds < lifetime_bound(bucket), "{value}");
            assert!(bucket == 0 || seconds >= lifetime_bound(bucket - 1), "{value}");
        }
    }

    #[test]
    fn an_end_has_one_place() {
        assert!(End::ALL.iter().enumerate().all(|(number, &end)| end as usize == number));
        assert_eq!(End::Lost.as_closed(), Some(End::ESTABLISHED - 1));
        assert_eq!((End::Refused.as_closed(), End::Refused.as_failure()), (None, Some(0)));
        assert_eq!(End::GivenUp.as_failure(), Some(End::FAILURES - 1));
        assert_eq!((End::Unknown.as_closed(), End::Unknown.as_failure()), (None, None));
    }
}
