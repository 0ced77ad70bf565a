//! Malicious input and local users: they affect neither other services nor the agent.

use std::{
    env, fs, io,
    net::TcpStream,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, symlink},
        net::UnixStream,
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::Command,
};

use crate::common::{CART, REPAIRS, WebNode, error_of, eventually, holds, lines_with};
use nix::{sys::stat::Mode, unistd::mkfifo};
use serde_json::{Value, json};
use sockline::dataplane::Pins;
use sockline_testbed::{Agent, objects};

const SHIP: &str = "10.96.0.2";

/// In MiB, the most memory that the agent ever had.
fn peak(agent: &Agent) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
}

/// The most that an idle agent has; a debug build has more than a release build.
const IDLE: u64 = 100;

/// The folder is read, `ship` is served, and a change of it reaches the kernel.
#[track_caller]
fn assert_ship_is_served_and_changes(node: &WebNode) {
    node.assert_served(SHIP);
    for addresses in [&node.web_addresses()[1..], &node.web_addresses()[..]] {
        let slice = objects::slice("ship", addresses);
        node.put("ship.yaml", &[objects::service("ship", SHIP), slice]);
        let wanted: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        eventually("the change", || {
            let seen = node.backends("ship", "web");
            holds(seen == wanted, format!("{seen:?}"))
        });
    }
    node.assert_served(SHIP);
}

/// Starts an agent with `ship` and further manifests.
fn node(put: impl Fn(&WebNode)) -> (WebNode, Agent) {
    let node = WebNode::new(2);
    node.put_service("ship", SHIP);
    put(&node);
    let agent = node.start_agent();
    (node, agent)
}

fn with_ports(count: usize) -> Value {
    let ports: Vec<Value> = (0..count)
        .map(|number| json!({"name": format!("p{number}"), "port": number % 65535 + 1, "protocol": "TCP"}))
        .collect();
    let mut service = objects::web_service("cart", CART);
    service["spec"]["ports"] = json!(ports);
    service
}

#[test]
fn the_ports_of_a_service_are_limited() {
    let (node, agent) = node(|node| {
        // As JSON: a debug build needs long to parse as much YAML.
        node.put_text("cart.json", &with_ports(20_000).to_string());
    });
    node.eventually_input_errors(&[
        "Service shop/cart: spec.ports: 20000 of them; only the first 16384 are used",
    ]);
    let of_cart = node.services().iter().filter(|name| *name == "shop/cart").count();
    assert!(of_cart > 0, "{:?}", node.services().len());
    assert_ship_is_served_and_changes(&node);
    node.put_text("cart.json", &with_ports(100_000).to_string());
    node.eventually_input_errors(&[
        "Service shop/cart: larger than an API server accepts; what is programmed for it stays",
    ]);
    assert_ship_is_served_and_changes(&node);
    assert!(peak(&agent) < IDLE + 300, "{} MiB", peak(&agent));
}

#[test]
fn a_list_is_never_in_memory_as_a_whole() {
    let pod = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "d", "labels": {"a": "b", "c": "d"}},
        "spec": {"containers": [{"name": "x", "image": "y", "ports": [{"containerPort": 1}]}]},
    });
    let list = json!({"apiVersion": "v1", "kind": "List", "items": vec![pod; 100_000]});
    let (node, agent) = node(|node| node.put_text("list.json", &list.to_string()));
    node.eventually_input_errors(&[
        "file list.json, document 1: items[0].kind: Deployment (apps/v1) is not used here; ignored",
    ]);
    assert_ship_is_served_and_changes(&node);
    // The text has 20 MB; parsed it would have ten times as much.
    assert!(peak(&agent) < IDLE + 100, "{} MiB", peak(&agent));
}

#[test]
fn a_file_that_is_too_large_is_reported() {
    let (node, agent) = node(|node| node.put_text("large.yaml", &"# x\n".repeat(9 << 20)));
    node.eventually_input_errors(&[
        "file large.yaml: cannot be read: larger than 32 MiB; it is skipped",
    ]);
    assert_ship_is_served_and_changes(&node);
    assert!(peak(&agent) < IDLE + 100, "{} MiB", peak(&agent));
}

#[test]
fn a_special_file_does_not_block_the_folder() {
    let (node, _agent) = node(|node| {
        let folder = node.manifests();
        mkfifo(&folder.join("pipe.yaml"), Mode::S_IRWXU).unwrap();
        symlink("loop.yaml", folder.join("loop.yaml")).unwrap();
        symlink("/dev/zero", folder.join("device.yaml")).unwrap();
        fs::create_dir(folder.join("folder.yaml")).unwrap();
    });
    let loops = "file loop.yaml: cannot be read: Too many levels of symbolic links (os error 40); it \
                 is skipped";
    node.eventually_input_errors(&[loops]);
    assert_ship_is_served_and_changes(&node);
}

/// Documents that are made to exhaust their reader.
fn bombs() -> Vec<(&'static str, String)> {
    let laughs: String =
        (1..9).map(|n| format!("a{n}: &a{n} [{}]\n", format!("*a{}, ", n - 1).repeat(9))).collect();
    vec![
        ("laughs.yaml", format!("a0: &a0 [ha, ha]\n{laughs}")),
        ("deep.yaml", "[".repeat(100_000)),
        ("deep.json", "[".repeat(100_000)),
        ("deep-block.yaml", (0..3000).map(|n| format!("{}a:\n", " ".repeat(n))).collect()),
        ("deep-object.json", "{\"a\":".repeat(100_000)),
        ("keys.yaml", "? ".repeat(50_000)),
        ("anchors.yaml", (0..60_000).map(|n| format!("- &a{n} x\n")).collect()),
    ]
}

#[test]
fn a_document_that_expands_or_nests_without_bound_costs_only_itself() {
    let (node, agent) = node(|node| {
        for (file, text) in bombs() {
            node.put_text(file, &text);
        }
    });
    eventually("every bomb to be reported", || {
        let input_errors = node.wrong("invalidObjects");
        let reported = |file: &str| {
            input_errors
                .iter()
                .any(|input_error| input_error.starts_with(&format!("file {file}, ")))
        };
        let untold: Vec<_> =
            bombs().into_iter().map(|(file, _)| file).filter(|file| !reported(file)).collect();
        holds(untold.is_empty(), format!("{untold:?} of {input_errors:#?}"))
    });
    assert_ship_is_served_and_changes(&node);
    assert!(peak(&agent) < IDLE + 200, "{} MiB", peak(&agent));
}

/// Names of objects as an attacker would choose them, to forge lines in logs and terminals.
const FORGED: &str = "x\n2026-01-01T00:00:00Z ERROR all is lost\u{1b}[2J\u{202e}";

#[test]
fn a_name_cannot_forge_a_log_line_or_a_row_of_a_table() {
    let (node, agent) = node(|node| {
        let mut named = objects::web_service("cart", CART);
        named["metadata"]["name"] = json!(FORGED);
        let mut port = objects::web_service("port", "10.96.0.3");
        port["spec"]["ports"][0]["name"] = json!(FORGED);
        let mut kind = objects::web_service("kind", "10.96.0.4");
        kind["kind"] = json!(FORGED);
        node.put_text("cart.json", &format!("{named}\n{port}\n{kind}"));
        let file = format!("{}.yaml", FORGED.replace('/', "_"));
        fs::write(node.manifests().join(file), "kind: [").unwrap();
    });
    let input_errors = || node.wrong("invalidObjects").len();
    eventually("the input errors", || holds(input_errors() >= 4, input_errors()));
    let printed = |args: &[&str]| String::from_utf8(node.look(args).stdout).unwrap();
    let reported = [
        agent.log(),
        printed(&["status"]),
        printed(&["services"]),
        printed(&["backends"]),
        printed(&["check", "--quick"]),
    ];
    assert!(reported[1].contains("all is lost"), "it is not reported at all: {}", reported[1]);
    for text in reported {
        let raw: Vec<char> =
            text.chars().filter(|c| (c.is_control() && *c != '\n') || *c == '\u{202e}').collect();
        assert!(raw.is_empty(), "{raw:?} in {text}");
        let forged = text.lines().find(|line| line.starts_with("2026-01-01"));
        assert_eq!(forged, None, "{text}");
    }
    // Programs get the original name.
    let json = node.wrong("invalidObjects").concat();
    assert!(json.contains("all is lost"), "{json}");
    assert_ship_is_served_and_changes(&node);
}

/// A process of another user, in the node's network namespace.
fn as_nobody(node: &WebNode, program: &str, args: &[&str]) -> std::process::Output {
    let mut command = Command::new(program);
    command.args(args).uid(65534).gid(65534);
    node.outside().output(&mut command).unwrap()
}

#[test]
fn another_user_cannot_open_the_pins_or_the_admin_socket() {
    let (node, agent) = node(|_| {});
    let root = node.bpffs().join("sockline");
    for place in [&root, &root.join("v2/maps/FRONTENDS"), &agent.admin_socket().to_path_buf()] {
        let path = place.to_str().unwrap();
        let shown = as_nobody(&node, "cat", &[path]);
        assert!(!shown.status.success() && shown.stdout.is_empty(), "{path}: {shown:?}");
        // The access is denied; a missing file would prove nothing.
        assert!(error_of(&shown).contains("Permission denied"), "{path}: {}", error_of(&shown));
    }
    private(&root).unwrap();
}

/// Whatever the mode of the socket's file and of its folder.
#[test]
fn another_user_gets_no_answer_from_a_world_writable_admin_socket() {
    const ASK: &str = r#"
        use IO::Socket::UNIX;
        $| = 1;
        my $agent = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die "connect: $!";
        print "connected\n";
        print $agent "GET /status HTTP/1.0\r\n\r\n";
        $agent->flush;
        print <$agent>;
    "#;
    let (node, agent) = node(|_| {});
    let path = agent.admin_socket();
    for open in path.ancestors().take_while(|path| **path != *env::temp_dir()) {
        fs::set_permissions(open, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let args = ["-e", ASK, path.to_str().unwrap()];
    let ask = |user: u32| {
        let mut command = Command::new("perl");
        command.args(args).uid(user).gid(user);
        let output = node.outside().output(&mut command).unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let (root, other) = (ask(0), ask(65534));
    assert!(root.contains("200 OK"), "{root}");
    assert_eq!(other, "connected\n");
}

/// Checks that only root can open every folder and every pin; else the paths that others can open.
fn private(path: &Path) -> Result<(), String> {
    let found = fs::symlink_metadata(path).map_err(|error| format!("{path:?}: {error}"))?;
    let wanted = if found.is_dir() { 0o700 } else { 0o600 };
    let seen = (found.uid(), found.gid(), found.mode() & 0o7777);
    if seen != (0, 0, wanted) {
        return Err(format!("{}: {seen:?}, mode {:o}", path.display(), seen.2));
    }
    if found.is_dir() {
        for entry in fs::read_dir(path).map_err(|error| error.to_string())? {
            private(&entry.map_err(|error| error.to_string())?.path())?;
        }
    }
    Ok(())
}

/// Makes the pinned folder and a pin accessible to all users.
fn open_to_all(node: &WebNode) -> (PathBuf, PathBuf) {
    let root = node.bpffs().join("sockline");
    let map = Pins::in_bpffs(node.bpffs()).map("FRONTENDS");
    fs::set_permissions(&root, fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(&map, fs::Permissions::from_mode(0o666)).unwrap();
    (root, map)
}

#[test]
fn the_next_agent_restricts_pins_that_others_can_open() {
    let (node, mut agent) = node(|_| {});
    agent.stop().unwrap();
    let (root, map) = open_to_all(&node);
    std::os::unix::fs::chown(&map, Some(65534), Some(65534)).unwrap();
    let _next = node.start_agent();
    private(&root).unwrap();
}

#[test]
fn a_running_agent_restricts_pins_that_others_can_open() {
    let node = WebNode::new(2);
    node.put_service("ship", SHIP);
    let _agent = node.start_agent_with(&REPAIRS);
    let (root, _) = open_to_all(&node);
    eventually("the pins are closed", || private(&root));
}

#[test]
fn a_client_that_floods_the_admin_socket_does_not_block_status() {
    let (node, agent) = node(|_| {});
    let held: Vec<_> =
        (0..100).map(|_| UnixStream::connect(agent.admin_socket()).unwrap()).collect();
    assert_eq!(node.status()["agent"]["ready"], json!(true));
    drop(held);
}

#[test]
fn a_client_that_floods_the_metrics_server_does_not_block_scrapes() {
    let (node, agent) = node(|_| {});
    let connect = || -> io::Result<Vec<TcpStream>> {
        (0..100).map(|_| TcpStream::connect(agent.listen())).collect()
    };
    let held = node.outside().run(connect).unwrap();
    assert!(agent.metrics().unwrap().contains("sockline_service_ports"));
    drop(held);
}

#[test]
fn another_file_in_place_of_the_admin_socket_is_reported_and_not_removed() {
    let node = WebNode::new(1);
    let place = node.temp().join("admin.sock");
    let target = node.temp().join("target");
    fs::write(&target, "precious").unwrap();
    symlink(&target, &place).unwrap();
    let Err(error) = node.agent(&crate::common::options(&[])) else { panic!("it started") };
    let said = format!("{error:#}");
    assert!(said.contains("admin.sock: a symbolic link is in its place"), "{said}");
    assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
    fs::remove_file(&place).unwrap();
    fs::write(&place, "precious").unwrap();
    let Err(error) = node.agent(&crate::common::options(&[])) else { panic!("it started") };
    let said = format!("{error:#}");
    assert!(said.contains("admin.sock: something that is no socket is in its place"), "{said}");
    assert_eq!(lines_with(&said, "remove it if nobody needs it").len(), 1, "{said}");
}
