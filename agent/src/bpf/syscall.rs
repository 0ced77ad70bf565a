//! The few system calls that aya has no safe wrapper for.
#![expect(unsafe_code, reason = "this is the boundary to the kernel")]

use std::{
    ffi::CString,
    fmt, io, mem,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
    ptr,
    sync::LazyLock,
};

use aya_obj::generated::{
    BPF_F_QUERY_EFFECTIVE, bpf_attach_type, bpf_attr, bpf_cmd, bpf_link_info, bpf_link_type,
    bpf_map_info, bpf_map_type, bpf_prog_info,
};

/// A BPF system call that failed: its text begins with the command. [`os_error`] reads the number.
#[derive(Debug)]
struct FailedCall {
    command: bpf_cmd,
    error: io::Error,
}

impl fmt::Display for FailedCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.command, self.error)
    }
}

// The text has the cause, so it is not the source as well.
impl std::error::Error for FailedCall {}

fn failed(command: bpf_cmd, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), FailedCall { command, error })
}

/// The kernel's error number, also of an error of this module.
pub fn os_error(error: &io::Error) -> Option<i32> {
    let call = || error.get_ref()?.downcast_ref::<FailedCall>()?.error.raw_os_error();
    error.raw_os_error().or_else(call)
}

/// Makes BPF system calls of this thread fail, for tests of what no test can make the kernel do.
#[cfg(test)]
pub mod inject {
    use std::cell::RefCell;

    use super::bpf_cmd;

    struct Injection {
        command: bpf_cmd,
        /// Calls of the command that succeed before.
        calls_before: u32,
        errno: i32,
    }

    thread_local! {
        static INJECTION: RefCell<Option<Injection>> = const { RefCell::new(None) };
    }

    /// The next call of this command after `calls_before` of them fails with this number, and no other.
    pub fn fail_once(command: bpf_cmd, calls_before: u32, errno: i32) {
        INJECTION.set(Some(Injection { command, calls_before, errno }));
    }

    pub(super) fn take(command: bpf_cmd) -> Option<i32> {
        INJECTION.with_borrow_mut(|injection| {
            let planned = injection.as_mut().filter(|planned| planned.command == command)?;
            if planned.calls_before > 0 {
                planned.calls_before -= 1;
                return None;
            }
            injection.take().map(|due| due.errno)
        })
    }
}

pub(super) fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
    #[cfg(test)]
    if let Some(errno) = inject::take(command) {
        return Err(failed(command, io::Error::from_raw_os_error(errno)));
    }
    // SAFETY: `attr` is a whole `bpf_attr`, zeroed but for what the command reads; the buffers it
    // points to belong to the caller and outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_uint,
            ptr::from_mut(attr),
            size_of_val(attr),
        )
    };
    if result < 0 {
        return Err(failed(command, io::Error::last_os_error()));
    }
    i32::try_from(result).map_err(io::Error::other)
}

pub(super) fn zeroed_attr() -> bpf_attr {
    // SAFETY: a union of integers, for which all zeroes is valid and means "not given".
    unsafe { mem::zeroed() }
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: a file descriptor that the kernel has just made for us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

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

/// The kernel's id of a map (Linux 4.13).
pub fn map_id(map: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: integers and arrays of them.
    let mut info: bpf_map_info = unsafe { mem::zeroed() };
    object_info(map, &mut info)?;
    Ok(info.id)
}

/// Fills in what the kernel says of an object; `T` is the structure of its kind.
fn object_info<T>(object: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    let mut attr = zeroed_attr();
    attr.info.bpf_fd = object.as_raw_fd().cast_unsigned();
    attr.info.info_len = u32::try_from(size_of_val(info)).unwrap_or(u32::MAX);
    attr.info.info = ptr::from_mut(info) as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr).map(drop)
}

/// Takes a link's program off its cgroup (Linux 5.9). Closing the last descriptor, or removing the
/// pin, does that too, but some time later (`bpf_link_put` leaves it to a worker).
pub fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed_attr();
    attr.link_detach.link_fd = link.as_raw_fd().cast_unsigned();
    bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr).map(drop)
}

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

/// Makes an array of maps (Linux 4.12), which takes maps like this one.
pub fn create_array_of_maps(name: &str, entries: u32, like: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attr = zeroed_attr();
    // SAFETY: writing a union's field of plain integers.
    let map = unsafe { &mut attr.__bindgen_anon_1 };
    map.map_type = bpf_map_type::BPF_MAP_TYPE_ARRAY_OF_MAPS as u32;
    map.key_size = 4;
    map.value_size = 4;
    map.max_entries = entries;
    map.inner_map_fd = like.as_raw_fd().cast_unsigned();
    // The last byte stays NUL.
    let room = map.map_name.len() - 1;
    for (place, &byte) in map.map_name[..room].iter_mut().zip(name.as_bytes()) {
        *place = byte.cast_signed();
    }
    bpf(bpf_cmd::BPF_MAP_CREATE, &mut attr).map(owned)
}

/// The id of the map at an index of an array of maps (Linux 4.14).
pub fn inner_map_id(outer: BorrowedFd<'_>, index: u32) -> io::Result<Option<u32>> {
    let mut id = 0u32;
    let mut attr = element(outer, &index, ptr::from_mut(&mut id) as u64);
    match bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr) {
        Ok(_) => Ok(Some(id)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Puts a map into an array of maps (Linux 4.12), in place of what was at that index.
pub fn put_map(outer: BorrowedFd<'_>, index: u32, map: BorrowedFd<'_>) -> io::Result<()> {
    let fd = map.as_raw_fd();
    let mut attr = element(outer, &index, ptr::from_ref(&fd) as u64);
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// An element of an array; `index` and what `value` points to must outlive the call.
fn element(map: BorrowedFd<'_>, index: &u32, value: u64) -> bpf_attr {
    let mut attr = zeroed_attr();
    // SAFETY: writing a union's field of plain integers.
    let element = unsafe { &mut attr.__bindgen_anon_2 };
    element.map_fd = map.as_raw_fd().cast_unsigned();
    element.key = ptr::from_ref(index) as u64;
    element.__bindgen_anon_1.value = value;
    attr
}

/// Rules out writes to a map by system calls from now on (Linux 5.2).
#[cfg(test)]
pub fn freeze(map: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_2.map_fd = map.as_raw_fd().cast_unsigned();
    bpf(bpf_cmd::BPF_MAP_FREEZE, &mut attr).map(drop)
}

/// Gives an object a name in a bpffs (Linux 4.4; links 5.7).
pub fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = zeroed_attr();
    // SAFETY: writing a union's field of plain integers.
    let object_attr = unsafe { &mut attr.__bindgen_anon_4 };
    object_attr.pathname = path.as_ptr() as u64;
    object_attr.bpf_fd = object.as_raw_fd().cast_unsigned();
    bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
}

/// Opens a pinned object.
pub fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    bpf(bpf_cmd::BPF_OBJ_GET, &mut attr).map(owned)
}

/// `CLOCK_MONOTONIC`, as programs see it (`bpf_ktime_get_ns`): they know nothing of time namespaces
/// (Linux 5.6), in which a process sees another one.
pub fn monotonic_nanoseconds() -> u64 {
    static OFFSET: LazyLock<i64> = LazyLock::new(|| {
        let offsets = std::fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
        monotonic_offset(&offsets)
    });
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a pointer to a local; this clock exists everywhere.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    let now = u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000
        + u64::try_from(now.tv_nsec).unwrap_or(0);
    now.wrapping_add_signed(-*OFFSET)
}

/// How many nanoseconds a time namespace's `CLOCK_MONOTONIC` is ahead, by its `timens_offsets`
/// (time_namespaces(7)).
fn monotonic_offset(offsets: &str) -> i64 {
    let words = offsets.lines().map(str::split_whitespace);
    let numbers = words.filter_map(|mut words| {
        // By name, or by the clock's number as before Linux 5.8.
        matches!(words.next(), Some("monotonic" | "1")).then(|| words.map_while(|n| n.parse().ok()))
    });
    let mut numbers = numbers.flatten();
    let (seconds, nanoseconds): (i64, i64) =
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

/// The cookie of this thread's network namespace (`SO_NETNS_COOKIE`, Linux 5.14).
pub fn netns_cookie() -> io::Result<u64> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")
        .or_else(|_| std::net::UdpSocket::bind("[::1]:0"))
        .or_else(|_| std::net::UdpSocket::bind("0.0.0.0:0"))?;
    let mut cookie = 0u64;
    let mut length = libc::socklen_t::try_from(size_of_val(&cookie)).unwrap_or(0);
    // SAFETY: the pointers are to locals of the sizes given.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            ptr::from_mut(&mut cookie).cast(),
            &raw mut length,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

/// Loads a program of an iterator: `target` is the BTF id of the function that stands for it in the
/// kernel (Linux 5.8).
pub fn load_iterator(instructions: &[u64], target: u32) -> io::Result<OwnedFd> {
    let mut attr = zeroed_attr();
    // SAFETY: writing a union's field of plain integers.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = aya_obj::generated::bpf_prog_type::BPF_PROG_TYPE_TRACING as u32;
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

/// Loads a program for `connect4`, and lets go of it.
pub fn verify_connect4(instructions: &[u64]) -> io::Result<()> {
    let mut attr = zeroed_attr();
    // SAFETY: writing a union's field of plain integers.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = aya_obj::generated::bpf_prog_type::BPF_PROG_TYPE_CGROUP_SOCK_ADDR as u32;
    load.expected_attach_type = bpf_attach_type::BPF_CGROUP_INET4_CONNECT as u32;
    load.insns = instructions.as_ptr() as u64;
    load.insn_cnt = u32::try_from(instructions.len()).unwrap_or(0);
    load.license = c"GPL".as_ptr() as u64;
    bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr).map(owned).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_its_call_and_keeps_its_number_and_kind() {
        let error = open_pinned(Path::new("/nowhere/at-all")).unwrap_err();
        assert!(error.to_string().starts_with("BPF_OBJ_GET: No such file"), "{error}");
        assert_eq!(os_error(&error), Some(libc::ENOENT));
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn clock_of_a_time_namespace_is_told_from_the_kernels() {
        let ahead = "monotonic         86400        250\nboottime         1         0\n";
        assert_eq!(monotonic_offset(ahead), 86_400_000_000_250);
        assert_eq!(monotonic_offset("monotonic  -1  999999999\nboottime 0 0\n"), -1);
        assert_eq!(monotonic_offset(""), 0);
    }
}
