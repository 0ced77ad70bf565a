//! `sockline check` and `/readyz`: what is broken is reported, and what works is shown to work.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{net::UnixStream, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use crate::common::{
    REPAIRS, WebNode, damage::Damage, error_of, eventually, foreign, holds, options, series,
};
use serde_json::Value;
use sockline_testbed::{Agent, sockline_binary};

const CART: &str = "10.96.0.1";
const SHIP: &str = "10.96.0.2";

fn serving_with(args: &[&str]) -> (WebNode, Agent) {
    let node = WebNode::new(1);
    node.put_service("cart", CART);
    let agent = node.start_agent_with(args);
    (node, agent)
}

/// The agent does not repair damage.
fn serving() -> (WebNode, Agent) {
    serving_with(&["--reconcile-interval", "3600s"])
}

/// The output of `sockline check`.
struct Report {
    exit: i32,
    /// The state and the text (detail and remedy) of each check.
    findings: BTreeMap<String, (String, String)>,
}

impl Report {
    fn of(output: &Output) -> Self {
        let list = crate::common::results(output);
        let text = |finding: &Value, field: &str| {
            finding.get(field).map_or(String::new(), |text| text.as_str().unwrap().to_owned())
        };
        let findings = list
            .iter()
            .map(|finding| {
                let words = format!("{} → {}", text(finding, "message"), text(finding, "remedy"));
                (text(finding, "check"), (text(finding, "state"), words))
            })
            .collect();
        Self { exit: output.status.code().unwrap(), findings }
    }

    /// The checks in a state.
    fn all(&self, state: &str) -> Vec<&str> {
        let of_state = self.findings.iter().filter(|(_, (seen, _))| seen == state);
        of_state.map(|(check, _)| check.as_str()).collect()
    }

    #[track_caller]
    fn assert(&self, check: &str, state: &str, words: &str) {
        let Some((seen, text)) = self.findings.get(check) else {
            panic!("no {check} in {:#?}", self.findings)
        };
        assert_eq!(seen, state, "{check}: {text}; {:#?}", self.findings);
        assert!(text.contains(words), "{check}: {text:?} does not say {words:?}");
    }

    #[track_caller]
    fn assert_all_ok(&self) {
        assert_eq!(
            (self.all("failed"), self.all("warning")),
            (vec![], vec![]),
            "{:#?}",
            self.findings
        );
        assert_eq!(self.exit, 0);
    }
}

fn run(node: &WebNode, args: &[&str]) -> Output {
    let cgroup = node.cgroup().to_str().unwrap();
    node.look(&[&["check", "--cgroup-root", cgroup], args].concat())
}

#[track_caller]
fn check(node: &WebNode) -> Report {
    Report::of(&run(node, &["-o", "json"]))
}

const PLACES: [&str; 2] = ["fresh-cgroup", "host"];
const CONNECTS: [&str; 8] = [
    "tcp-ipv4",
    "tcp-ipv6",
    "udp-ipv4",
    "udp-ipv6",
    "refusal-ipv4",
    "refusal-ipv6",
    "untouched-ipv4",
    "untouched-ipv6",
];

/// The live checks.
fn live(connects: &[&str]) -> Vec<String> {
    let of = |place: &str| -> Vec<String> {
        connects.iter().map(|connect| format!("live.{place}.{connect}")).collect()
    };
    PLACES.into_iter().flat_map(of).collect()
}

#[track_caller]
fn assert_live_works(report: &Report) {
    for check in live(&CONNECTS) {
        report.assert(&check, "ok", "");
    }
}

fn fresh_cgroups(node: &WebNode) -> Vec<String> {
    let entries = fs::read_dir(node.cgroup()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("sockline-check")).collect()
}

#[test]
fn on_a_healthy_node_everything_is_ok() {
    let (node, _agent) = serving();
    let report = check(&node);
    report.assert_all_ok();
    assert_live_works(&report);
    for (check, words) in [
        ("live.fresh-cgroup.tcp-ipv4", "198.51.100."),
        ("live.host.udp-ipv6", "[2001:db8:"),
        ("live.host.tcp-ipv6", "is translated and shown as the peer"),
        ("live.fresh-cgroup.refusal-ipv4", "is refused"),
        ("live.service", "added by the agent"),
        ("links.attached", "all 9 hooks"),
        ("agent.running", "process"),
        ("maps.drift", "the maps match the plan"),
        ("permissions.capabilities", "the agent has CAP_NET_ADMIN"),
    ] {
        report.assert(check, "ok", words);
    }
    assert_eq!(fresh_cgroups(&node), [""; 0]);
}

#[test]
fn the_table_has_one_line_for_each_check_and_a_summary() {
    let (node, _agent) = serving();
    let output = run(&node, &[]);
    let table = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("STATE  CHECK "), "{table}");
    let ok = lines.iter().filter(|line| line.starts_with("ok     ")).count();
    assert_eq!(lines.last().unwrap(), &format!("all {ok} checks are ok"), "{table}");
}

#[test]
fn the_json_has_stable_fields() {
    let (node, agent) = serving();
    drop(agent);
    let agent = node.start_agent();
    // Repeatedly, because the agent repairs links once after its first sync.
    let list = eventually("a check that fails", || {
        Damage::of(&node).detach("recvmsg4");
        let list = crate::common::results(&run(&node, &["-o", "json"]));
        let has_failed = list.iter().any(|result| result["state"] == "failed");
        holds(has_failed, format!("{list:?}")).map(|()| list)
    });
    for finding in &list {
        let fields: Vec<&str> = finding.as_object().unwrap().keys().map(String::as_str).collect();
        match finding["state"].as_str().unwrap() {
            "ok" => assert_eq!(fields, ["check", "message", "state"]),
            "warning" | "failed" => assert_eq!(fields, ["check", "message", "remedy", "state"]),
            other => panic!("{other}"),
        }
    }
    drop(agent);
}

#[test]
fn a_detached_hook_fails_and_its_connects_with_it() {
    let (node, _agent) = serving();
    // Repeatedly, because the agent repairs links once after its first sync.
    eventually("the hook to be gone", || {
        Damage::of(&node).detach("connect4");
        node.untouched(CART)
    });
    let report = check(&node);
    assert_eq!(report.exit, 1);
    report.assert("links.attached", "failed", "connect4 detached");
    report.assert("links.attached", "failed", "attaches them again");
    for connect in live(&["tcp-ipv4", "udp-ipv4", "refusal-ipv4"]) {
        report.assert(&connect, "failed", "198.51.100.");
    }
    for connect in live(&["tcp-ipv6", "udp-ipv6", "untouched-ipv4"]) {
        report.assert(&connect, "ok", "");
    }
}

#[test]
fn a_hook_that_hides_the_service_behind_its_backend_fails() {
    let (node, _agent) = serving();
    // Repeatedly, because the agent repairs links once after its first sync.
    eventually("the hooks to be gone", || {
        for link in ["getpeername4", "recvmsg6"] {
            Damage::of(&node).detach(link);
        }
        let report = check(&node);
        holds(report.all("failed").len() >= 7, format!("{:#?}", report.findings))
    });
    let report = check(&node);
    report.assert("links.attached", "failed", "getpeername4, recvmsg6 detached");
    for connect in live(&["tcp-ipv4", "udp-ipv4"]) {
        report.assert(&connect, "failed", "returns 127.0.0.1:");
    }
    for connect in live(&["udp-ipv6"]) {
        report.assert(&connect, "failed", "recvfrom() returns [::1]:");
    }
}

#[test]
fn links_on_a_recreated_cgroup_fail() {
    let (node, agent, inner) = on_an_inner_cgroup();
    fs::remove_dir(&inner).unwrap();
    make_threaded(&inner);
    let report = check(&node);
    assert_eq!(report.exit, 1);
    // A worker of the kernel releases the old cgroup.
    report.assert("links.attached", "failed", "all hooks ");
    report.assert("links.attached", "failed", " cgroup");
    report.assert("live.fresh-cgroup.tcp-ipv4", "failed", "connect() to");
    // The result of checking the links is cached for two seconds.
    eventually("503", || {
        let reply = agent.get("/readyz").unwrap();
        holds(reply.status == 503, reply.body)
    });
    drop(agent);
    fs::remove_dir(&inner).unwrap();
}

#[test]
fn a_cgroup_that_is_not_the_one_that_should_be_served_is_a_warning() {
    let (node, agent, inner) = on_an_inner_cgroup();
    let report = check(&node);
    assert_eq!(report.exit, 0, "a warning is no failure: {:#?}", report.findings);
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

fn on_an_inner_cgroup() -> (WebNode, Agent, PathBuf) {
    let node = WebNode::new(1);
    node.put_service("cart", CART);
    let inner = node.cgroup().join("inner");
    make_threaded(&inner);
    let mut options = options(&["--reconcile-interval", "3600s"]);
    options.cgroup = Some(inner.clone());
    let agent = node.agent(&options).unwrap();
    (node, agent, inner)
}

fn make_threaded(cgroup: &Path) {
    fs::create_dir(cgroup).unwrap();
    fs::write(cgroup.join("cgroup.type"), "threaded").unwrap();
}

#[test]
fn drift_is_reported_by_kind_and_not_repaired_by_the_check() {
    let (node, _agent) = serving();
    let damage = Damage::of(&node);
    damage.remove_frontend(&damage.frontend(80).key);
    damage.change_backends(|backend| backend.port = 1u16.to_be());
    let slot = damage.frontend(53).slot_start;
    damage.clear_slot(slot);
    for _ in 0..2 {
        let report = check(&node);
        assert_eq!(report.exit, 1);
        let words = "1 frontends missing, 2 backends changed, 1 slots changed";
        report.assert("maps.drift", "failed", words);
        assert_live_works(&report);
    }
}

#[test]
fn an_unplanned_frontend_is_reported() {
    let (node, _agent) = serving();
    let damage = Damage::of(&node);
    let mut foreign = damage.frontend(80);
    foreign.key.port = 81u16.to_be();
    damage.set_frontend(foreign);
    check(&node).assert("maps.drift", "failed", "1 frontends that are not planned");
}

#[test]
fn without_an_agent_the_connects_are_still_tried() {
    let (node, mut agent) = serving();
    agent.stop().unwrap();
    let report = check(&node);
    assert_eq!((report.exit, report.all("failed")), (0, vec![]), "{:#?}", report.findings);
    report.assert("agent.running", "warning", "start `sockline agent`");
    report.assert("maps.drift", "warning", "only a running agent has a plan");
    report.assert("live.service", "ok", "added by this command");
    assert_live_works(&report);
    assert_eq!(Damage::of(&node).frontends().keys().count(), 2, "no probe service is left");
    node.assert_served(CART);
    let _next = node.start_agent();
    node.assert_served(CART);
    check(&node).assert_all_ok();
}

#[test]
fn without_an_agent_the_check_does_not_change_damaged_maps() {
    let (node, mut agent) = serving();
    agent.stop().unwrap();
    let damage = Damage::of(&node);
    let entry = damage.frontend(80);
    damage.clear_slot(entry.slot_start);
    let report = check(&node);
    assert_eq!(report.exit, 1);
    report.assert("live.service", "failed", "the maps have entries that no agent wrote");
    assert_eq!(damage.frontend(80), entry);
    let owned = damage.change_backends(|_| {});
    assert_eq!(owned, 2, "no backend was freed");
}

#[test]
fn an_agent_that_does_not_answer_fails() {
    let (node, agent) = serving();
    fs::rename(agent.admin_socket(), agent.admin_socket().with_extension("away")).unwrap();
    let report = check(&node);
    assert_eq!(report.exit, 1);
    report.assert("agent.running", "failed", &format!("process {} holds the pins", agent.pid()));
    report.assert("live.service", "failed", "no agent answers on");
}

#[test]
fn a_program_of_another_owner_that_refuses_is_detected_and_named() {
    let (node, _agent) = serving();
    foreign::attach_connect4(node.cgroup(), "cil_sock4_conne", foreign::REFUSE);
    let report = check(&node);
    assert_eq!(report.exit, 1);
    let words = "cil_sock4_conne (Cilium's socket load balancer) on connect4";
    report.assert("links.foreign", "warning", words);
    for connect in live(&["tcp-ipv4", "udp-ipv4", "untouched-ipv4"]) {
        report.assert(&connect, "failed", "a program on the hook refuses it");
    }
    for connect in live(&["tcp-ipv6", "udp-ipv6"]) {
        report.assert(&connect, "ok", "");
    }
}

#[test]
fn a_program_of_another_owner_that_redirects_is_detected() {
    let (node, _agent) = serving();
    foreign::attach_connect4(node.cgroup(), "calico_connect_", foreign::REDIRECT);
    let report = check(&node);
    assert_eq!(report.exit, 1);
    report.assert("links.foreign", "warning", "calico_connect_ (Calico's connect-time");
    for connect in live(&["tcp-ipv4", "udp-ipv4", "untouched-ipv4"]) {
        report.assert(&connect, "failed", "Connection refused");
    }
}

#[test]
fn a_harmless_program_of_another_owner_is_a_warning() {
    let (node, _agent) = serving();
    foreign::attach_connect4(node.cgroup(), "monitor", foreign::ALLOW);
    let report = check(&node);
    assert_eq!(report.exit, 0, "{:#?}", report.findings);
    report.assert("links.foreign", "warning", "monitor on connect4");
    assert_eq!(report.all("warning"), ["links.foreign"]);
    assert_live_works(&report);
}

#[test]
fn a_full_map_fails() {
    let node = WebNode::new(1);
    for name in ["cart", "ship"] {
        node.put_service(name, if name == "cart" { CART } else { SHIP });
    }
    let _agent = node.start_agent_with(&["--max-frontends", "3"]);
    let report = check(&node);
    assert_eq!(report.exit, 1);
    report.assert("maps.frontends", "failed", "full: 3 of 3 (100 %) → raise --max-frontends");
    report.assert("state.complete", "failed", "not in the kernel: shop/ship");
    report.assert("live.service", "failed", "map `FRONTENDS` is full: its limit is 3 entries");
    assert_eq!(Damage::of(&node).frontends().keys().count(), 3, "nothing was left behind");
}

#[test]
fn a_test_service_that_does_not_fit_is_not_left_half() {
    let (node, _agent) = serving_with(&["--max-frontends", "6"]);
    let report = check(&node);
    assert_eq!(report.all("failed"), ["live.service"], "{:#?}", report.findings);
    assert_eq!(frontends(&node), OWN);
}

#[test]
fn a_node_without_ipv6_is_ok() {
    let (node, _agent) = serving();
    node.node.outside().run(|| fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1")).unwrap();
    let report = check(&node);
    report.assert_all_ok();
    for connect in live(&["tcp-ipv6", "udp-ipv6", "refusal-ipv6", "untouched-ipv6"]) {
        report.assert(&connect, "ok", "skipped: IPv6 is off here");
    }
    for connect in live(&["tcp-ipv4", "udp-ipv4"]) {
        report.assert(&connect, "ok", "is translated");
    }
}

#[test]
fn refusals_may_be_eperm_on_an_older_kernel() {
    let (node, _agent) = serving_with(&["--without-features", "set-retval"]);
    let report = check(&node);
    report.assert_all_ok();
    report.assert("kernel.features", "ok", "refusals are EPERM");
}

#[test]
fn checks_may_run_in_parallel() {
    let (node, _agent) = serving();
    let running: Vec<Child> = (0..4)
        .map(|_| {
            let mut command = Command::new(sockline_binary().unwrap());
            command
                .args(["check", "-o", "json", "--cgroup-root"])
                .arg(node.cgroup())
                .arg("--bpf-root")
                .arg(node.bpffs())
                .arg("--admin-socket")
                .arg(node.temp().join("admin.sock"))
                .stdin(Stdio::null())
                .stdout(Stdio::piped());
            node.outside().child(&mut command).unwrap()
        })
        .collect();
    let reports = running.into_iter().map(|child| Report::of(&child.wait_with_output().unwrap()));
    for report in reports {
        report.assert_all_ok();
    }
}

#[test]
fn the_quick_part_is_the_agent_and_the_links() {
    let (node, agent) = serving();
    let report = Report::of(&run(&node, &["--quick", "-o", "json"]));
    report.assert_all_ok();
    let all =
        ["agent.control-loop", "agent.fail-open", "agent.ready", "agent.running", "links.attached"];
    assert_eq!(report.all("ok"), all);
    // Repeatedly, because the agent repairs links once after its first sync.
    eventually("the quick part to report the link", || {
        Damage::of(&node).detach("sendmsg6");
        let report = Report::of(&run(&node, &["--quick", "-o", "json"]));
        let failed = (report.exit, report.all("failed"));
        holds(failed == (1, vec!["links.attached"]), format!("{failed:?}"))
    });
    drop(agent);
}

#[test]
fn where_no_agent_ever_was_there_is_nothing_to_check() {
    let node = WebNode::new(0);
    let output = run(&node, &[]);
    assert_eq!(output.status.code(), Some(2));
    let said = error_of(&output);
    assert!(said.starts_with("error: nothing of sockline is pinned in "), "{said}");
}

#[test]
fn only_root_can_check() {
    let binary = PathBuf::from("/tmp").join(format!("sockline-check-{}", std::process::id()));
    fs::copy(sockline_binary().unwrap(), &binary).unwrap();
    let output = Command::new(&binary).arg("check").uid(65534).gid(65534).output();
    fs::remove_file(&binary).unwrap();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(error_of(&output).starts_with("error: sockline check must run as root"));
}

#[test]
fn the_help_documents_the_exit_status() {
    let help = Command::new(sockline_binary().unwrap())
        .args(["check", "--help"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for words in ["--quick", "[env: SOCKLINE_CGROUP_ROOT=", "Exit status:", "2  cannot check"] {
        assert!(help.contains(words), "{words}: {help}");
    }
    let all = Command::new(sockline_binary().unwrap()).arg("--help").output().unwrap();
    let all = String::from_utf8(all.stdout).unwrap();
    assert!(!all.lines().any(|line| line.starts_with("  check-probe")), "a hidden command: {all}");
}

/// A client of the admin socket that has a probe service, as a check that hangs would.
struct Lease(BufReader<UnixStream>);

impl Lease {
    fn take(socket: &Path) -> Self {
        let mut stream = UnixStream::connect(socket).unwrap();
        let body = r#"{"tcp4": 1, "udp4": 2, "tcp6": 3, "udp6": 4}"#;
        let length = body.len();
        write!(
            stream,
            "POST /probe-service HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut this = Self(BufReader::new(stream));
        while !this.line().starts_with("{\"number\":") {}
        this
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert_ne!(self.0.read_line(&mut line).unwrap(), 0, "the agent closed the connection");
        line
    }
}

/// Frontends of `cart` (two), and those of one probe service.
const OWN: usize = 2;
const OF_TEST: usize = 6;

fn frontends(node: &WebNode) -> usize {
    Damage::of(node).frontends().keys().count()
}

#[track_caller]
fn eventually_frontends(node: &WebNode, count: usize) {
    eventually(&format!("{count} frontends"), || {
        let seen = frontends(node);
        holds(seen == count, seen)
    });
}

#[test]
fn a_killed_check_leaves_nothing() {
    let (node, agent) = serving();
    let lease = Lease::take(agent.admin_socket());
    assert_eq!(frontends(&node), OWN + OF_TEST);
    drop(lease);
    eventually_frontends(&node, OWN);
    check(&node).assert_all_ok();
}

#[test]
fn a_check_that_hangs_loses_its_service_after_a_while() {
    let (node, agent) = serving();
    let mut lease = Lease::take(agent.admin_socket());
    while !lease.line().starts_with("over") {}
    eventually_frontends(&node, OWN);
}

#[test]
fn the_test_service_stays_over_syncs_and_repairs() {
    let (node, agent) = serving_with(&REPAIRS);
    let _lease = Lease::take(agent.admin_socket());
    // A service at one of the node's addresses needs a sync of the whole plan.
    node.put_service("ship", "192.0.2.10");
    node.eventually_served("192.0.2.10");
    assert_eq!(frontends(&node), OWN + 2 + OF_TEST);
    let damage = Damage::of(&node);
    damage.remove_frontend(&damage.frontend(80).key);
    eventually_frontends(&node, OWN + 2 + OF_TEST);
    check(&node).assert("maps.drift", "ok", "");
}

#[test]
fn the_test_service_is_in_no_listing_and_no_metric() {
    let (node, agent) = serving();
    let _lease = Lease::take(agent.admin_socket());
    assert_eq!(node.services(), ["shop/cart"]);
    let listing = node.look(&["backends"]);
    let listing = String::from_utf8(listing.stdout).unwrap();
    assert!(!listing.contains("check"), "{listing}");
    // A sync sets the gauges.
    node.put_service("ship", SHIP);
    node.eventually_served(SHIP);
    let gauges = ["sockline_service_ports", "sockline_frontends", "sockline_backends"];
    eventually("the gauges to count two services of two ports each, and nothing else", || {
        let metrics = agent.metrics().unwrap();
        let seen = gauges.map(|name| series(&metrics, name));
        holds(seen == [Some(4.0); 3], format!("{seen:?}"))
    });
    assert_eq!(frontends(&node), OWN + 2 + OF_TEST, "the probe service is still there");
    let metrics = agent.metrics().unwrap();
    assert_eq!(crate::common::lines_with(&metrics, "check/"), [""; 0]);
}

#[test]
fn at_most_eight_checks_have_a_service() {
    let (node, agent) = serving();
    let leases: Vec<Lease> = (0..8).map(|_| Lease::take(agent.admin_socket())).collect();
    check(&node).assert("live.service", "failed", "8 checks run already");
    drop(leases);
    eventually_frontends(&node, OWN);
}

#[test]
fn the_next_agent_removes_what_a_killed_agent_left_of_a_check() {
    let (node, mut agent) = serving();
    let lease = Lease::take(agent.admin_socket());
    agent.kill().unwrap();
    drop(lease);
    assert_eq!(frontends(&node), OWN + OF_TEST);
    let _next = node.start_agent();
    eventually_frontends(&node, OWN);
    node.assert_served(CART);
}

#[test]
fn the_next_check_removes_what_a_killed_agent_left_of_a_check() {
    let (node, mut agent) = serving();
    let _lease = Lease::take(agent.admin_socket());
    agent.kill().unwrap();
    let report = check(&node);
    report.assert("live.service", "ok", "added by this command");
    assert_live_works(&report);
    assert_eq!(frontends(&node), OWN);
    node.assert_served(CART);
}

#[test]
fn readiness_is_lost_with_the_links_and_returns_with_them() {
    let (node, agent) = serving_with(&REPAIRS);
    let links = Damage::of(&node).pins().links();
    assert_eq!(agent.get("/readyz").unwrap().body, "ok\n");
    // Repeatedly, because the agent repairs it every second.
    eventually("503", || {
        let _ = fs::remove_file(links.join("connect4"));
        let reply = agent.get("/readyz").unwrap();
        holds(reply.status == 503, &reply.body).map(|()| {
            assert_eq!(reply.body, "connect4 not attached\n");
        })
    });
    assert_eq!(agent.get("/healthz").unwrap().status, 200);
    eventually("200", || {
        let reply = agent.get("/readyz").unwrap();
        holds(reply.status == 200, &reply.body)
    });
    check(&node).assert("links.attached", "ok", "");
}

#[test]
fn readiness_is_lost_when_the_program_of_a_link_is_replaced() {
    let (node, agent) = serving_with(&["--reconcile-interval", "3600s"]);
    let pins = Damage::of(&node);
    let links = pins.pins().links();
    // The link of the other hook under the name of this one.
    fs::remove_file(links.join("connect4")).unwrap();
    fs::rename(links.join("sendmsg4"), links.join("connect4")).unwrap();
    eventually("503", || {
        let reply = agent.get("/readyz").unwrap();
        holds(reply.status == 503, &reply.body).map(|()| {
            assert_eq!(
                reply.body,
                "connect4 attached with a program that is not the agent's; sendmsg4 not attached\n"
            );
        })
    });
    let words = "connect4 attached with a program that is not the agent's";
    check(&node).assert("links.attached", "failed", words);
}
