//! What each kind of connection adds to the counters.

use std::collections::BTreeMap;

use sockline_testbed::Protocol;

use super::{
    super::{Seen, ended, failed},
    large,
};

/// What a client sends first: as often the byte that says what the server does.
pub(super) const REQUEST: usize = 100;
pub(super) const ANSWER: usize = 50;
/// What a client still writes when it closes.
pub(super) const MORE: usize = 50_000;

/// How a connection goes, by the byte of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Way {
    ClientCloses = b'c',
    ServerCloses = b's',
    /// The server closes with its answer, the client once it has it.
    BothClose = b'b',
    ClientResets = b'l',
    ServerResets = b'r',
    /// The client closes without having read all.
    Unread = b'u',
    HalfClosed = b'h',
    /// The server accepts, and never answers.
    Unanswered = b'n',
    /// The client closes while the server still reads.
    InFlight = b'f',
    /// The server sends what [`large`] says. No client makes it in each round.
    Download = b'd',
}

impl Way {
    pub(super) const ALL: [Self; 9] = [
        Self::ClientCloses,
        Self::ServerCloses,
        Self::BothClose,
        Self::ClientResets,
        Self::ServerResets,
        Self::Unread,
        Self::HalfClosed,
        Self::Unanswered,
        Self::InFlight,
    ];

    pub(super) fn of(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().chain([Self::Download]).find(|way| *way as u8 == byte)
    }

    /// What this many connections add. Those of [`Way::BothClose`] may also be ended by the client.
    pub(super) fn seen(self, count: usize) -> Seen {
        let times = count as u64;
        let how = match self {
            Self::ClientCloses
            | Self::HalfClosed
            | Self::Unanswered
            | Self::InFlight
            | Self::Download => "client",
            Self::ServerCloses | Self::BothClose => "server",
            Self::ClientResets | Self::Unread => "client-reset",
            Self::ServerResets => "server-reset",
        };
        let answer = match self {
            Self::Unanswered | Self::ServerResets => 0,
            Self::Download => large::BYTES,
            _ => ANSWER,
        };
        let more = if self == Self::InFlight { MORE } else { 0 };
        Seen {
            sent: times * (REQUEST + more) as u64,
            received: times * answer as u64,
            unanswered: if answer == 0 { times } else { 0 },
            ..ended(how, times)
        }
    }
}

/// The counters of each service and protocol.
#[derive(Clone, Debug, Default)]
pub(super) struct Expected {
    seen: BTreeMap<(&'static str, Protocol), Seen>,
    /// Calls that programs refused, since the service has no endpoint.
    refused: BTreeMap<(&'static str, Protocol), u64>,
}

impl Expected {
    /// What all clients make in so many rounds: see `clients::make`.
    pub(super) fn of_rounds(rounds: usize) -> Self {
        let mut this = Self::default();
        for way in Way::ALL {
            let service = if way == Way::BothClose { super::RACE } else { super::WEB };
            this.add(service, Protocol::Tcp, &way.seen(rounds));
        }
        // One that is refused, and two more of a socket that is then accepted.
        this.add(super::DEAD, Protocol::Tcp, &failed("refused", 3 * rounds as u64));
        this.add(super::WEB, Protocol::Tcp, &Way::ClientCloses.seen(rounds));
        let flows = Seen { round_trips: 0, ..ended("client", 2 * rounds as u64) };
        this.add(super::DNS, Protocol::Udp, &flows);
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            this.add(super::NONE, protocol, &Seen::default());
            this.refused.insert((super::NONE, protocol), rounds as u64);
        }
        this
    }

    pub(super) fn add(&mut self, service: &'static str, protocol: Protocol, more: &Seen) {
        add(self.seen.entry((service, protocol)).or_default(), more);
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&'static str, Protocol, &Seen)> {
        self.seen.iter().map(|((service, protocol), seen)| (*service, *protocol, seen))
    }

    pub(super) fn refused(&self) -> impl Iterator<Item = (&'static str, Protocol, u64)> {
        self.refused.iter().map(|((service, protocol), count)| (*service, *protocol, *count))
    }
}

fn add(sum: &mut Seen, more: &Seen) {
    let Seen { opened, active, closed, failed, untracked, unanswered, sent, received, .. } = more;
    sum.opened += opened;
    sum.active += active;
    sum.untracked += untracked;
    sum.unanswered += unanswered;
    sum.sent += sent;
    sum.received += received;
    sum.round_trips += more.round_trips;
    sum.lifetimes += more.lifetimes;
    for (all, part) in [(&mut sum.closed, closed), (&mut sum.failed, failed)] {
        for (name, count) in part {
            *all.entry(name.clone()).or_default() += count;
        }
    }
}
