//! The capabilities that the agent and its helper keep, and that they are enough.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use serde_json::json;
use sockline_testbed::{AgentOptions, UdpClient, objects};

use super::{BPF, NET_ADMIN, SYS_ADMIN, SYS_PTRACE, helper, only, privileges};
use crate::common::{CART, REPAIRS, WebNode, eventually, holds};

/// Numbers of capabilities (`linux/capability.h`), as the masks of `/proc/PID/status` have them.
const DAC_READ_SEARCH: u64 = 1 << 2;

fn threads(pid: u32) -> Vec<PathBuf> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks.map(|task| task.unwrap().path()).collect()
}

#[test]
fn every_thread_of_the_agent_has_only_the_capabilities_it_needs() {
    let (_node, agent) = WebNode::serving(1, &REPAIRS);
    let threads = threads(agent.pid());
    assert!(threads.len() > 2, "a runtime has threads: {threads:?}");
    for thread in threads {
        let seen = privileges(&thread);
        assert_eq!(
            seen,
            only(BPF | NET_ADMIN | DAC_READ_SEARCH),
            "{}: {seen:x?}",
            thread.display()
        );
    }
}

#[test]
fn the_helper_has_the_capabilities_to_enter_namespaces_and_close_sockets() {
    let (node, _agent) = WebNode::serving(1, &REPAIRS);
    let pid = helper(&node);
    for thread in threads(pid) {
        let seen = privileges(&thread);
        assert_eq!(seen, only(SYS_ADMIN | SYS_PTRACE | NET_ADMIN | BPF), "{seen:x?}");
    }
}

/// An agent that is started by `setpriv(1)` with these arguments.
fn with_privileges(node: &WebNode, arguments: &str) -> AgentOptions {
    let wrapper = node.temp().join("sockline-with-privileges");
    let binary = sockline_testbed::sockline_binary().unwrap();
    let script = format!("#!/bin/sh\nexec setpriv {arguments} {} \"$@\"\n", binary.display());
    fs::write(&wrapper, script).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    AgentOptions { binary: Some(wrapper), ..crate::common::options(&[]) }
}

#[test]
fn agent_and_helper_pass_on_no_inheritable_capabilities() {
    let node = WebNode::new(1);
    node.put_service("cart", CART);
    // Programs that they start would have these, whatever the processes themselves have.
    let handed_on = "+bpf,+net_admin,+sys_admin,+sys_ptrace,+dac_read_search";
    let arguments = format!("--inh-caps={handed_on} --ambient-caps={handed_on}");
    let agent = node.agent(&with_privileges(&node, &arguments)).unwrap();
    let seen = privileges(&PathBuf::from(format!("/proc/{}", agent.pid())));
    assert_eq!(seen, only(BPF | NET_ADMIN | DAC_READ_SEARCH), "the agent: {seen:x?}");
    let seen = privileges(&PathBuf::from(format!("/proc/{}", helper(&node))));
    assert_eq!(seen, only(SYS_ADMIN | SYS_PTRACE | NET_ADMIN | BPF), "the helper: {seen:x?}");
}

#[test]
fn the_helper_has_none_of_the_agents_files_open() {
    let (node, _agent) = WebNode::serving(1, &REPAIRS);
    let files = fs::read_dir(format!("/proc/{}/fd", helper(&node))).unwrap();
    let files: Vec<PathBuf> =
        files.map(|file| fs::read_link(file.unwrap().path()).unwrap_or_default()).collect();
    // No maps, programs or links, no lock on the pins and no cgroup.
    let is_the_agents = |file: &&PathBuf| {
        file.starts_with(node.bpffs())
            || file.starts_with(node.cgroup())
            || file.to_string_lossy().starts_with("anon_inode:")
    };
    assert_eq!(files.iter().filter(is_the_agents).count(), 0, "{files:?}");
}

#[test]
fn maps_still_grow() {
    let (node, agent) = WebNode::serving(1, &REPAIRS);
    let before = node.status()["agent"]["maps"].clone();
    // More than fits into the first hash of frontends and the first segment of backends.
    let services = (0..1300u32).flat_map(|number| {
        let name = format!("svc-{number}");
        let [_, _, high, low] = number.to_be_bytes();
        let address = format!("10.97.{high}.{low}");
        [objects::service(&name, &address), objects::slice(&name, &node.web_addresses())]
    });
    let mut all: Vec<_> = services.collect();
    for service in all.iter_mut().filter(|object| object["kind"] == "Service") {
        service["spec"]["externalIPs"] =
            json!([service["spec"]["clusterIP"].as_str().unwrap().replace("10.97", "10.98")]);
    }
    node.put("many.yaml", &all);
    let capacity = |map: &str| {
        let maps = node.status()["agent"]["maps"].clone();
        let found = maps.as_array().unwrap().iter().find(|one| one["name"] == map).cloned();
        found.unwrap()["allocatedEntries"].as_u64().unwrap()
    };
    eventually("the maps to have grown", || {
        let (frontends, backends) = (capacity("frontends"), capacity("backends"));
        holds(frontends > 4096 && backends > 1024, format!("{frontends} and {backends}, {before}"))
    });
    assert_eq!(node.status()["agent"]["outOfSync"], json!([]), "{}", agent.log());
    node.assert_served("10.98.5.19");
}

#[test]
fn links_and_pins_are_still_repaired() {
    let (node, agent) = WebNode::serving(1, &REPAIRS);
    let damage = crate::common::damage::Damage::of(&node);
    fs::remove_file(damage.pins().link("connect4")).unwrap();
    fs::remove_file(damage.pins().map("SERVICE_NAMES")).unwrap();
    eventually("pins to be there again", || {
        let pins = [damage.pins().link("connect4"), damage.pins().map("SERVICE_NAMES")];
        let missing: Vec<_> = pins.iter().filter(|pin| !pin.exists()).collect();
        holds(missing.is_empty(), format!("{missing:?}: {}", agent.log()))
    });
    node.assert_served(CART);
}

#[test]
fn without_the_right_to_enter_namespaces_status_and_check_say_so() {
    let node = WebNode::new(1);
    node.put_service("cart", CART);
    // A binary may not get it from its parent's bounding set.
    let confined = with_privileges(&node, "--bounding-set=-all,+bpf,+net_admin,+perfmon");
    let _agent = node.agent(&confined).unwrap();
    let connect =
        || UdpClient::connected(std::net::SocketAddr::new(crate::common::ip(CART), 53)).unwrap();
    let (own, of_pod) = (node.run(connect), node.client.run(connect));
    for client in [&own, &of_pod] {
        assert_eq!(client.ask("?").unwrap().who, "web-0");
    }
    node.put("cart.yaml", &[objects::service("cart", CART), objects::slice("cart", &[])]);
    eventually("the socket in the agent's namespace to be closed", || {
        holds(own.ask("?").is_err(), "it is open")
    });
    assert_eq!(of_pod.ask("?").unwrap().who, "web-0");
    let said =
        "without CAP_SYS_ADMIN, sockets are closed in the agent's own network namespace only";
    let table = String::from_utf8(node.look(&["status"]).stdout).unwrap();
    assert!(table.contains(said), "{table}");
    let results = node.look(&["check", "-o", "json"]);
    let results = crate::common::results(&results);
    let result = results.iter().find(|one| one["check"] == "sockets.termination");
    let result = result.unwrap();
    assert_eq!(result["state"], "warning", "{result:#}");
    assert!(result["message"].as_str().unwrap().contains(said), "{result:#}");
}
