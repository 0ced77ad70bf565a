//! Servers and clients as child processes, which are ended also when the task is interrupted.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use sockline_testbed::{Ns, wait_ok, wait_until};

use crate::{demo::Interrupt, process};

const STARTED_WITHIN: Duration = Duration::from_secs(20);
const ENDED_WITHIN: Duration = Duration::from_secs(10);

/// A child in a process group of its own, so that Ctrl-C in the terminal reaches only this task, which ends it.
struct Grouped {
    child: Child,
    /// What ends it in an orderly way.
    end: Signal,
}

impl Grouped {
    /// Both outputs go to a file.
    fn start(ns: &Ns, command: &mut Command, output: &Path, end: Signal) -> Result<Self> {
        let line = process::shown(command);
        let file =
            File::create(output).with_context(|| format!("creating {}", output.display()))?;
        let errors = file.try_clone().context("sharing the output file")?;
        command.stdin(Stdio::null()).stdout(file).stderr(errors).process_group(0);
        let child = ns.child(command).with_context(|| format!("starting `{line}`"))?;
        Ok(Self { child, end })
    }

    fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(self.child.id().try_into().context("a process id")?))
    }
}

impl Drop for Grouped {
    fn drop(&mut self) {
        let Ok(pid) = self.pid() else { return };
        if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
            return;
        }
        let _ = kill(pid, self.end);
        let ended =
            wait_until(ENDED_WITHIN, "the process to end", || self.child.try_wait().ok().flatten());
        if let Err(error) = ended {
            eprintln!("{error:#}: killing it");
            let _ = killpg(pid, Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

/// A running server. Ends when dropped.
pub(super) struct Server {
    process: Grouped,
    log: PathBuf,
}

impl Server {
    /// Starts it in a pod, and waits until it is ready.
    pub(super) fn start(
        ns: &Ns,
        command: &mut Command,
        log: PathBuf,
        end: Signal,
        is_ready: impl Fn() -> Result<()>,
    ) -> Result<Self> {
        let process = Grouped::start(ns, command, &log, end)?;
        let mut server = Self { process, log };
        let ready = wait_ok(STARTED_WITHIN, "the server to be ready", || {
            if let Ok(Some(status)) = server.process.child.try_wait() {
                bail!("it ended, {status}");
            }
            is_ready()
        });
        ready.with_context(|| format!("`{}`: {}", process::shown(command), server.log()))?;
        Ok(server)
    }

    /// What it printed.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.process.pid()?, signal).with_context(|| format!("sending {signal}"))
    }
}

/// What a client printed to both outputs, and whether it succeeded.
pub(super) struct Said {
    pub(super) text: String,
    pub(super) succeeded: bool,
}

impl Said {
    /// Fails if the client failed.
    pub(super) fn checked(self) -> Result<String> {
        if !self.succeeded {
            bail!("the client failed: {}", self.text.trim());
        }
        Ok(self.text)
    }
}

/// A client to be run.
pub(super) struct Client(pub(super) Command);

impl Client {
    /// Runs it to the end.
    pub(super) fn run(mut self, ns: &Ns, folder: &Path, interrupt: &Interrupt) -> Result<Said> {
        let output = folder.join("client-output");
        let mut running = Grouped::start(ns, &mut self.0, &output, Signal::SIGTERM)?;
        let status = loop {
            interrupt.wait(Duration::from_millis(5))?;
            if let Some(status) = running.child.try_wait().context("waiting for the client")? {
                break status;
            }
        };
        let text = fs::read(&output).context("reading the client's output")?;
        let text = String::from_utf8_lossy(&text).into_owned();
        Ok(Said { text, succeeded: status.success() })
    }
}
