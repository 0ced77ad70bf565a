//! Iterators: programs that run once for each object of a kind, here for each socket.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

use aya_obj::generated::{bpf_attach_type, bpf_cmd, bpf_prog_type};

use super::{bpf, owned, zeroed_attr};

/// Loads a program of an iterator: `target` is the BTF id of the function that stands for it in the
/// kernel (Linux 5.8).
pub fn load_iterator(instructions: &[u64], target: u32) -> io::Result<OwnedFd> {
    let mut attr = zeroed_attr();
    // SAFETY: writing a union's field of plain integers.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = bpf_prog_type::BPF_PROG_TYPE_TRACING as u32;
    load.expected_attach_type = bpf_attach_type::BPF_TRACE_ITER as u32;
    load.attach_btf_id = target;
    load.insns = instructions.as_ptr() as u64;
    load.insn_cnt = u32::try_from(instructions.len()).unwrap_or(0);
    load.license = c"GPL".as_ptr() as u64;
    bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr).map(owned)
}

/// Makes an iterator of a program (Linux 5.8).
pub fn link_iterator(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attr = zeroed_attr();
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd().cast_unsigned();
    attr.link_create.attach_type = bpf_attach_type::BPF_TRACE_ITER as u32;
    bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr).map(owned)
}

/// A run of an iterator, as a file: reading it runs the program (Linux 5.8).
pub fn run_iterator(iterator: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attr = zeroed_attr();
    attr.iter_create.link_fd = iterator.as_raw_fd().cast_unsigned();
    bpf(bpf_cmd::BPF_ITER_CREATE, &mut attr).map(owned)
}
