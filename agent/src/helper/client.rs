//! The agent's side: starting the helper and asking it.

use std::{
    io,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt as _},
    },
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use caps::{CapSet, Capability};

use super::message::{self, Answer, MAX_SOCKETS, Method, Outcome, Reach, Request, Wanted};

/// How long the helper may take for one answer: there can be thousands of namespaces.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    #[error("cannot start the helper process")]
    Start(#[source] io::Error),
    #[error("the helper process does not answer")]
    Silent(#[source] io::Error),
    #[error("the helper process has ended")]
    Ended,
    #[error("the helper process is busy")]
    Busy,
    #[error("the helper process says: {0}")]
    Said(String),
}

/// A running helper, for whoever has a question. It ends with the last of these.
#[derive(Clone)]
pub struct Helper {
    /// One question at a time.
    process: Arc<Mutex<Process>>,
    pid: u32,
    is_confined: bool,
}

struct Process {
    child: Child,
    socket: UnixStream,
}

impl Helper {
    /// Starts this very binary as a helper, for kernel state that is pinned in `bpffs`. It dies with
    /// the thread that calls this.
    ///
    /// # Errors
    /// When that fails.
    pub fn start(bpffs: &Path, method: Option<Method>) -> Result<Self, HelperError> {
        let started = || -> io::Result<Process> {
            let (socket, other) = UnixStream::pair()?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.set_write_timeout(Some(PATIENCE))?;
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
            Ok(Process { child, socket })
        };
        let process = started().map_err(HelperError::Start)?;
        let pid = process.child.id();
        // A child has no more than its parent.
        let may = caps::has_cap(None, CapSet::Permitted, Capability::CAP_SYS_ADMIN);
        let is_confined = !may.unwrap_or(false);
        Ok(Self { process: Arc::new(Mutex::new(process)), pid, is_confined })
    }

    /// Its process id.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// It may not enter other network namespaces.
    #[must_use]
    pub const fn is_confined(&self) -> bool {
        self.is_confined
    }

    /// How it ended; `None` while it runs.
    #[must_use]
    pub fn ended(&self) -> Option<String> {
        // Whoever is asking it something will notice.
        match self.process.try_lock().ok()?.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(status.to_string()),
            Err(error) => Some(error.to_string()),
        }
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

    /// Has the BPF file system mounted again. Does not wait for the answer to another question.
    ///
    /// # Errors
    /// When the helper is busy, does not answer, or cannot mount it.
    pub fn mount_bpffs(&self) -> Result<(), HelperError> {
        let mut process = self.process.try_lock().map_err(|_| HelperError::Busy)?;
        match process.ask(&Request::Mount)? {
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
        self.process.lock().unwrap_or_else(PoisonError::into_inner).ask(request)
    }
}

impl Process {
    fn ask(&mut self, request: &Request) -> Result<Answer, HelperError> {
        let answered = message::send(&mut self.socket, request)
            .and_then(|()| message::receive(&mut self.socket));
        match answered {
            Ok(answer) => answer.ok_or(HelperError::Ended),
            Err(error) => {
                // What it says from now on would be an answer to another question.
                let _ = self.child.kill();
                Err(HelperError::Silent(error))
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It holds nothing that would have to be put away.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn unexpected(answer: Answer) -> HelperError {
    match answer {
        Answer::Failed(reason) => HelperError::Said(reason),
        _ => HelperError::Said("an answer to another question".into()),
    }
}
