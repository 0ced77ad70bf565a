//! A handle on the supervisor of the helper process: starts it and sends it commands.

use std::{
    io::{self, IoSlice},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{net::UnixStream, process::CommandExt as _},
    },
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::{
    helper::{
        message,
        supervisor::{NumberedCommand, Reply, Report, SupervisorCommand},
    },
    sock_destroy::Method,
};

/// Timeout for an answer of the supervisor, while the control loop waits.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The minimum timeout that a socket accepts.
const MIN_TIMEOUT: Duration = Duration::from_millis(1);
/// How long the supervisor may be silent, as on a machine that is short of memory, before it is lost.
const MAX_SILENCE: Duration = Duration::from_secs(60);

pub(super) struct Supervisor {
    child: Child,
    control: UnixStream,
    /// The number of the last command.
    number: u64,
    /// When a command was sent that has no answer yet.
    silent_since: Option<Instant>,
}

impl Supervisor {
    pub(super) fn start(bpffs: &Path, method: Option<Method>) -> io::Result<Self> {
        let (control, other) = UnixStream::pair()?;
        message::set_timeouts(&control, ANSWER_TIMEOUT)?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0("sockline").arg("helper").arg("--bpf-root").arg(bpffs);
        if let Some(method) = method {
            command.args(["--method", &method.to_string()]);
        }
        let child = command
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(other)))
            .stdout(Stdio::null())
            // Ctrl-C in the terminal is for the agent only.
            .process_group(0)
            .spawn()?;
        Ok(Self { child, control, number: 0, silent_since: None })
    }

    /// Sends a command. `None` if it is not answered in time, or the previous one is not answered yet.
    /// Kills the supervisor if it is silent for too long.
    pub(super) fn send_command(
        &mut self,
        command: SupervisorCommand,
        socket: Option<&UnixStream>,
    ) -> io::Result<Option<Report>> {
        let result = self.try_send_command(command, socket);
        if result.is_err() {
            let _ = self.child.kill();
        }
        result
    }

    fn try_send_command(
        &mut self,
        command: SupervisorCommand,
        socket: Option<&UnixStream>,
    ) -> io::Result<Option<Report>> {
        if let Some(since) = self.silent_since {
            // It did not answer in time before, so do not wait again.
            message::set_timeouts(&self.control, MIN_TIMEOUT)?;
            let late = self.receive();
            message::set_timeouts(&self.control, ANSWER_TIMEOUT)?;
            if late?.is_none() {
                let silence = since.elapsed();
                return if silence < MAX_SILENCE {
                    Ok(None)
                } else {
                    Err(io::Error::other(format!("no answer for {} seconds", silence.as_secs())))
                };
            }
            tracing::info!("the supervisor of the helper process answers again");
            self.silent_since = None;
        }
        let began = Instant::now();
        self.number += 1;
        self.send(command, socket)?;
        let report = self.receive()?;
        if report.is_none() {
            self.silent_since = Some(began);
            tracing::warn!(
                "the supervisor of the helper process has not answered for {} seconds; it is killed \
                 after {}",
                ANSWER_TIMEOUT.as_secs(),
                MAX_SILENCE.as_secs()
            );
        }
        Ok(report)
    }

    /// Receives the answer to the last command; `None` on a timeout.
    fn receive(&mut self) -> io::Result<Option<Report>> {
        loop {
            match message::receive::<Reply>(&mut self.control) {
                Ok(Some(reply)) if reply.number == self.number => return Ok(Some(reply.report)),
                // A late answer to an earlier command.
                Ok(Some(_)) => {}
                Ok(None) => {
                    return Err(io::Error::other("the supervisor of the helper process has ended"));
                }
                Err(error) if is_timeout(&error) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    fn send(&self, command: SupervisorCommand, socket: Option<&UnixStream>) -> io::Result<()> {
        let sent = NumberedCommand { command, number: self.number }.to_bytes();
        let descriptors: Vec<i32> = socket.iter().map(|socket| socket.as_raw_fd()).collect();
        let with: &[ControlMessage<'_>] = match &descriptors[..] {
            [] => &[],
            descriptors => &[ControlMessage::ScmRights(descriptors)],
        };
        let control = self.control.as_raw_fd();
        sendmsg::<()>(control, &[IoSlice::new(&sent)], with, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }

    pub(super) fn ended(&mut self) -> Option<String> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(status.to_string()),
            Err(error) => Some(error.to_string()),
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // The supervisor needs no cleanup, and the helper ends with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `SO_RCVTIMEO` expired (`EAGAIN`).
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
