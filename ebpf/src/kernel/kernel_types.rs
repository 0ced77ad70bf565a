//! What is only to be found in the kernel's own structures, at offsets that the agent takes from the
//! running kernel's description of its types (`/sys/kernel/btf/vmlinux`).

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    helpers::generated::{bpf_get_current_task_btf, bpf_skc_to_tcp_sock},
    programs::SockAddrContext,
};

use super::{
    config::{self, Field},
    hook_context,
};

/// A TCP socket, as far as it decides about its record.
pub enum TcpSocket {
    /// This kernel does not tell.
    Unknown,
    /// The kernel made it, and closes it without a hook (`inet_release` asks for `sk_kern_sock`): the
    /// subflow of an MPTCP connection, CIFS, NVMe/TCP, what is below an AF_SMC socket.
    OfKernel,
    /// It has no cookie yet, by which sockets are remembered.
    New,
    /// It may be remembered.
    Old,
}

/// Both fields are in cache lines that `connect()` needs anyway.
#[inline(always)]
pub fn tcp_socket(ctx: &SockAddrContext) -> TcpSocket {
    if !config::can_tell_kernel_sockets() {
        return TcpSocket::Unknown;
    }
    let socket = hook_context::socket(ctx);
    if socket.is_null() {
        return TcpSocket::Unknown;
    }
    // SAFETY: a socket that the kernel gave us.
    let socket = unsafe { bpf_skc_to_tcp_sock(socket) }.cast::<u8>();
    // The socket of an MPTCP connection itself.
    if socket.is_null() {
        return TcpSocket::Old;
    }
    // SAFETY: the verifier checks that there is such a field in `struct tcp_sock`.
    let flags = unsafe { ptr::read_volatile(socket.add(config::offset(Field::KernelSocket))) };
    if flags & config::kernel_socket_mask() != 0 {
        return TcpSocket::OfKernel;
    }
    // SAFETY: as above.
    let cookie =
        unsafe { ptr::read_volatile(socket.add(config::offset(Field::Cookie)).cast::<u64>()) };
    if cookie == 0 { TcpSocket::New } else { TcpSocket::Old }
}

/// Whether an MPTCP connection is established: a `connect()` that is seen with it then is that of a
/// further subflow, which the kernel adds (`mptcp_connect` has the connection in `TCP_SYN_SENT`
/// while it connects the first one, `net/mptcp/protocol.c`). `false` where that cannot be told.
#[inline(always)]
pub fn is_established(connection: *mut c_void) -> bool {
    /// `include/net/tcp_states.h`.
    const TCP_ESTABLISHED: u8 = 1;
    const TCP_CLOSE_WAIT: u8 = 8;
    if !config::can_tell_kernel_sockets() {
        return false;
    }
    // SAFETY: the verifier checks that there is such a field in `struct mptcp_sock`, which begins
    // with a `struct sock`.
    let state =
        unsafe { ptr::read_volatile(connection.cast::<u8>().add(config::offset(Field::State))) };
    state == TCP_ESTABLISHED || state == TCP_CLOSE_WAIT
}

/// Whether the current task is a thread of the kernel; `None` where that cannot be told.
#[inline(always)]
pub fn is_kernel_thread() -> Option<bool> {
    /// `include/linux/sched.h`, the same in all kernels.
    const PF_KTHREAD: u32 = 0x0020_0000;
    if !config::can_tell_kernel_sockets() {
        return None;
    }
    // SAFETY: takes nothing and has no preconditions.
    let task = unsafe { bpf_get_current_task_btf() }.cast::<u8>();
    // SAFETY: the verifier checks that there is such a field in `struct task_struct`.
    let flags =
        unsafe { ptr::read_volatile(task.add(config::offset(Field::TaskFlags)).cast::<u32>()) };
    Some(flags & PF_KTHREAD != 0)
}
