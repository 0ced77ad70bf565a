//! Sockline's kernel programs: the hooks of one socket's life, each as the story of one call.
//!
//! Every program fails open: whatever cannot be found, read or kept leaves the call as it was.
//! The exception is a service that is known to have no usable endpoint, which is refused.

#![expect(clippy::needless_pass_by_value, reason = "the macros hand the context over by value")]

use aya_ebpf::{
    macros::{cgroup_sock, cgroup_sock_addr},
    programs::{SockAddrContext, SockContext},
};

use crate::kernel::{
    debug_log::Call,
    hook_context::{HookContext, V4, V6},
    release, translate,
};

/// Lets the call proceed.
const ALLOW: i32 = 1;

/// `connect()` of TCP and UDP sockets, MPTCP and TCP Fast Open included. Linux 4.17.
#[cgroup_sock_addr(connect4)]
#[inline(always)]
pub fn sockline_connect4(ctx: SockAddrContext) -> i32 {
    translate::connect::<V4>(&HookContext::new(&ctx))
}

/// As `connect4`, for IPv6 sockets: also with `::ffff:` destinations. Linux 4.17.
#[cgroup_sock_addr(connect6)]
#[inline(always)]
pub fn sockline_connect6(ctx: SockAddrContext) -> i32 {
    translate::connect::<V6>(&HookContext::new(&ctx))
}

/// `sendto()` and `sendmsg()` of UDP sockets with an address. Linux 4.18.
#[cgroup_sock_addr(sendmsg4)]
#[inline(always)]
pub fn sockline_sendmsg4(ctx: SockAddrContext) -> i32 {
    translate::send::<V4>(&HookContext::new(&ctx))
}

#[cgroup_sock_addr(sendmsg6)]
#[inline(always)]
pub fn sockline_sendmsg6(ctx: SockAddrContext) -> i32 {
    translate::send::<V6>(&HookContext::new(&ctx))
}

/// `recvfrom()` and `recvmsg()` of UDP sockets: returns the address that the socket sent to.
/// Linux 5.2. The return value must be 1.
#[cgroup_sock_addr(recvmsg4)]
#[inline(always)]
pub fn sockline_recvmsg4(ctx: SockAddrContext) -> i32 {
    translate::reverse_translate::<V4>(&HookContext::new(&ctx), Call::Receive);
    ALLOW
}

#[cgroup_sock_addr(recvmsg6)]
#[inline(always)]
pub fn sockline_recvmsg6(ctx: SockAddrContext) -> i32 {
    translate::reverse_translate::<V6>(&HookContext::new(&ctx), Call::Receive);
    ALLOW
}

/// `getpeername()`: the peer is the address that was dialled. Linux 5.8.
#[cgroup_sock_addr(getpeername4)]
#[inline(always)]
pub fn sockline_getpeername4(ctx: SockAddrContext) -> i32 {
    translate::reverse_translate::<V4>(&HookContext::new(&ctx), Call::PeerName);
    ALLOW
}

#[cgroup_sock_addr(getpeername6)]
#[inline(always)]
pub fn sockline_getpeername6(ctx: SockAddrContext) -> i32 {
    translate::reverse_translate::<V6>(&HookContext::new(&ctx), Call::PeerName);
    ALLOW
}

/// The last `close()` of a socket. Linux 5.9.
#[cgroup_sock(sock_release)]
#[inline(always)]
pub fn sockline_sock_release(ctx: SockContext) -> i32 {
    release::release(&ctx);
    ALLOW
}
