//! The kernel's helpers, wrapped once: everything outside this file and the map definitions'
//! modules is safe code.

use core::{
    arch::asm,
    intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd, atomic_xchg},
};

use aya_ebpf::{
    EbpfContext,
    helpers::generated::{
        bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_current_comm,
        bpf_get_current_pid_tgid, bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_get_socket_cookie,
        bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns, bpf_ringbuf_reserve,
        bpf_ringbuf_submit, bpf_set_retval,
    },
    maps::RingBuf,
};

const ECONNREFUSED: i32 = 111;

/// A number drawn uniformly from all 32-bit numbers.
#[inline(always)]
pub fn random() -> u32 {
    // SAFETY: takes nothing and has no preconditions.
    unsafe { bpf_get_prandom_u32() }
}

/// `CLOCK_MONOTONIC` in nanoseconds.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: takes nothing and has no preconditions.
    unsafe { bpf_ktime_get_ns() }
}

/// `CLOCK_MONOTONIC` in nanoseconds, as it was at the last tick: a few nanoseconds where the exact one
/// takes 20. Linux 5.11; the exact one before that.
#[inline(always)]
pub fn coarse_now() -> u64 {
    if crate::HAS_COMPARE_AND_SWAP {
        // SAFETY: takes nothing and has no preconditions; the object that may compare and swap is
        // for Linux 5.12 and later.
        unsafe { bpf_ktime_get_coarse_ns() }
    } else {
        now()
    }
}

/// Jiffies since boot: how old something is, far cheaper than a clock. Linux 5.6.
#[inline(always)]
pub fn jiffies() -> u64 {
    // SAFETY: takes nothing and has no preconditions.
    unsafe { bpf_jiffies64() }
}

/// The cookie of the context's socket: unique while the machine is up, never 0. Linux 4.17 here.
#[inline(always)]
pub fn socket_cookie(ctx: &impl EbpfContext) -> u64 {
    // SAFETY: the context is the one that the kernel called the program with.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// The cookie of the socket's network namespace. Linux 5.7.
#[inline(always)]
pub fn netns_cookie(ctx: &impl EbpfContext) -> u64 {
    // SAFETY: the context is the one that the kernel called the program with.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

/// The cookie of the initial network namespace. Linux 5.7.
#[inline(always)]
pub fn initial_netns_cookie() -> u64 {
    // SAFETY: the helper's documentation gives NULL this meaning.
    unsafe { bpf_get_netns_cookie(core::ptr::null_mut()) }
}

/// The id of the current task's cgroup v2; that of the root is 1. Linux 5.7 here.
#[inline(always)]
pub fn current_cgroup() -> u64 {
    // SAFETY: takes nothing and has no preconditions.
    unsafe { bpf_get_current_cgroup_id() }
}

/// The current process, in the initial PID namespace. Linux 5.7 here.
#[inline(always)]
pub fn current_process() -> u32 {
    // SAFETY: takes nothing and has no preconditions.
    (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32
}

/// Writes the name of the current task, filled up with NUL. Linux 5.7 here.
///
/// # Safety
///
/// `name` must point to memory that this program may write.
#[inline(always)]
pub unsafe fn current_name(name: *mut [u8; 16]) {
    // SAFETY: the caller's promise.
    unsafe { bpf_get_current_comm(name.cast(), size_of::<[u8; 16]>() as u32) };
}

/// Room for a record in a ring buffer, or null. It must be submitted. Linux 5.8.
#[inline(always)]
pub fn ring_reserve<T>(ring: &RingBuf) -> *mut T {
    let ring = core::ptr::from_ref(ring).cast_mut().cast();
    // SAFETY: the definition of a ring buffer.
    unsafe { bpf_ringbuf_reserve(ring, size_of::<T>() as u64, 0).cast() }
}

/// Hands a record to the reader.
#[inline(always)]
pub fn ring_submit<T>(record: *mut T, flags: u64) {
    // SAFETY: the verifier accepts only what was reserved.
    unsafe { bpf_ringbuf_submit(record.cast(), flags) };
}

/// The id of the cgroup v2 at this level above the current task's own, or its own; the root is at
/// level 0. 0 when the task's cgroup is not as deep. Linux 5.7 here.
#[inline(always)]
pub fn ancestor_cgroup(level: u32) -> u64 {
    // SAFETY: takes a number and has no preconditions.
    unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) }
}

/// Makes the system call fail with ECONNREFUSED once the program returns 0. Linux 5.18.
#[inline(always)]
pub fn fail_with_connection_refused() {
    // SAFETY: takes a number; only called where `config::has_set_retval`.
    unsafe { bpf_set_retval(-ECONNREFUSED) };
}

/// Adds to a counter that another program on this CPU may be adding to at the same time (programs
/// can be preempted, so that even per-CPU memory is shared).
///
/// # Safety
///
/// `counter` must point into a live map value.
#[inline(always)]
pub unsafe fn add(counter: *mut u64, n: u64) {
    // SAFETY: the caller's promise. The result is unused, which makes it a plain BPF_XADD.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, n) };
}

/// As [`add`], to one of several counters. `MASK` is the least that covers all indices, and what verifiers go by:
/// before Linux 6.8 they do not follow a comparison of two registers, which compilers make of one with a constant.
///
/// # Safety
///
/// `first` must point to the first of them in a live map value that has `MASK + 1` words from there on.
#[inline(always)]
pub unsafe fn add_at<const MASK: usize>(first: *mut u64, index: usize) {
    // SAFETY: the caller's promise.
    unsafe { add(element_at::<u64, MASK>(first, index), 1) };
}

/// One of several elements, with the mask of [`add_at`].
///
/// # Safety
///
/// `first` must point to the first of them in a live map value that has `MASK + 1` of them from there on.
#[inline(always)]
pub unsafe fn element_at<T, const MASK: usize>(first: *mut T, mut index: usize) -> *mut T {
    // SAFETY: a plain AND, which the compiler would leave out where it knows that the index is below.
    unsafe { asm!("{0} &= {1}", inout(reg) index, const MASK, options(pure, nomem, nostack)) };
    // SAFETY: the caller's promise.
    unsafe { first.add(index) }
}

/// Replaces a word in one step, before everything that is read after it. Returns what it was. Linux 5.12.
///
/// No OR that fetches: the JIT compiler of x86 makes a wrong loop of it if the address is in R0, before Linux 5.14.10
/// (ced185824c89).
///
/// # Safety
///
/// `word` must point into a live map value.
#[inline(always)]
pub unsafe fn exchange(word: *mut u64, value: u64) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { atomic_xchg::<u64, { AtomicOrdering::SeqCst }>(word, value) }
}

/// Sets `*word` from `old` to `new` if it still is `old`; else returns what it is. Linux 5.12: before
/// that there is no such instruction, and another CPU may write in between.
///
/// # Errors
///
/// What `*word` is, if that is not `old`.
///
/// # Safety
///
/// `word` must point into a live map value.
#[inline(always)]
pub unsafe fn compare_exchange(word: *mut u64, old: u64, new: u64) -> Result<(), u64> {
    const SEQ_CST: AtomicOrdering = AtomicOrdering::SeqCst;
    let before = if crate::HAS_COMPARE_AND_SWAP {
        // SAFETY: the caller's promise.
        unsafe { atomic_cxchg::<u64, { SEQ_CST }, { SEQ_CST }>(word, old, new).0 }
    } else {
        // SAFETY: the caller's promise.
        unsafe {
            let before = core::ptr::read_volatile(word);
            if before == old {
                core::ptr::write_volatile(word, new);
            }
            before
        }
    };
    if before == old { Ok(()) } else { Err(before) }
}

/// Whether a plain load or store is ordered as it stands in the program: x86 keeps loads in order,
/// and stores (Intel SDM 3A, 9.2.2), which saves 10 ns. Before Linux 5.12 no instruction orders memory:
/// what relies on it there must bear to read two states at once.
const PLAIN: bool = cfg!(bpf_target_arch = "x86_64") || !crate::HAS_COMPARE_AND_SWAP;

/// Keeps the compiler from moving accesses to memory across this point; it is no instruction. (LLVM has
/// none for a `compiler_fence` on BPF.)
#[inline(always)]
fn keep_order() {
    // SAFETY: nothing at all, which the compiler must take for an access to any memory.
    unsafe { asm!("", options(nostack, preserves_flags)) };
}

/// Writes a word after everything that was written before it, and before everything that is written
/// after it, on any CPU architecture. Linux 5.12.
///
/// # Safety
///
/// `word` must point into a live map value.
#[inline(always)]
pub unsafe fn store_release(word: *mut u64, value: u64) {
    if PLAIN {
        keep_order();
        // SAFETY: the caller's promise.
        unsafe { core::ptr::write_volatile(word, value) };
        keep_order();
    } else {
        // The kernel's JIT compilers make a full barrier of an atomic that fetches.
        // SAFETY: the caller's promise.
        unsafe { atomic_xchg::<u64, { AtomicOrdering::SeqCst }>(word, value) };
    }
}

/// Reads a word before everything that is read after it, on any CPU architecture. Linux 5.12. (There is
/// an instruction for it since Linux 6.15; adding nothing has the same effect.)
///
/// # Safety
///
/// `word` must point into a live map value.
#[inline(always)]
pub unsafe fn load_acquire(word: *mut u64) -> u64 {
    if PLAIN {
        // SAFETY: the caller's promise.
        let value = unsafe { core::ptr::read_volatile(word) };
        keep_order();
        value
    } else {
        // SAFETY: the caller's promise.
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(word, 0) }
    }
}
