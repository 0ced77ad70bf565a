//! The agent's side: starting the helper, again if need be, and asking it.

use std::{
    io::{self, IoSlice},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{net::UnixStream, process::CommandExt as _},
    },
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use caps::{CapSet, Capability};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::{
    message::{self, Answer, MAX_SOCKETS, Method, Outcome, Reach, Request, Wanted},
    supervisor::{LOOK, Report, START},
};

/// How long the helper may take for one answer: there can be thousands of namespaces.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long its supervisor may take, which does next to nothing.
const SUPERVISORS_PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    #[error("cannot start the helper process")]
    Start(#[source] io::Error),
    #[error("cannot start the helper process: {0}")]
    NotStarted(String),
    #[error("the helper process does not answer")]
    Silent(#[source] io::Error),
    #[error("the helper process has ended")]
    Ended,
    #[error("the helper process is busy")]
    Busy,
    #[error("the helper process says: {0}")]
    Said(String),
}

/// How the helper is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Its process id.
    Running(u32),
    /// How; it can be started again.
    Ended(String),
    /// Its supervisor has ended, and how: there is nobody who could start it again.
    Lost(String),
}

/// A helper, for whoever has a question. It ends with the last of these.
#[derive(Clone)]
pub struct Helper {
    supervisor: Arc<Mutex<Supervisor>>,
    /// One question at a time; `None` once there was no answer.
    helper: Arc<Mutex<Option<UnixStream>>>,
    is_confined: bool,
}

struct Supervisor {
    child: Child,
    control: UnixStream,
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
        let pair = || -> io::Result<_> {
            let (socket, other) = UnixStream::pair()?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.set_write_timeout(Some(PATIENCE))?;
            Ok((socket, other))
        };
        let (socket, other) = pair().map_err(HelperError::Start)?;
        let report = lock(&self.supervisor).tell(START, Some(&other));
        match report.map_err(HelperError::Start)? {
            Report::Running(pid) => {
                // Whoever still waits for the last one's answer has an error: that one has ended.
                *lock(&self.helper) = Some(socket);
                Ok(pid)
            }
            Report::Ended(how) | Report::NotStarted(how) => Err(HelperError::NotStarted(how)),
        }
    }

    /// How it is. Does not wait for the answer to a question.
    #[must_use]
    pub fn state(&self) -> State {
        let mut supervisor = lock(&self.supervisor);
        if let Some(how) = supervisor.ended() {
            return State::Lost(how);
        }
        match supervisor.tell(LOOK, None) {
            Ok(Report::Running(pid)) => State::Running(pid),
            Ok(Report::Ended(how) | Report::NotStarted(how)) => State::Ended(how),
            Err(error) => State::Lost(supervisor.ended().unwrap_or_else(|| error.to_string())),
        }
    }

    /// It may not enter other network namespaces.
    #[must_use]
    pub const fn is_confined(&self) -> bool {
        self.is_confined
    }

    /// Has sockets closed. Blocks the thread. One outcome for each.
    ///
    /// # Errors
    /// When the helper does not answer, or cannot look anywhere.
    pub fn close(
        &self,
        sockets: &[Wanted],
        threads: bool,
    ) -> Result<(Vec<Outcome>, Reach), HelperError> {
        let mut all = Vec::with_capacity(sockets.len());
        let mut furthest = Reach::default();
        for sockets in sockets.chunks(MAX_SOCKETS) {
            match self.ask(&Request::Close { sockets: sockets.to_vec(), threads })? {
                Answer::Closed { outcomes, reach } if outcomes.len() == sockets.len() => {
                    all.extend(outcomes);
                    furthest = Reach { spent: furthest.spent + reach.spent, ..reach };
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
    pub fn reach(&self) -> Result<Reach, HelperError> {
        match self.ask(&Request::Reach)? {
            Answer::Reached(reach) => Ok(reach),
            other => Err(unexpected(other)),
        }
    }

    /// Has the BPF file system mounted again. Does not wait for the answer to another question.
    ///
    /// # Errors
    /// When the helper is busy, does not answer, or cannot mount it.
    pub fn mount_bpffs(&self) -> Result<(), HelperError> {
        let mut helper = self.helper.try_lock().map_err(|_| HelperError::Busy)?;
        match ask(&mut helper, &Request::Mount)? {
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
        ask(&mut lock(&self.helper), request)
    }
}

fn ask(helper: &mut Option<UnixStream>, request: &Request) -> Result<Answer, HelperError> {
    let socket = helper.as_mut().ok_or(HelperError::Ended)?;
    let answered = message::send(socket, request).and_then(|()| message::receive(socket));
    let answer = match answered {
        Ok(answer) => answer.ok_or(HelperError::Ended),
        Err(error) => Err(HelperError::Silent(error)),
    };
    if answer.is_err() {
        // What it says from now on would be an answer to another question.
        *helper = None;
    }
    answer
}

impl Supervisor {
    fn start(bpffs: &Path, method: Option<Method>) -> io::Result<Self> {
        let (control, other) = UnixStream::pair()?;
        control.set_read_timeout(Some(SUPERVISORS_PATIENCE))?;
        control.set_write_timeout(Some(SUPERVISORS_PATIENCE))?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0("sockline").arg("helper").arg("--bpffs").arg(bpffs);
        if let Some(method) = method {
            command.args(["--method", &method.to_string()]);
        }
        let child = command
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(other)))
            .stdout(Stdio::null())
            // A Ctrl-C in the terminal is for the agent.
            .process_group(0)
            .spawn()?;
        Ok(Self { child, control })
    }

    fn tell(&mut self, command: u8, socket: Option<&UnixStream>) -> io::Result<Report> {
        let answered = self.send(command, socket).and_then(|()| {
            message::receive(&mut self.control)?
                .ok_or_else(|| io::Error::other("the supervisor of the helper process has ended"))
        });
        if answered.is_err() {
            // As of a helper: what it says from now on would be of another command.
            let _ = self.child.kill();
        }
        answered
    }

    fn send(&self, command: u8, socket: Option<&UnixStream>) -> io::Result<()> {
        let command = [command];
        let descriptors: Vec<i32> = socket.iter().map(|socket| socket.as_raw_fd()).collect();
        let with: &[ControlMessage<'_>] = match &descriptors[..] {
            [] => &[],
            descriptors => &[ControlMessage::ScmRights(descriptors)],
        };
        let control = self.control.as_raw_fd();
        sendmsg::<()>(control, &[IoSlice::new(&command)], with, MsgFlags::MSG_NOSIGNAL, None)?;
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
        // It holds nothing that would have to be put away, and the helper dies with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A socket is put in whole, so what a panic left behind is still good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unexpected(answer: Answer) -> HelperError {
    match answer {
        Answer::Failed(reason) => HelperError::Said(reason),
        _ => HelperError::Said("an answer to another question".into()),
    }
}
