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

/// Timeout for the end of a killed helper.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);

/// A command of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum SupervisorCommand {
    /// Kill the helper if it runs, and start a new one on the socket that is passed with this command.
    Start = b'S',
    /// Return the helper's state.
    State = b'L',
}

impl SupervisorCommand {
    const ALL: [Self; 2] = [Self::Start, Self::State];
}

/// A command, and the number that its answer carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NumberedCommand {
    pub command: SupervisorCommand,
    pub number: u64,
}

impl NumberedCommand {
    const BYTES: usize = 1 + size_of::<u64>();

    /// As it is sent: the command in one byte, then the number.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [self.command as u8; Self::BYTES];
        bytes[1..].copy_from_slice(&self.number.to_ne_bytes());
        bytes
    }

    /// `None` if there is no such command.
    fn from_bytes([byte, number @ ..]: [u8; Self::BYTES]) -> Option<Self> {
        let command = SupervisorCommand::ALL.into_iter().find(|command| *command as u8 == byte)?;
        Some(Self { command, number: u64::from_ne_bytes(number) })
    }
}

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
        let report = match (numbered.command, socket) {
            (SupervisorCommand::Start, Some(socket)) => start(&mut helper, setup, socket)
                .unwrap_or_else(|error| Report::NotStarted(format!("{error:#}"))),
            (SupervisorCommand::Start, None) => Report::NotStarted("without a socket".into()),
            (SupervisorCommand::State, _) => state(helper.as_mut()),
        };
        let reply = Reply { number: numbered.number, report };
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
    let mut sent = [0; NumberedCommand::BYTES];
    let mut space = cmsg_space!([RawFd; 1]);
    let mut into = [IoSliceMut::new(&mut sent)];
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
        NumberedCommand::BYTES => {
            let command = NumberedCommand::from_bytes(sent)
                .ok_or_else(|| io::Error::other(format!("there is no command {:#04x}", sent[0])))?;
            Ok(Some((command, socket)))
        }
        bytes => Err(io::Error::other(format!("a command of {bytes} bytes"))),
    }
}

#[expect(unsafe_code, reason = "nix returns received descriptors as numbers")]
fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us, and nothing else uses it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_command_is_read_as_it_was_sent() {
        for command in SupervisorCommand::ALL {
            let sent = NumberedCommand { command, number: 0x0102_0304_0506_0708 };
            assert_eq!(NumberedCommand::from_bytes(sent.to_bytes()), Some(sent));
        }
        let bytes: BTreeSet<u8> =
            SupervisorCommand::ALL.into_iter().map(|command| command as u8).collect();
        assert_eq!(bytes.len(), SupervisorCommand::ALL.len());
    }

    #[test]
    fn a_byte_that_is_no_command_is_refused() {
        assert_eq!(NumberedCommand::from_bytes([0; NumberedCommand::BYTES]), None);
    }
}
