//! `cargo xtask image --smoke-test`: runs the image with exactly the rights that deploy/ gives it.
//!
//! A node of the testbed represents a cluster's node: its network namespace is the host's, and its cgroup and
//! its folder in bpffs are the roots. The agent reads manifests, because there is no API server.

use std::{
    fs::{self, File},
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::resource::{Resource, getrlimit},
    unistd::Uid,
};
use serde_json::Value;
use sockline_testbed::{DEADLINE, Node, Pod, TcpServer, UdpClient, http_get, objects, wait_ok};

use super::{deployment::Container, podman::Podman};
use crate::term;

const SERVICE: &str = "10.96.0.1:80";
const UDP_SERVICE: &str = "10.96.0.1:53";
const WEB: &str = "10.244.1.1";
/// The error of `send()` on a socket that has lost its peer.
const EDESTADDRREQ: i32 = 89;
/// As in deploy/base, in a network namespace of its own.
const LISTEN: &str = "127.0.0.1:9470";
/// In a cluster, Kubernetes sets it.
const NODE_NAME: (&str, &str) = ("SOCKLINE_NODE_NAME", "node-a");

pub(super) fn run(archive: &Path, tag: &str) -> Result<()> {
    ensure!(Uid::effective().is_root(), "`cargo xtask image --smoke-test` needs root");
    let podman = Podman::new()?;
    term::ok("podman", &podman.version()?);
    let loaded = podman.load(archive)?;
    ensure!(loaded.contains(tag), "`podman load` loaded {loaded:?} instead of {tag}");
    term::ok("load", &loaded);
    let test = SmokeTest::new(podman, tag)?;

    let agent = test.start("first")?;
    test.expect_served("the agent runs")?;
    term::ok("serves", "a client connects to the service and reaches the pod");
    term::ok("checks", &test.check("first")?);
    test.expect_closed()?;
    term::ok("closes", "the agent closes a pod's connected UDP socket when its backend is gone");
    test.end("first", agent, "kill")?;
    test.expect_served("the agent was killed")?;
    term::ok("survives", "after SIGKILL, the kernel programs keep serving");
    let agent = test.start("second")?;
    test.expect_served("the next agent took over")?;
    test.end("second", agent, "stop")?;
    term::ok("restarts", "the next container takes over, and ends after SIGTERM");
    let said = test.cleanup()?;
    ensure!(said.starts_with("removed "), "`sockline cleanup` said {said:?}");
    ensure!(test.ask().is_err(), "the service is still served after the cleanup");
    term::ok("uninstalls", &said);
    Ok(())
}

/// Fields are dropped in this order: containers before the node that they run on.
struct SmokeTest {
    podman: Podman,
    _server: TcpServer,
    _web: Pod,
    client: Pod,
    namespaces: Namespaces,
    node: Node,
    tag: String,
}

/// A folder in place of `/run/netns`, with a pod's network namespace mounted in it.
struct Namespaces {
    folder: PathBuf,
    mounted: PathBuf,
}

impl Namespaces {
    fn of(node: &Node, pod: &Pod) -> Result<Self> {
        let folder = node.temp().join("netns");
        let mounted = folder.join("pod");
        fs::create_dir(&folder).and_then(|()| File::create(&mounted)).context("making a folder")?;
        let nothing = None::<&str>;
        mount(Some(pod.path().as_str()), &mounted, nothing, MsFlags::MS_BIND, nothing)
            .context("mounting a network namespace")?;
        Ok(Self { folder, mounted })
    }

    fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.mounted, MntFlags::MNT_DETACH) {
            eprintln!("{}: {error}", self.mounted.display());
        }
    }
}

impl SmokeTest {
    fn new(podman: Podman, tag: &str) -> Result<Self> {
        let node = Node::new()?;
        let address: IpAddr = WEB.parse()?;
        let web = node.pod("web", &[address])?;
        let server = web.tcp_server(8080)?;
        let client = node.pod("client", &["10.244.9.9".parse()?])?;
        put_shop(&node, &[address])?;
        let namespaces = Namespaces::of(&node, &client)?;
        let tag = tag.to_owned();
        Ok(Self { podman, _server: server, _web: web, client, namespaces, node, tag })
    }

    /// Removes the endpoint, waits until the agent has closed its socket, and adds the endpoint again.
    fn expect_closed(&self) -> Result<()> {
        let to: SocketAddr = UDP_SERVICE.parse()?;
        let socket = self.client.run(|| -> Result<UdpClient> { Ok(UdpClient::connected(to)?) })?;
        put_shop(&self.node, &[])?;
        wait_ok(DEADLINE, "a connected UDP socket to be closed", || {
            match socket.socket().send(b"?") {
                Err(error) if error.raw_os_error() == Some(EDESTADDRREQ) => Ok(()),
                other => Err(format!("send() says {other:?}: {}", self.said("first"))),
            }
        })?;
        put_shop(&self.node, &[WEB.parse()?])?;
        wait_ok(DEADLINE, "the service to be served again", || self.ask())?;
        Ok(())
    }

    /// `podman run` with the settings of deploy/, in the node's network namespace and outside of its cgroup.
    fn spawn(
        &self,
        name: &str,
        container: &Container,
        environment: &[(&str, &str)],
    ) -> Result<Child> {
        let profile = self.podman.seccomp_profile()?;
        let mut podman = self.podman.command()?;
        podman.args(["run", "--rm", "--cgroupns=private", "--name", name]);
        podman.args(limits()?);
        podman.args(container.security_flags(&profile.display().to_string())?);
        podman.args(container.environment_flags(environment)?);
        podman.args(container.mount_flags(|path| {
            let folder = match path {
                "/sys/fs/cgroup" => self.node.cgroup(),
                "/sys/fs/bpf" => self.node.bpffs(),
                "/run/netns" => self.namespaces.folder(),
                _ => return None,
            };
            Some(folder.display().to_string())
        })?);
        podman.arg(format!("--volume={}:/manifests:ro", self.node.manifests().display()));
        podman.arg(&self.tag).args(container.args());
        let log = File::create(self.log(name)).context("creating the container's log")?;
        podman.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.node.outside().child(&mut podman).context("starting podman")
    }

    fn start(&self, name: &str) -> Result<Child> {
        let environment = [
            NODE_NAME,
            ("SOCKLINE_MANIFESTS", "/manifests"),
            // The agent would search the root of the hierarchy, and the testbed's node is a cgroup below it.
            ("SOCKLINE_CGROUP_ROOT", "/host/cgroup"),
        ];
        let mut child = self.spawn(name, &Container::agent()?, &environment)?;
        let listen: SocketAddr = LISTEN.parse()?;
        let ready = wait_ok(DEADLINE, "the container's /readyz to answer 200", || {
            if child.try_wait()?.is_some() {
                return Ok(false);
            }
            let reply = self.node.outside().run(|| http_get(listen, "/readyz"))?;
            if reply.status == 200 { Ok(true) } else { Err(io::Error::other(reply.body)) }
        });
        match ready {
            Ok(true) => Ok(child),
            Ok(false) => bail!("the container ended early: {}", self.said(name)),
            Err(error) => Err(error.context(self.said(name))),
        }
    }

    /// Ends a container with `podman kill` (SIGKILL) or `podman stop` (SIGTERM).
    fn end(&self, name: &str, mut child: Child, how: &str) -> Result<()> {
        self.podman.output(&[how, name])?;
        child.wait().context("waiting for podman")?;
        Ok(())
    }

    fn cleanup(&self) -> Result<String> {
        let status = self.spawn("cleanup", &Container::cleanup()?, &[NODE_NAME])?.wait()?;
        let said = self.said("cleanup");
        ensure!(status.success(), "`sockline cleanup` in a container: {said}");
        Ok(said)
    }

    /// `sockline check` in the agent's container. The container is not in the cgroup of the testbed's node, so
    /// the live checks cannot connect from there.
    fn check(&self, name: &str) -> Result<String> {
        let args =
            ["exec", name, "/sockline", "check", "--cgroup-root", "/host/cgroup", "-o", "json"];
        let output = self.podman.command()?.args(args).output().context("starting podman")?;
        let report: Value = serde_json::from_slice(&output.stdout).with_context(|| {
            format!("sockline check: {}", String::from_utf8_lossy(&output.stderr).trim())
        })?;
        let results = report["results"].as_array().context("a report without results")?;
        let (mut ok, mut wrong) = (0, Vec::new());
        for result in results {
            let of_place = result["check"].as_str().is_some_and(|check| check.starts_with("live."));
            if result["state"] == "ok" {
                ok += 1;
            } else if !of_place {
                wrong.push(result.to_string());
            }
        }
        ensure!(
            wrong.is_empty() && ok > 0,
            "sockline check in the container: {}",
            wrong.join("\n")
        );
        Ok(format!("{ok} checks passed in the container"))
    }

    fn ask(&self) -> Result<String> {
        let reply = self.client.tcp_ask(SERVICE.parse()?)?;
        Ok(reply.who)
    }

    fn expect_served(&self, when: &str) -> Result<()> {
        let who = self.ask().with_context(|| format!("asking {SERVICE} after {when}"))?;
        ensure!(who == "web", "{SERVICE} was answered by {who}");
        Ok(())
    }

    fn log(&self, name: &str) -> PathBuf {
        self.node.temp().join(format!("{name}.log"))
    }

    fn said(&self, name: &str) -> String {
        fs::read_to_string(self.log(name)).unwrap_or_default().trim().to_owned()
    }
}

/// Writes a service with these endpoints.
fn put_shop(node: &Node, endpoints: &[IpAddr]) -> Result<()> {
    let shop =
        [objects::node(), objects::service("web", "10.96.0.1"), objects::slice("web", endpoints)];
    Ok(objects::file::put(&node.manifests(), "shop.yaml", &objects::file::yaml(&shop))?)
}

/// This process's own limits, which need no rights. podman's defaults are above what some machines allow, and
/// above what podman sets for itself (32,768 processes).
fn limits() -> Result<[String; 2]> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("reading the limit of files")?;
    Ok([format!("--ulimit=nofile={soft}:{hard}"), "--ulimit=nproc=4096:4096".to_owned()])
}
