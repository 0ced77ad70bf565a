//! What the command prints, and how it exits.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use sockline_testbed::sockline_binary;

use super::{Report, assert_live_works, check, fresh_cgroups, live, run, serving};
use crate::common::{WebNode, damage::Damage, error_of, eventually, holds};

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
    for result in &list {
        let fields: Vec<&str> = result.as_object().unwrap().keys().map(String::as_str).collect();
        match result["state"].as_str().unwrap() {
            "ok" => assert_eq!(fields, ["check", "message", "state"]),
            "warning" | "failed" => assert_eq!(fields, ["check", "message", "remedy", "state"]),
            other => panic!("{other}"),
        }
    }
    drop(agent);
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
    let (node, _agent) = WebNode::serving(1, &["--without-features", "set-retval"]);
    let report = check(&node);
    report.assert_all_ok();
    report.assert("kernel.features", "ok", "refusals are EPERM");
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
