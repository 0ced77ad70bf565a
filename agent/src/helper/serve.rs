//! The helper process: answers requests until the agent or the supervisor ends.

use std::{
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use nix::sys::{
    prctl,
    signal::{SigSet, Signal},
};

use super::{
    close::{self, Close, Destroy},
    message::{self, Answer, Request},
    namespaces::{self, Astray},
};
use crate::{
    mounts::{bpffs_again, mount_point_of},
    privileges,
    sock_destroy::{Method, iterator::SocketIterators},
};

/// The helper's command line.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Where the kernel state is pinned.
    pub bpffs: PathBuf,
    /// None where the kernel has none.
    pub method: Option<Method>,
}

/// Answers requests on standard input, which is a socket, until that ends.
///
/// # Errors
/// When the process cannot be set up, or is where it cannot come back from.
pub fn serve(setup: &Setup) -> anyhow::Result<()> {
    // This process ends with the supervisor, and when the agent closes the socket. Other signals
    // are blocked.
    prctl::set_pdeathsig(Signal::SIGKILL).context("binding to the supervisor's life")?;
    prctl::set_name(c"sockline-helper").context("taking a name")?;
    SigSet::all().thread_block().context("blocking signals")?;
    let mut closer: Box<dyn Close> = match setup.method {
        Some(Method::SockDestroy) | None => Box::new(Destroy),
        // Loading iterators takes more capabilities than running them.
        Some(Method::Iterator) => Box::new(SocketIterators::load()?),
    };
    privileges::keep_only(&privileges::of_helper())?;
    let socket: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
    let mut socket = UnixStream::from(socket);
    let mount_point = mount_point_of(&setup.bpffs);
    while let Some(request) = message::receive(&mut socket).context("reading a request")? {
        let answer = match answer(request, &mount_point, closer.as_mut()) {
            Ok(answer) => answer,
            // Further requests would run in the wrong namespace. A new helper starts fresh.
            Err(error) if error.is::<Astray>() => return Err(error),
            Err(error) => Answer::Failed(format!("{error:#}")),
        };
        message::send(&mut socket, &answer).context("answering")?;
    }
    Ok(())
}

fn answer(request: Request, mount_point: &Path, closer: &mut dyn Close) -> anyhow::Result<Answer> {
    Ok(match request {
        Request::Mount => {
            bpffs_again(mount_point)?;
            Answer::Mounted
        }
        Request::Namespaces => Answer::Namespaces(namespaces::cookies_of_mounted()?),
        Request::Close { sockets, threads } => {
            anyhow::ensure!(sockets.len() <= message::MAX_SOCKETS, "too many sockets at once");
            let (outcomes, coverage) = close::close(&sockets, threads, closer)?;
            Answer::Closed { outcomes, coverage }
        }
        Request::Coverage => Answer::Covered(close::coverage()?),
    })
}
