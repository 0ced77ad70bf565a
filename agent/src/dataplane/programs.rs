//! Loading the kernel programs and keeping them attached.

use std::{
    fs::{self, File},
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::fs::MetadataExt as _,
    },
    path::Path,
};

use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    programs::{CgroupSock, CgroupSockAddr, Program, ProgramError},
};
use aya_obj::generated::bpf_attach_type::{
    self, BPF_CGROUP_INET_SOCK_RELEASE, BPF_CGROUP_INET4_CONNECT, BPF_CGROUP_INET4_GETPEERNAME,
    BPF_CGROUP_INET6_CONNECT, BPF_CGROUP_INET6_GETPEERNAME, BPF_CGROUP_UDP4_RECVMSG,
    BPF_CGROUP_UDP4_SENDMSG, BPF_CGROUP_UDP6_RECVMSG, BPF_CGROUP_UDP6_SENDMSG,
};

use super::{
    error::DataplaneError,
    features::Features,
    maps,
    pins::{self, Pins},
    sys,
};

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sockline-kernel"));
/// The same for kernels before 5.12, see `ebpf/src/legacy.rs`.
static LEGACY_OBJECT: &[u8] =
    include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sockline-kernel-5-10"));

/// A kernel program: the name of its pin, of its function, and where it is attached.
pub struct Hook {
    pub name: &'static str,
    pub(super) function: &'static str,
    pub(super) attach_type: bpf_attach_type,
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
    /// Loads the programs on the pinned maps; makes and pins the maps that are not there yet.
    pub fn load(
        pins: &Pins,
        features: Features,
        max_affinity: u32,
    ) -> Result<Self, DataplaneError> {
        maps::create(pins, max_affinity)?;
        let mut loader = EbpfLoader::new();
        let set_retval = u8::from(features.set_retval);
        let mptcp_sock = u8::from(features.mptcp_sock);
        let host_netns = features.netns_cookie.unwrap_or(0);
        loader
            .override_global("HAS_SET_RETVAL", &set_retval, true)
            .override_global("HAS_MPTCP_SOCK", &mptcp_sock, true)
            .override_global("HOST_NETNS", &host_netns, true);
        for name in maps::PINNED {
            loader.map_pin_path(name, pins.map(name));
        }
        let object = if features.compare_and_swap { OBJECT } else { LEGACY_OBJECT };
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

    /// The object, for whoever reads the programs' log.
    pub const fn object(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// Attaches every program to the cgroup: by putting it into its pinned link, so that there is
    /// no moment without a program, or with a new link where there is none or where it sits on
    /// another cgroup (or one that is gone). Links of another layout version are taken over.
    /// Returns the names of the hooks whose link was made anew.
    pub fn attach(&self, pins: &Pins, cgroup: &Path) -> Result<Vec<&'static str>, DataplaneError> {
        let (directory, id) = open_cgroup(cgroup)?;
        let others = pins.others();
        let mut made = Vec::new();
        for hook in &HOOKS {
            let program = self.fd(hook)?;
            let own = pins.link(hook.name);
            let candidates = std::iter::once(own.clone())
                .chain(others.iter().map(|other| other.join("links").join(hook.name)));
            let mut attached = false;
            for path in candidates {
                let Some(link) = pins::open_link(&path)? else { continue };
                let info = sys::link_info(link.as_fd()).map_err(|error| {
                    DataplaneError::io(format!("read the link {}", path.display()), error)
                })?;
                if info.cgroup != id {
                    continue;
                }
                sys::link_update(link.as_fd(), program).map_err(|error| {
                    DataplaneError::io(format!("replace the program of {}", path.display()), error)
                })?;
                if path != own {
                    pins::pin_over(&link, &own)?;
                }
                attached = true;
                break;
            }
            if !attached {
                let link = sys::link_create(program, directory.as_fd(), hook.attach_type).map_err(
                    |error| {
                        DataplaneError::io(
                            format!("attach {} to the cgroup {}", hook.name, cgroup.display()),
                            error,
                        )
                    },
                )?;
                pins::pin_over(&link, &own)?;
                made.push(hook.name);
            }
        }
        for other in others {
            pins::remove_tree(&other, &mut Vec::new()).map_err(|error| {
                DataplaneError::io(format!("remove {}", other.display()), error)
            })?;
        }
        Ok(made)
    }

    /// The hooks whose link does not lead to this agent's program on the cgroup any more.
    pub fn detached(
        &self,
        pins: &Pins,
        cgroup: &Path,
    ) -> Result<Vec<&'static str>, DataplaneError> {
        let (_, id) = open_cgroup(cgroup)?;
        let mut detached = Vec::new();
        for hook in &HOOKS {
            let program = self.ebpf.program(hook.function).and_then(|program| program.info().ok());
            let sound = match pins::open_link(&pins.link(hook.name))? {
                Some(link) => sys::link_info(link.as_fd()).is_ok_and(|info| {
                    info.cgroup == id && program.is_some_and(|program| program.id() == info.program)
                }),
                None => false,
            };
            if !sound {
                detached.push(hook.name);
            }
        }
        Ok(detached)
    }

    /// The kernel's ids of the loaded programs.
    pub fn ids(&self) -> Result<Vec<(&'static str, u32)>, DataplaneError> {
        HOOKS
            .iter()
            .map(|hook| {
                let info = self.ebpf.program(hook.function).map(Program::info);
                match info {
                    Some(Ok(info)) => Ok((hook.name, info.id())),
                    Some(Err(error)) => Err(refused(hook.name, error)),
                    None => Err(DataplaneError::Unsupported(format!(
                        "program {} is not loaded",
                        hook.name
                    ))),
                }
            })
            .collect()
    }

    fn fd(&self, hook: &Hook) -> Result<BorrowedFd<'_>, DataplaneError> {
        let fd = self.ebpf.program(hook.function).map(Program::fd);
        match fd {
            Some(Ok(fd)) => Ok(fd.as_fd()),
            _ => Err(DataplaneError::Unsupported(format!("program {} is not loaded", hook.name))),
        }
    }
}

/// What a reader can see of one hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attachment {
    /// No pinned link.
    Missing,
    /// Linked to another cgroup than the agent said, or to one that is gone.
    Elsewhere,
    Attached,
}

/// Reads how a hook is attached, without being the agent.
pub fn attachment(pins: &Pins, hook: &Hook, cgroup: &Path) -> Result<Attachment, DataplaneError> {
    let Some(link) = pins::open_link(&pins.link(hook.name))? else {
        return Ok(Attachment::Missing);
    };
    let info = sys::link_info(link.as_fd())
        .map_err(|error| DataplaneError::io(format!("read the link {}", hook.name), error))?;
    let here = fs::metadata(cgroup).is_ok_and(|metadata| metadata.ino() == info.cgroup);
    Ok(if here { Attachment::Attached } else { Attachment::Elsewhere })
}

/// A cgroup and its id, which is its inode number.
pub(super) fn open_cgroup(path: &Path) -> Result<(File, u64), DataplaneError> {
    let failed = |error| DataplaneError::io(format!("open the cgroup {}", path.display()), error);
    let directory = File::open(path).map_err(failed)?;
    let id = directory.metadata().map_err(failed)?.ino();
    Ok((directory, id))
}

/// Says what the verifier said, in one line.
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
