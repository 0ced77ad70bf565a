//! Kernel state that is changed from outside while the agent runs is repaired and counted.

use std::{
    cell::Cell,
    collections::BTreeSet,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use crate::common::{
    REPAIRS, WebNode, damage::Damage, eventually, hammer::Hammer, holds, ip, options, series,
    translated,
};
use nix::mount::{MntFlags, MsFlags};
use serde_json::json;
use sockline::dataplane::{self, Drift, Pins};
use sockline_ebpf::{
    address::Address,
    backend::Backend,
    frontend::{Frontend, FrontendKey, REFUSE},
    id::ServiceId,
};
use sockline_testbed::{Agent, Socket, objects, tcp_ask};

const CART: &str = "10.96.0.1";

fn serving() -> (WebNode, Agent, Damage) {
    let node = WebNode::new(2);
    node.put_service("cart", CART);
    let agent = node.start_agent_with(&REPAIRS);
    let damage = Damage::of(&node);
    (node, agent, damage)
}

fn repairs(agent: &Agent, object: &str) -> usize {
    let name = format!("sockline_drift_repairs_total{{object=\"{object}\"}}");
    series(&agent.metrics().unwrap(), &name).unwrap_or_default() as usize
}

#[track_caller]
fn eventually_repaired(agent: &Agent, object: &str, count: usize) {
    eventually(&format!("{count} repairs of an {object}"), || {
        let seen = repairs(agent, object);
        holds(seen == count, seen)
    });
}

#[test]
fn a_deleted_frontend_is_restored() {
    let (node, agent, damage) = serving();
    let entry = damage.frontend(80);
    damage.remove_frontend(&entry.key);
    eventually_repaired(&agent, "frontend", 1);
    assert_eq!(damage.frontend(80), entry);
    node.assert_served(CART);
}

#[test]
fn a_changed_frontend_is_corrected() {
    let (node, agent, damage) = serving();
    let entry = damage.frontend(80);
    damage.set_frontend(Frontend { action: REFUSE, ..entry });
    eventually_repaired(&agent, "frontend", 1);
    assert_eq!(damage.frontend(80), entry);
    node.assert_served(CART);
}

#[test]
fn an_unplanned_frontend_is_removed() {
    let (_node, agent, damage) = serving();
    let mut foreign = damage.frontend(80);
    foreign.key.port = 81u16.to_be();
    damage.set_frontend(foreign);
    eventually_repaired(&agent, "frontend", 1);
    let left = damage.frontends().keys().map(Result::unwrap).find(|key| *key == foreign.key);
    assert_eq!(left, None);
}

#[test]
fn backends_with_another_address_are_corrected() {
    let (node, agent, damage) = serving();
    let changed = damage.change_backends(|backend| backend.port = 1u16.to_be());
    assert_eq!(changed, 4, "two pods behind two service ports");
    eventually_repaired(&agent, "backend", 4);
    node.assert_served(CART);
}

/// The addresses of other nodes are entries among the frontends.
#[test]
fn addresses_of_other_nodes_are_restored_and_unplanned_ones_removed() {
    let node = WebNode::new(1);
    let mut service = objects::service("cart", CART);
    service["spec"]["type"] = json!("NodePort");
    service["spec"]["ports"][0]["nodePort"] = json!(30080);
    node.put("cart.yaml", &[service, objects::slice("cart", &node.web_addresses())]);
    let others = ["198.51.100.1", "198.51.100.2"];
    let other = |address: &str| objects::node_at(&format!("node-{address}"), &[ip(address)]);
    node.put("nodes.yaml", &others.map(other));
    let agent = node.start_agent_with(&[&REPAIRS[..], &["--nodeports-of-all-nodes"]].concat());
    let damage = Damage::of(&node);
    let is_served = |address: &str| {
        let to = SocketAddr::new(ip(address), 30080);
        node.client.tcp_ask(to).is_ok()
    };
    assert!(others.iter().all(|address| is_served(address)));
    let mark = FrontendKey::node_mark(ip(others[0]).into());
    let entry = damage.frontends().get(&mark, 0).unwrap();
    damage.remove_frontend(&mark);
    assert!(!is_served(others[0]));
    assert!(is_served(others[1]));
    eventually_repaired(&agent, "frontend", 1);
    assert!(is_served(others[0]));
    let foreign = "198.51.100.3";
    let key = FrontendKey::node_mark(ip(foreign).into());
    damage.set_frontend(Frontend { key, ..entry });
    eventually_repaired(&agent, "frontend", 2);
    assert!(!is_served(foreign));
    assert!(others.iter().all(|address| is_served(address)));
}

#[test]
fn a_lost_slot_is_restored() {
    let (node, agent, damage) = serving();
    damage.clear_slot(damage.frontend(80).slot_start);
    eventually_repaired(&agent, "slot", 1);
    assert_eq!(node.spread(CART, 30).len(), 2, "both pods get connects again");
}

#[test]
fn a_cleared_filter_is_restored() {
    let (node, agent, damage) = serving();
    damage.clear_filter();
    eventually_repaired(&agent, "filter", 2);
    node.assert_served(CART);
}

#[test]
fn a_filter_that_was_cleared_while_the_agent_was_down_is_restored_at_the_start() {
    let (node, mut agent, damage) = serving();
    agent.stop().unwrap();
    damage.clear_filter();
    node.assert_untouched(CART);
    let _next = node.start_agent();
    node.assert_served(CART);
}

#[test]
fn backends_that_were_changed_while_the_agent_was_down_are_corrected_by_the_first_sync() {
    let (node, mut agent, damage) = serving();
    agent.stop().unwrap();
    damage.change_backends(|backend| backend.service.0 += 1000);
    let next = node.start_agent();
    node.assert_served(CART);
    assert_eq!(node.wrong("outOfSync"), [""; 0], "{}", next.log());
}

/// A slot may refer to it for a moment after its removal.
#[test]
fn a_backend_that_no_frontend_may_use_is_never_selected() {
    let (node, mut agent, damage) = serving();
    agent.stop().unwrap();
    let leaving = Address::from(node.webs[0].pod.addresses()[0]);
    damage.change_backends(|backend| {
        if backend.address == leaving {
            backend.scopes = 0;
        }
    });
    node.client.run(|| {
        for _ in 0..60 {
            let socket = Socket::udp(libc::AF_INET).unwrap();
            // One in four selects it twice in a row, and is not translated.
            let _ = socket.connect(SocketAddr::new(ip(CART), 53));
        }
    });
    let chosen = Cell::new(0);
    damage.change_backends(|backend| {
        let is_leaving = backend.address == leaving;
        assert!(!is_leaving || backend.connections == 0, "{backend:?}");
        chosen.set(chosen.get() + backend.connections);
    });
    assert!(chosen.get() > 0, "nothing was chosen");
}

#[test]
fn repairs_are_in_the_status_and_in_the_log() {
    let (node, agent, damage) = serving();
    damage.remove_frontend(&damage.frontend(80).key);
    eventually_repaired(&agent, "frontend", 1);
    let status = node.status();
    assert_eq!(status["agent"]["driftRepairs"], json!({"frontend": 1}));
    let table = String::from_utf8(node.look(&["status"]).stdout).unwrap();
    assert!(table.contains("1 frontend since its start"), "{table}");
    let log = agent.log();
    let repaired = "the kernel differed from the plan and was repaired: 1 frontend";
    assert_eq!(crate::common::lines_with(&log, repaired).len(), 1, "{log}");
}

#[test]
fn nothing_is_repaired_without_drift() {
    let (node, agent, damage) = serving();
    node.put_service("ship", "10.96.0.2");
    node.eventually_served("10.96.0.2");
    node.remove("ship.yaml");
    node.eventually_untouched("10.96.0.2");
    // One repair proves that a comparison has ended.
    damage.remove_frontend(&damage.frontend(80).key);
    eventually_repaired(&agent, "frontend", 1);
    for kind in Drift::KINDS.map(|kind| kind.name).into_iter().filter(|kind| *kind != "frontend") {
        assert_eq!(repairs(&agent, kind), 0, "{kind}");
    }
}

#[test]
fn a_changed_weight_of_a_backend_is_corrected() {
    let (_node, agent, damage) = serving();
    let changed = damage.change_backends(|backend| backend.weight += 1);
    eventually_repaired(&agent, "backend", changed);
}

/// For Prometheus, a counter that falls was reset.
#[test]
fn no_counter_falls_while_backends_are_corrected() {
    let (node, agent, damage) = serving();
    node.spread(CART, 20);
    let series_name = translated("cart", "TCP");
    for round in 1..=3 {
        let changed = damage.change_backends(|backend| backend.port = 1u16.to_be());
        eventually("the repair", || {
            let count = series(&agent.metrics().unwrap(), &series_name);
            assert_eq!(count, Some(20.0), "round {round}");
            let seen = repairs(&agent, "backend");
            holds(seen == round * changed, seen)
        });
    }
}

#[test]
fn an_unplanned_backend_is_freed() {
    let (_node, agent, damage) = serving();
    damage.set_backend(900, Backend { service: ServiceId(77), scopes: 1, ..Backend::default() });
    eventually_repaired(&agent, "backend", 1);
    assert_eq!(damage.backend(900).service, ServiceId::NONE);
}

#[test]
fn a_lost_name_is_restored() {
    let (node, agent, damage) = serving();
    let services = node.services();
    damage.clear_names();
    eventually_repaired(&agent, "name", 2);
    assert_eq!(node.services(), services);
}

#[test]
fn a_segment_that_was_removed_from_its_map_is_restored() {
    let (node, agent, damage) = serving();
    damage.take_out("BACKENDS");
    eventually_repaired(&agent, "map", 1);
    node.assert_served(CART);
    assert_eq!(repairs(&agent, "pin"), 0);
}

#[test]
fn a_removed_frontends_map_is_restored() {
    let (node, agent, damage) = serving();
    damage.take_out("FRONTENDS");
    node.assert_untouched(CART);
    eventually_repaired(&agent, "map", 1);
    node.assert_served(CART);
}

#[test]
fn a_segment_that_is_missing_at_the_start_is_recreated() {
    let (node, mut agent, damage) = serving();
    agent.stop().unwrap();
    damage.take_out("BACKENDS");
    let next = node.start_agent();
    node.assert_served(CART);
    assert_eq!(node.wrong("outOfSync"), [""; 0], "{}", next.log());
}

fn link_ids(damage: &Damage) -> Vec<u32> {
    let links = fs::read_dir(damage.pins().links()).unwrap();
    let mut ids: Vec<u32> =
        links.map(|entry| damage.link(&entry.unwrap().path()).info().unwrap().id()).collect();
    ids.sort_unstable();
    ids
}

/// Connects continuously during an action; none of the connects may fail.
fn without_a_gap(node: &WebNode, action: impl FnOnce()) {
    let hammer = Hammer::start(&node.client, vec![(ip(CART), 80).into()]);
    hammer.wait_for(50);
    action();
    hammer.wait_for(50);
    hammer.assert_nothing_failed();
}

#[test]
fn links_that_lost_their_pins_stay_attached_and_are_pinned_again() {
    let (node, agent, damage) = serving();
    let before = link_ids(&damage);
    without_a_gap(&node, || {
        for entry in fs::read_dir(damage.pins().links()).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        eventually_repaired(&agent, "pin", before.len());
    });
    assert_eq!(link_ids(&damage), before);
    assert_eq!(repairs(&agent, "link"), 0);
    assert_eq!(node.condition("HooksAttached"), "True");
}

#[test]
fn a_detached_link_is_recreated() {
    let (node, agent, damage) = serving();
    damage.detach("connect4");
    node.assert_untouched(CART);
    eventually_repaired(&agent, "link", 1);
    node.assert_served(CART);
}

#[test]
fn another_object_in_place_of_a_links_pin_is_replaced() {
    let (node, agent, damage) = serving();
    let before = link_ids(&damage);
    damage.pin_a_map_at(&damage.pins().link("connect4"));
    eventually_repaired(&agent, "pin", 1);
    assert_eq!(link_ids(&damage), before);
    node.assert_served(CART);
}

#[test]
fn maps_that_lost_their_pins_are_pinned_again() {
    let (node, agent, damage) = serving();
    let names = dataplane::map_names();
    let before: Vec<u32> = names.iter().map(|name| damage.map_id(name)).collect();
    for name in &names {
        fs::remove_file(damage.pins().map(name)).unwrap();
    }
    eventually_repaired(&agent, "pin", names.len());
    let after: Vec<u32> = names.iter().map(|name| damage.map_id(name)).collect();
    assert_eq!(after, before);
    node.assert_served(CART);
}

#[test]
fn a_foreign_map_in_place_of_a_pin_is_replaced() {
    let (_node, agent, damage) = serving();
    let before = damage.map_id("SOCKETS");
    damage.pin_a_map_at(&damage.pins().map("SOCKETS"));
    assert_ne!(damage.map_id("SOCKETS"), before);
    eventually_repaired(&agent, "pin", 1);
    assert_eq!(damage.map_id("SOCKETS"), before);
}

#[test]
fn removed_pins_of_segments_are_recreated() {
    let (node, agent, damage) = serving();
    let inner = damage.pins().inner_maps();
    let pins = || {
        let names = fs::read_dir(&inner).unwrap().map(|entry| entry.unwrap().file_name());
        names.collect::<BTreeSet<_>>()
    };
    let before = pins();
    for pin in &before {
        fs::remove_file(inner.join(pin)).unwrap();
    }
    eventually_repaired(&agent, "pin", before.len());
    assert_eq!(pins(), before);
    node.assert_served(CART);
}

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
    assert_eq!(damage.backend(1).generation, backends.generation, "not adopted");
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
fn a_failed_reconciliation_is_reported_once_and_shown_until_it_succeeds() {
    let (node, agent, damage) = serving();
    let (links, away) = (damage.pins().links(), damage.pins().directory().join("away"));
    fs::rename(&links, &away).unwrap();
    damage.pin_a_map_at(&links);
    let failure = format!(
        "cannot reconcile pins and links: cannot make the folder {}: File exists (os error 17)",
        links.display()
    );
    without_a_gap(&node, || {
        eventually("the error", || {
            let seen = node.wrong("reconcileErrors");
            holds(seen == [failure.as_str()], format!("{seen:?}"))
        });
    });
    let table = String::from_utf8(node.look(&["status"]).stdout).unwrap();
    assert!(table.contains(&format!("NOT RECONCILED\n  {failure}\n")), "{table}");
    fs::remove_file(&links).unwrap();
    fs::rename(&away, &links).unwrap();
    eventually("no error", || {
        let seen = node.wrong("reconcileErrors");
        holds(seen.is_empty(), format!("{seen:?}"))
    });
    let log = agent.log();
    assert_eq!(crate::common::lines_with(&log, &failure).len(), 2, "once, and once solved: {log}");
}

#[test]
fn a_recreated_link_counts_even_if_it_cannot_be_pinned() {
    let (node, agent, damage) = serving();
    let (links, away) = (damage.pins().links(), damage.pins().directory().join("away"));
    fs::rename(&links, &away).unwrap();
    damage.pin_a_map_at(&links);
    let link = crate::common::bpf::open_pinned(&away.join("connect4")).unwrap();
    crate::common::bpf::detach(std::os::fd::AsFd::as_fd(&link)).unwrap();
    eventually("the hook to be served again", || node.ask(CART));
    eventually_repaired(&agent, "link", 1);
    let failure = node.wrong("reconcileErrors");
    assert!(
        failure.iter().any(|failure| failure.contains("cannot make the folder")),
        "{failure:?}"
    );
    fs::remove_file(&links).unwrap();
    fs::rename(&away, &links).unwrap();
}

#[test]
fn a_frontend_that_cannot_be_removed_is_reported_until_it_is_gone() {
    let (node, agent, damage) = serving();
    node.put_service("ship", "10.96.0.2");
    node.eventually_served("10.96.0.2");
    damage.freeze_frontends();
    node.remove("ship.yaml");
    let failed = || {
        let failures = node.wrong("outOfSync");
        let of_ship = failures.iter().filter(|failure| failure.starts_with("shop/ship:"));
        holds(of_ship.count() == 2, format!("{failures:?}"))
    };
    eventually("both ports to be out of sync", failed);
    let tries = || {
        let metrics = agent.metrics().unwrap();
        ["full", "retry", "changes"]
            .map(|scope| format!("sockline_syncs_total{{scope=\"{scope}\"}}"))
            .iter()
            .filter_map(|name| series(&metrics, name))
            .sum::<f64>()
    };
    let before = tries();
    eventually("another try", || holds(tries() >= before + 2.0, tries()));
    failed().unwrap();
    // Everything that it refers to still exists as well.
    node.assert_served("10.96.0.2");
    assert_eq!(node.status()["frontends"], 4);
}

#[test]
fn a_slot_that_was_lost_while_the_agent_was_down_is_restored_without_an_outage() {
    let (node, mut agent, damage) = serving();
    agent.stop().unwrap();
    damage.clear_slot(damage.frontend(80).slot_start);
    // The next agent has no plan: it serves what it restored.
    node.put_text("cart.yaml", "]");
    let next = node.agent(&options(&[])).unwrap();
    let served = (0..40).filter(|_| node.ask(CART).is_ok()).count();
    // A call selects up to two times; half of the selections have no backend.
    assert!(served >= 15, "{served} of 40 were served: {}", next.log());
    node.put_service("cart", CART);
    eventually("all to be served", || {
        let served = (0..20).filter(|_| node.ask(CART).is_ok()).count();
        holds(served == 20, format!("{served} of 20"))
    });
    assert_eq!(node.spread(CART, 30).len(), 2, "both pods");
}

#[test]
fn a_stale_link_of_a_killed_agent_is_detached_by_the_next() {
    let (node, mut agent, damage) = serving();
    agent.kill().unwrap();
    let stale = damage.pins().links().join("connect4_new");
    fs::rename(damage.pins().link("connect4"), &stale).unwrap();
    let mut next = node.start_agent();
    assert!(!stale.exists(), "the stale pin is still there");
    assert_eq!(node.condition("HooksAttached"), "True");
    node.assert_served(CART);
    next.stop().unwrap();
    fs::remove_file(damage.pins().link("connect4")).unwrap();
    // If the stale link were still attached, this would be served.
    node.eventually_untouched(CART);
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

/// A cgroup within the node's.
struct Cgroup(PathBuf);

impl Cgroup {
    fn within(parent: &Path, name: &str) -> Self {
        let this = Self(parent.join(name));
        this.create();
        this
    }

    fn create(&self) {
        fs::create_dir(&self.0).unwrap();
        fs::write(self.0.join("cgroup.type"), "threaded").unwrap();
    }

    /// As soon as the threads in it have ended.
    fn remove(&self) {
        eventually("the cgroup to be empty", || fs::remove_dir(&self.0));
    }

    /// A connect from within.
    fn ask(&self, node: &WebNode, cluster_ip: &str) -> io::Result<String> {
        let address = (ip(cluster_ip), 80).into();
        node.client.run(|| {
            fs::write(self.0.join("cgroup.threads"), "0")?;
            tcp_ask(address).map(|reply| reply.who)
        })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if self.0.exists() {
            self.remove();
        }
    }
}

fn on(cgroup: &Cgroup) -> sockline_testbed::AgentOptions {
    let mut options = options(&REPAIRS);
    options.cgroup = Some(cgroup.0.clone());
    options
}

#[test]
fn an_agent_with_another_cgroup_attaches_there_and_detaches_from_the_first() {
    let (node, mut agent, _damage) = serving();
    agent.stop().unwrap();
    let inner = Cgroup::within(node.cgroup(), "inner");
    let _next = node.agent(&on(&inner)).unwrap();
    inner.ask(&node, CART).unwrap();
    node.assert_untouched(CART);
    assert_eq!(node.status()["cgroup"], inner.0.to_str().unwrap());
    assert_eq!(node.condition("HooksAttached"), "True");
}

#[test]
fn a_recreated_cgroup_gets_new_links() {
    let node = WebNode::new(1);
    node.put_service("cart", CART);
    let inner = Cgroup::within(node.cgroup(), "inner");
    let agent = node.agent(&on(&inner)).unwrap();
    inner.ask(&node, CART).unwrap();
    inner.remove();
    eventually("the status to tell", || {
        let hooks = node.status()["hooks"].clone();
        holds(hooks[0]["state"] == "on-another-cgroup", hooks)
    });
    inner.create();
    eventually_repaired(&agent, "link", 9);
    inner.ask(&node, CART).unwrap();
    assert_eq!(node.condition("HooksAttached"), "True");
}
