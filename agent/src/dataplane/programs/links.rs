//! Attaches the programs, and keeps them attached.
//!
//! Links are pinned and held open, so that the removal of a pin does not detach the program.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::Path,
};

use super::load::{HOOKS, Hook, Programs};
use crate::{
    bpf::{
        pin::{self, Id},
        syscall::{self, CgroupLink},
    },
    dataplane::{
        error::DataplaneError,
        pinning::{layout::Pins, removal},
    },
};

/// The attachments of this agent's programs, by hook.
#[derive(Default)]
pub struct Links {
    held: BTreeMap<&'static str, OwnedFd>,
}

/// Which hooks had to be changed, in which way.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Attached {
    /// A link was created: there was none, or it was on another cgroup, or one that is gone.
    pub made: Vec<&'static str>,
    /// Another program was in the link.
    pub replaced: Vec<&'static str>,
    /// The link had lost its pin.
    pub pinned: Vec<&'static str>,
}

impl Links {
    /// Attaches every program to the cgroup. An existing link gets the program, so that there is no
    /// moment without one; a new link is made if there is none, or if it is on another cgroup or
    /// one that is gone. Links of another layout version are taken over, and the directory of that layout is marked as
    /// replaced. Changes nothing if all is as it should be. `attached` gets what was changed,
    /// also if a later step fails.
    pub fn attach(
        &mut self,
        programs: &Programs,
        pins: &Pins,
        cgroup: &Path,
        attached: &mut Attached,
    ) -> Result<(), DataplaneError> {
        let (directory, id) = open_cgroup(cgroup)?;
        let others = pins.others();
        let mut kept = Vec::new();
        let mut unpinned = Ok(());
        for hook in &HOOKS {
            let (program, fd) = programs.of(hook)?;
            let (link, info) = match self.on_cgroup(hook, id, pins, &others)? {
                Some((link, info)) if info.program == program => (link, info),
                Some((link, info)) => {
                    syscall::link_update(link.as_fd(), fd).map_err(|error| {
                        failed("replace the program of the link", hook, cgroup, error)
                    })?;
                    attached.replaced.push(hook.name);
                    (link, info)
                }
                None => {
                    let made = syscall::link_create(fd, directory.as_fd(), hook.attach_type)
                        .and_then(|link| syscall::link_info(link.as_fd()).map(|info| (link, info)))
                        .map_err(|error| failed("attach", hook, cgroup, error))?;
                    attached.made.push(hook.name);
                    made
                }
            };
            self.detach_others(hook, info.id, pins);
            match pin::ensure(link.as_fd(), Id::Link(info.id), &pins.link(hook.name)) {
                Ok(true) => attached.pinned.push(hook.name),
                Ok(false) => {}
                // It is attached without a pin; attach the others too.
                Err(error) => unpinned = unpinned.and(Err(error)),
            }
            kept.push(info.id);
            self.held.insert(hook.name, link);
        }
        unpinned?;
        // Other builds may have more hooks, and their programs other maps.
        removal::remove_stale(&pins.links(), &HOOKS.each_ref().map(|hook| hook.name), &kept);
        for other in others {
            for hook in fs::read_dir(Pins::links_of(&other)).into_iter().flatten().flatten() {
                pin::detach(&hook.path(), &kept);
            }
            pins.mark_replaced(&other)?;
            tracing::info!(layout = %other.display(), "taken over from another layout");
        }
        Ok(())
    }

    /// A hook's link that is on this cgroup: the one that is held, else one that is pinned.
    fn on_cgroup(
        &self,
        hook: &Hook,
        cgroup: u64,
        pins: &Pins,
        others: &[std::path::PathBuf],
    ) -> Result<Option<(OwnedFd, CgroupLink)>, DataplaneError> {
        if let Some(held) = self.held.get(hook.name)
            && let Ok(info) = syscall::link_info(held.as_fd())
            && info.cgroup == cgroup
        {
            let link = held.try_clone();
            return link.map(|link| Some((link, info))).map_err(|error| {
                DataplaneError::io(format!("hold the link {}", hook.name), error)
            });
        }
        let elsewhere = others.iter().map(|other| Pins::links_of(other).join(hook.name));
        for path in std::iter::once(pins.link(hook.name)).chain(elsewhere) {
            let link = pin::open_link(&path)?;
            if let Some((link, info)) = link.filter(|(_, info)| info.cgroup == cgroup) {
                return Ok(Some((link, info)));
            }
        }
        Ok(None)
    }

    /// Detaches this hook's program from other cgroups at once. Otherwise it would stay until a
    /// kernel worker releases the link.
    fn detach_others(&self, hook: &Hook, kept: u32, pins: &Pins) {
        pin::detach(&pins.link(hook.name), &[kept]);
        if let Some(held) = self.held.get(hook.name)
            && syscall::link_info(held.as_fd()).is_ok_and(|info| info.id != kept)
        {
            let _ = syscall::link_detach(held.as_fd());
        }
    }
}

fn failed(what: &str, hook: &Hook, cgroup: &Path, error: std::io::Error) -> DataplaneError {
    DataplaneError::io(format!("{what} {} (cgroup {})", hook.name, cgroup.display()), error)
}

/// How a hook is attached, as a reader sees it.
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
    let Some((_, info)) = pin::open_link(&pins.link(hook.name))? else {
        return Ok(Attachment::Missing);
    };
    let here = fs::metadata(cgroup).is_ok_and(|metadata| metadata.ino() == info.cgroup);
    Ok(if here { Attachment::Attached } else { Attachment::Elsewhere })
}

/// A cgroup and its id, which is its inode number.
pub fn open_cgroup(path: &Path) -> Result<(File, u64), DataplaneError> {
    let failed = |error| DataplaneError::io(format!("open the cgroup {}", path.display()), error);
    let directory = File::open(path).map_err(failed)?;
    let id = directory.metadata().map_err(failed)?.ino();
    Ok((directory, id))
}
