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
