//! The folder of the pins, and the file system that it is in.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags};
use sockline::dataplane::{self, Pins};

use super::{link_ids, serving, without_a_gap};
use crate::common::{CART, REPAIRS, WebNode, eventually, holds, options};

#[test]
fn after_the_pinned_folder_was_removed_nothing_fails_and_the_next_agent_finds_everything() {
    let (node, mut agent, damage) = serving();
    let (root, links) = (damage.pins().root().to_owned(), link_ids(&damage));
    without_a_gap(&node, || {
        fs::remove_dir_all(&root).unwrap();
        eventually("the folder to be made again", || {
            let report = node.look(&["check", "--quick"]);
            holds(report.status.success(), String::from_utf8_lossy(&report.stdout))
        });
        eventually("all pins", || {
            let missing = dataplane::map_names();
            let mut missing = missing.iter().filter(|name| !damage.pins().map(name).exists());
            holds(missing.next().is_none(), agent.log())
        });
    });
    assert_eq!(link_ids(&damage), links);
    let backends = damage.backend(1);
    without_a_gap(&node, || {
        agent.kill().unwrap();
        agent = node.start_agent();
    });
    assert_eq!(damage.backend(1).generation, backends.generation, "not restored");
    assert_eq!(link_ids(&damage), links);
}

#[test]
fn an_agent_whose_folder_was_removed_still_excludes_a_second_one() {
    let (node, agent, damage) = serving();
    fs::remove_dir_all(damage.pins().root()).unwrap();
    eventually("the folder to be made again", || {
        let exists = damage.pins().map("AGENT_RECORD").exists();
        holds(exists, agent.log())
    });
    let mut second = options(&[]);
    second.until_ready = false;
    let error = node.agent(&second).err().expect("a second agent");
    let error = format!("{error:#}");
    assert!(error.contains(&format!("(process {}) already manages", agent.pid())), "{error}");
    node.assert_served(CART);
}

#[test]
fn without_its_file_system_the_agent_keeps_serving_and_mounts_it_again() {
    let bpffs = tempfile::tempdir().unwrap();
    let _guard = Unmount::mounted(bpffs.path());
    let node = WebNode::new(1);
    node.put_service("cart", CART);
    let mut own = options(&REPAIRS);
    own.bpffs = Some(bpffs.path().to_owned());
    let mut agent = node.agent(&own).unwrap();
    let maps = Pins::in_bpffs(bpffs.path()).map("AGENT_RECORD");
    without_a_gap(&node, || {
        nix::mount::umount2(bpffs.path(), MntFlags::MNT_DETACH).unwrap();
        assert!(!maps.exists());
        eventually("the pins", || holds(maps.exists(), agent.log()));
    });
    agent.kill().unwrap();
    node.assert_served(CART);
    let cleaned = node.sockline(&["cleanup", "--bpf-root", bpffs.path().to_str().unwrap()]);
    assert!(cleaned.status.success(), "{}", crate::common::error_of(&cleaned));
}

#[test]
fn a_helper_that_does_not_mount_the_file_system_is_replaced_and_delays_the_agent_by_seconds() {
    let bpffs = tempfile::tempdir().unwrap();
    let _guard = Unmount::mounted(bpffs.path());
    let node = WebNode::new(1);
    node.put_service("cart", CART);
    let mut own = options(&REPAIRS);
    own.bpffs = Some(bpffs.path().to_owned());
    let mut agent = node.agent(&own).unwrap();
    let path = bpffs.path().to_str().unwrap();
    let socket = agent.admin_socket().to_str().unwrap().to_owned();
    let status =
        node.sockline(&["status", "--bpf-root", path, "--admin-socket", &socket, "-o", "json"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    let helper = status["agent"]["termination"]["helper"]["pid"].as_i64().unwrap();
    let helper = nix::unistd::Pid::from_raw(helper.try_into().unwrap());
    nix::sys::signal::kill(helper, nix::sys::signal::Signal::SIGSTOP).unwrap();
    nix::mount::umount2(bpffs.path(), MntFlags::MNT_DETACH).unwrap();
    eventually("it to be reported", || {
        let log = agent.log();
        holds(log.contains("cannot mount the BPF file system"), log)
    });
    node.put_service("later", "10.96.0.9");
    node.eventually_served("10.96.0.9");
    let maps = Pins::in_bpffs(bpffs.path()).map("AGENT_RECORD");
    eventually("the pins", || holds(maps.exists(), agent.log()));
    agent.kill().unwrap();
    let cleaned = node.sockline(&["cleanup", "--bpf-root", path]);
    assert!(cleaned.status.success(), "{}", crate::common::error_of(&cleaned));
}

/// A BPF file system, until it is dropped.
struct Unmount(PathBuf);

impl Unmount {
    fn mounted(path: &Path) -> Self {
        nix::mount::mount(Some("bpf"), path, Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
        Self(path.to_owned())
    }
}

impl Drop for Unmount {
    fn drop(&mut self) {
        while nix::mount::umount2(&self.0, MntFlags::MNT_DETACH).is_ok() {}
    }
}
