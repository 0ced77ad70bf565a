//! A hook's context: the socket of the call and the address in it, the same for IPv4 and IPv6.

use core::{
    ffi::c_void,
    marker::PhantomData,
    ptr::{self, NonNull},
};

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr},
    programs::SockAddrContext,
};
use sockline_ebpf::{address::Address, frontend::Protocol};

use super::{config, helpers};

/// MPTCP's protocol number (RFC 8684): a TCP client, as far as services are concerned.
pub const MPTCP: u32 = 262;
pub const TCP: u32 = Protocol::Tcp as u32;
pub const UDP: u32 = Protocol::Udp as u32;

/// How addresses are laid out in a hook's context and socket.
pub trait Family {
    const IS_V6: bool;
    fn address(ctx: *mut bpf_sock_addr) -> Address;
    fn set_address(ctx: *mut bpf_sock_addr, address: &Address);
    /// The socket's source address; unspecified if it has none yet.
    fn source(socket: NonNull<bpf_sock>) -> Address;
    /// The socket's destination address; unspecified if it never had one.
    fn peer(socket: NonNull<bpf_sock>) -> Address;
}

/// The `…4` hooks.
pub struct V4;
/// The `…6` hooks.
pub struct V6;

// Volatile accesses, since the verifier allows only certain widths in these structures and the
// compiler must not merge or split them.
impl Family for V4 {
    const IS_V6: bool = false;

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
    fn source(socket: NonNull<bpf_sock>) -> Address {
        // SAFETY: a context's socket is valid while the program runs.
        unsafe {
            Address::from_ipv4_word(ptr::read_volatile(&raw const (*socket.as_ptr()).src_ip4))
        }
    }

    #[inline(always)]
    fn peer(socket: NonNull<bpf_sock>) -> Address {
        // SAFETY: a context's socket is valid while the program runs.
        unsafe {
            Address::from_ipv4_word(ptr::read_volatile(&raw const (*socket.as_ptr()).dst_ip4))
        }
    }
}

impl Family for V6 {
    const IS_V6: bool = true;

    #[inline(always)]
    fn address(ctx: *mut bpf_sock_addr) -> Address {
        // SAFETY: the context is valid while the program runs.
        unsafe { read_words(&raw const (*ctx).user_ip6) }
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
    fn source(socket: NonNull<bpf_sock>) -> Address {
        // SAFETY: a context's socket is valid while the program runs.
        unsafe { read_words(&raw const (*socket.as_ptr()).src_ip6) }
    }

    #[inline(always)]
    fn peer(socket: NonNull<bpf_sock>) -> Address {
        // SAFETY: a context's socket is valid while the program runs.
        unsafe { read_words(&raw const (*socket.as_ptr()).dst_ip6) }
    }
}

/// # Safety
///
/// The words must be readable.
#[inline(always)]
unsafe fn read_words(words: *const [u32; 4]) -> Address {
    let words = words.cast::<u32>();
    // SAFETY: the caller's promise.
    unsafe {
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

/// The context of one hooked call.
pub struct HookContext<'a, F> {
    ctx: &'a SockAddrContext,
    family: PhantomData<F>,
}

impl<'a, F: Family> HookContext<'a, F> {
    #[inline(always)]
    pub const fn new(ctx: &'a SockAddrContext) -> Self {
        Self { ctx, family: PhantomData }
    }

    #[inline(always)]
    pub const fn context(&self) -> &'a SockAddrContext {
        self.ctx
    }

    /// TCP or UDP; `None` for a socket that services have nothing to do with.
    #[inline(always)]
    pub fn protocol(&self) -> Option<Protocol> {
        match protocol_of(self.ctx) {
            MPTCP => Some(Protocol::Tcp),
            TCP => Some(Protocol::Tcp),
            UDP => Some(Protocol::Udp),
            _ => None,
        }
    }

    /// The other side's address: where the call goes to, or comes from.
    #[inline(always)]
    pub fn address(&self) -> Address {
        F::address(self.ctx.sock_addr)
    }

    /// The address that is asked for, as the socket remembers it: not always that of the frontend, since NodePorts
    /// have one for all addresses of the local host, and one for those of all nodes. `connect(0.0.0.0)` means the
    /// local host, and that is what `getpeername` would say.
    #[inline(always)]
    pub fn dialled(&self) -> Address {
        let dialled = self.address();
        match dialled.as_loopback() {
            Some(loopback) if dialled.is_unspecified() => loopback,
            _ => dialled,
        }
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
        unsafe { ptr::write_volatile(&raw mut (*self.ctx.sock_addr).user_port, u32::from(port)) };
    }

    /// Whether the socket's source address is one of loopback: a new destination will not change
    /// it, and no pod can answer to it.
    #[inline(always)]
    pub fn is_bound_to_loopback(&self) -> bool {
        self.socket().is_some_and(|socket| {
            let source = F::source(socket);
            source.as_loopback().is_some() && !source.is_unspecified()
        })
    }

    /// Whether the call's address is the one that the socket is connected to.
    #[inline(always)]
    pub fn is_to_peer(&self) -> bool {
        self.socket().is_some_and(|socket| {
            // SAFETY: a context's socket is valid while the program runs.
            let port = unsafe { ptr::read_volatile(&raw const (*socket.as_ptr()).dst_port) };
            port == self.port() && F::peer(socket) == self.address()
        })
    }

    /// Whom the socket is connected to: an address, and a port in network byte order.
    #[inline(always)]
    pub fn peer(&self) -> Option<(Address, u16)> {
        let socket = self.socket()?;
        // SAFETY: a context's socket is valid while the program runs.
        let port = unsafe { ptr::read_volatile(&raw const (*socket.as_ptr()).dst_port) };
        if port == 0 { None } else { Some((F::peer(socket), port)) }
    }

    #[inline(always)]
    fn socket(&self) -> Option<NonNull<bpf_sock>> {
        // SAFETY: the context is valid while the program runs.
        NonNull::new(unsafe { (*self.ctx.sock_addr).__bindgen_anon_1.sk })
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

/// The protocol number of the call's socket.
#[inline(always)]
pub fn protocol_of(ctx: &SockAddrContext) -> u32 {
    // SAFETY: the context is valid while the program runs.
    unsafe { ptr::read_volatile(&raw const (*ctx.sock_addr).protocol) }
}

/// The call's socket, for helpers that take one.
#[inline(always)]
pub fn socket(ctx: &SockAddrContext) -> *mut c_void {
    // SAFETY: the context is valid while the program runs.
    unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk.cast() }
}
