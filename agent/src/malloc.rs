//! Settings of glibc's malloc.

/// Limits malloc to one arena, which all threads share. Call this while the process has one thread.
///
/// By default glibc creates up to eight arenas for each core, and memory freed in one is not reused by the
/// others: with 100,000 services and 2 cores that was a third of the agent's memory. Contention is no concern:
/// the agent's threads wait for the kernel and the API server, not for malloc.
pub fn use_one_arena() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: sets a number that malloc reads when a thread allocates for the first time.
        let set = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
        if set == 0 {
            tracing::warn!(
                "cannot limit malloc to one arena; the agent uses more memory than necessary"
            );
        }
    }
}
