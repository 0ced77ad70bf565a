//! An agent that cannot start says why in one line.

use std::{
    fs,
    mem::offset_of,
    net::{Ipv4Addr, TcpListener},
    os::unix::process::CommandExt as _,
    process::{Command, Output, Stdio},
};

use crate::common::error_of;
use sockline::dataplane::Pins;
use sockline_ebpf::agent_state::AgentState;
use sockline_testbed::{AgentOptions, Node, bpf::RawMap, sockline_binary};

/// `sockline agent` with what it needs, to be changed.
fn agent(node: &Node) -> Command {
    let mut command = Command::new(sockline_binary().unwrap());
    command
        .arg("agent")
        .arg("--bpf-root")
        .arg(node.bpffs())
        .arg("--admin-socket")
        .arg(node.temp().join("admin.sock"))
        .env_remove("KUBERNETES_SERVICE_HOST")
        .stdin(Stdio::null());
    command
}

fn on_its_cgroup(node: &Node) -> Command {
    let mut command = agent(node);
    command.arg("--cgroup-root").arg(node.cgroup());
    command
}

fn with_manifests(node: &Node) -> Command {
    let mut command = on_its_cgroup(node);
    command.arg("--manifests").arg(node.manifests());
    command
}

/// Standard error without the log, which has no warnings but those of missing kernel features.
#[track_caller]
fn complaint(node: &Node, command: &mut Command) -> String {
    let output = node.outside().output(command).unwrap();
    let said = error_of(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let is_usual = |line: &&str| line.contains(" INFO ") || line.contains("this kernel lacks ");
    let lines: Vec<&str> = said.lines().filter(|line| !is_usual(line)).collect();
    assert_eq!(lines.len(), 1, "not one line: {said}");
    lines[0].to_owned()
}

#[test]
fn an_agent_that_is_not_root_says_so() {
    let node = Node::new().unwrap();
    // Its user cannot read the folders that lead to the built binary.
    let binary = std::path::PathBuf::from("/tmp").join(format!("sockline-{}", std::process::id()));
    fs::copy(sockline_binary().unwrap(), &binary).unwrap();
    let mut command = Command::new(&binary);
    command.args(["agent", "--manifests", "/tmp"]).uid(65534).gid(65534).stdin(Stdio::null());
    let output = node.outside().output(&mut command);
    fs::remove_file(&binary).unwrap();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = error_of(&output);
    let errors = crate::common::lines_with(&said, "error: ");
    assert_eq!(
        errors,
        ["error: sockline agent must run as root: it loads BPF programs and attaches them to the \
          root cgroup (CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN), and keeps them in /sys/fs/bpf"],
        "{said}"
    );
}

#[test]
fn a_cgroup_outside_of_cgroup_v2_is_an_error() {
    let node = Node::new().unwrap();
    let mut command = agent(&node);
    command.args(["--cgroup-root", "/proc", "--manifests"]).arg(node.manifests());
    let complaint = complaint(&node, &mut command);
    assert!(
        complaint.starts_with("error: --cgroup-root /proc: not in a cgroup v2 file system"),
        "{complaint}"
    );
}

#[test]
fn a_cgroup_that_does_not_exist_is_an_error() {
    let node = Node::new().unwrap();
    let mut command = agent(&node);
    command
        .args(["--cgroup-root", "/sys/fs/cgroup/none-such", "--manifests"])
        .arg(node.manifests());
    assert_eq!(
        complaint(&node, &mut command),
        "error: cannot use --cgroup-root /sys/fs/cgroup/none-such: No such file or directory (os error 2)"
    );
}

#[test]
fn a_metrics_address_in_use_is_an_error() {
    let node = Node::new().unwrap();
    let taken = node.outside().run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let address = taken.local_addr().unwrap().to_string();
    let complaint =
        complaint(&node, with_manifests(&node).args(["--metrics-bind-address", &address]));
    assert_eq!(
        complaint,
        format!(
            "error: cannot listen on {address} (--metrics-bind-address): Address already in use (os error 98)"
        )
    );
}

#[test]
fn a_kubeconfig_that_does_not_exist_is_an_error() {
    let node = Node::new().unwrap();
    let complaint = complaint(&node, on_its_cgroup(&node).args(["--kubeconfig", "/none-such"]));
    assert!(complaint.starts_with("error: cannot use the kubeconfig /none-such: "), "{complaint}");
    assert!(complaint.contains("No such file or directory"), "{complaint}");
}

#[test]
fn outside_of_a_cluster_a_source_is_required() {
    let node = Node::new().unwrap();
    assert_eq!(
        complaint(&node, &mut on_its_cgroup(&node)),
        "error: not in a cluster: the environment variable KUBERNETES_SERVICE_HOST is not set; in \
         a pod Kubernetes sets it, elsewhere name a kubeconfig"
    );
}

#[test]
fn a_source_that_cannot_be_used_leaves_the_kernel_state_unchanged() {
    let node = Node::new().unwrap();
    complaint(&node, on_its_cgroup(&node).args(["--kubeconfig", "/none-such"]));
    let left = node.bpffs().join("sockline");
    assert!(!left.exists(), "{} was made", left.display());
}

#[test]
fn a_node_name_that_is_too_long_is_an_error() {
    let node = Node::new().unwrap();
    let name = "n".repeat(254);
    let complaint = complaint(&node, with_manifests(&node).args(["--node-name", &name]));
    assert_eq!(
        complaint,
        format!("error: --node-name \"{name}\": the name of a Node has 1 to 253 characters")
    );
}

/// The parser reports errors of the command line, with its own exit code.
#[track_caller]
fn usage_error(node: &Node, command: &mut Command) -> String {
    let output: Output = node.outside().output(command).unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", error_of(&output));
    error_of(&output).lines().next().unwrap_or_default().to_owned()
}

#[test]
fn manifests_and_a_kubeconfig_together_are_an_error() {
    let node = Node::new().unwrap();
    let complaint = usage_error(&node, with_manifests(&node).args(["--kubeconfig", "/none-such"]));
    assert_eq!(
        complaint,
        "error: the argument '--manifests <DIR>' cannot be used with '--kubeconfig <FILE>'"
    );
}

#[test]
fn a_limit_of_zero_is_an_error() {
    let node = Node::new().unwrap();
    let complaint = usage_error(&node, with_manifests(&node).args(["--max-frontends", "0"]));
    assert!(complaint.contains("'--max-frontends <N>'"), "{complaint}");
}

#[test]
fn metrics_of_clients_that_are_not_counted_are_an_error() {
    let node = Node::new().unwrap();
    for off in ["--client-counts=false", "--telemetry=off"] {
        let mut agent = with_manifests(&node);
        let complaint = complaint(&node, agent.args(["--metrics-dialect", "istio", off]));
        let expected = "error: --metrics-source-workload and --metrics-dialect=istio need \
                        --client-counts=true and --telemetry=on";
        assert!(complaint.ends_with(expected), "{complaint}");
    }
}

#[test]
fn commands_that_read_a_node_without_sockline_say_so() {
    let node = Node::new().unwrap();
    for command in ["status", "services", "backends"] {
        let mut process = Command::new(sockline_binary().unwrap());
        process.arg(command).arg("--bpf-root").arg(node.bpffs());
        assert_eq!(
            complaint(&node, &mut process),
            format!(
                "error: nothing of sockline is pinned in {}: start an agent, or pass the --bpf-root of the one that runs",
                node.bpffs().join("sockline").display()
            ),
            "{command}"
        );
    }
}

/// The variables of `sockline agent`, from its help.
fn variables() -> Vec<String> {
    let mut help = Command::new(sockline_binary().unwrap());
    let help = help.args(["agent", "--help"]).output().unwrap().stdout;
    let help = String::from_utf8(help).unwrap();
    let lines = help.lines().filter_map(|line| line.trim().strip_prefix("[env: "));
    let names = lines.filter_map(|line| line.split('=').next());
    names.map(|name| name.trim_end_matches(']').to_owned()).collect()
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let node = Node::new().unwrap();
    let mut variables = variables();
    assert!(variables.len() > 10, "{variables:?}");
    variables.push("NODE_NAME".to_owned());
    let env = variables.into_iter().map(|name| (name, String::new())).collect();
    node.agent(&AgentOptions { env, ..AgentOptions::default() }).unwrap();
}

#[test]
fn a_boolean_variable_accepts_the_usual_words() {
    let node = Node::new().unwrap();
    let variable = "SOCKLINE_EXCLUDE_NESTED_NAMESPACES";
    for (word, is_on) in [("1", true), ("yes", true), ("true", true), ("0", false), ("no", false)] {
        let env = vec![(variable.to_owned(), word.to_owned())];
        let agent = node.agent(&AgentOptions { env, ..AgentOptions::default() }).unwrap();
        let pin = Pins::in_bpffs(node.bpffs()).map("AGENT_STATE");
        let state = RawMap::pinned(&pin).unwrap().get(&0u32.to_ne_bytes()).unwrap().unwrap();
        let word_at = offset_of!(AgentState, exclude_nested);
        let seen = u64::from_ne_bytes(state[word_at..][..8].try_into().unwrap());
        assert_eq!(seen != 0, is_on, "{word}: {}", agent.log());
    }
    let mut command = with_manifests(&node);
    let output = node.outside().output(command.env(variable, "maybe")).unwrap();
    let said = error_of(&output);
    assert!(said.contains("invalid value 'maybe' for '--exclude-nested-namespaces'"), "{said}");
}

#[test]
fn the_log_is_text_lines_or_json_objects() {
    let node = Node::new().unwrap();
    for (format, is_json) in [("json", true), ("text", false)] {
        let env = vec![("SOCKLINE_LOG_FORMAT".to_owned(), format.to_owned())];
        let agent = node.agent(&AgentOptions { env, ..AgentOptions::default() }).unwrap();
        assert_eq!(agent.log().starts_with('{'), is_json, "{format}: {}", agent.log());
    }
}

#[test]
fn an_option_of_version_0_1_is_an_error_that_names_the_new_one() {
    let node = Node::new().unwrap();
    let mut command = with_manifests(&node);
    let output = node.outside().output(command.env("SOCKLINE_BPFFS", "/sys/fs/bpf")).unwrap();
    assert_eq!(
        error_of(&output),
        "error: the variable SOCKLINE_BPFFS of an earlier build was renamed to SOCKLINE_BPF_ROOT\n"
    );
    assert_eq!(output.status.code(), Some(2));
}
