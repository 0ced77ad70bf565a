//! Programs of other owners on the hooks of Sockline.

use std::{fs::File, io, os::fd::AsRawFd as _, path::Path};

use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

/// `mov r0, 0; exit`: the call fails with EPERM.
pub const REFUSE: &[u64] = &[0xb7, 0x95];
/// `mov r2, 127.0.0.2; *(u32 *)(r1 + user_ip4) = r2; mov r0, 1; exit`: the call goes to another address.
pub const REDIRECT: &[u64] = &[0x0200_007f_0000_02b7, 0x0004_2163, 0x1_0000_00b7, 0x95];
/// `mov r0, 1; exit`
pub const ALLOW: &[u64] = &[0x1_0000_00b7, 0x95];
const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const CGROUP_SOCK_ADDR: u32 = 18;
const INET4_CONNECT: u32 = 10;
const ALLOW_MULTI: u32 = 2;

/// `union bpf_attr` of `BPF_PROG_LOAD`, up to what is used of it.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    device: u32,
    attach_type: u32,
}

/// The same of `BPF_PROG_ATTACH`.
#[repr(C)]
struct Attach {
    cgroup: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

fn bpf<T>(command: libc::c_long, attr: &T) -> io::Result<i32> {
    // SAFETY: the attribute is read only, and what it points to lives as long as the caller.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

/// Attaches a program to a cgroup's connect4, after the existing ones. It is removed with the cgroup.
pub fn attach_connect4(cgroup: &Path, name: &str, instructions: &[u64]) {
    // Before Linux 5.11 programs are locked memory, of which the agent's maps have taken all.
    // Where root may not raise the limit, a newer kernel does not ask for it.
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    let mut load = Load {
        kind: CGROUP_SOCK_ADDR,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        attach_type: INET4_CONNECT,
        ..Load::default()
    };
    load.name[..name.len()].copy_from_slice(name.as_bytes());
    let program = bpf(PROG_LOAD, &load).unwrap();
    let folder = File::open(cgroup).unwrap();
    let attach = Attach {
        cgroup: folder.as_raw_fd() as u32,
        program: program as u32,
        attach_type: INET4_CONNECT,
        flags: ALLOW_MULTI,
    };
    bpf(PROG_ATTACH, &attach).unwrap();
    // SAFETY: ours, and attached now, which keeps the program.
    unsafe { libc::close(program) };
}
