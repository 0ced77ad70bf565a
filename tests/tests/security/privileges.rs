//! The capabilities that the agent keeps after its start, and what it can do with them.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::common::{WebNode, eventually, holds, series};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;
use sockline_testbed::{Agent, AgentOptions, UdpClient, objects, strace::HeldUp};

const CART: &str = "10.96.0.1";

/// Numbers of capabilities (`linux/capability.h`), as the masks of `/proc/PID/status` have them.
const DAC_READ_SEARCH: u64 = 1 << 2;
const NET_ADMIN: u64 = 1 << 12;
const SYS_PTRACE: u64 = 1 << 19;
const SYS_ADMIN: u64 = 1 << 21;
const BPF: u64 = 1 << 39;

/// The fields of a `/proc/…/status` that are about privileges.
fn privileges(folder: &Path) -> BTreeMap<String, u64> {
    let status = fs::read_to_string(folder.join("status")).unwrap();
    status
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| name.starts_with("Cap") || *name == "NoNewPrivs")
        .map(|(name, value)| (name.to_owned(), u64::from_str_radix(value.trim(), 16).unwrap()))
        .collect()
}

/// The fields of a process that has only these capabilities.
fn only(capabilities: u64) -> BTreeMap<String, u64> {
    [
        ("CapInh", 0),
        ("CapPrm", capabilities),
        ("CapEff", capabilities),
        ("CapBnd", capabilities),
        ("CapAmb", 0),
        ("NoNewPrivs", 1),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

fn threads(pid: u32) -> Vec<PathBuf> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks.map(|task| task.unwrap().path()).collect()
}

/// The helper's process id in the status.
fn helper(node: &WebNode) -> u32 {
    let status = node.status();
    let pid = status["agent"]["termination"]["helper"]["pid"].as_u64();
    let pid = pid.unwrap_or_else(|| panic!("no helper runs: {status:#}"));
    pid.try_into().unwrap()
}

fn serving() -> (WebNode, Agent) {
    let node = WebNode::new(1);
    node.put_service("cart", CART);
    let agent = node.start_agent_with(&crate::common::REPAIRS);
    (node, agent)
}

#[test]
fn every_thread_of_the_agent_has_only_the_capabilities_it_needs() {
    let (_node, agent) = serving();
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
    let (node, _agent) = serving();
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
    let (node, _agent) = serving();
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
    let (node, agent) = serving();
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
    let (node, agent) = serving();
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

/// The parent of a process.
fn parent(pid: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap()
}

fn end(pid: u32) {
    kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGKILL).unwrap();
}

/// Waits until another helper runs, and returns its process id.
#[track_caller]
fn eventually_another_helper(node: &WebNode, before: u32) -> u32 {
    eventually("another helper to run", || {
        let closing = node.status()["agent"]["termination"].clone();
        let pid = closing["helper"]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        pid.filter(|pid| *pid != before).ok_or(closing)
    })
}

#[test]
fn a_helper_that_ends_is_restarted_and_that_is_reported() {
    let (node, agent) = serving();
    let client =
        node.client.run(|| UdpClient::connected((crate::common::ip(CART), 53).into()).unwrap());
    let first = helper(&node);
    end(first);
    let second = eventually_another_helper(&node, first);
    assert_eq!(node.status()["agent"]["termination"]["helperRestarts"], 1);
    let metrics = agent.metrics().unwrap();
    assert_eq!(series(&metrics, "sockline_helper_exits_total"), Some(1.0));
    assert_eq!(series(&metrics, "sockline_helper_running"), Some(1.0));
    let log = agent.log();
    let ended = "the helper process has exited (signal: 9 (SIGKILL))";
    assert_eq!(crate::common::lines_with(&log, ended).len(), 1, "{log}");
    assert_eq!(
        crate::common::lines_with(&log, "the helper process was started again").len(),
        1,
        "{log}"
    );
    let table = String::from_utf8(node.look(&["status"]).stdout).unwrap();
    assert!(table.contains("restarted the helper process 1 times"), "{table}");
    let seen = privileges(&PathBuf::from(format!("/proc/{second}")));
    assert_eq!(seen, only(SYS_ADMIN | SYS_PTRACE | NET_ADMIN | BPF), "{seen:x?}");
    assert_eq!(agent.get("/readyz").unwrap().status, 200);
    // It works like the first one.
    node.put("cart.yaml", &[objects::service("cart", CART), objects::slice("cart", &[])]);
    eventually("the socket to be closed", || holds(client.ask("?").is_err(), "it is open"));
}

#[test]
fn a_helper_that_keeps_ending_is_restarted_with_backoff_and_shown_as_unavailable() {
    let (node, agent) = serving();
    let mut pid = helper(&node);
    for _ in 0..2 {
        end(pid);
        pid = eventually_another_helper(&node, pid);
    }
    end(pid);
    eventually("readyz to say so", || {
        let reply = agent.get("/readyz").unwrap();
        let said = reply.body.starts_with("the helper process has exited (signal: 9 (SIGKILL))");
        holds(reply.status == 503 && said, reply.body)
    });
    assert_eq!(agent.get("/healthz").unwrap().status, 200);
    let metrics = agent.metrics().unwrap();
    if series(&metrics, "sockline_helper_running") == Some(0.0) {
        assert_eq!(series(&metrics, "sockline_helper_exits_total"), Some(3.0));
    }
    eventually_another_helper(&node, pid);
    eventually("readyz to be well", || {
        let reply = agent.get("/readyz").unwrap();
        holds(reply.status == 200, reply.body)
    });
}

#[test]
fn an_agent_that_cannot_start_a_helper_fails_its_liveness_probe_and_keeps_serving() {
    let (node, agent) = serving();
    let helper = helper(&node);
    let supervisor = parent(helper);
    assert_eq!(parent(supervisor), agent.pid());
    let seen = privileges(&PathBuf::from(format!("/proc/{supervisor}")));
    assert_eq!(seen, only(SYS_ADMIN | SYS_PTRACE | NET_ADMIN | BPF), "{seen:x?}");
    end(supervisor);
    for path in ["/healthz", "/readyz"] {
        eventually("it to be reported", || {
            let reply = agent.get(path).unwrap();
            let said = reply.body.contains("supervisor has exited (signal: 9 (SIGKILL))");
            holds(reply.status == 503 && said, format!("{path}: {}", reply.body))
        });
    }
    let name = PathBuf::from(format!("/proc/{helper}/comm"));
    eventually("the helper to end with its supervisor", || {
        let name = fs::read_to_string(&name).unwrap_or_default();
        holds(name != "sockline-helper\n", name)
    });
    let table = String::from_utf8(node.look(&["status"]).stdout).unwrap();
    assert!(table.contains("NOT any more: the helper process's supervisor"), "{table}");
    let findings = String::from_utf8(node.look(&["check"]).stdout).unwrap();
    assert!(findings.contains("restart the agent"), "{findings}");
    node.put_service("other", "10.96.0.2");
    node.eventually_served("10.96.0.2");
}

#[test]
fn a_supervisor_that_answers_late_does_not_block_the_agent() {
    let (node, agent) = serving();
    let first = helper(&node);
    let supervisor = parent(first);
    let signal = |signal| kill(Pid::from_raw(supervisor.cast_signed()), signal).unwrap();
    let said = |text: &str| crate::common::lines_with(&agent.log(), text).len();
    let silent = "the supervisor of the helper process has not answered for 5 seconds";
    signal(Signal::SIGSTOP);
    eventually("its silence to be reported", || holds(said(silent) > 0, agent.log()));
    node.put_service("other", "10.96.0.2");
    node.eventually_served("10.96.0.2");
    assert_eq!(agent.get("/healthz").unwrap().status, 200);
    signal(Signal::SIGCONT);
    eventually("it to answer", || holds(said("supervisor of the helper process answers") > 0, ""));
    assert_eq!(said(silent), 1, "{}", agent.log());
    // Its answers belong to the right requests.
    end(first);
    let second = eventually_another_helper(&node, first);
    assert_eq!(parent(second), supervisor);
    assert_eq!(agent.get("/readyz").unwrap().status, 200);
}

/// Each answer takes nearly as long as the agent waits for it, and its control loop waits as well. If it
/// waited for three of them in a row, the programs would fail open.
#[test]
fn a_supervisor_that_answers_slowly_restarts_the_helper_while_the_agent_stays_alive() {
    let node = WebNode::new(1);
    node.put_service("cart", CART);
    let _agent = node.start_agent_with(&["--fail-open-after", "10s"]);
    let first = helper(&node);
    let slow = HeldUp::process(parent(first), "write,sendto", Duration::from_millis(4500)).unwrap();
    end(first);
    eventually("another helper to run", || {
        node.assert_served(CART);
        let pid = node.status()["agent"]["termination"]["helper"]["pid"].as_u64();
        holds(pid.is_some_and(|pid| pid != u64::from(first)), format!("{pid:?}"))
    });
    drop(slow);
    let status = node.status();
    assert_eq!(status["failOpen"]["bypassedCalls"], 0, "{status:#}");
}

#[test]
fn the_helper_ends_with_its_agent() {
    for end in [Agent::kill, Agent::stop] {
        let (node, mut agent) = serving();
        let helper = helper(&node);
        let names = [(helper, "sockline-helper\n"), (parent(helper), "sockline-superv\n")];
        let name = |pid: u32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        for (pid, expected) in names {
            assert_eq!(name(pid), expected);
        }
        end(&mut agent).unwrap();
        for (pid, of_ours) in names {
            eventually("it to end", || holds(name(pid) != of_ours, of_ours));
        }
        let _next = node.start_agent();
    }
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
    let findings = node.look(&["check", "-o", "json"]);
    let findings = crate::common::results(&findings);
    let finding = findings.iter().find(|one| one["check"] == "sockets.termination");
    let finding = finding.unwrap();
    assert_eq!(finding["state"], "warning", "{finding:#}");
    assert!(finding["message"].as_str().unwrap().contains(said), "{finding:#}");
}
