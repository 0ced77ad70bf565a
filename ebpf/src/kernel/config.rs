//! What the agent sets before it loads the programs. The verifier knows these values and removes
//! what they switch off, so that a kernel without a helper never sees its call.

use aya_ebpf::Global;

/// 1: `bpf_set_retval` exists (Linux 5.18) and refusals are ECONNREFUSED; else they are EPERM.
#[unsafe(no_mangle)]
static HAS_SET_RETVAL: Global<u8> = Global::new(0);

/// The network namespace cookie of the node itself (`SO_NETNS_COOKIE`, Linux 5.14); 0 means the
/// initial network namespace.
#[unsafe(no_mangle)]
static HOST_NETNS: Global<u64> = Global::new(0);

/// 1: `bpf_skc_to_mptcp_sock` exists (Linux 6.0 with kernel BTF).
#[unsafe(no_mangle)]
static HAS_MPTCP_SOCK: Global<u8> = Global::new(0);

/// 1: NodePorts are served at the addresses of all nodes.
#[unsafe(no_mangle)]
static NODE_PORTS_OF_ALL_NODES: Global<u8> = Global::new(0);

#[inline(always)]
pub fn node_ports_of_all_nodes() -> bool {
    NODE_PORTS_OF_ALL_NODES.load() != 0
}

#[inline(always)]
pub fn has_mptcp_sock() -> bool {
    HAS_MPTCP_SOCK.load() != 0
}

#[inline(always)]
pub fn has_set_retval() -> bool {
    HAS_SET_RETVAL.load() != 0
}

#[inline(always)]
pub fn host_netns() -> u64 {
    HOST_NETNS.load()
}

/// Where a bit of `struct sock` is that says that the kernel made the socket: its byte in the lower
/// half, its mask in the upper; 0 if that cannot be known, and then the other fields are not read.
#[unsafe(no_mangle)]
static KERNEL_SOCKET: Global<u64> = Global::new(0);

/// Where `struct sock` has the socket's cookie.
#[unsafe(no_mangle)]
static COOKIE_OFFSET: Global<u64> = Global::new(0);

/// Where `struct sock` has the socket's state.
#[unsafe(no_mangle)]
static STATE_OFFSET: Global<u64> = Global::new(0);

/// Where `struct task_struct` has its flags.
#[unsafe(no_mangle)]
static TASK_FLAGS_OFFSET: Global<u64> = Global::new(0);

/// A field of one of the kernel's structures.
#[derive(Clone, Copy)]
pub enum Field {
    KernelSocket,
    Cookie,
    State,
    TaskFlags,
}

#[inline(always)]
pub fn can_tell_kernel_sockets() -> bool {
    KERNEL_SOCKET.load() != 0
}

#[inline(always)]
pub fn kernel_socket_mask() -> u8 {
    (KERNEL_SOCKET.load() >> 32) as u8
}

#[inline(always)]
pub fn offset(field: Field) -> usize {
    let offset = match field {
        Field::KernelSocket => KERNEL_SOCKET.load() & 0xffff_ffff,
        Field::Cookie => COOKIE_OFFSET.load(),
        Field::State => STATE_OFFSET.load(),
        Field::TaskFlags => TASK_FLAGS_OFFSET.load(),
    };
    offset as usize
}
