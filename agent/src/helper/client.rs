//! The agent's side: starting the helper and asking it.

use std::{
    io,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt as _},
    },
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use caps::{CapSet, Capability};

use super::message::{self, Answer, Found, MAX_SOCKETS, Method, Outcome, Reach, Request, Wanted};

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
    #[error("the helper process says: {0}")]
    Said(String),
}

/// A running helper. It ends with this value.
pub struct Helper {
    child: Child,
    socket: UnixStream,
    is_confined: bool,
}

impl Helper {
    /// Starts this very binary as a helper, for kernel state that is pinned in `bpffs`.
    ///
    /// # Errors
    /// When that fails.
    pub fn start(bpffs: &Path, method: Method) -> Result<Self, HelperError> {
        let started = || -> io::Result<Self> {
            let (socket, other) = UnixStream::pair()?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.set_write_timeout(Some(PATIENCE))?;
            let child = Command::new("/proc/self/exe")
                .arg0("sockline")
                .arg("helper")
                .arg("--bpffs")
                .arg(bpffs)
                .args(["--method", &method.to_string()])
                .env_clear()
                .stdin(Stdio::from(OwnedFd::from(other)))
                .stdout(Stdio::null())
                // A Ctrl-C in the terminal is for the agent.
                .process_group(0)
                .spawn()?;
            // A child has no more than its parent.
            let may = caps::has_cap(None, CapSet::Permitted, Capability::CAP_SYS_ADMIN);
            Ok(Self { child, socket, is_confined: !may.unwrap_or(false) })
        };
        started().map_err(HelperError::Start)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// It may not enter other network namespaces.
    #[must_use]
    pub const fn is_confined(&self) -> bool {
        self.is_confined
    }

    /// How it ended; `None` while it runs.
    pub fn ended(&mut self) -> Option<String> {
        match self.child.try_wait() {
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
        &mut self,
        sockets: &[Wanted],
        threads: bool,
    ) -> Result<(Vec<Outcome>, Reach), HelperError> {
        let mut all = Vec::with_capacity(sockets.len());
        let mut furthest = Reach::default();
        for sockets in sockets.chunks(MAX_SOCKETS) {
            match self.ask(&Request::Close { sockets: sockets.to_vec(), threads })? {
                Answer::Closed { outcomes, reach } if outcomes.len() == sockets.len() => {
                    all.extend(outcomes);
                    furthest = reach;
                }
                other => return Err(unexpected(other)),
            }
        }
        Ok((all, furthest))
    }

    /// Looks for sockets with records in socket storage whose backend is gone; there may be more.
    /// Blocks the thread.
    ///
    /// # Errors
    /// When the helper does not answer, or cannot look anywhere.
    pub fn find(&mut self) -> Result<(Vec<Found>, Reach), HelperError> {
        match self.ask(&Request::Find)? {
            Answer::Found { records, reach } => Ok((records, reach)),
            other => Err(unexpected(other)),
        }
    }

    /// Has the BPF file system mounted again. Blocks the thread.
    ///
    /// # Errors
    /// When the helper does not answer, or may not do it.
    pub fn mount(&mut self) -> Result<(), HelperError> {
        match self.ask(&Request::Mount)? {
            Answer::Mounted => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    fn ask(&mut self, request: &Request) -> Result<Answer, HelperError> {
        message::send(&mut self.socket, request).map_err(HelperError::Silent)?;
        message::receive(&mut self.socket).map_err(HelperError::Silent)?.ok_or(HelperError::Ended)
    }
}

fn unexpected(answer: Answer) -> HelperError {
    match answer {
        Answer::Failed(reason) => HelperError::Said(reason),
        _ => HelperError::Said("an answer to another question".into()),
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It holds nothing that would have to be put away.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
