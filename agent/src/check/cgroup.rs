//! The cgroup that the programs are attached to: whether it exists, and whether it is the right one.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use super::CheckResult;
use crate::{
    cgroups::{self, ROOT},
    mounts,
};

pub fn is_root(cgroup: &Path) -> bool {
    fs::metadata(cgroup).is_ok_and(|metadata| metadata.ino() == ROOT)
}

pub fn check(attached: &Path, given: Option<&Path>) -> CheckResult {
    let check = "cgroup.root";
    let id = match fs::metadata(attached) {
        Ok(metadata) => metadata.ino(),
        Err(error) => {
            return CheckResult::failed(
                check,
                format!("the agent's cgroup {}: {error}", attached.display()),
                "restart the agent with a --cgroup-root that exists, or none",
            );
        }
    };
    let wanted = match mounts::cgroup_for_reading(given) {
        Ok(Some(wanted)) => wanted,
        Ok(None) => {
            return CheckResult::failed(
                check,
                "no cgroup v2 file system is mounted",
                "mount one (`mount -t cgroup2 none /sys/fs/cgroup`) and restart the agent",
            );
        }
        Err(error) => {
            let error = anyhow::Error::from(error);
            return CheckResult::failed(check, format!("{error:#}"), "pass a cgroup v2 folder");
        }
    };
    let is_wanted = fs::metadata(&wanted).is_ok_and(|metadata| metadata.ino() == id);
    if !is_wanted {
        return CheckResult::warning(
            check,
            format!("{}, not {}", attached.display(), wanted.display()),
            "only processes in and below the agent's cgroup are served; if that is meant, give \
             --cgroup-root to this command, too",
        );
    }
    if given.is_none() && id != ROOT {
        if cgroups::is_top_of_a_node(attached).unwrap_or(false) {
            // No mount shows more of the hierarchy.
            return CheckResult::ok(
                check,
                format!(
                    "{}, id {id}: pods and the rest of the node are below it, so it is the root of a node \
                     that is itself a container",
                    attached.display()
                ),
            );
        }
        return CheckResult::warning(
            check,
            format!("{} is mounted, but it is not the root of all cgroups", attached.display()),
            "mount the host's /sys/fs/cgroup into the agent's container and name it with --cgroup-root",
        );
    }
    CheckResult::ok(check, format!("{}, id {id}", attached.display()))
}
