//! Links: programs that are attached to a cgroup.

use std::{
    io, mem,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

use aya_obj::generated::{bpf_attach_type, bpf_cmd, bpf_link_info, bpf_link_type};

use super::{bpf, objects::object_info, owned, zeroed_attr};

/// Attaches a program to a cgroup with a link (Linux 5.7). Others may attach theirs beside it.
pub fn link_create(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: bpf_attach_type,
) -> io::Result<OwnedFd> {
    let mut attr = zeroed_attr();
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd().cast_unsigned();
    attr.link_create.__bindgen_anon_2.target_fd = cgroup.as_raw_fd().cast_unsigned();
    attr.link_create.attach_type = attach_type as u32;
    bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr).map(owned)
}

/// Puts another program into a link, atomically (Linux 5.7).
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed_attr();
    attr.link_update.link_fd = link.as_raw_fd().cast_unsigned();
    attr.link_update.__bindgen_anon_1.new_prog_fd = program.as_raw_fd().cast_unsigned();
    bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// A cgroup link, and what it is attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CgroupLink {
    pub id: u32,
    pub program: u32,
    /// The cgroup's id (its inode number); 0 when the cgroup is gone or the link was detached.
    pub cgroup: u64,
}

/// An error of the kind `InvalidData` for anything but a cgroup link.
pub fn link_info(link: BorrowedFd<'_>) -> io::Result<CgroupLink> {
    // SAFETY: integers and unions of them.
    let mut info: bpf_link_info = unsafe { mem::zeroed() };
    object_info(link, &mut info)?;
    // Of another kind of object, this would be something else.
    if info.type_ != bpf_link_type::BPF_LINK_TYPE_CGROUP as u32 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no cgroup link"));
    }
    // SAFETY: the kernel filled in the union member of cgroup links; all are integers anyway.
    let cgroup = unsafe { info.__bindgen_anon_1.cgroup.cgroup_id };
    Ok(CgroupLink { id: info.id, program: info.prog_id, cgroup })
}

/// Takes a link's program off its cgroup (Linux 5.9). Closing the last descriptor, or removing the
/// pin, does that too, but some time later (`bpf_link_put` leaves it to a worker).
pub fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed_attr();
    attr.link_detach.link_fd = link.as_raw_fd().cast_unsigned();
    bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr).map(drop)
}
