//! A network namespace that a thread holds, to run closures and processes in.
//!
//! A thread inherits the network namespace and the cgroup of the thread that started it. So each
//! namespace has one *holder* thread that entered both once, and every closure gets a fresh thread
//! started by the holder: entering costs nothing per call (moving a thread between cgroups costs
//! an RCU grace period), and the namespace needs no name in `/run/netns`.

use std::{
    fs::File,
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::{fd::AsRawFd, linux::fs::MetadataExt},
    panic, process,
    process::{Child, Command, Output},
    sync::mpsc,
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, unshare};

type Job = Box<dyn FnOnce() + Send>;
type Started = io::Result<JoinHandle<()>>;
type Request = (Job, mpsc::SyncSender<Started>);

/// A network namespace (and, for pods and the node's inside, a cgroup) to run things in.
///
/// It is removed when the value is dropped and nothing runs in it any more.
pub struct Ns {
    name: String,
    requests: Option<mpsc::Sender<Request>>,
    holder: Option<JoinHandle<()>>,
    file: File,
}

/// Something that runs in a namespace in the background.
pub struct Task<T> {
    thread: JoinHandle<()>,
    result: mpsc::Receiver<T>,
}

impl<T> Task<T> {
    /// Waits for the end and returns the result; a panic inside continues in the caller.
    pub fn join(self) -> T {
        if let Err(panic) = self.thread.join() {
            panic::resume_unwind(panic);
        }
        self.result.recv().expect("a thread that ended without a panic has sent its result")
    }

    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
}

impl Ns {
    /// A new network namespace. Its cgroup is the one of `parent`, or of the calling thread.
    pub(crate) fn unshared(name: &str, parent: Option<&Self>) -> Result<Self> {
        Self::start(name, parent, || {
            unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace (needs root)")
        })
    }

    /// A new network namespace made in this one, as by a process of a pod.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn nested(&self, name: &str) -> Result<Self> {
        Self::unshared(name, Some(self))
    }

    /// The network namespace of `parent`, with a further step to enter (another cgroup).
    pub(crate) fn within(
        name: &str,
        parent: &Self,
        enter: impl FnOnce() -> Result<()> + Send + 'static,
    ) -> Result<Self> {
        Self::start(name, Some(parent), enter)
    }

    fn start(
        name: &str,
        parent: Option<&Self>,
        enter: impl FnOnce() -> Result<()> + Send + 'static,
    ) -> Result<Self> {
        let (requests, inbox) = mpsc::channel::<Request>();
        let (entered, first_word) = mpsc::sync_channel(1);
        let worker_name = name.to_owned();
        let hold = move || {
            let file = enter().and_then(|()| {
                File::open("/proc/thread-self/ns/net")
                    .context("opening the thread's network namespace")
            });
            let failed = file.is_err();
            if entered.send(file).is_err() || failed {
                return;
            }
            for (job, started) in inbox {
                let thread = thread::Builder::new().name(worker_name.clone()).spawn(job);
                let _ = started.send(thread);
            }
        };
        let holder = match parent {
            Some(parent) => parent.submit(Box::new(hold))?,
            None => thread::Builder::new().name(name.to_owned()).spawn(hold)?,
        };
        let file = first_word
            .recv()
            .context("the namespace's thread ended early")?
            .with_context(|| format!("entering the namespace of {name}"))?;
        Ok(Self { name: name.to_owned(), requests: Some(requests), holder: Some(holder), file })
    }

    /// The name that servers in here answer with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A path that names the namespace for `nsenter --net=` and `ip link set … netns`, as long as
    /// this value lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", process::id(), self.file.as_raw_fd())
    }

    /// The namespace's inode number, as `readlink /proc/…/ns/net` shows it.
    ///
    /// # Errors When it cannot be read.
    pub fn inode(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.st_ino())
    }

    /// A TCP port of 127.0.0.1 in here that was free a moment ago, for a process that cannot choose one itself.
    ///
    /// # Errors
    /// When there is none.
    pub fn free_port(&self) -> Result<SocketAddr> {
        self.run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()).with_context(|| {
            format!("finding a free port in the network namespace of {}", self.name)
        })
    }

    /// Runs a closure in here on a thread of its own and returns its result. A panic inside (a failed
    /// assertion) continues in the caller.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let mut result = None;
        let slot = &mut result;
        let job: Box<dyn FnOnce() + Send + '_> = Box::new(move || *slot = Some(work()));
        // SAFETY: only the lifetime changes. What the closure borrows outlives it, because this
        // function does not return, nor unwind, before the closure is gone: `submit` either fails
        // and has dropped it, or gives the handle of the thread that owns it, joined right here.
        let job = unsafe { std::mem::transmute::<Box<dyn FnOnce() + Send + '_>, Job>(job) };
        let ended = match self.submit(job) {
            Ok(thread) => thread.join(),
            Err(error) => panic!("starting a thread in the namespace of {}: {error}", self.name),
        };
        if let Err(panic) = ended {
            panic::resume_unwind(panic);
        }
        result.expect("a thread that ended without a panic has left its result")
    }

    /// Runs a closure in here in the background.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<Task<T>> {
        let (send, result) = mpsc::sync_channel(1);
        let thread = self.submit(Box::new(move || {
            let _ = send.send(work());
        }))?;
        Ok(Task { thread, result })
    }

    /// Starts a child process in here.
    ///
    /// # Errors
    /// Those of [`Command::spawn`].
    pub fn child(&self, command: &mut Command) -> io::Result<Child> {
        self.run(|| command.spawn())
    }

    /// Runs a child process in here to its end and returns what it wrote.
    ///
    /// # Errors
    /// Those of [`Command::output`].
    pub fn output(&self, command: &mut Command) -> io::Result<Output> {
        self.run(|| command.output())
    }

    /// The number of connections the kernel's connection tracking has for this namespace; `None`
    /// where it is not part of the kernel.
    pub fn conntrack_entries(&self) -> Option<u64> {
        self.run(|| {
            let count =
                std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count").ok()?;
            count.trim().parse().ok()
        })
    }

    /// Hands a job to a fresh thread of the holder. When this returns an error, the job is gone.
    fn submit(&self, job: Job) -> io::Result<JoinHandle<()>> {
        let gone = || io::Error::other(format!("the namespace of {} has ended", self.name));
        let requests = self.requests.as_ref().ok_or_else(gone)?;
        let (started, answer) = mpsc::sync_channel(1);
        requests.send((job, started)).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?
    }
}

impl Drop for Ns {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(holder) = self.holder.take() {
            let _ = holder.join();
        }
    }
}
