//! A client that connects continuously and counts failures.

#![allow(dead_code, clippy::allow_attributes, reason = "each test file uses its own part")]
#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

use std::{
    io::Read as _,
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt};
use sockline_testbed::{ANSWER_TIMEOUT, DEADLINE, Ns, Task, patience, wait_until};

/// Runs until its result is read.
pub struct Hammer {
    stop: Arc<AtomicBool>,
    connects: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<String>>>,
    task: Option<Task<()>>,
}

impl Hammer {
    /// Connects from `ns` to the addresses in turn.
    pub fn start(ns: &Ns, addresses: Vec<SocketAddr>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let connects = Arc::new(AtomicUsize::new(0));
        let failures = Arc::new(Mutex::new(Vec::new()));
        let task = ns
            .spawn({
                let (stop, connects, failures) =
                    (Arc::clone(&stop), Arc::clone(&connects), Arc::clone(&failures));
                move || {
                    for address in addresses.iter().cycle() {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        if let Err(error) = connect(*address) {
                            failures.lock().unwrap().push(format!("{address}: {error}"));
                        }
                        connects.fetch_add(1, Ordering::Relaxed);
                        // The pace: it shares two cores with the server and the agent.
                        thread::sleep(Duration::from_micros(500));
                    }
                }
            })
            .unwrap();
        Self { stop, connects, failures, task: Some(task) }
    }

    /// Connects so far, failed ones included.
    pub fn connects(&self) -> usize {
        self.connects.load(Ordering::Relaxed)
    }

    /// Connects that failed so far.
    pub fn failed(&self) -> usize {
        self.failures.lock().unwrap().len()
    }

    /// Waits for more connects: proof that the client was busy meanwhile.
    pub fn wait_for(&self, more: usize) {
        let goal = self.connects() + more;
        let enough = || (self.connects() >= goal).then_some(());
        wait_until(DEADLINE, "more connects", enough).unwrap();
    }

    /// Stops it, and fails if a connect failed. Returns how many there were.
    #[track_caller]
    pub fn assert_nothing_failed(mut self) -> usize {
        self.end();
        let failures = self.failures.lock().unwrap();
        let some = &failures[..failures.len().min(5)];
        assert!(
            failures.is_empty(),
            "{} of {} connects failed: {some:?}",
            failures.len(),
            self.connects()
        );
        self.connects()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(task) = self.task.take() {
            task.join();
        }
    }
}

impl Drop for Hammer {
    fn drop(&mut self) {
        self.end();
    }
}

fn connect(address: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, patience(ANSWER_TIMEOUT))?;
    stream.set_read_timeout(Some(patience(ANSWER_TIMEOUT)))?;
    stream.read_exact(&mut [0])?;
    // Closed with a reset: thousands of sockets in TIME_WAIT would use up the ports.
    let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&stream, sockopt::Linger, &at_once)?;
    Ok(())
}
