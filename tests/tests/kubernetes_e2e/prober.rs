//! A UDP client that keeps sending, whatever happens to the service.

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use sockline_testbed::{DEADLINE, Ns, Task, UdpClient, wait_ok};

/// The suite's source port. Its client starts again for each try, on the same port.
const SOURCE_PORT: u16 = 12_345;

/// Nobody answers, perhaps: the pod that was asked has just gone. A server on a busy machine does within this time.
const NO_ANSWER: Duration = Duration::from_secs(1);

/// Asks from a fresh connected socket, always on one source port, and from one socket that is
/// never connected and never closed, in turns. Runs until it is dropped.
pub struct Prober {
    stop: Arc<AtomicBool>,
    seen: Arc<[Mutex<BTreeSet<String>>; 2]>,
    task: Option<Task<()>>,
}

impl Prober {
    pub fn start(ns: &Ns, to: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new([const { Mutex::new(BTreeSet::new()) }; 2]);
        let task = ns.spawn({
            let (stop, seen) = (Arc::clone(&stop), Arc::clone(&seen));
            move || {
                let steady = UdpClient::unconnected(to.ip()).unwrap();
                steady.socket().set_read_timeout(Some(NO_ANSWER)).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    let answers = [fresh(to), steady.ask_to(to, "hostname").map(|reply| reply.who)];
                    for (answer, seen) in answers.into_iter().zip(seen.iter()) {
                        seen.lock().unwrap().extend(answer);
                    }
                    // The pace: it shares two cores with the servers and the agents.
                    thread::sleep(Duration::from_millis(1));
                }
            }
        });
        Self { stop, seen, task: Some(task.unwrap()) }
    }

    /// Waits until a pod has answered both sockets.
    #[track_caller]
    pub fn wait_for(&self, pod: &str) {
        let answered = wait_ok(DEADLINE, &format!("{pod} to answer"), || {
            let seen = self.seen.each_ref().map(|seen| seen.lock().unwrap().clone());
            if seen.iter().all(|seen| seen.contains(pod)) {
                Ok(())
            } else {
                Err(format!("{seen:?}"))
            }
        });
        answered.unwrap();
    }

    /// The pods that have answered so far.
    pub fn seen(&self) -> BTreeSet<String> {
        self.seen.iter().flat_map(|seen| seen.lock().unwrap().clone()).collect()
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(task) = self.task.take() {
            task.join();
        }
    }
}

/// One try of `nc -u -p 12345`.
fn fresh(to: SocketAddr) -> io::Result<String> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, SOURCE_PORT))?;
    socket.set_read_timeout(Some(NO_ANSWER))?;
    socket.connect(to)?;
    socket.send(b"hostname")?;
    let mut answer = [0; 64];
    let length = socket.recv(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer[..length]);
    Ok(answer.split(':').next().unwrap_or_default().to_owned())
}
