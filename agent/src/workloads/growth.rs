//! How much the counts of clients grew between two readings.
//!
//! An entry of the kernel's map may be dropped, be made again and begin at 0, and readings run beside the programs. What
//! grew is added to sums that never fall.

use std::collections::HashMap;

use sockline_ebpf::{client::ClientCounts, id::ServiceId};

use crate::dataplane::ClientConnections;

/// What was counted since the last reading.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Growth {
    pub opened: u64,
    pub closed: u64,
    /// Of those that were closed.
    pub failed: u64,
    /// The others of them.
    pub established: u64,
    pub sent: u64,
    pub received: u64,
}

impl Growth {
    pub const fn add(&mut self, other: &Self) {
        self.opened += other.opened;
        self.closed += other.closed;
        self.failed += other.failed;
        self.established += other.established;
        self.sent += other.sent;
        self.received += other.received;
    }
}

/// Bytes of a client: of connections that ended, and what was counted of those that are open.
#[derive(Debug, Default)]
struct Bytes {
    /// Of connections that were open before the first reading.
    open_before: u64,
    /// Of connections that ended since.
    ended: u64,
    /// Of connections that were open, and of which less was counted at their end: `connect(AF_UNSPEC)` clears what a
    /// socket knows, and an entry may be dropped.
    lost: u64,
    /// What was reported up to now.
    reported: u64,
    /// The last reading had less than that.
    was_less: bool,
}

impl Bytes {
    /// What is new. A connection that ends during a reading may be missing in it, and be there in the next one; what is
    /// missing in two is lost.
    const fn update(&mut self, ended: u64, open: u64) -> u64 {
        self.ended += ended;
        let now = (self.ended + self.lost + open).saturating_sub(self.open_before);
        let is_less = now < self.reported;
        if is_less && self.was_less {
            self.lost += self.reported - now;
        }
        self.was_less = is_less && !self.was_less;
        let new = now.saturating_sub(self.reported);
        self.reported += new;
        new
    }
}

/// The latest reading of each client and service port.
#[derive(Debug, Default)]
pub struct Readings(HashMap<(u64, ServiceId), Entry>);

#[derive(Debug, Default)]
struct Entry {
    last: ClientCounts,
    /// Connections that were open before the first reading.
    active_before: u64,
    sent: Bytes,
    received: Bytes,
    /// What was reported up to now.
    sum: Growth,
    /// It was not in the last reading.
    is_missing: bool,
}

impl Readings {
    /// Counts begin after this reading.
    #[must_use]
    pub fn after(read: &[ClientConnections]) -> Self {
        let entries = read.iter().map(|client| {
            let entry = Entry {
                last: client.ended,
                active_before: client.active,
                sent: Bytes { open_before: client.open.sent, ..Bytes::default() },
                received: Bytes { open_before: client.open.received, ..Bytes::default() },
                ..Entry::default()
            };
            ((client.cgroup, client.id), entry)
        });
        Self(entries.collect())
    }

    /// The growth of each client since the last reading, in their order. What is in none of two readings is forgotten: a
    /// connection that ends during a reading may be missing in it.
    pub fn update(&mut self, read: &[ClientConnections]) -> Vec<Growth> {
        let mut before = std::mem::take(&mut self.0);
        let growths = read.iter().map(|client| {
            let key = (client.cgroup, client.id);
            let mut entry = before.remove(&key).unwrap_or_default();
            let growth = entry.update(client);
            entry.is_missing = false;
            self.0.insert(key, entry);
            growth
        });
        let growths = growths.collect();
        for (key, entry) in before {
            if !entry.is_missing {
                self.0.insert(key, Entry { is_missing: true, ..entry });
            }
        }
        growths
    }
}

impl Entry {
    fn update(&mut self, client: &ClientConnections) -> Growth {
        let (last, now) = (std::mem::replace(&mut self.last, client.ended), client.ended);
        // It was dropped, and made again.
        let last = if now.closed < last.closed { ClientCounts::NONE } else { last };
        let mut growth = Growth {
            closed: now.closed.saturating_sub(last.closed),
            failed: now.failed.saturating_sub(last.failed),
            ..Growth::default()
        };
        // A difference of counts that programs change while they are read may fall.
        let closed = self.sum.closed + growth.closed;
        let failed = self.sum.failed + growth.failed;
        let opened = (closed + client.active).saturating_sub(self.active_before);
        growth.opened = opened.saturating_sub(self.sum.opened);
        growth.sent = self.sent.update(now.sent.saturating_sub(last.sent), client.open.sent);
        growth.received =
            self.received.update(now.received.saturating_sub(last.received), client.open.received);
        growth.established = closed.saturating_sub(failed).saturating_sub(self.sum.established);
        self.sum.add(&growth);
        growth
    }
}

#[cfg(test)]
mod tests {
    use sockline_ebpf::partly_counted::Part;

    use super::*;
    use crate::{
        dataplane::ServiceKey,
        model::object::{ObjectName, Protocol},
    };

    fn client(active: u64, closed: u64, failed: u64) -> ClientConnections {
        let service = ServiceKey {
            service: ObjectName::new("shop", "cart"),
            port_name: "".into(),
            protocol: Protocol::Tcp,
        };
        let ended = ClientCounts { closed, failed, sent: 10 * closed, ..ClientCounts::NONE };
        ClientConnections {
            cgroup: 7,
            id: ServiceId(1),
            service,
            active,
            ended,
            open: Part::default(),
        }
    }

    fn sums(readings: &mut Readings, steps: &[(u64, u64, u64)]) -> Growth {
        let mut sum = Growth::default();
        for &(active, closed, failed) in steps {
            sum.add(&readings.update(&[client(active, closed, failed)])[0]);
        }
        sum
    }

    #[test]
    fn what_was_there_at_the_beginning_does_not_count() {
        let mut readings = Readings::after(&[client(2, 100, 10)]);
        let sum = sums(&mut readings, &[(2, 100, 10), (1, 101, 10), (3, 103, 11)]);
        // Three ended, of which two were open at the beginning or one at each time: 103 + 3 - 102.
        let expected =
            Growth { opened: 4, closed: 3, failed: 1, established: 2, sent: 30, received: 0 };
        assert_eq!(sum, expected);
    }

    #[test]
    fn bytes_of_an_open_connection_count_once() {
        let read = |active, closed, open| ClientConnections {
            open: Part { sent: open, ..Part::default() },
            ..client(active, closed, 0)
        };
        let mut readings = Readings::after(&[read(1, 5, 4)]);
        let mut sent = 0;
        // The connection grows to 7 bytes and ends with 10, of which 4 were there before; then another one sends 3.
        // In between it is neither open nor ended for a moment.
        let steps =
            [(read(1, 5, 7), 3), (read(0, 5, 0), 3), (read(0, 6, 0), 6), (read(1, 6, 3), 9)];
        for (reading, expected) in steps {
            sent += readings.update(&[reading])[0].sent;
            assert_eq!(sent, expected);
        }
    }

    #[test]
    fn an_entry_that_was_dropped_and_made_again_adds_what_it_has() {
        let mut readings = Readings::default();
        let sum = sums(&mut readings, &[(0, 5, 1), (1, 2, 0)]);
        assert_eq!((sum.opened, sum.closed, sum.failed, sum.sent), (8, 7, 1, 70));
        readings.update(&[]);
        let sum = sums(&mut readings, &[(0, 3, 0)]);
        assert_eq!((sum.opened, sum.closed), (0, 1), "one reading missed it");
        readings.update(&[]);
        readings.update(&[]);
        let sum = sums(&mut readings, &[(0, 3, 0)]);
        assert_eq!((sum.opened, sum.closed), (3, 3), "it was forgotten");
    }

    #[test]
    fn no_sum_falls_when_counts_are_read_while_they_change() {
        let mut readings = Readings::default();
        // Closed before it is failed; then a connection that is neither active nor closed for a moment.
        let sum = sums(
            &mut readings,
            &[(1, 4, 3), (0, 5, 3), (0, 5, 4), (3, 5, 4), (2, 5, 4), (2, 6, 4)],
        );
        assert_eq!((sum.opened, sum.closed, sum.failed, sum.established), (8, 6, 4, 2));
    }

    /// The socket was taken down by `connect(AF_UNSPEC)`.
    #[test]
    fn what_was_counted_of_an_open_connection_and_not_at_its_end_delays_no_other() {
        let mut readings = Readings::default();
        let mut sent = |open, ended| {
            let mut client = client(1, 1, 0);
            client.open = Part { sent: open, ..Part::default() };
            client.ended.sent = ended;
            readings.update(&[client])[0].sent
        };
        assert_eq!(sent(1_000, 0), 1_000);
        assert_eq!([sent(0, 0), sent(0, 0)], [0, 0], "it is missing twice");
        assert_eq!([sent(0, 70), sent(30, 70)], [70, 30]);
        assert_eq!(
            [sent(0, 70), sent(0, 100)],
            [0, 0],
            "it ended between two reads of one reading"
        );
    }
}
