//! The supervisor process, between the agent and its helper. It keeps the capabilities that the helper needs at
//! its start and that the agent drops. It only starts the helper, on the agent's command and on a socket that the
//! agent passes. It reads none of the helper's input, and ends with the agent.

use std::{
    io::{self, IoSliceMut},
    os::{
        fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::{net::UnixStream, process::CommandExt as _},
    },
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use nix::{
    cmsg_space,
    sys::{
        prctl,
        signal::{SigSet, Signal},
        socket::{ControlMessageOwned, MsgFlags, recvmsg},
    },
};
use serde::{Deserialize, Serialize};

use super::{message, serve::Setup};
use crate::privileges;

/// Kill the helper if it runs, and start a new one on the socket that is passed with this command.
pub const START: u8 = b'S';
/// Return the helper's state.
pub const STATE: u8 = b'L';

/// Timeout for the end of a killed helper.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);

/// A command, and the number that its answer carries.
pub type NumberedCommand = [u8; 1 + size_of::<u64>()];

/// The answer to the command with this number.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    pub number: u64,
    pub report: Report,
}

/// The helper's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// Its process id.
    Running(u32),
    Ended(String),
    /// It could not be started.
    NotStarted(String),
}

/// Handles commands from standard input, which is a socket, until it closes.
///
/// # Errors
/// When the process cannot be set up.
pub fn supervise(setup: &Setup) -> anyhow::Result<()> {
    // This process ends with the agent. Other signals are blocked.
    prctl::set_pdeathsig(Signal::SIGKILL).context("prctl(PR_SET_PDEATHSIG)")?;
    prctl::set_name(c"sockline-superv").context("prctl(PR_SET_NAME)")?;
    SigSet::all().thread_block().context("blocking signals")?;
    privileges::keep_only(&privileges::of_supervisor(setup.method))?;
    let control: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
    let mut control = UnixStream::from(control);
    let mut helper: Option<Child> = None;
    while let Some((numbered, socket)) = receive(&control).context("receiving a command")? {
        let [command, number @ ..] = numbered;
        let report = match (command, socket) {
            (START, Some(socket)) => start(&mut helper, setup, socket)
                .unwrap_or_else(|error| Report::NotStarted(format!("{error:#}"))),
            _ => state(helper.as_mut()),
        };
        let reply = Reply { number: u64::from_ne_bytes(number), report };
        message::send(&mut control, &reply).context("answering")?;
    }
    Ok(())
}

fn start(helper: &mut Option<Child>, setup: &Setup, socket: OwnedFd) -> anyhow::Result<Report> {
    if let Some(last) = helper {
        end(last)?;
    }
    let mut command = Command::new("/proc/self/exe");
    command.arg0("sockline").arg("helper-worker").arg("--bpf-root").arg(&setup.bpffs);
    if let Some(method) = setup.method {
        command.args(["--method", &method.to_string()]);
    }
    let child = command
        .env_clear()
        .stdin(Stdio::from(socket))
        .stdout(Stdio::null())
        .spawn()
        .context("cannot start the helper process")?;
    Ok(Report::Running(helper.insert(child).id()))
}

/// Kills the helper and waits until it has ended.
fn end(helper: &mut Child) -> anyhow::Result<()> {
    helper.kill()?;
    let deadline = Instant::now() + KILL_TIMEOUT;
    while helper.try_wait()?.is_none() {
        anyhow::ensure!(Instant::now() < deadline, "process {} does not end", helper.id());
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn state(helper: Option<&mut Child>) -> Report {
    let Some(helper) = helper else { return Report::NotStarted("it was not started yet".into()) };
    match helper.try_wait() {
        Ok(None) => Report::Running(helper.id()),
        Ok(Some(status)) => Report::Ended(status.to_string()),
        Err(error) => Report::Ended(error.to_string()),
    }
}

/// A command and the socket that came with it; `None` when the agent has ended.
fn receive(control: &UnixStream) -> io::Result<Option<(NumberedCommand, Option<OwnedFd>)>> {
    // The agent sends a command with one call, so it is never received in part.
    let mut command = NumberedCommand::default();
    let mut space = cmsg_space!([RawFd; 1]);
    let mut into = [IoSliceMut::new(&mut command)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let received = recvmsg::<()>(control.as_raw_fd(), &mut into, Some(&mut space), flags)?;
    let mut socket = None;
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(sockets) = message {
            socket = sockets.into_iter().next().map(owned);
        }
    }
    match received.bytes {
        0 => Ok(None),
        bytes if bytes == size_of::<NumberedCommand>() => Ok(Some((command, socket))),
        bytes => Err(io::Error::other(format!("a command of {bytes} bytes"))),
    }
}

#[expect(unsafe_code, reason = "nix returns received descriptors as numbers")]
fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us, and nothing else uses it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
