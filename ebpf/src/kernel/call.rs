//! The call that a hook sees: its socket and the address in it, the same for IPv4 and IPv6.

use core::{marker::PhantomData, ptr};

use aya_ebpf::{bindings::bpf_sock_addr, programs::SockAddrContext};
use sockline_ebpf::{
    address::Address,
    frontend::{TCP, UDP},
};

use super::{config, helpers};

/// MPTCP's protocol number (RFC 8684): a TCP client, as far as services are concerned.
const MPTCP: u32 = 262;

/// How a hook's address is laid out in its context.
pub trait Family {
    fn address(ctx: *mut bpf_sock_addr) -> Address;
    fn set_address(ctx: *mut bpf_sock_addr, address: &Address);
    /// Whether the socket already has a source address.
    fn is_bound(ctx: *mut bpf_sock_addr) -> bool;
    /// Whether the socket has, or once had, a destination address.
    fn had_a_peer(ctx: *mut bpf_sock_addr) -> bool;
    /// Whether the socket's destination address is this one.
    fn has_destination(ctx: *mut bpf_sock_addr, address: &Address) -> bool;
}

/// The `…4` hooks.
pub struct V4;
/// The `…6` hooks.
pub struct V6;

// Volatile accesses, since the verifier allows only certain widths in this context and the
// compiler must not merge or split them.
impl Family for V4 {
    #[inline(always)]
    fn address(ctx: *mut bpf_sock_addr) -> Address {
        // SAFETY: the context is valid while the program runs.
        Address::from_ipv4_word(unsafe { ptr::read_volatile(&raw const (*ctx).user_ip4) })
    }

    #[inline(always)]
    fn set_address(ctx: *mut bpf_sock_addr, address: &Address) {
        // SAFETY: the context is valid while the program runs.
        unsafe { ptr::write_volatile(&raw mut (*ctx).user_ip4, address.words[3]) };
    }

    #[inline(always)]
    fn is_bound(ctx: *mut bpf_sock_addr) -> bool {
        // SAFETY: the context is valid while the program runs, and its socket with it.
        unsafe {
            let sk = (*ctx).__bindgen_anon_1.sk;
            !sk.is_null() && ptr::read_volatile(&raw const (*sk).src_ip4) != 0
        }
    }

    #[inline(always)]
    fn had_a_peer(ctx: *mut bpf_sock_addr) -> bool {
        // SAFETY: the context is valid while the program runs, and its socket with it.
        unsafe {
            let sk = (*ctx).__bindgen_anon_1.sk;
            !sk.is_null() && ptr::read_volatile(&raw const (*sk).dst_ip4) != 0
        }
    }

    #[inline(always)]
    fn has_destination(ctx: *mut bpf_sock_addr, address: &Address) -> bool {
        // SAFETY: the context is valid while the program runs, and its socket with it.
        unsafe {
            let sk = (*ctx).__bindgen_anon_1.sk;
            !sk.is_null() && ptr::read_volatile(&raw const (*sk).dst_ip4) == address.words[3]
        }
    }
}

impl Family for V6 {
    #[inline(always)]
    fn address(ctx: *mut bpf_sock_addr) -> Address {
        // SAFETY: the context is valid while the program runs.
        unsafe {
            let words = &raw const (*ctx).user_ip6;
            let words = words.cast::<u32>();
            Address {
                words: [
                    ptr::read_volatile(words),
                    ptr::read_volatile(words.add(1)),
                    ptr::read_volatile(words.add(2)),
                    ptr::read_volatile(words.add(3)),
                ],
            }
        }
    }

    #[inline(always)]
    fn set_address(ctx: *mut bpf_sock_addr, address: &Address) {
        // SAFETY: the context is valid while the program runs.
        unsafe {
            let words = &raw mut (*ctx).user_ip6;
            let words = words.cast::<u32>();
            ptr::write_volatile(words, address.words[0]);
            ptr::write_volatile(words.add(1), address.words[1]);
            ptr::write_volatile(words.add(2), address.words[2]);
            ptr::write_volatile(words.add(3), address.words[3]);
        }
    }

    #[inline(always)]
    fn is_bound(ctx: *mut bpf_sock_addr) -> bool {
        // SAFETY: the context is valid while the program runs, and its socket with it.
        unsafe {
            let sk = (*ctx).__bindgen_anon_1.sk;
            if sk.is_null() {
                return false;
            }
            let words = &raw const (*sk).src_ip6;
            let words = words.cast::<u32>();
            ptr::read_volatile(&raw const (*sk).src_ip4) != 0
                || ptr::read_volatile(words.add(3)) != 0
        }
    }

    #[inline(always)]
    fn had_a_peer(ctx: *mut bpf_sock_addr) -> bool {
        // SAFETY: the context is valid while the program runs, and its socket with it.
        unsafe {
            let sk = (*ctx).__bindgen_anon_1.sk;
            if sk.is_null() {
                return false;
            }
            let words = &raw const (*sk).dst_ip6;
            let words = words.cast::<u32>();
            ptr::read_volatile(words) != 0
                || ptr::read_volatile(words.add(2)) != 0
                || ptr::read_volatile(words.add(3)) != 0
        }
    }

    #[inline(always)]
    fn has_destination(ctx: *mut bpf_sock_addr, address: &Address) -> bool {
        // SAFETY: the context is valid while the program runs, and its socket with it.
        unsafe {
            let sk = (*ctx).__bindgen_anon_1.sk;
            if sk.is_null() {
                return false;
            }
            let words = &raw const (*sk).dst_ip6;
            let words = words.cast::<u32>();
            ptr::read_volatile(words.add(3)) == address.words[3]
                && ptr::read_volatile(words.add(2)) == address.words[2]
                && ptr::read_volatile(words.add(1)) == address.words[1]
                && ptr::read_volatile(words) == address.words[0]
        }
    }
}

/// One hooked call.
pub struct Call<'a, F> {
    ctx: &'a SockAddrContext,
    family: PhantomData<F>,
}

impl<'a, F: Family> Call<'a, F> {
    #[inline(always)]
    pub const fn new(ctx: &'a SockAddrContext) -> Self {
        Self { ctx, family: PhantomData }
    }

    #[inline(always)]
    pub const fn context(&self) -> &'a SockAddrContext {
        self.ctx
    }

    /// [`TCP`] or [`UDP`]; `None` for a socket that services have nothing to do with.
    #[inline(always)]
    pub fn protocol(&self) -> Option<u8> {
        // SAFETY: the context is valid while the program runs.
        match unsafe { ptr::read_volatile(&raw const (*self.ctx.sock_addr).protocol) } {
            MPTCP => Some(TCP),
            protocol if protocol == TCP as u32 => Some(TCP),
            protocol if protocol == UDP as u32 => Some(UDP),
            _ => None,
        }
    }

    /// The other side's address: where the call goes to, or comes from.
    #[inline(always)]
    pub fn address(&self) -> Address {
        F::address(self.ctx.sock_addr)
    }

    /// The other side's port in network byte order.
    #[inline(always)]
    pub fn port(&self) -> u16 {
        // SAFETY: the context is valid while the program runs.
        unsafe { ptr::read_volatile(&raw const (*self.ctx.sock_addr).user_port) as u16 }
    }

    /// Replaces the other side's address and port (network byte order).
    #[inline(always)]
    pub fn redirect(&self, address: &Address, port: u16) {
        F::set_address(self.ctx.sock_addr, address);
        // SAFETY: the context is valid while the program runs.
        unsafe { ptr::write_volatile(&raw mut (*self.ctx.sock_addr).user_port, port as u32) };
    }

    /// Whether the socket already has a source address, which a new destination will not change.
    #[inline(always)]
    pub fn is_bound(&self) -> bool {
        F::is_bound(self.ctx.sock_addr)
    }

    /// Whether the socket has, or once had, a peer: the kernel keeps a destination address when a
    /// connect fails (`tcp_disconnect`).
    #[inline(always)]
    pub fn had_a_peer(&self) -> bool {
        F::had_a_peer(self.ctx.sock_addr)
    }

    /// Whether the call goes to where the socket is connected to.
    #[inline(always)]
    pub fn is_to_its_peer(&self) -> bool {
        // SAFETY: the context is valid while the program runs, and its socket with it.
        let connected_to = unsafe {
            let sk = (*self.ctx.sock_addr).__bindgen_anon_1.sk;
            if sk.is_null() {
                return false;
            }
            ptr::read_volatile(&raw const (*sk).dst_port)
        };
        // An unconnected socket has port 0, which nobody sends to.
        connected_to == self.port() && F::has_destination(self.ctx.sock_addr, &self.address())
    }

    /// The cookie of the client's network namespace.
    #[inline(always)]
    pub fn netns(&self) -> u64 {
        helpers::netns_cookie(self.ctx)
    }

    /// Whether the client is in the node's own network namespace.
    #[inline(always)]
    pub fn is_from_host(&self) -> bool {
        let host = match config::host_netns() {
            0 => helpers::initial_netns_cookie(),
            cookie => cookie,
        };
        self.netns() == host
    }
}
