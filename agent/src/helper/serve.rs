//! The helper process: handles requests until the agent or the supervisor ends.

use std::{
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
};

use anyhow::Context as _;
use nix::sys::{
    prctl,
    signal::{SigSet, Signal},
};

use super::{
    close::{self, Close, Destroy},
    message::{self, Progress, Request, Response},
    namespaces::{self, CannotReturn},
    read::{self, Reading},
};
use crate::{
    mounts::{mount_point_of, remount_bpffs},
    privileges,
    sock_destroy::{Method, iterator::SocketIterators},
};

/// The helper's command line.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Where the kernel state is pinned.
    pub bpffs: PathBuf,
    /// How to close sockets; `None` if the kernel cannot.
    pub method: Option<Method>,
}

/// Handles requests on standard input, which is a socket, until it closes.
///
/// # Errors
/// When the process cannot be set up, or cannot return to its own network namespace.
pub fn serve(setup: &Setup) -> anyhow::Result<()> {
    // This process ends with the supervisor, and when the agent closes the socket. Other signals
    // are blocked.
    prctl::set_pdeathsig(Signal::SIGKILL).context("prctl(PR_SET_PDEATHSIG)")?;
    prctl::set_name(c"sockline-helper").context("prctl(PR_SET_NAME)")?;
    SigSet::all().thread_block().context("blocking signals")?;
    let closer: Box<dyn Close> = match setup.method {
        Some(Method::SockDestroy) | None => Box::new(Destroy),
        // Loading iterators takes more capabilities than running them.
        Some(Method::Iterator) => Box::new(SocketIterators::load()?),
    };
    privileges::keep_only(&privileges::of_helper())?;
    let socket: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
    let mut socket = UnixStream::from(socket);
    let mut server = Server { mount_point: mount_point_of(&setup.bpffs), closer, reading: None };
    while let Some(request) = message::receive(&mut socket).context("reading a request")? {
        let answer = match server.answer(request) {
            Ok(answer) => answer,
            // Further requests would run in the wrong namespace. A new helper starts fresh.
            Err(error) if error.is::<CannotReturn>() => return Err(error),
            Err(error) => Response::Failed(format!("{error:#}")),
        };
        message::send(&mut socket, &answer).context("answering")?;
    }
    Ok(())
}

/// What requests need.
struct Server {
    mount_point: PathBuf,
    closer: Box<dyn Close>,
    /// The last reading, unless it has come to its end.
    reading: Option<Reading>,
}

impl Server {
    fn answer(&mut self, request: Request) -> anyhow::Result<Response> {
        Ok(match request {
            Request::Mount => {
                remount_bpffs(&self.mount_point)?;
                Response::Mounted
            }
            Request::Namespaces => Response::Namespaces(namespaces::cookies_of_mounted()?),
            Request::Close { sockets, scope } => {
                anyhow::ensure!(sockets.len() <= message::MAX_SOCKETS, "too many sockets at once");
                let (outcomes, coverage) = close::close(&sockets, scope, self.closer.as_mut())?;
                Response::Closed { outcomes, coverage }
            }
            Request::Read(wanted) => {
                anyhow::ensure!(
                    wanted.len() <= message::MAX_CONNECTIONS,
                    "too many connections at once"
                );
                let reading = Reading::new(wanted)?;
                self.read_on(reading)?
            }
            Request::ReadOn => {
                let reading = self.reading.take().context("there is no reading to continue")?;
                self.read_on(reading)?
            }
            Request::Coverage => Response::Coverage(close::coverage()?),
        })
    }

    fn read_on(&mut self, mut reading: Reading) -> anyhow::Result<Response> {
        let (connections, progress) = reading.read_for(read::STEP)?;
        let coverage = reading.coverage();
        self.reading = (progress == Progress::Partial).then_some(reading);
        Ok(Response::Read { connections, coverage, progress })
    }
}
