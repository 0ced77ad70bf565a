//! Events as they lie in the ring buffer, see [`sockline_ebpf::event`].

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::Buf;
use jiff::Timestamp;
use sockline_ebpf::{
    address::Address,
    event::{Event as Layout, EventKind},
    frontend::{Protocol, Reason},
    id::{BackendId, ServiceId},
    telemetry::{End, ROUND_TRIP_UNITS_PER_SECOND},
};

/// What happened to a connection or a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub time: Timestamp,
    pub what: What,
    pub protocol: Protocol,
    pub service: ServiceId,
    /// The address that was dialled; not known of an end.
    pub dialled: Option<SocketAddr>,
    /// The backend's id and generation.
    pub backend: (BackendId, u32),
    /// `None` if the call was refused, the backend has been removed, or a flow ended.
    pub backend_address: Option<SocketAddr>,
    /// The cgroup of the client; 0 if it is not known.
    pub cgroup: u64,
    /// The process that connected, or that closed the socket.
    pub pid: u32,
    /// Its name. It may have any characters.
    pub process: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    Opened,
    /// Opened, and nobody will see its end.
    OpenedUntracked,
    Refused(Reason),
    Ended(Ended),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    pub end: End,
    /// In steps of a clock tick.
    pub lifetime: Duration,
    pub sent: u64,
    pub received: u64,
    /// `None` if it was not measured.
    pub round_trip: Option<Duration>,
    pub retransmitted: u32,
}

/// How the kernel's times are converted.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// When `CLOCK_MONOTONIC` was 0, in nanoseconds since the epoch.
    pub start: i128,
    /// A jiffy.
    pub tick_nanoseconds: u64,
}

/// `None` for bytes that are no event of this layout.
pub fn decode(bytes: &[u8], clock: Clock) -> Option<Event> {
    if bytes.len() != size_of::<Layout>() {
        return None;
    }
    // In the order of the layout.
    let mut from = bytes;
    let time = from.try_get_u64_ne().ok()?;
    let cgroup = from.try_get_u64_ne().ok()?;
    let sent = from.try_get_u64_ne().ok()?;
    let received = from.try_get_u64_ne().ok()?;
    let lifetime = from.try_get_u64_ne().ok()?;
    let service_address = address(&mut from)?;
    let backend_address = address(&mut from)?;
    let service = ServiceId(from.try_get_u32_ne().ok()?);
    let backend = BackendId(from.try_get_u32_ne().ok()?);
    let generation = from.try_get_u32_ne().ok()?;
    let pid = from.try_get_u32_ne().ok()?;
    let round_trip = from.try_get_u32_ne().ok()?;
    let retransmitted = from.try_get_u32_ne().ok()?;
    // Network byte order.
    let service_port = from.try_get_u16().ok()?;
    let backend_port = from.try_get_u16().ok()?;
    let kind = EventKind::from_byte(from.try_get_u8().ok()?)?;
    let protocol = Protocol::from_byte(from.try_get_u8().ok()?)?;
    let detail = from.try_get_u8().ok()?;
    let _padding = from.try_get_u8().ok()?;
    let name = from.split(|&byte| byte == 0).next().unwrap_or_default();
    let what = match kind {
        EventKind::Opened if detail == 0 => What::Opened,
        EventKind::Opened => What::OpenedUntracked,
        EventKind::Refused => What::Refused(Reason::from_byte(detail)?),
        EventKind::Ended => What::Ended(Ended {
            end: *End::ALL.get(usize::from(detail))?,
            lifetime: Duration::from_nanos(clock.tick_nanoseconds.saturating_mul(lifetime)),
            sent,
            received,
            round_trip: (round_trip != 0).then(|| {
                Duration::from_secs_f64(f64::from(round_trip) / ROUND_TRIP_UNITS_PER_SECOND)
            }),
            retransmitted,
        }),
    };
    Some(Event {
        time: Timestamp::from_nanosecond(clock.start + i128::from(time)).ok()?,
        what,
        protocol,
        service,
        dialled: socket_address(service_address, service_port),
        backend: (backend, generation),
        backend_address: socket_address(backend_address, backend_port),
        cgroup,
        pid,
        process: String::from_utf8_lossy(name).into_owned(),
    })
}

fn address(from: &mut &[u8]) -> Option<IpAddr> {
    let mut words = [0; 4];
    for word in &mut words {
        *word = from.try_get_u32_ne().ok()?;
    }
    Some(Address { words }.into())
}

/// `None` without a port: then there is no address either.
fn socket_address(address: IpAddr, port: u16) -> Option<SocketAddr> {
    (port != 0).then(|| SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOCK: Clock = Clock { start: 1_000_000_000, tick_nanoseconds: 4_000_000 };

    fn layout() -> Layout {
        let address = |text: &str| Address::from(text.parse::<IpAddr>().unwrap());
        Layout {
            time: 5_000_000_000,
            cgroup: 77,
            sent: 1,
            received: 2,
            lifetime: 250,
            service_address: address("10.96.0.1"),
            backend_address: address("fd00::1"),
            service: ServiceId(3),
            backend: BackendId(4),
            generation: 5,
            pid: 6,
            round_trip: 800,
            retransmitted: 7,
            service_port: 80_u16.to_be(),
            backend_port: 8080_u16.to_be(),
            kind: EventKind::Ended.byte(),
            protocol: Protocol::Tcp.byte(),
            detail: End::Server as u8,
            padding: 0,
            comm: *b"curl\0\0\0\0\0\0\0\0\0\0\0\0",
        }
    }

    fn bytes(layout: &Layout) -> &[u8] {
        let start = std::ptr::from_ref(layout).cast::<u8>();
        // SAFETY: the bytes of a structure without padding.
        unsafe { std::slice::from_raw_parts(start, size_of::<Layout>()) }
    }

    #[test]
    fn an_event_is_read_as_the_programs_write_it() {
        let expected = Event {
            time: Timestamp::from_second(6).unwrap(),
            what: What::Ended(Ended {
                end: End::Server,
                lifetime: Duration::from_secs(1),
                sent: 1,
                received: 2,
                round_trip: Some(Duration::from_micros(100)),
                retransmitted: 7,
            }),
            protocol: Protocol::Tcp,
            service: ServiceId(3),
            dialled: Some("10.96.0.1:80".parse().unwrap()),
            backend: (BackendId(4), 5),
            backend_address: Some("[fd00::1]:8080".parse().unwrap()),
            cgroup: 77,
            pid: 6,
            process: "curl".into(),
        };
        assert_eq!(decode(bytes(&layout()), CLOCK), Some(expected));
    }

    #[test]
    fn what_is_not_known_is_absent() {
        let refused = Layout {
            kind: EventKind::Refused.byte(),
            detail: Reason::NoEndpoints.byte(),
            backend_port: 0,
            comm: *b"sixteen bytes \xff!",
            ..layout()
        };
        let event = decode(bytes(&refused), CLOCK).unwrap();
        assert_eq!((event.what, event.backend_address), (What::Refused(Reason::NoEndpoints), None));
        assert_eq!(event.process, "sixteen bytes \u{fffd}!");
        let opened = Layout { kind: EventKind::Opened.byte(), detail: 1, ..layout() };
        assert_eq!(decode(bytes(&opened), CLOCK).unwrap().what, What::OpenedUntracked);
    }

    #[test]
    fn bytes_that_are_no_event_are_skipped() {
        let layout = layout();
        let whole = bytes(&layout);
        for length in 0..whole.len() {
            assert_eq!(decode(&whole[..length], CLOCK), None, "{length}");
        }
        assert_eq!(decode(&[whole, &[0; 8]].concat(), CLOCK), None);
        for wrong in [
            Layout { kind: 0, ..layout },
            Layout { kind: 9, ..layout },
            Layout { protocol: 99, ..layout },
            Layout { detail: 11, ..layout },
            Layout { kind: EventKind::Refused.byte(), detail: 99, ..layout },
            Layout { time: u64::MAX, ..layout },
        ] {
            let read =
                decode(bytes(&wrong), Clock { start: i128::from(i64::MAX) * 1_000, ..CLOCK });
            assert_eq!(read, None, "{wrong:?}");
        }
    }
}
