//! The built agent as a process on a node of the testbed.

mod binary;
mod options;

use std::{
    fs::{self, File},
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, atomic::Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

pub use self::{
    binary::{Build, sockline_binary},
    options::{AgentCgroup, AgentOptions},
};
use crate::{DEADLINE, http::HttpReply, http_get, node_parts::Shared, wait_ok, wait_until};

/// A running agent. Dropping the newest agent of a node stops it and removes its kernel state;
/// [`Agent::stop`] and [`Agent::kill`] leave the kernel state for the next one.
pub struct Agent {
    node: Arc<Shared>,
    binary: PathBuf,
    child: Child,
    number: u32,
    listen: SocketAddr,
    admin_socket: PathBuf,
    log: PathBuf,
}

impl Agent {
    pub(crate) fn start(node: &Arc<Shared>, options: &AgentOptions) -> Result<Self> {
        let mut agent = Self::spawn(node, options)?;
        let path = if options.until_ready { "/readyz" } else { "/healthz" };
        agent.wait_for(path, options.ready_within)?;
        Ok(agent)
    }

    pub(crate) fn spawn(node: &Arc<Shared>, options: &AgentOptions) -> Result<Self> {
        let binary = match &options.binary {
            Some(binary) => binary.clone(),
            None => sockline_binary()?,
        };
        let number = node.agents.fetch_add(1, Ordering::Relaxed) + 1;
        let log = node.temp().join(format!("agent-{number}.log"));
        let admin_socket = node.temp().join("admin.sock");
        let listen = node.outside().free_port()?;
        let output = File::create(&log).context("creating the agent's log")?;
        let source = match (&options.kubeconfig, &options.manifests) {
            (Some(kubeconfig), _) => ["--kubeconfig".into(), kubeconfig.clone()],
            (None, Some(folder)) => ["--manifests".into(), folder.clone()],
            (None, None) => ["--manifests".into(), node.manifests()],
        };
        let mut command = Command::new(&binary);
        command
            .arg("agent")
            .args(source)
            .args(["--node-name", &options.node_name])
            .arg("--cgroup-root")
            .arg(options.cgroup.as_deref().unwrap_or_else(|| node.cgroup()))
            .arg("--bpf-root")
            .arg(options.bpffs.as_deref().unwrap_or_else(|| node.bpffs()))
            .args(["--metrics-bind-address", &listen.to_string()])
            .arg("--admin-socket")
            .arg(&admin_socket)
            // Tests that want open connections counted say how often.
            .env("SOCKLINE_OPEN_CONNECTIONS_INTERVAL", "1h")
            .args(&options.args)
            .envs(options.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("sharing the agent's log")?)
            .stderr(output)
            // A Ctrl-C in the terminal is for the test process, which then stops the agent.
            .process_group(0);
        if let Some(prepare) = options.prepare {
            prepare(&mut command);
        }
        let home = match options.cgroup_of_agent {
            AgentCgroup::OutsideOfNode => node.outside(),
            AgentCgroup::InNode => node.inside(),
        };
        let child =
            home.child(&mut command).with_context(|| format!("starting {}", binary.display()))?;
        let node = Arc::clone(node);
        Ok(Self { node, binary, child, number, listen, admin_socket, log })
    }

    /// Waits until its first sync is in the kernel.
    ///
    /// # Errors
    /// When that takes longer, or the agent ends; the message carries its log.
    pub fn wait_until_ready(&mut self, within: Duration) -> Result<()> {
        self.wait_for("/readyz", within)
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// Those of `waitpid`.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("looking whether the agent has ended")
    }

    fn wait_for(&mut self, path: &str, within: Duration) -> Result<()> {
        let mut exited = None;
        let ready = wait_ok(within, &format!("the agent's {path} to answer 200"), || {
            exited = self.child.try_wait().ok().flatten();
            if exited.is_some() {
                return Ok(());
            }
            match self.get(path) {
                Ok(HttpReply { status: 200, .. }) => Ok(()),
                Ok(reply) => Err(format!("{} {}", reply.status, reply.body.trim())),
                Err(error) => Err(format!("{error:#}")),
            }
        });
        match (ready, exited) {
            (Ok(()), None) => Ok(()),
            (Ok(()), Some(status)) => bail!("the agent ended early, {status}; {}", self.log_tail()),
            (Err(error), _) => Err(error.context(self.log_tail())),
        }
    }

    /// Where it serves HTTP, in the node's network namespace.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Its admin socket.
    pub fn admin_socket(&self) -> &Path {
        &self.admin_socket
    }

    /// The binary it was started from.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gets a path from it.
    ///
    /// # Errors
    /// Those of [`http_get`].
    pub fn get(&self, path: &str) -> Result<HttpReply> {
        let listen = self.listen;
        self.node
            .outside()
            .run(|| http_get(listen, path))
            .with_context(|| format!("getting http://{listen}{path}"))
    }

    /// Its metrics as Prometheus text.
    ///
    /// # Errors
    /// When it does not answer 200.
    pub fn metrics(&self) -> Result<String> {
        let reply = self.get("/metrics")?;
        if reply.status != 200 {
            bail!("/metrics answered {}: {}", reply.status, reply.body.trim());
        }
        Ok(reply.body)
    }

    /// Runs `sockline <command> …` against this node and returns its standard output. The first
    /// word is the command; the flags that name the node are added.
    ///
    /// # Errors
    /// When it fails; the message carries its standard error.
    pub fn cli(&self, args: &[&str]) -> Result<String> {
        let (command, rest) = args.split_first().context("a command of `sockline` is needed")?;
        let mut process = Command::new(&self.binary);
        process.arg(command).arg("--bpf-root").arg(self.node.bpffs());
        // Not each command has an option for it.
        process.env("SOCKLINE_ADMIN_SOCKET", &self.admin_socket);
        process.args(rest).stdin(Stdio::null());
        let output = self.node.outside().output(&mut process).context("starting the CLI")?;
        if !output.status.success() {
            // `check` fails with what it found.
            let said = [output.stderr, output.stdout].concat();
            bail!(
                "`sockline {}` failed, {}: {}",
                args.join(" "),
                output.status,
                String::from_utf8_lossy(&said).trim()
            );
        }
        String::from_utf8(output.stdout).context("the CLI wrote something that is not UTF-8")
    }

    /// Stops it as Kubernetes would (SIGTERM) and waits. The kernel state stays. Nothing happens
    /// when it has ended already.
    ///
    /// # Errors
    /// When it does not end in time; it is killed then.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        kill(self.process_id()?, Signal::SIGTERM).context("sending SIGTERM to the agent")?;
        let ended = wait_until(DEADLINE, "the agent to end after SIGTERM", || {
            self.child.try_wait().ok().flatten()
        });
        ended.or_else(|error| {
            self.kill()?;
            Err(error.context(self.log_tail()))
        })
    }

    /// Kills it (SIGKILL), as the kernel would when memory is short. The kernel state stays.
    ///
    /// # Errors
    /// Those of `kill` and `waitpid`.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.child.kill().context("killing the agent")?;
        self.child.wait().context("waiting for the agent")
    }

    /// What it wrote to standard output and standard error.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_else(|error| format!("(no log: {error})"))
    }

    /// The file it writes standard output and standard error to.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    fn process_id(&self) -> Result<Pid> {
        Ok(Pid::from_raw(self.child.id().try_into()?))
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(40)..];
        format!("the end of the agent's log:\n{}", tail.join("\n"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("testbed: {}", self.log_tail());
        }
        if let Err(error) = self.stop() {
            eprintln!("testbed: stopping the agent: {error:#}");
        }
        // An older agent's handle must not remove state that a newer agent uses.
        if self.node.agents.load(Ordering::Relaxed) == self.number
            && let Err(error) = self.cli(&["cleanup"])
        {
            eprintln!("testbed: {error:#}");
        }
    }
}
