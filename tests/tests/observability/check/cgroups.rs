//! Which processes the agent's cgroup has: all of the node, or only some.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use sockline_testbed::sockline_binary;

use super::{Report, assert_live_works, check, make_threaded, on_an_inner_cgroup, serving};
use crate::common::{CART, WebNode, options};

#[test]
fn a_cgroup_that_is_not_the_one_that_should_be_served_is_a_warning() {
    let (node, agent, inner) = on_an_inner_cgroup();
    let report = check(&node);
    assert_eq!(report.exit, 0, "a warning is no failure: {:#?}", report.results);
    report.assert("cgroup.root", "warning", "/inner, not ");
    assert_live_works(&report);
    drop(agent);
    fs::remove_dir(&inner).unwrap();
}

/// `sockline check` without --cgroup-root, where no cgroup above the agent's is mounted: as in a container that
/// is a node, as kind's are.
fn check_where_nothing_above_is_mounted(node: &WebNode, cgroup: &Path) -> Report {
    let is_cgroup2 = |path: &&Path| path.join("cgroup.controllers").is_file();
    let mount_point = cgroup.ancestors().take_while(is_cgroup2).last().unwrap();
    let hide = "mount --bind \"$1\" /mnt && mount -t tmpfs none \"$2\" && mkdir -p \"$1\" \
                && mount --bind /mnt \"$1\" && shift 2 && exec \"$@\"";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", hide, "sh"])
        .args([cgroup, mount_point])
        .arg(sockline_binary().unwrap())
        .args(["check", "-o", "json", "--bpf-root"])
        .arg(node.bpffs())
        .arg("--admin-socket")
        .arg(node.temp().join("admin.sock"))
        .stdin(Stdio::null());
    Report::of(&node.outside().output(&mut command).unwrap())
}

const POD: &str = "0b7e7c2e-95a1-4c0e-8f0e-3f5a3f2a9d11";

#[test]
fn a_node_in_a_container_is_distinguished_from_an_agent_that_sees_too_little() {
    let (node, _agent) = serving();
    let check = || check_where_nothing_above_is_mounted(&node, node.cgroup());
    check().assert("cgroup.root", "warning", "not the root of all cgroups");
    let _pod = node.pod_cgroup(POD).unwrap();
    check().assert("cgroup.root", "warning", "not the root of all cgroups");
    let beside = node.cgroup().join("init.scope");
    make_threaded(&beside);
    check().assert("cgroup.root", "ok", "a node that is itself a container");
    fs::remove_dir(&beside).unwrap();
}

#[test]
fn an_agent_that_sees_only_the_pods_of_its_node_is_a_warning() {
    let node = WebNode::new(1);
    node.put_service("cart", CART);
    let _pod = node.pod_cgroup(POD).unwrap();
    let pods = node.cgroup().join("kubepods.slice");
    let mut options = options(&["--reconcile-interval", "3600s"]);
    options.cgroup = Some(pods.clone());
    let _agent = node.agent(&options).unwrap();
    let report = check_where_nothing_above_is_mounted(&node, &pods);
    report.assert("cgroup.root", "warning", "not the root of all cgroups");
}
