//! Input and neighbours that mean harm: they cost themselves, and no service beside them.

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

use crate::common::{REPAIRS, Stage, error_of, eventually, holds, lines_with};
use nix::{sys::stat::Mode, unistd::mkfifo};
use serde_json::{Value, json};
use sockline_testbed::{Agent, objects};

const CART: &str = "10.96.0.1";
const SHIP: &str = "10.96.0.2";

/// In MiB, the most memory that the agent ever had.
fn peak(agent: &Agent) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
}

/// What an agent with nothing to do has at most; a debug build has more than a release.
const IDLE: u64 = 100;

/// The folder is read, `ship` is served, and a change of it reaches the kernel.
#[track_caller]
fn assert_ship_is_served_and_changes(stage: &Stage) {
    stage.assert_served(SHIP);
    for addresses in [&stage.addresses()[1..], &stage.addresses()[..]] {
        let slice = objects::slice("ship", addresses);
        stage.put("ship.yaml", &[objects::service("ship", SHIP), slice]);
        let wanted: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        eventually("the change", || {
            let seen = stage.backends("ship", "web");
            holds(seen == wanted, format!("{seen:?}"))
        });
    }
    stage.assert_served(SHIP);
}

/// Starts with `ship` and what else is put there.
fn stage(put: impl Fn(&Stage)) -> (Stage, Agent) {
    let stage = Stage::new(2);
    stage.put_service("ship", SHIP);
    put(&stage);
    let agent = stage.agent();
    (stage, agent)
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
fn a_service_of_100_000_ports_has_as_many_as_a_service_may_have() {
    let (stage, agent) = stage(|stage| {
        // As JSON: in a debug build, reading as much YAML is what takes longest.
        stage.put_text("cart.json", &with_ports(20_000).to_string());
    });
    stage.eventually_problems(&[
        "Service shop/cart: spec.ports: 20000 of them; only the first 16384 are used",
    ]);
    let of_cart = stage.services().iter().filter(|name| *name == "shop/cart").count();
    assert!(of_cart > 0, "{:?}", stage.services().len());
    assert_ship_is_served_and_changes(&stage);
    stage.put_text("cart.json", &with_ports(100_000).to_string());
    stage.eventually_problems(&[
        "Service shop/cart: larger than an API server takes; what is programmed for it stays",
    ]);
    assert_ship_is_served_and_changes(&stage);
    assert!(peak(&agent) < IDLE + 300, "{} MiB", peak(&agent));
}

#[test]
fn a_list_is_not_in_memory_as_a_whole() {
    let pod = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "d", "labels": {"a": "b", "c": "d"}},
        "spec": {"containers": [{"name": "x", "image": "y", "ports": [{"containerPort": 1}]}]},
    });
    let list = json!({"apiVersion": "v1", "kind": "List", "items": vec![pod; 100_000]});
    let (stage, agent) = stage(|stage| stage.put_text("list.json", &list.to_string()));
    stage.eventually_problems(&[
        "file list.json, document 1: items[0].kind: Deployment (apps/v1) is not used here; ignored",
    ]);
    assert_ship_is_served_and_changes(&stage);
    // The text is 20 MB; as values it would be ten times as much.
    assert!(peak(&agent) < IDLE + 100, "{} MiB", peak(&agent));
}

#[test]
fn a_file_that_is_too_large_is_told() {
    let (stage, agent) = stage(|stage| stage.put_text("large.yaml", &"# x\n".repeat(9 << 20)));
    stage.eventually_problems(&[
        "file large.yaml: cannot be read: larger than 32 MiB; it is left out",
    ]);
    assert_ship_is_served_and_changes(&stage);
    assert!(peak(&agent) < IDLE + 100, "{} MiB", peak(&agent));
}

#[test]
fn what_is_no_file_does_not_hold_the_folder_up() {
    let (stage, _agent) = stage(|stage| {
        let folder = stage.node.manifests();
        mkfifo(&folder.join("pipe.yaml"), Mode::S_IRWXU).unwrap();
        symlink("loop.yaml", folder.join("loop.yaml")).unwrap();
        symlink("/dev/zero", folder.join("device.yaml")).unwrap();
        fs::create_dir(folder.join("folder.yaml")).unwrap();
    });
    let loops = "file loop.yaml: cannot be read: Too many levels of symbolic links (os error 40); it \
                 is left out";
    stage.eventually_problems(&[loops]);
    assert_ship_is_served_and_changes(&stage);
}

/// Each is a document that means to exhaust whoever reads it.
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
fn a_document_that_unfolds_or_nests_without_end_costs_only_itself() {
    let (stage, agent) = stage(|stage| {
        for (file, text) in bombs() {
            stage.put_text(file, &text);
        }
    });
    eventually("every bomb to be told", || {
        let problems = stage.wrong("problems");
        let told = |file: &str| {
            problems.iter().any(|problem| problem.starts_with(&format!("file {file}, ")))
        };
        let untold: Vec<_> =
            bombs().into_iter().map(|(file, _)| file).filter(|file| !told(file)).collect();
        holds(untold.is_empty(), format!("{untold:?} of {problems:#?}"))
    });
    assert_ship_is_served_and_changes(&stage);
    assert!(peak(&agent) < IDLE + 200, "{} MiB", peak(&agent));
}

/// As an attacker would name an object, to write into logs and terminals what never happened.
const FORGED: &str = "x\n2026-01-01T00:00:00Z ERROR all is lost\u{1b}[2J\u{202e}";

#[test]
fn a_name_cannot_forge_a_log_line_or_a_row_of_a_table() {
    let (stage, agent) = stage(|stage| {
        let mut named = objects::web_service("cart", CART);
        named["metadata"]["name"] = json!(FORGED);
        let mut port = objects::web_service("port", "10.96.0.3");
        port["spec"]["ports"][0]["name"] = json!(FORGED);
        let mut kind = objects::web_service("kind", "10.96.0.4");
        kind["kind"] = json!(FORGED);
        stage.put_text("cart.json", &format!("{named}\n{port}\n{kind}"));
        let file = format!("{}.yaml", FORGED.replace('/', "_"));
        fs::write(stage.node.manifests().join(file), "kind: [").unwrap();
    });
    let problems = || stage.wrong("problems").len();
    eventually("the problems", || holds(problems() >= 4, problems()));
    let printed = |args: &[&str]| String::from_utf8(stage.look(args).stdout).unwrap();
    let told = [
        agent.log(),
        printed(&["status"]),
        printed(&["services"]),
        printed(&["backends"]),
        printed(&["check", "--quick"]),
    ];
    assert!(told[1].contains("all is lost"), "it is not told at all: {}", told[1]);
    for text in told {
        let raw: Vec<char> =
            text.chars().filter(|c| (c.is_control() && *c != '\n') || *c == '\u{202e}').collect();
        assert!(raw.is_empty(), "{raw:?} in {text}");
        let forged = text.lines().find(|line| line.starts_with("2026-01-01"));
        assert_eq!(forged, None, "{text}");
    }
    // Programs get what there is.
    let json = stage.wrong("problems").concat();
    assert!(json.contains("all is lost"), "{json}");
    assert_ship_is_served_and_changes(&stage);
}

/// A process of another user, in the node's network namespace.
fn as_nobody(stage: &Stage, program: &str, args: &[&str]) -> std::process::Output {
    let mut command = Command::new(program);
    command.args(args).uid(65534).gid(65534);
    stage.node.outside().output(&mut command).unwrap()
}

#[test]
fn another_user_gets_nothing_of_the_pins_and_the_admin_socket() {
    let (stage, agent) = stage(|_| {});
    let root = stage.node.bpffs().join("sockline");
    for place in [&root, &root.join("v3/maps/FRONTENDS"), &agent.admin_socket().to_path_buf()] {
        let path = place.to_str().unwrap();
        let shown = as_nobody(&stage, "cat", &[path]);
        assert!(!shown.status.success() && shown.stdout.is_empty(), "{path}: {shown:?}");
        // Denied, not missing: or this test would say nothing.
        assert!(error_of(&shown).contains("Permission denied"), "{path}: {}", error_of(&shown));
    }
    private(&root).unwrap();
}

/// Whatever the mode of its file, and of the folder that it is in.
#[test]
fn another_user_has_no_answer_from_an_admin_socket_that_all_can_open() {
    const ASK: &str = r#"
        use IO::Socket::UNIX;
        $| = 1;
        my $agent = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die "connect: $!";
        print "connected\n";
        print $agent "GET /status HTTP/1.0\r\n\r\n";
        $agent->flush;
        print <$agent>;
    "#;
    let (stage, agent) = stage(|_| {});
    let path = agent.admin_socket();
    for open in path.ancestors().take_while(|path| **path != *env::temp_dir()) {
        fs::set_permissions(open, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let args = ["-e", ASK, path.to_str().unwrap()];
    let ask = |user: u32| {
        let mut command = Command::new("perl");
        command.args(args).uid(user).gid(user);
        let output = stage.node.outside().output(&mut command).unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let (root, other) = (ask(0), ask(65534));
    assert!(root.contains("200 OK"), "{root}");
    assert_eq!(other, "connected\n");
}

/// Every folder is root's alone, and every pin: else, what is not.
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

/// Opens the folder of the pins and a pin to everybody.
fn open_to_all(stage: &Stage) -> (PathBuf, PathBuf) {
    let root = stage.node.bpffs().join("sockline");
    let map = root.join("v3/maps/FRONTENDS");
    fs::set_permissions(&root, fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(&map, fs::Permissions::from_mode(0o666)).unwrap();
    (root, map)
}

#[test]
fn pins_that_others_could_open_are_closed_by_the_next_agent() {
    let (stage, mut agent) = stage(|_| {});
    agent.stop().unwrap();
    let (root, map) = open_to_all(&stage);
    std::os::unix::fs::chown(&map, Some(65534), Some(65534)).unwrap();
    let _next = stage.agent();
    private(&root).unwrap();
}

#[test]
fn pins_that_others_could_open_are_closed_while_the_agent_runs() {
    let stage = Stage::new(2);
    stage.put_service("ship", SHIP);
    let _agent = stage.agent_with(&REPAIRS);
    let (root, _) = open_to_all(&stage);
    eventually("the pins are closed", || private(&root));
}

#[test]
fn a_greedy_client_of_the_admin_socket_does_not_keep_status_from_others() {
    let (stage, agent) = stage(|_| {});
    let held: Vec<_> =
        (0..100).map(|_| UnixStream::connect(agent.admin_socket()).unwrap()).collect();
    assert_eq!(stage.status()["agent"]["ready"], json!(true));
    drop(held);
}

#[test]
fn a_greedy_client_of_the_metrics_does_not_keep_them_from_others() {
    let (stage, agent) = stage(|_| {});
    let connect = || -> io::Result<Vec<TcpStream>> {
        (0..100).map(|_| TcpStream::connect(agent.listen())).collect()
    };
    let held = stage.node.outside().run(connect).unwrap();
    assert!(agent.metrics().unwrap().contains("sockline_service_ports"));
    drop(held);
}

#[test]
fn something_else_in_the_admin_sockets_place_is_told_and_left_alone() {
    let stage = Stage::new(1);
    let place = stage.node.temp().join("admin.sock");
    let target = stage.node.temp().join("target");
    fs::write(&target, "precious").unwrap();
    symlink(&target, &place).unwrap();
    let Err(error) = stage.node.agent(&crate::common::options(&[])) else { panic!("it started") };
    let said = format!("{error:#}");
    assert!(said.contains("admin.sock: a symbolic link is in its place"), "{said}");
    assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
    fs::remove_file(&place).unwrap();
    fs::write(&place, "precious").unwrap();
    let Err(error) = stage.node.agent(&crate::common::options(&[])) else { panic!("it started") };
    let said = format!("{error:#}");
    assert!(said.contains("admin.sock: something that is no socket is in its place"), "{said}");
    assert_eq!(lines_with(&said, "remove it if nobody needs it").len(), 1, "{said}");
}
