//! The agent's side: starts and restarts the helper, and sends it requests.
//!
//! `termination/`, the agent's count of open connections, its search of nested namespaces and its mount of the BPF file
//! system call [`Helper`]. `supervisor` holds the process that starts the helper again, `turns` says whose request is next.
//!
//! Invariant: a helper that does not answer costs its caller a timeout, not more.

mod supervisor;
mod turns;

use std::{
    collections::HashMap,
    io,
    os::unix::net::UnixStream,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use caps::{CapSet, Capability};

use self::{supervisor::Supervisor, turns::Turns};
use super::{
    message::{
        self, CloseTarget, Coverage, MAX_SOCKETS, Outcome, Progress, ReadConnection, Request,
        Response, SearchScope, Wanted,
    },
    supervisor::{Report, SupervisorCommand},
};
use crate::sock_destroy::Method;

/// Timeout of a request: there can be thousands of namespaces to search.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Timeout for mounting a file system, while the control loop waits.
const MOUNT_TIMEOUT: Duration = Duration::from_secs(5);

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
    #[error("the helper process reports: {0}")]
    Failed(String),
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
    helper: Arc<Turns<Option<UnixStream>>>,
    is_confined: bool,
}

impl Helper {
    /// Starts this binary as supervisor and as helper, for kernel state that is pinned in `bpffs`. Both are
    /// killed when the calling thread ends.
    ///
    /// # Errors
    /// When that fails.
    pub fn start(bpffs: &Path, method: Option<Method>) -> Result<Self, HelperError> {
        let supervisor = Supervisor::start(bpffs, method).map_err(HelperError::Start)?;
        // A child has no more capabilities than its parent.
        let is_capable = caps::has_cap(None, CapSet::Permitted, Capability::CAP_SYS_ADMIN);
        let is_confined = !is_capable.unwrap_or(false);
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
        let report = lock(&self.supervisor).send_command(SupervisorCommand::Start, Some(&other));
        match report.map_err(HelperError::Start)? {
            Some(Report::Running(pid)) => {
                // A thread that still waits for the previous helper gets an error, because that
                // helper has ended.
                *self.helper.take() = Some(socket);
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
        match supervisor.send_command(SupervisorCommand::State, None) {
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
        self.helper.try_take().is_some_and(|helper| helper.is_none())
    }

    /// Whether it lacks the capability to enter other network namespaces.
    #[must_use]
    pub const fn is_confined(&self) -> bool {
        self.is_confined
    }

    /// Closes sockets. Returns one outcome for each. Blocks the thread.
    ///
    /// # Errors
    /// When the helper does not answer, or cannot search any namespace.
    pub fn close(
        &self,
        sockets: &[CloseTarget],
        scope: SearchScope,
    ) -> Result<(Vec<Outcome>, Coverage), HelperError> {
        let mut all = Vec::with_capacity(sockets.len());
        let mut total = Coverage::default();
        for sockets in sockets.chunks(MAX_SOCKETS) {
            match self.request(&Request::Close { sockets: sockets.to_vec(), scope })? {
                Response::Closed { outcomes, coverage } if outcomes.len() == sockets.len() => {
                    all.extend(outcomes);
                    total = total.with(coverage);
                }
                other => return Err(unexpected(other)),
            }
        }
        Ok((all, total))
    }

    /// What the kernel says of open TCP connections, by cookie, as far as they are found. Other requests have their turn
    /// meanwhile, but no other reading. Blocks the thread.
    ///
    /// # Errors
    /// When the helper does not answer, or cannot search any namespace.
    pub fn read_connections(
        &self,
        wanted: Wanted,
    ) -> Result<(HashMap<u64, ReadConnection>, Coverage), HelperError> {
        let mut all = HashMap::new();
        let mut total = Coverage::default();
        for wanted in wanted.parts() {
            let mut request = Request::Read(wanted);
            loop {
                let (connections, coverage, progress) = match self.request(&request)? {
                    Response::Read { connections, coverage, progress } => {
                        (connections, coverage, progress)
                    }
                    other => return Err(unexpected(other)),
                };
                if coverage.namespaces == 0 {
                    // Not even in the helper's own.
                    let why = coverage.why;
                    let why = why.unwrap_or_else(|| "no network namespace was searched".into());
                    return Err(HelperError::Failed(why));
                }
                all.extend(connections.into_iter().map(|read| (read.cookie, read)));
                total = Coverage { spent: total.spent + coverage.spent, ..coverage };
                match progress {
                    Progress::Done => break,
                    Progress::Partial => request = Request::ReadOn,
                }
            }
        }
        Ok((all, total))
    }

    /// Which network namespaces the helper can enter now. Blocks the thread.
    ///
    /// # Errors
    /// When the helper does not answer, or cannot enter any namespace.
    pub fn coverage(&self) -> Result<Coverage, HelperError> {
        match self.request(&Request::Coverage)? {
            Response::Coverage(coverage) => Ok(coverage),
            other => Err(unexpected(other)),
        }
    }

    /// Mounts the BPF file system again. Does not wait for another request, and at most 5 seconds
    /// for this one.
    ///
    /// # Errors
    /// When the helper is busy, does not answer, or cannot mount it.
    pub fn mount_bpffs(&self) -> Result<(), HelperError> {
        let mut helper = self.helper.try_take().ok_or(HelperError::Busy)?;
        match request_within(MOUNT_TIMEOUT, &mut helper, &Request::Mount)? {
            Response::Mounted => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    /// The cookies of the network namespaces that are this process's own or mounted. Blocks the thread.
    ///
    /// # Errors
    /// When the helper does not answer, or cannot enter all of them.
    pub fn namespaces(&self) -> Result<Vec<u64>, HelperError> {
        match self.request(&Request::Namespaces)? {
            Response::Namespaces(cookies) => Ok(cookies),
            other => Err(unexpected(other)),
        }
    }

    fn request(&self, request: &Request) -> Result<Response, HelperError> {
        request_within(REQUEST_TIMEOUT, &mut self.helper.take(), request)
    }
}

fn request_within(
    timeout: Duration,
    helper: &mut Option<UnixStream>,
    request: &Request,
) -> Result<Response, HelperError> {
    let socket = helper.as_mut().ok_or(HelperError::Ended)?;
    let result = message::set_timeouts(socket, timeout)
        .and_then(|()| message::send(socket, request))
        .and_then(|()| message::receive(socket));
    let response = match result {
        Ok(response) => response.ok_or(HelperError::Ended),
        Err(error) => Err(HelperError::Silent(error)),
    };
    if response.is_err() {
        // Close the connection: the next message on it would be the response to this request.
        *helper = None;
    }
    response
}

/// The value is replaced whole, so it is consistent after a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unexpected(response: Response) -> HelperError {
    match response {
        Response::Failed(reason) => HelperError::Failed(reason),
        _ => HelperError::Failed("a response to another request".into()),
    }
}
