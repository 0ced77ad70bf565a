//! Programs: which run, what they are named, and whether the verifier accepts one.

use std::{
    io, mem,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
};

use aya_obj::generated::{
    BPF_F_QUERY_EFFECTIVE, bpf_attach_type, bpf_cmd, bpf_prog_info, bpf_prog_type,
};

use super::{bpf, error::os_error, objects::object_info, owned, zeroed_attr};

/// The ids of the programs that run for sockets in a cgroup, in their order (Linux 4.15).
pub fn effective_programs(
    cgroup: BorrowedFd<'_>,
    attach_type: bpf_attach_type,
) -> io::Result<Vec<u32>> {
    let mut ids = vec![0u32; 64];
    loop {
        let mut attr = zeroed_attr();
        attr.query.__bindgen_anon_1.target_fd = cgroup.as_raw_fd().cast_unsigned();
        attr.query.attach_type = attach_type as u32;
        attr.query.query_flags = BPF_F_QUERY_EFFECTIVE;
        attr.query.prog_ids = ids.as_mut_ptr() as u64;
        attr.query.__bindgen_anon_2.prog_cnt = u32::try_from(ids.len()).unwrap_or(u32::MAX);
        let result = bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr);
        // SAFETY: both members of the union are this integer; the kernel wrote the true count.
        let count = unsafe { attr.query.__bindgen_anon_2.prog_cnt } as usize;
        match result {
            Err(error) if os_error(&error) == Some(libc::ENOSPC) && count > ids.len() => {
                ids.resize(count, 0);
            }
            Err(error) => return Err(error),
            Ok(_) => {
                ids.truncate(count);
                return Ok(ids);
            }
        }
    }
}

/// Characters that the kernel keeps of a program's name (`BPF_OBJ_NAME_LEN` less one).
pub const PROGRAM_NAME: usize = 15;

/// Name and tag of a loaded program (Linux 4.15).
pub fn program_info(id: u32) -> io::Result<(String, [u8; 8])> {
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_6.__bindgen_anon_1.prog_id = id;
    let program = bpf(bpf_cmd::BPF_PROG_GET_FD_BY_ID, &mut attr).map(owned)?;
    // SAFETY: integers and pointers as integers.
    let mut info: bpf_prog_info = unsafe { mem::zeroed() };
    object_info(program.as_fd(), &mut info)?;
    let name: Vec<u8> =
        info.name.iter().map(|byte| byte.cast_unsigned()).take_while(|&byte| byte != 0).collect();
    Ok((String::from_utf8_lossy(&name).into_owned(), info.tag))
}

/// Loads a program for `connect4`, and lets go of it.
pub fn verify_connect4(instructions: &[u64]) -> io::Result<()> {
    let mut attr = zeroed_attr();
    // SAFETY: writing a union's field of plain integers.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = bpf_prog_type::BPF_PROG_TYPE_CGROUP_SOCK_ADDR as u32;
    load.expected_attach_type = bpf_attach_type::BPF_CGROUP_INET4_CONNECT as u32;
    load.insns = instructions.as_ptr() as u64;
    load.insn_cnt = u32::try_from(instructions.len()).unwrap_or(0);
    load.license = c"GPL".as_ptr() as u64;
    bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr).map(owned).map(drop)
}
