//! The agent's side: starts and restarts the helper, and sends it requests.

use std::{
    io::{self, IoSlice},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{net::UnixStream, process::CommandExt as _},
    },
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use caps::{CapSet, Capability};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::{
    message::{self, Answer, CloseTarget, Coverage, MAX_SOCKETS, Outcome, Request},
    supervisor::{LOOK, Numbered, Reply, Report, START},
};
use crate::sock_destroy::Method;

/// How long the helper may take for one answer: there can be thousands of namespaces.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the helper may take to mount a file system, while the control loop waits.
const MOUNTING: Duration = Duration::from_secs(5);
/// How long the supervisor may take for an answer, while the control loop waits.
const SUPERVISORS_PATIENCE: Duration = Duration::from_secs(5);
/// The shortest timeout that a socket accepts.
const AT_ONCE: Duration = Duration::from_millis(1);
/// How long the supervisor may be silent, as on a machine that is short of memory, before it is lost.
const SUPERVISORS_SILENCE: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    #[error("cannot start the helper process")]
    Start(#[source] io::Error),
    #[error("cannot start the helper process: {0}")]
    NotStarted(String),
    #[error("cannot start the helper process: its supervisor does not answer")]
    NoSupervisor,
    #[error("the helper process does not answer")]
    Silent(#[source] io::Error),
    #[error("the helper process has ended")]
    Ended,
    #[error("the helper process is busy")]
    Busy,
    #[error("the helper process says: {0}")]
    Said(String),
}

/// The state of the helper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Its process id.
    Running(u32),
    /// How it ended; it can be restarted.
    Ended(String),
    /// Its supervisor has not answered yet, so the state is unknown.
    Silent,
    /// How its supervisor ended: the helper cannot be restarted.
    Lost(String),
}

/// A handle on the helper, for any thread. The helper ends with the last handle.
#[derive(Clone)]
pub struct Helper {
    supervisor: Arc<Mutex<Supervisor>>,
    /// One request at a time; `None` after a request without an answer.
    helper: Arc<Mutex<Option<UnixStream>>>,
    is_confined: bool,
}

struct Supervisor {
    child: Child,
    control: UnixStream,
    /// The number of the last command.
    number: u64,
    /// Since when that has no answer.
    silent_since: Option<Instant>,
}

impl Helper {
    /// Starts this very binary as a supervisor and helper, for kernel state that is pinned in `bpffs`.
    /// They die with the thread that calls this.
    ///
    /// # Errors
    /// When that fails.
    pub fn start(bpffs: &Path, method: Option<Method>) -> Result<Self, HelperError> {
        let supervisor = Supervisor::start(bpffs, method).map_err(HelperError::Start)?;
        // A child has no more than its parent.
        let may = caps::has_cap(None, CapSet::Permitted, Capability::CAP_SYS_ADMIN);
        let is_confined = !may.unwrap_or(false);
        let this = Self {
            supervisor: Arc::new(Mutex::new(supervisor)),
            helper: Arc::default(),
            is_confined,
        };
        this.restart()?;
        Ok(this)
    }

    /// Starts the helper process, in place of one that has ended or does not answer. Returns its
    /// process id.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart(&self) -> Result<u32, HelperError> {
        let (socket, other) = UnixStream::pair().map_err(HelperError::Start)?;
        let report = lock(&self.supervisor).tell(START, Some(&other));
        match report.map_err(HelperError::Start)? {
            Some(Report::Running(pid)) => {
                // A thread that still waits for the previous helper gets an error, because that
                // helper has ended.
                *lock(&self.helper) = Some(socket);
                Ok(pid)
            }
            Some(Report::Ended(how) | Report::NotStarted(how)) => Err(HelperError::NotStarted(how)),
            // If the supervisor starts a helper later, it finds its socket closed and ends.
            None => Err(HelperError::NoSupervisor),
        }
    }

    /// The helper's state. Does not wait for a pending request.
    #[must_use]
    pub fn state(&self) -> State {
        let mut supervisor = lock(&self.supervisor);
        if let Some(how) = supervisor.ended() {
            return State::Lost(how);
        }
        match supervisor.tell(LOOK, None) {
            // A request got no answer, and its connection is closed.
            Ok(Some(Report::Running(_))) if self.is_given_up() => {
                State::Ended("it did not answer".into())
            }
            Ok(Some(Report::Running(pid))) => State::Running(pid),
            Ok(Some(Report::Ended(how) | Report::NotStarted(how))) => State::Ended(how),
            Ok(None) => State::Silent,
            Err(error) => State::Lost(supervisor.ended().unwrap_or_else(|| error.to_string())),
        }
    }

    fn is_given_up(&self) -> bool {
        self.helper.try_lock().is_ok_and(|helper| helper.is_none())
    }

    /// It may not enter other network namespaces.
    #[must_use]
    pub const fn is_confined(&self) -> bool {
        self.is_confined
    }

    /// Closes sockets. Returns one outcome for each. Blocks the thread.
    ///
    /// # Errors
    /// When the helper does not answer, or cannot look anywhere.
    pub fn close(
        &self,
        sockets: &[CloseTarget],
        threads: bool,
    ) -> Result<(Vec<Outcome>, Coverage), HelperError> {
        let mut all = Vec::with_capacity(sockets.len());
        let mut furthest = Coverage::default();
        for sockets in sockets.chunks(MAX_SOCKETS) {
            match self.ask(&Request::Close { sockets: sockets.to_vec(), threads })? {
                Answer::Closed { outcomes, coverage } if outcomes.len() == sockets.len() => {
                    all.extend(outcomes);
                    furthest = Coverage { spent: furthest.spent + coverage.spent, ..coverage };
                }
                other => return Err(unexpected(other)),
            }
        }
        Ok((all, furthest))
    }

    /// How far it can see now. Blocks the thread.
    ///
    /// # Errors
    /// When the helper does not answer, or cannot look anywhere.
    pub fn coverage(&self) -> Result<Coverage, HelperError> {
        match self.ask(&Request::Coverage)? {
            Answer::Covered(coverage) => Ok(coverage),
            other => Err(unexpected(other)),
        }
    }

    /// Mounts the BPF file system again. Does not wait for another request, and at most 5 seconds
    /// for this one.
    ///
    /// # Errors
    /// When the helper is busy, does not answer, or cannot mount it.
    pub fn mount_bpffs(&self) -> Result<(), HelperError> {
        let mut helper = self.helper.try_lock().map_err(|_| HelperError::Busy)?;
        match ask_within(MOUNTING, &mut helper, &Request::Mount)? {
            Answer::Mounted => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    /// The cookies of the network namespaces that are this process's own or mounted. Blocks the thread.
    ///
    /// # Errors
    /// When the helper does not answer, or cannot look into all of them.
    pub fn namespaces(&self) -> Result<Vec<u64>, HelperError> {
        match self.ask(&Request::Namespaces)? {
            Answer::Namespaces(cookies) => Ok(cookies),
            other => Err(unexpected(other)),
        }
    }

    fn ask(&self, request: &Request) -> Result<Answer, HelperError> {
        ask_within(PATIENCE, &mut lock(&self.helper), request)
    }
}

fn ask_within(
    patience: Duration,
    helper: &mut Option<UnixStream>,
    request: &Request,
) -> Result<Answer, HelperError> {
    let socket = helper.as_mut().ok_or(HelperError::Ended)?;
    let answered = be_patient(socket, patience)
        .and_then(|()| message::send(socket, request))
        .and_then(|()| message::receive(socket));
    let answer = match answered {
        Ok(answer) => answer.ok_or(HelperError::Ended),
        Err(error) => Err(HelperError::Silent(error)),
    };
    if answer.is_err() {
        // A later message would be the answer to this request.
        *helper = None;
    }
    answer
}

impl Supervisor {
    fn start(bpffs: &Path, method: Option<Method>) -> io::Result<Self> {
        let (control, other) = UnixStream::pair()?;
        be_patient(&control, SUPERVISORS_PATIENCE)?;
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

    /// Sends a command. `None` if there is no answer in time, or none yet to the previous one.
    /// Kills the supervisor if it is silent for too long.
    fn tell(&mut self, command: u8, socket: Option<&UnixStream>) -> io::Result<Option<Report>> {
        let result = self.try_tell(command, socket);
        if result.is_err() {
            let _ = self.child.kill();
        }
        result
    }

    fn try_tell(&mut self, command: u8, socket: Option<&UnixStream>) -> io::Result<Option<Report>> {
        if let Some(since) = self.silent_since {
            // It is known to be silent, so do not wait again.
            be_patient(&self.control, AT_ONCE)?;
            let late = self.receive();
            be_patient(&self.control, SUPERVISORS_PATIENCE)?;
            if late?.is_none() {
                let silence = since.elapsed();
                return if silence < SUPERVISORS_SILENCE {
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
                "the supervisor of the helper process has not answered for {} seconds; it has {} to do \
                 so",
                SUPERVISORS_PATIENCE.as_secs(),
                SUPERVISORS_SILENCE.as_secs()
            );
        }
        Ok(report)
    }

    /// The answer to the last command; `None` if there is none in time.
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

    fn send(&self, command: u8, socket: Option<&UnixStream>) -> io::Result<()> {
        let mut numbered = Numbered::default();
        numbered[0] = command;
        numbered[1..].copy_from_slice(&self.number.to_ne_bytes());
        let descriptors: Vec<i32> = socket.iter().map(|socket| socket.as_raw_fd()).collect();
        let with: &[ControlMessage<'_>] = match &descriptors[..] {
            [] => &[],
            descriptors => &[ControlMessage::ScmRights(descriptors)],
        };
        let control = self.control.as_raw_fd();
        sendmsg::<()>(control, &[IoSlice::new(&numbered)], with, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }

    fn ended(&mut self) -> Option<String> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(status.to_string()),
            Err(error) => Some(error.to_string()),
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // It needs no cleanup, and the helper ends with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn be_patient(socket: &UnixStream, time: Duration) -> io::Result<()> {
    socket.set_read_timeout(Some(time))?;
    socket.set_write_timeout(Some(time))
}

/// The time of `SO_RCVTIMEO` is over (`EAGAIN`).
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// The value is replaced whole, so it is consistent after a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unexpected(answer: Answer) -> HelperError {
    match answer {
        Answer::Failed(reason) => HelperError::Said(reason),
        _ => HelperError::Said("an answer to another question".into()),
    }
}
