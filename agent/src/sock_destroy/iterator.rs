//! Closes sockets in BPF iterators, for kernels that do not close them over netlink.
//!
//! The programs are assembled here, as those of [`crate::bpf::probes`] are: neither aya nor bpf-linker can call
//! `bpf_sock_destroy`, which is a function of the kernel and not a helper.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use aya::maps::{HashMap, Map, MapData, MapError};
use aya_obj::btf::{Btf, BtfKind};
use sockline_ebpf::frontend::Protocol;

use crate::bpf::{error::BpfError, kinds::create, probes::instruction, syscall};

/// Sockets that one run of an iterator can close.
const MAX_TARGETS: u32 = 4096;
/// A target that the iterator did not find.
const NOT_FOUND: i32 = i32::MIN;

/// Iterators over the sockets of a network namespace that close those with given cookies
/// (`bpf_sock_destroy`, Linux 6.5).
pub struct SocketIterators {
    /// Cookie → result of closing the socket.
    targets: HashMap<MapData, u64, i32>,
    tcp: OwnedFd,
    udp: OwnedFd,
}

impl SocketIterators {
    /// Loads them, for which this process needs CAP_BPF and CAP_PERFMON; running them takes neither.
    ///
    /// # Errors
    /// When the kernel has none.
    pub fn load() -> Result<Self, BpfError> {
        let unsupported = |error: &dyn std::fmt::Display| {
            BpfError::Unsupported(format!("this kernel closes no sockets in iterators: {error}"))
        };
        let btf = Btf::from_sys_fs().map_err(|error| unsupported(&error))?;
        let function = |name: &str| {
            btf.id_by_type_name_kind(name, BtfKind::Func).map_err(|error| unsupported(&error))
        };
        let destroy = function("bpf_sock_destroy")?;
        let map = create::hash::<u64, i32>("SOCKLINE_TARGETS", MAX_TARGETS)?;
        let link = |target: &str| -> Result<OwnedFd, BpfError> {
            let program = program(map.fd().as_fd(), destroy);
            syscall::load_iterator(&program, function(target)?)
                .and_then(|program| syscall::link_iterator(program.as_fd()))
                .map_err(|error| BpfError::io(format!("load the iterator {target}"), error))
        };
        let (tcp, udp) = (link("bpf_iter_tcp")?, link("bpf_iter_udp")?);
        let targets = Map::HashMap(map)
            .try_into()
            .map_err(|error| BpfError::map("SOCKLINE_TARGETS", "open", error))?;
        Ok(Self { targets, tcp, udp })
    }

    /// Closes the sockets of a protocol that have these cookies and are in the network namespace of
    /// this thread; one result for each.
    pub fn close(&mut self, protocol: Protocol, cookies: &[u64]) -> Vec<io::Result<()>> {
        cookies
            .chunks(MAX_TARGETS as usize)
            .flat_map(|cookies| match self.run(protocol, cookies) {
                Ok(results) => results,
                Err(error) => {
                    let again = || Err(io::Error::new(error.kind(), error.to_string()));
                    cookies.iter().map(|_| again()).collect()
                }
            })
            .collect()
    }

    fn run(&mut self, protocol: Protocol, cookies: &[u64]) -> io::Result<Vec<io::Result<()>>> {
        let link = match protocol {
            Protocol::Tcp => &self.tcp,
            Protocol::Udp => &self.udp,
            Protocol::Sctp => return Err(io::Error::other("SCTP has no iterator")),
        };
        for cookie in cookies {
            self.targets.insert(cookie, NOT_FOUND, 0).map_err(io::Error::other)?;
        }
        // The namespace is that of the thread at this moment; reading to the end runs the program for
        // each of its sockets.
        let ran = syscall::run_iterator(link.as_fd())
            .and_then(|run| File::from(run).read_to_end(&mut Vec::new()));
        let results = cookies.iter().map(|cookie| self.result(*cookie)).collect();
        for cookie in cookies {
            match self.targets.remove(cookie) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        ran.map(|_| results)
    }

    fn result(&self, cookie: u64) -> io::Result<()> {
        match self.targets.get(&cookie, 0).map_err(io::Error::other)? {
            0 => Ok(()),
            NOT_FOUND => Err(io::ErrorKind::NotFound.into()),
            error => Err(io::Error::from_raw_os_error(error.saturating_neg())),
        }
    }
}

/// The program of both iterators: their contexts (`struct bpf_iter__udp`, `struct bpf_iter__tcp`) both
/// have the socket as the second field, which is none at the end.
fn program(targets: BorrowedFd<'_>, destroy: u32) -> Vec<u64> {
    const GET_SOCKET_COOKIE: i32 = 46;
    const MAP_LOOKUP_ELEM: i32 = 1;
    const PSEUDO_MAP_FD: u8 = 1;
    const PSEUDO_KFUNC_CALL: u8 = 2;
    vec![
        // r6 = *(u64 *)(r1 + 8); if r6 == 0 goto end
        instruction(0x79, 6, 1, 8, 0),
        instruction(0x15, 6, 0, 13, 0),
        // r0 = bpf_get_socket_cookie(r6); *(u64 *)(r10 - 8) = r0
        instruction(0xbf, 1, 6, 0, 0),
        instruction(0x85, 0, 0, 0, GET_SOCKET_COOKIE),
        instruction(0x7b, 10, 0, -8, 0),
        // r0 = bpf_map_lookup_elem(targets, r10 - 8); if r0 == 0 goto end
        instruction(0xbf, 2, 10, 0, 0),
        instruction(0x07, 2, 0, 0, -8),
        instruction(0x18, 1, PSEUDO_MAP_FD, 0, targets.as_raw_fd()),
        instruction(0, 0, 0, 0, 0),
        instruction(0x85, 0, 0, 0, MAP_LOOKUP_ELEM),
        instruction(0x15, 0, 0, 4, 0),
        // r7 = r0; r0 = bpf_sock_destroy(r6); *(u32 *)(r7 + 0) = r0
        instruction(0xbf, 7, 0, 0, 0),
        instruction(0xbf, 1, 6, 0, 0),
        instruction(0x85, 0, PSEUDO_KFUNC_CALL, 0, destroy.cast_signed()),
        instruction(0x63, 7, 0, 0, 0),
        // end: return 0
        instruction(0xb7, 0, 0, 0, 0),
        instruction(0x95, 0, 0, 0, 0),
    ]
}
