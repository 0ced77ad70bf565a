//! The manifests in deploy/ match the binary, the API's types, and each other.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::common::{WebNode, error_of, eventually, holds};
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Namespace, ResourceQuota, ServiceAccount},
    rbac::v1::{ClusterRole, ClusterRoleBinding},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use sockline_testbed::{
    Ns, http_get, kustomize,
    kustomize::{DIRECTIVE, containers},
    sockline_binary,
};

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").canonicalize().unwrap()
}

fn document(path: &str) -> Value {
    let mut all = documents(&deploy().join(path));
    assert_eq!(all.len(), 1, "{path}");
    all.remove(0)
}

fn documents(path: &Path) -> Vec<Value> {
    kustomize::documents(path).unwrap_or_else(|error| panic!("{error:#}"))
}

fn render(folder: &Path) -> Vec<Value> {
    kustomize::render(folder).unwrap_or_else(|error| panic!("{error:#}"))
}

/// Every YAML file below deploy/.
fn files() -> Vec<PathBuf> {
    fn descend(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                descend(&path, found);
            } else if path.extension().is_some_and(|kind| kind == "yaml") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    descend(&deploy(), &mut found);
    assert!(found.len() > 10, "{found:#?}");
    found
}

/// Every object below deploy/: those in separate files, and the patches in kustomizations.
fn objects() -> Vec<(String, Value)> {
    let mut objects = Vec::new();
    for path in files() {
        let name = path.strip_prefix(deploy()).unwrap().display().to_string();
        for document in documents(&path) {
            if !document["apiVersion"].as_str().unwrap().starts_with("kustomize.config.k8s.io/") {
                objects.push((name.clone(), document));
                continue;
            }
            for patch in document["patches"].as_array().into_iter().flatten() {
                let patch = serde_saphyr::from_str(patch["patch"].as_str().unwrap()).unwrap();
                objects.push((format!("a patch in {name}"), patch));
            }
        }
    }
    objects
}

/// The fields of an object that its type does not have.
fn unknown_fields(object: &Value) -> Vec<String> {
    fn read_back<T: DeserializeOwned + Serialize>(object: &Value) -> Value {
        match serde_json::from_value::<T>(object.clone()) {
            Ok(typed) => serde_json::to_value(typed).unwrap(),
            Err(error) => panic!("{error}: {object:#}"),
        }
    }
    fn compare(given: &Value, known: &Value, path: &str, missing: &mut Vec<String>) {
        match (given, known) {
            // In a patch: remove this field.
            (Value::Null, _) => {}
            (Value::Object(fields), _) => {
                for (field, value) in fields.iter().filter(|(name, _)| *name != DIRECTIVE) {
                    compare(value, &known[field], &format!("{path}.{field}"), missing);
                }
            }
            (Value::Array(items), _) => {
                for (index, value) in items.iter().enumerate() {
                    compare(value, &known[index], &format!("{path}[{index}]"), missing);
                }
            }
            (given, known) if given != known => {
                missing.push(format!("{path}: {given}, not {known}"));
            }
            _ => {}
        }
    }
    let known = match object["kind"].as_str().unwrap() {
        "DaemonSet" => read_back::<DaemonSet>(object),
        "Namespace" => read_back::<Namespace>(object),
        "ResourceQuota" => read_back::<ResourceQuota>(object),
        "ServiceAccount" => read_back::<ServiceAccount>(object),
        "ClusterRole" => read_back::<ClusterRole>(object),
        "ClusterRoleBinding" => read_back::<ClusterRoleBinding>(object),
        // The operator's own kinds, for which there are no types here.
        "PodMonitor" | "PrometheusRule" => object.clone(),
        kind => panic!("no type for the kind {kind}"),
    };
    let mut missing = Vec::new();
    compare(object, &known, "", &mut missing);
    missing
}

#[test]
fn kubernetes_knows_every_field_of_the_manifests() {
    for (name, object) in objects() {
        let missing = unknown_fields(&object);
        assert!(missing.is_empty(), "{name}: {missing:#?}");
    }
}

#[test]
fn an_unknown_field_is_an_error() {
    let mut object = document("base/daemonset.yaml");
    object["spec"]["template"]["spec"]["hostNetwrok"] = json!(true);
    object["spec"]["template"]["spec"]["containers"][0]["env"][0]["valu"] = json!("x");
    let missing = unknown_fields(&object);
    assert_eq!(missing.len(), 2, "{missing:#?}");
}

#[test]
fn every_file_is_used_and_every_path_exists() {
    let mut reached = BTreeSet::new();
    for path in files().into_iter().filter(|path| path.ends_with("kustomization.yaml")) {
        let folder = path.parent().unwrap();
        let kustomization = documents(&path).remove(0);
        for list in ["resources", "components"] {
            for entry in kustomization[list].as_array().into_iter().flatten() {
                let target = folder.join(entry.as_str().unwrap());
                let target = target.canonicalize();
                let target = target.unwrap_or_else(|error| panic!("{entry} in {path:?}: {error}"));
                if target.is_dir() {
                    assert!(target.join("kustomization.yaml").is_file(), "{entry} in {path:?}");
                } else {
                    reached.insert(target);
                }
            }
        }
        reached.insert(path);
    }
    let all: BTreeSet<PathBuf> = files().into_iter().collect();
    assert_eq!(reached, all);
}

#[test]
fn every_component_has_an_overlay_of_its_name_or_is_part_of_one() {
    let used: BTreeSet<PathBuf> = files()
        .iter()
        .filter(|path| path.ends_with("kustomization.yaml"))
        .flat_map(|path| {
            let kustomization = documents(path).remove(0);
            let components = kustomization["components"].as_array().cloned().unwrap_or_default();
            let folder = path.parent().unwrap().to_owned();
            components
                .into_iter()
                .map(move |entry| folder.join(entry.as_str().unwrap()).canonicalize().unwrap())
        })
        .collect();
    for entry in fs::read_dir(deploy().join("components")).unwrap() {
        let component = entry.unwrap().path();
        assert!(used.contains(&component), "nothing uses {}", component.display());
    }
}

#[test]
fn the_image_is_the_one_that_xtask_builds() {
    for folder in folders("overlays") {
        assert_eq!(images(&folder), [IMAGE, env!("CARGO_PKG_VERSION")].join(":"), "{folder:?}");
    }
}

/// The name in the base.
const IMAGE: &str = "localhost/sockline";

/// The folders of `overlays` or `components`.
fn folders(of: &str) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> =
        fs::read_dir(deploy().join(of)).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() > 3, "{folders:?}");
    folders
}

/// The image of all containers that a kustomization leads to, which must be one.
fn images(folder: &Path) -> String {
    let objects = render(folder);
    let mut images: BTreeSet<&str> = objects
        .iter()
        .flat_map(containers)
        .map(|container| container["image"].as_str().unwrap())
        .collect();
    assert_eq!(images.len(), 1, "{}: {images:#?}", folder.display());
    images.pop_first().unwrap().to_owned()
}

/// A kustomization in a temporary folder.
fn kustomization(fields: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    // JSON is YAML.
    fs::write(folder.path().join("kustomization.yaml"), fields.to_string()).unwrap();
    folder
}

#[test]
fn the_image_of_a_users_kustomization_reaches_every_container() {
    let base = deploy().join("base");
    let own =
        json!([{"name": IMAGE, "newName": "registry.example:5000/team/sockline", "newTag": "7"}]);
    let expected = "registry.example:5000/team/sockline:7";
    let with_image = kustomization(&json!({"resources": [base], "images": own}));
    for component in folders("components") {
        let beside =
            kustomization(&json!({"resources": [base], "components": [component], "images": own}));
        assert_eq!(images(beside.path()), expected, "{component:?} beside the image");
        let above =
            kustomization(&json!({"resources": [with_image.path()], "components": [component]}));
        assert_eq!(images(above.path()), expected, "{component:?} above the image");
    }
    for overlay in folders("overlays") {
        let above = kustomization(&json!({"resources": [overlay], "images": own}));
        assert_eq!(images(above.path()), expected, "{overlay:?} below the image");
        // Users who keep the version change only the registry.
        let mirror = json!([{"name": IMAGE, "newName": "registry.example/sockline"}]);
        let above = kustomization(&json!({"resources": [overlay], "images": mirror}));
        let expected = ["registry.example/sockline", env!("CARGO_PKG_VERSION")].join(":");
        assert_eq!(images(above.path()), expected, "{overlay:?} below another registry");
    }
}

/// Asserts that the uninstall pod of one kustomization has everything that the agent of another has.
fn assert_removes(removal: &Path, installed: &Path) {
    let (removal, installed) = (render(removal), render(installed));
    let agents: Vec<&Value> = installed.iter().flat_map(containers).collect();
    let [agent] = agents[..] else { panic!("{agents:#?}") };
    let all: Vec<&Value> = removal.iter().flat_map(containers).collect();
    let [cleanup, stays] = all[..] else { panic!("{all:#?}") };
    assert_eq!(cleanup["args"], json!(["cleanup"]));
    assert_eq!(stays["args"], json!(["cleanup", "--wait"]));
    for field in ["image", "imagePullPolicy", "env", "resources", "securityContext", "volumeMounts"]
    {
        assert!(!agent[field].is_null(), "{field}");
        assert_eq!(cleanup[field], agent[field], "{field}");
        assert_eq!(stays[field], agent[field], "{field}");
    }
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert_eq!(stays.get(probe), None);
    }
}

#[test]
fn the_uninstall_job_has_the_rights_and_folders_of_the_agent() {
    let (base, uninstall) = (deploy().join("base"), deploy().join("components/uninstall"));
    for component in folders("components").into_iter().filter(|one| *one != uninstall) {
        let installed = kustomization(&json!({"resources": [base], "components": [component]}));
        let removal =
            kustomization(&json!({"resources": [base], "components": [component, uninstall]}));
        assert_removes(removal.path(), installed.path());
    }
}

/// A patch of the agent's container, as in a user's kustomization.
fn patch_of_the_agent() -> Value {
    let container = json!({
        "name": "agent",
        "args": ["agent", "--fail-open-after=5m"],
        "env": [{"name": "SOCKLINE_BPF_ROOT", "value": "/other/bpf"}],
        "securityContext": {"privileged": true},
        "volumeMounts": [{"name": "bpf", "mountPath": "/other/bpf"}],
    });
    let patch = json!({"spec": {"template": {"spec": {"containers": [container]}}}});
    json!([{"target": {"kind": "DaemonSet", "name": "sockline"}, "patch": patch.to_string()}])
}

#[test]
fn patches_of_the_installed_agent_apply_to_the_uninstall_overlay() {
    let base = deploy().join("base");
    let installed = kustomization(&json!({"resources": [base], "patches": patch_of_the_agent()}));
    let uninstall = deploy().join("components/uninstall");
    let removal =
        kustomization(&json!({"resources": [installed.path()], "components": [uninstall]}));
    assert_removes(removal.path(), installed.path());
}

/// Kustomize applies them after the component.
#[test]
fn a_patch_of_the_agent_beside_the_uninstall_component_fails_and_starts_no_agent() {
    let removal = kustomization(&json!({
        "resources": [deploy().join("base")],
        "components": [deploy().join("components/uninstall")],
        "patches": patch_of_the_agent(),
    }));
    let objects = render(removal.path());
    let all: Vec<&Value> = objects.iter().flat_map(containers).collect();
    let (complete, without_image): (Vec<&Value>, Vec<&Value>) =
        all.into_iter().partition(|container| container["image"].is_string());
    for container in complete {
        assert_eq!(container["args"][0], "cleanup", "{container:#}");
    }
    // The API server rejects such a container, and the whole pod with it.
    assert_eq!(without_image.len(), 1, "{without_image:#?}");
}

#[test]
fn kubernetes_knows_every_field_of_the_rendered_manifests() {
    for overlay in folders("overlays") {
        for object in render(&overlay) {
            let missing = unknown_fields(&object);
            assert!(missing.is_empty(), "{overlay:?}: {missing:#?}");
        }
    }
}

#[test]
fn the_binary_knows_every_argument_and_variable() {
    let own = ["SOCKLINE_", "KUBERNETES_"];
    // Variables that the agent reads apart from its options, and those that other variables are built from.
    let mut known: BTreeSet<String> =
        ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "NODE_IP"].map(Into::into).into();
    let help = |command: &str| {
        let output = Command::new(sockline_binary().unwrap()).args([command, "--help"]).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    for line in help("agent").lines() {
        if let Some(variable) = line.trim().strip_prefix("[env: ") {
            known.insert(variable.split('=').next().unwrap().to_owned());
        }
    }
    let mut seen = BTreeSet::new();
    for (name, object) in objects() {
        let pod = &object["spec"]["template"]["spec"];
        for list in ["containers", "initContainers"] {
            for container in pod[list].as_array().into_iter().flatten() {
                for variable in container["env"].as_array().into_iter().flatten() {
                    let variable = variable["name"].as_str().unwrap();
                    assert!(known.contains(variable), "{name}: {variable} is none of {known:#?}");
                    seen.insert(variable.to_owned());
                }
                let Some(args) = container["args"].as_array() else { continue };
                let (command, rest) = args.split_first().unwrap();
                for argument in rest {
                    let options = help(command.as_str().unwrap());
                    let argument = argument.as_str().unwrap();
                    assert!(options.contains(argument), "{name}: {command} has no {argument}");
                }
            }
        }
    }
    let file = fs::read_to_string(deploy().join("components/without-kube-proxy/api-server.env"));
    for line in file.unwrap().lines().filter(|line| !line.starts_with('#')) {
        let variable = line.split('=').next().unwrap();
        assert!(known.contains(variable), "{variable}");
        seen.insert(variable.to_owned());
    }
    let ours = seen.iter().filter(|name| own.iter().any(|prefix| name.starts_with(prefix)));
    assert!(ours.count() >= 5, "{seen:#?}");
}

#[test]
fn every_mount_has_a_volume_and_the_pins_are_in_one() {
    let pod = &document("base/daemonset.yaml")["spec"]["template"]["spec"];
    let names = |list: &Value| -> BTreeSet<String> {
        list.as_array()
            .unwrap()
            .iter()
            .map(|one| one["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let container = &pod["containers"][0];
    assert_eq!(names(&container["volumeMounts"]), names(&pod["volumes"]));
    let mut mounts = container["volumeMounts"].as_array().unwrap().iter();
    let variables = container["env"].as_array().unwrap();
    let bpffs = variables.iter().find(|variable| variable["name"] == "SOCKLINE_BPF_ROOT").unwrap();
    assert!(mounts.any(|mount| mount["mountPath"] == bpffs["value"]), "{bpffs} is no mount");
}

#[test]
fn account_role_and_namespace_have_matching_names() {
    let namespace = document("base/namespace.yaml")["metadata"]["name"].clone();
    let account = document("base/service-account.yaml")["metadata"]["name"].clone();
    let pod = &document("base/daemonset.yaml")["spec"]["template"]["spec"];
    assert_eq!(pod["serviceAccountName"], account);
    assert_eq!(document("base/kustomization.yaml")["namespace"], namespace);
    let [role, binding] = documents(&deploy().join("base/cluster-role.yaml")).try_into().unwrap();
    assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
    let subject = json!({"kind": "ServiceAccount", "name": account, "namespace": namespace});
    assert_eq!(binding["subjects"], json!([subject]));
}

/// The verbs that the role allows, by API group and resource.
fn allowed() -> BTreeMap<(String, String), BTreeSet<String>> {
    let role = documents(&deploy().join("base/cluster-role.yaml")).remove(0);
    let role: ClusterRole = serde_json::from_value(role).unwrap();
    let mut allowed = BTreeMap::new();
    for rule in role.rules.unwrap() {
        for group in rule.api_groups.unwrap() {
            for resource in rule.resources.clone().unwrap() {
                let verbs = rule.verbs.iter().cloned().collect();
                assert!(allowed.insert((group.clone(), resource), verbs).is_none());
            }
        }
    }
    allowed
}

/// An API server that does not answer, and the requests it has received.
fn listen_for_requests(ns: &Ns) -> (SocketAddr, std::sync::mpsc::Receiver<(String, String)>) {
    let listener = ns.run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let address = listener.local_addr().unwrap();
    let (sender, asked) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut line = String::new();
            if BufReader::new(stream.unwrap()).read_line(&mut line).is_err() {
                continue;
            }
            // `GET /api/v1/services?…` or `GET /apis/discovery.k8s.io/v1/endpointslices?…`
            let path = line.split(' ').nth(1).unwrap_or_default().split('?').next().unwrap();
            let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
            let request = match parts[..] {
                ["api", "v1", resource] => (String::new(), resource.to_owned()),
                ["apis", group, _, resource] => (group.to_owned(), resource.to_owned()),
                _ => ("?".to_owned(), line),
            };
            if sender.send(request).is_err() {
                return;
            }
        }
    });
    (address, asked)
}

#[test]
fn the_role_allows_exactly_what_the_agent_reads() {
    let allowed = allowed();
    for (resource, verbs) in &allowed {
        let expected = ["list", "watch"].map(ToOwned::to_owned).into();
        assert_eq!(*verbs, expected, "{resource:?}");
    }
    let node = WebNode::new(0);
    let (server, asked) = listen_for_requests(node.outside());
    let kubeconfig = node.temp().join("kubeconfig");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("http://{server}")}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    });
    fs::write(&kubeconfig, config.to_string()).unwrap();
    let options = sockline_testbed::AgentOptions {
        kubeconfig: Some(kubeconfig),
        until_ready: false,
        ..crate::common::options(&[])
    };
    let _agent = node.agent(&options).unwrap();
    let mut seen = BTreeSet::new();
    let wanted: BTreeSet<_> = allowed.into_keys().collect();
    eventually("all that is allowed to be asked for", || {
        seen.extend(asked.try_iter());
        holds(seen.is_superset(&wanted), format!("{seen:?} of {wanted:?}"))
    });
    assert_eq!(seen, wanted);
}

/// `sockline` with the DaemonSet's capabilities and no way to get others.
fn confined(args: &[&str]) -> Command {
    let context =
        document("base/daemonset.yaml")["spec"]["template"]["spec"]["containers"][0]["securityContext"].clone();
    assert_eq!(context["privileged"], false);
    assert_eq!(context["allowPrivilegeEscalation"], false);
    assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
    let mut set = String::from("-all");
    for capability in context["capabilities"]["add"].as_array().unwrap() {
        set += &format!(",+{}", capability.as_str().unwrap().to_lowercase());
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--no-new-privs", &format!("--bounding-set={set}")])
        .arg(sockline_binary().unwrap())
        .args(args)
        .stdin(Stdio::null());
    command
}

/// A confined agent; ended with SIGTERM when dropped.
struct Confined(Child);

impl Confined {
    fn start(node: &WebNode) -> Self {
        let listen = node
            .node
            .outside()
            .run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap());
        let mut command = confined(&["agent", "--node-name", "node-a"]);
        command.arg("--manifests").arg(node.manifests());
        command.arg("--cgroup-root").arg(node.cgroup());
        command.arg("--bpf-root").arg(node.bpffs());
        command.arg("--admin-socket").arg(node.temp().join("admin.sock"));
        command.args(["--metrics-bind-address", &listen.to_string()]);
        let mut agent = Self(node.outside().child(&mut command).unwrap());
        eventually("the confined agent to be ready", || {
            if let Some(status) = agent.0.try_wait().unwrap() {
                panic!("the confined agent ended, {status}: its error is above");
            }
            let reply = node.outside().run(|| http_get(listen, "/readyz"));
            reply
                .map_err(|error| error.to_string())
                .and_then(|reply| holds(reply.status == 200, reply.body))
        });
        agent
    }

    fn end(mut self) {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Confined {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const CART: &str = "10.96.0.1";

#[test]
fn the_daemon_sets_capabilities_are_enough_from_start_to_stop() {
    let node = WebNode::new(1);
    node.put_service("cart", CART);
    Confined::start(&node).end();
    node.assert_served(CART);
    let agent = Confined::start(&node);
    node.assert_served(CART);
    let bpffs = node.bpffs().to_str().unwrap().to_owned();
    let socket = node.temp().join("admin.sock");
    let run = |args: &[&str]| node.outside().output(&mut confined(args)).unwrap();
    for listing in ["status", "services", "backends"] {
        let output =
            run(&[listing, "--bpf-root", &bpffs, "--admin-socket", socket.to_str().unwrap()]);
        assert!(output.status.success(), "{listing}: {}", error_of(&output));
    }
    agent.end();
    let output = run(&["cleanup", "--bpf-root", &bpffs]);
    assert!(output.status.success(), "{}", error_of(&output));
    node.assert_untouched(CART);
}

#[test]
fn cleanup_with_wait_ends_on_sigterm() {
    let node = WebNode::new(0);
    let mut command = confined(&["cleanup", "--wait", "--bpf-root"]);
    command.arg(node.bpffs()).stdout(Stdio::piped());
    let mut child = node.outside().child(&mut command).unwrap();
    let mut said = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
    assert!(said.starts_with("nothing to remove in "), "{said}");
    assert!(child.try_wait().unwrap().is_none(), "it did not wait");
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());
}
