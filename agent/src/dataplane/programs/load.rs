//! Loading the kernel programs.

#[cfg(test)]
mod stack;

use std::os::fd::{AsFd as _, BorrowedFd};

use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    programs::{CgroupSock, CgroupSockAddr, Program, ProgramError},
    util::nr_cpus,
};
use aya_obj::generated::bpf_attach_type::{
    self, BPF_CGROUP_INET_SOCK_RELEASE, BPF_CGROUP_INET4_CONNECT, BPF_CGROUP_INET4_GETPEERNAME,
    BPF_CGROUP_INET6_CONNECT, BPF_CGROUP_INET6_GETPEERNAME, BPF_CGROUP_UDP4_RECVMSG,
    BPF_CGROUP_UDP4_SENDMSG, BPF_CGROUP_UDP6_RECVMSG, BPF_CGROUP_UDP6_SENDMSG,
};
use sockline_ebpf::{counters::COUNTED_SERVICES, telemetry::ServiceStats};

use super::{
    features::{FeatureSet, Features},
    run_stats::ProgramStats,
    telemetry,
};
use crate::{
    dataplane::{error::DataplaneError, maps::SERVICE_STATS, pinning::layout::Pins},
    model::node_addresses::NodePortScope,
};

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sockline-kernel"));
/// The same for kernels before 5.12, see `ebpf/src/main_5_10.rs`.
static OBJECT_5_10: &[u8] =
    include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sockline-kernel-5-10"));

/// A kernel program: the name of its pin, of its function, and where it is attached.
pub struct Hook {
    pub name: &'static str,
    pub(crate) function: &'static str,
    pub(crate) attach_type: bpf_attach_type,
}

const fn hook(name: &'static str, function: &'static str, attach_type: bpf_attach_type) -> Hook {
    Hook { name, function, attach_type }
}

/// In the order of attaching: a socket's translation is shown and freed before any is made.
pub const HOOKS: [Hook; 9] = [
    hook("sock_release", "sockline_sock_release", BPF_CGROUP_INET_SOCK_RELEASE),
    hook("getpeername4", "sockline_getpeername4", BPF_CGROUP_INET4_GETPEERNAME),
    hook("getpeername6", "sockline_getpeername6", BPF_CGROUP_INET6_GETPEERNAME),
    hook("recvmsg4", "sockline_recvmsg4", BPF_CGROUP_UDP4_RECVMSG),
    hook("recvmsg6", "sockline_recvmsg6", BPF_CGROUP_UDP6_RECVMSG),
    hook("sendmsg4", "sockline_sendmsg4", BPF_CGROUP_UDP4_SENDMSG),
    hook("sendmsg6", "sockline_sendmsg6", BPF_CGROUP_UDP6_SENDMSG),
    hook("connect4", "sockline_connect4", BPF_CGROUP_INET4_CONNECT),
    hook("connect6", "sockline_connect6", BPF_CGROUP_INET6_CONNECT),
];

/// The loaded programs.
pub struct Programs {
    ebpf: Ebpf,
}

impl Programs {
    /// Loads the programs on the pinned maps of these names. aya makes and pins those that are not there yet.
    pub fn load(
        pins: &Pins,
        features: Features,
        telemetry: &telemetry::Settings,
        node_ports: NodePortScope,
        maps: &[&str],
    ) -> Result<Self, DataplaneError> {
        let mut loader = EbpfLoader::new();
        let set_retval = u8::from(features.has(FeatureSet::SET_RETVAL));
        let mptcp_sock = u8::from(features.has(FeatureSet::MPTCP_SOCK));
        let of_all_nodes = u8::from(node_ports == NodePortScope::AllNodes);
        let types = features.kernel_types;
        let [kernel_socket, cookie, state, task_flags] = types.map_or([0; 4], |types| {
            let (byte, mask) = types.kernel_socket;
            let kernel_socket = u64::from(byte) | u64::from(mask) << 32;
            [kernel_socket, types.cookie.into(), types.state.into(), types.task_flags.into()]
        });
        let host_netns = features.netns_cookie.unwrap_or(0);
        loader
            .override_global("HAS_SET_RETVAL", &set_retval, true)
            .override_global("NODE_PORTS_OF_ALL_NODES", &of_all_nodes, true)
            .override_global("HAS_MPTCP_SOCK", &mptcp_sock, true)
            .override_global("HOST_NETNS", &host_netns, true)
            .override_global("KERNEL_SOCKET", &kernel_socket, true)
            .override_global("COOKIE_OFFSET", &cookie, true)
            .override_global("STATE_OFFSET", &state, true)
            .override_global("TASK_FLAGS_OFFSET", &task_flags, true);
        telemetry.set(&mut loader);
        loader.map_max_entries(SERVICE_STATS, stats_entries(possible_cpus()?));
        for name in maps {
            loader.map_pin_path(name, pins.map(name));
        }
        let object = if features.has(FeatureSet::COMPARE_AND_SWAP) { OBJECT } else { OBJECT_5_10 };
        let mut ebpf =
            loader.load(object).map_err(|error| DataplaneError::Load(Box::new(error)))?;
        for hook in &HOOKS {
            let program = ebpf.program_mut(hook.function).ok_or_else(|| {
                DataplaneError::Unsupported(format!("this build has no program {}", hook.name))
            })?;
            let loaded = match program {
                Program::CgroupSock(program) => CgroupSock::load(program),
                Program::CgroupSockAddr(program) => CgroupSockAddr::load(program),
                _ => Err(ProgramError::UnexpectedProgramType),
            };
            loaded.map_err(|error| refused(hook.name, error))?;
        }
        Ok(Self { ebpf })
    }

    /// The object, for reading the programs' log.
    pub const fn object(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// The kernel's ids of the loaded programs.
    pub fn ids(&self) -> Result<Vec<(&'static str, u32)>, DataplaneError> {
        HOOKS.iter().map(|hook| Ok((hook.name, self.of(hook)?.0))).collect()
    }

    /// What the kernel counts of their runs, to be read while they are in use.
    pub fn run_stats(&self) -> Result<ProgramStats, DataplaneError> {
        let programs = HOOKS.iter().map(|hook| {
            let program = self.of(hook)?.1.try_clone_to_owned();
            Ok((
                hook.name,
                program.map_err(|error| refused(hook.name, ProgramError::IOError(error)))?,
            ))
        });
        Ok(ProgramStats::new(programs.collect::<Result<_, DataplaneError>>()?))
    }

    /// The kernel's id of a hook's program, and the program.
    pub(crate) fn of(&self, hook: &Hook) -> Result<(u32, BorrowedFd<'_>), DataplaneError> {
        let program = self.ebpf.program(hook.function);
        match program.map(|program| (program.info(), program.fd())) {
            Some((Ok(info), Ok(fd))) => Ok((info.id(), fd.as_fd())),
            Some((Err(error), _) | (_, Err(error))) => Err(refused(hook.name, error)),
            None => {
                Err(DataplaneError::Unsupported(format!("program {} is not loaded", hook.name)))
            }
        }
    }
}

/// What the entries of `SERVICE_STATS` may take together: they are charged to the agent's container.
const STATS_BYTES: usize = 256 << 20;

/// Entries of `SERVICE_STATS`: each has a value for every CPU.
fn stats_entries(cpus: usize) -> u32 {
    let room = STATS_BYTES / (size_of::<ServiceStats>() * cpus.max(1));
    u32::try_from(room).unwrap_or(u32::MAX).min(COUNTED_SERVICES)
}

/// CPUs that the kernel has values of per-CPU maps for.
fn possible_cpus() -> Result<usize, DataplaneError> {
    nr_cpus().map_err(|(what, error)| DataplaneError::io(what, error))
}

/// The error of a program that the verifier refused, with the last line of its log.
fn refused(program: &'static str, error: ProgramError) -> DataplaneError {
    let reason = match &error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            let last = log
                .lines()
                .rev()
                .find(|line| !line.trim().is_empty() && !line.starts_with("processed "));
            format!("{io_error}{}", last.map(|line| format!(" ({line})")).unwrap_or_default())
        }
        other => other.to_string(),
    };
    DataplaneError::Program { program, reason, source: Box::new(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_connections_ended_is_counted_for_fewer_services_on_a_machine_of_many_cpus() {
        assert_eq!(stats_entries(2), COUNTED_SERVICES);
        assert_eq!(stats_entries(64), 6_241);
        assert_eq!(stats_entries(512), 780);
    }
}
