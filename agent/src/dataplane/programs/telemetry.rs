//! What the programs need to read sockets: where the running kernel has the fields that say how a connection went.
//!
//! `ebpf/src/kernel/telemetry/socket.rs` reads them. Where the kernel does not describe its types or refuses to have
//! its memory read, connections are only counted when they are opened and closed.

use aya::EbpfLoader;
use nix::time::{ClockId, clock_getres};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    bpf::probes::{
        self, CannotTell,
        kernel_types::{self, Member},
    },
    dataplane::error::DataplaneError,
};

/// Whether connections are counted in detail.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Telemetry {
    /// How each connection ended, its bytes, round-trip time and lifetime
    #[default]
    On,
    /// Only connections opened and closed
    Off,
}

/// Whether connections are counted by client.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum ClientCounting {
    /// For each client and service
    #[default]
    On,
    /// Not
    Off,
}

/// The constants of the programs, and the fields whose offsets they are.
const FIELDS: [(&str, Member); 15] = [
    ("SK_STATE", ("sock_common", "skc_state")),
    ("SK_FLAGS", ("sock_common", "skc_flags")),
    ("SK_INCOMING_CPU", ("sock_common", "skc_incoming_cpu")),
    ("SK_LINGERTIME", ("sock", "sk_lingertime")),
    ("SK_ERR", ("sock", "sk_err")),
    ("TCP_BYTES_ACKED", ("tcp_sock", "bytes_acked")),
    ("TCP_BYTES_RECEIVED", ("tcp_sock", "bytes_received")),
    ("TCP_SND_UNA", ("tcp_sock", "snd_una")),
    ("TCP_WRITE_SEQ", ("tcp_sock", "write_seq")),
    ("TCP_RCV_NXT", ("tcp_sock", "rcv_nxt")),
    ("TCP_COPIED_SEQ", ("tcp_sock", "copied_seq")),
    ("TCP_SRTT_US", ("tcp_sock", "srtt_us")),
    ("TCP_TOTAL_RETRANS", ("tcp_sock", "total_retrans")),
    ("ICSK_RETRANSMITS", ("inet_connection_sock", "icsk_retransmits")),
    ("ICSK_PROBES_OUT", ("inet_connection_sock", "icsk_probes_out")),
];
/// Fields of `struct tcp_sock` that every connection needs, see [`window`].
const TCP: std::ops::Range<usize> = 5..13;
const MPTCP_FIRST: Member = ("mptcp_sock", "first");
/// As in `socket.rs` of the programs.
const WINDOW: u32 = 368;

/// What the programs read sockets with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketFields {
    offsets: [u32; FIELDS.len()],
    /// 0 where the kernel has no MPTCP.
    mptcp_first: u32,
    window: u32,
}

/// What the programs count connections with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    fields: Option<SocketFields>,
    tick_nanoseconds: u64,
    reads_sockets: u8,
    counts_clients: u8,
}

impl Settings {
    /// # Errors
    /// When the kernel does not tell the length of a clock tick.
    pub fn new(
        fields: Option<SocketFields>,
        telemetry: Telemetry,
        clients: ClientCounting,
    ) -> Result<Self, DataplaneError> {
        let fields = fields.filter(|_| telemetry == Telemetry::On);
        let failed =
            |error| DataplaneError::io("ask for the length of a clock tick".to_owned(), error);
        Ok(Self {
            fields,
            tick_nanoseconds: tick_nanoseconds().map_err(failed)?,
            reads_sockets: fields.is_some().into(),
            counts_clients: (clients == ClientCounting::On).into(),
        })
    }

    /// Sets the constants of the programs.
    pub fn set<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        loader
            .override_global("TICK_NANOSECONDS", &self.tick_nanoseconds, true)
            .override_global("READS_SOCKETS", &self.reads_sockets, true)
            .override_global("COUNTS_CLIENTS", &self.counts_clients, true);
        if let Some(fields) = &self.fields {
            for ((name, _), offset) in FIELDS.iter().zip(&fields.offsets) {
                loader.override_global(name, offset, true);
            }
            loader.override_global("MPTCP_FIRST", &fields.mptcp_first, true).override_global(
                "TCP_WINDOW",
                &fields.window,
                true,
            );
        }
    }
}

impl SocketFields {
    /// `None` if the kernel does not describe its types as expected, or does not let programs read them.
    ///
    /// # Errors
    /// When the kernel's answer was neither yes nor no.
    pub fn probe() -> Result<Option<Self>, CannotTell> {
        if !probes::probe_read()? {
            return Ok(None);
        }
        Ok(probes::kernel_btf()?.and_then(|btf| Self::find(&btf)))
    }

    fn find(btf: &[u8]) -> Option<Self> {
        let offsets = kernel_types::offsets(btf, FIELDS.map(|(_, member)| member))?;
        let mptcp_first = kernel_types::offsets(btf, [MPTCP_FIRST]).map_or(0, |[offset]| offset);
        Some(Self { offsets, mptcp_first, window: window(&offsets[TCP]) })
    }
}

/// Where a part of `struct tcp_sock` begins that has the most of these fields; it begins at a multiple of 8.
fn window(fields: &[u32]) -> u32 {
    let covered = |start: u32| {
        fields.iter().filter(|&&field| (start..=start + WINDOW - 8).contains(&field)).count()
    };
    // Of several that have as many, the first.
    let starts = fields.iter().map(|field| field / 8 * 8);
    starts.rev().max_by_key(|&start| covered(start)).unwrap_or(0)
}

/// The clock that is read without asking the hardware advances with each tick, and says so.
pub fn tick_nanoseconds() -> std::io::Result<u64> {
    let tick = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE)?;
    let nanoseconds = tick.tv_sec() * 1_000_000_000 + tick.tv_nsec();
    u64::try_from(nanoseconds).map_err(std::io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_has_the_most_fields() {
        assert_eq!(window(&[100, 1_000, 1_004, 1_248, 1_256]), 1_000);
        assert_eq!(window(&[4]), 0);
    }

    #[test]
    fn the_running_kernels_fields_are_found() {
        let Ok(Some(btf)) = probes::kernel_btf() else { return };
        let found = SocketFields::find(&btf).unwrap();
        let covered = found.offsets[TCP]
            .iter()
            .filter(|&&field| (found.window..=found.window + WINDOW - 8).contains(&field));
        assert!(covered.count() >= 5, "{found:?}");
    }

    #[test]
    fn a_tick_is_one_of_the_kernels() {
        let per_second = 1_000_000_000 / tick_nanoseconds().unwrap();
        assert!([100, 250, 300, 1_000].contains(&per_second), "{per_second}");
    }
}
