//! The process's heap.

/// Has all threads share one heap; to be called while there is one thread.
///
/// glibc gives threads heaps of their own, up to eight for each core, and what is freed in one is of no use
/// to the others: with 100,000 services that was a third of the memory, and nodes have more cores.
/// Threads here wait for the kernel and the API server, not for the heap.
pub fn share_one_heap() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: sets a number that is read when a thread asks for its first heap.
        let set = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
        if set == 0 {
            tracing::warn!("the heap cannot be limited to one: more memory is used than need be");
        }
    }
}
