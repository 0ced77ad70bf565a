//! BPF system calls, and maps built on them. It does not know what Sockline keeps in its maps.
//!
//! Used by [`crate::dataplane`], and by [`crate::sock_destroy`], which loads BPF iterators in the helper
//! process. The helper does not use the data plane, so this folder is beside `dataplane`.
//!
//! - [`syscall`]: the system calls for which aya has no safe wrapper. `unsafe` ends here.
//! - [`mmap`]: array maps in the agent's memory; [`batch`]: hashes read in batches; [`untyped`]: maps of another build.
//! - [`rcu`]: waits until every running program has ended; [`parallel`]: makes system calls that wait for
//!   that in parallel.
//! - [`pin`]: pinned maps and links.
//! - [`probes`]: what the running kernel has.
//! - [`kinds`]: kinds of maps: arrays of maps, segmented arrays, hashes that grow.

pub mod batch;
pub mod error;
pub mod kinds;
pub mod mmap;
pub mod parallel;
pub mod pin;
pub mod probes;
pub mod rcu;
pub mod syscall;
pub mod untyped;
