//! Requests of the agent and answers of the helper: length-prefixed JSON over a stream socket. Not with
//! `tokio_util::codec`: the helper has one thread and no runtime.

use std::{
    io::{self, Read, Write},
    iter, mem,
    net::IpAddr,
    os::unix::net::UnixStream,
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sockline_ebpf::partly_counted::Part;

/// Sockets in one request, and in one answer.
pub const MAX_SOCKETS: usize = 4096;
/// Connections in one request, and in one answer.
pub const MAX_CONNECTIONS: usize = 16_384;
/// Bytes of one message; an answer with [`MAX_CONNECTIONS`] needs more than half of it.
const MAX_MESSAGE: u32 = 4 << 20;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Close these sockets, at most [`MAX_SOCKETS`].
    Close { sockets: Vec<CloseTarget>, scope: SearchScope },
    /// Read these TCP connections, at most [`MAX_CONNECTIONS`].
    Read(Wanted),
    /// Continue the last reading, which is [`Progress::Partial`].
    ReadOn,
    /// Enter all network namespaces, and close nothing.
    Coverage,
    /// Mount the BPF file system again if it was unmounted.
    Mount,
    /// Return the cookies of the node's own network namespace and of those that are mounted.
    Namespaces,
}

/// Cookies of TCP connections to read, by [`SearchScope`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    pub in_processes: Vec<u64>,
    pub in_threads: Vec<u64>,
}

impl Wanted {
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[must_use]
    pub const fn len(&self) -> usize {
        self.in_processes.len() + self.in_threads.len()
    }

    /// In parts of at most [`MAX_CONNECTIONS`].
    pub fn parts(mut self) -> impl Iterator<Item = Self> {
        iter::from_fn(move || {
            let in_threads = take(&mut self.in_threads, MAX_CONNECTIONS);
            let in_processes = take(&mut self.in_processes, MAX_CONNECTIONS - in_threads.len());
            let part = Self { in_processes, in_threads };
            (!part.is_empty()).then_some(part)
        })
    }
}

fn take(cookies: &mut Vec<u64>, most: usize) -> Vec<u64> {
    let rest = cookies.split_off(most.min(cookies.len()));
    mem::replace(cookies, rest)
}

/// Which network namespaces to search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SearchScope {
    /// The helper's own, those that are mounted, and those of processes.
    Processes,
    /// Also those of single threads, which takes a look at every thread of the node.
    Threads,
}

/// What to do with a socket of a protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// The socket is not of this protocol.
    Ignore,
    /// Keep it; report whether it exists, if sockets of the protocol are searched anyway.
    Keep,
    /// Close it if it is connected to the peer.
    Close,
}

/// A socket by its cookie, and the peer that it must be connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloseTarget {
    pub cookie: u64,
    /// IPv4 also for a mapped address.
    pub address: IpAddr,
    pub port: u16,
    pub udp: Action,
    pub tcp: Action,
}

/// The outcome for a socket of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    ClosedUdp,
    ClosedTcp,
    /// It exists and stays open: it has another peer, or is not to be closed.
    Kept,
    /// No namespace that was entered has it.
    Missing,
    /// The kernel did not close it, for this reason.
    Failed(String),
}

/// What the kernel has counted of an open TCP connection, never more than of the same one later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadConnection {
    pub cookie: u64,
    /// In bytes.
    pub sent: u64,
    /// In bytes.
    pub received: u64,
    /// In segments.
    pub retransmitted: u32,
    pub handshake: Handshake,
}

/// Whether a connection is being opened for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Handshake {
    /// Its SYN was sent again, since nothing answered.
    Hanging,
    /// It is established, or its SYN is on its way.
    Normal,
}

impl From<&ReadConnection> for Part {
    fn from(read: &ReadConnection) -> Self {
        let &ReadConnection { sent, received, retransmitted, .. } = read;
        Self { sent, received, retransmitted: retransmitted.into() }
    }
}

/// Whether a reading has come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Progress {
    /// All connections are found, or no namespace is left.
    Done,
    /// [`Request::ReadOn`] continues where it was.
    Partial,
}

/// Which network namespaces the helper could enter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Network namespaces that were entered.
    pub namespaces: usize,
    /// Network namespaces that could not be entered.
    pub unseen: usize,
    /// Processes and mounts whose network namespace is unknown.
    pub hidden: usize,
    /// The first error of either kind.
    pub why: Option<String>,
    /// Processor time.
    pub spent: Duration,
}

impl Coverage {
    /// Whether all known network namespaces were entered.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.unseen == 0 && self.hidden == 0
    }

    /// That of a reading with the next part of it.
    #[must_use]
    pub fn with(self, next: Self) -> Self {
        Self {
            namespaces: self.namespaces.max(next.namespaces),
            unseen: self.unseen.max(next.unseen),
            hidden: self.hidden.max(next.hidden),
            why: self.why.or(next.why),
            spent: self.spent + next.spent,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// In the order of the request.
    Closed {
        outcomes: Vec<Outcome>,
        coverage: Coverage,
    },
    /// Those that were found, in no order and each once in a reading. The coverage is of the reading so far, but for the
    /// processor time.
    Read {
        connections: Vec<ReadConnection>,
        coverage: Coverage,
        progress: Progress,
    },
    Coverage(Coverage),
    Mounted,
    /// Their cookies (`SO_NETNS_COOKIE`).
    Namespaces(Vec<u64>),
    Failed(String),
}

/// Writes one message.
pub fn send(stream: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(body.len()).ok().filter(|&length| length <= MAX_MESSAGE);
    let length = length.ok_or_else(|| io::Error::other("a message is too long"))?;
    // In one write, so that a reader receives a short message in full or not at all.
    stream.write_all(&[&length.to_ne_bytes()[..], &body].concat())?;
    stream.flush()
}

/// Reads one message; `None` when the other side has ended.
pub fn receive<T: DeserializeOwned>(stream: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; size_of::<u32>()];
    match stream.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let length = u32::from_ne_bytes(length);
    if length > MAX_MESSAGE {
        return Err(io::Error::other(format!("a message of {length} bytes is too long")));
    }
    let mut body = vec![0; length as usize];
    stream.read_exact(&mut body)?;
    Ok(Some(serde_json::from_slice(&body)?))
}

/// Sets the timeouts for messages in both directions.
pub fn set_timeouts(socket: &UnixStream, time: Duration) -> io::Result<()> {
    socket.set_read_timeout(Some(time))?;
    socket.set_write_timeout(Some(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_request_and_answer_fit() {
        let target = CloseTarget {
            cookie: u64::MAX,
            address: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap(),
            port: u16::MAX,
            udp: Action::Ignore,
            tcp: Action::Ignore,
        };
        let request =
            Request::Close { sockets: vec![target; MAX_SOCKETS], scope: SearchScope::Processes };
        send(&mut Vec::new(), &request).unwrap();
        let in_threads = vec![u64::MAX; MAX_CONNECTIONS];
        let wanted = Wanted { in_threads, ..Wanted::default() };
        send(&mut Vec::new(), &Request::Read(wanted)).unwrap();
        let connection = ReadConnection {
            cookie: u64::MAX,
            sent: u64::MAX,
            received: u64::MAX,
            retransmitted: u32::MAX,
            handshake: Handshake::Hanging,
        };
        let connections = vec![connection; MAX_CONNECTIONS];
        let coverage = Coverage::default();
        let answer = Response::Read { connections, coverage, progress: Progress::Partial };
        send(&mut Vec::new(), &answer).unwrap();
        let outcomes = vec![Outcome::Failed("?".repeat(100)); MAX_SOCKETS];
        let answer = Response::Closed { outcomes, coverage: Coverage::default() };
        send(&mut Vec::new(), &answer).unwrap();
    }

    #[test]
    fn a_message_with_a_huge_length_is_rejected_before_it_is_read() {
        let mut bytes = &u32::MAX.to_ne_bytes()[..];
        let error = receive::<Request>(&mut bytes).unwrap_err();
        assert!(error.to_string().contains("too long"), "{error}");
    }

    #[test]
    fn the_end_of_the_stream_is_no_message() {
        assert_eq!(receive::<Request>(&mut &b""[..]).unwrap(), None);
    }

    #[test]
    fn connections_beyond_the_limit_of_a_request_are_in_further_ones() {
        let cookies = |count: usize| (1..=count as u64).collect::<Vec<_>>();
        let of = |in_processes, in_threads| {
            let wanted =
                Wanted { in_processes: cookies(in_processes), in_threads: cookies(in_threads) };
            let parts: Vec<Wanted> = wanted.clone().parts().collect();
            let all = parts.iter().fold(Wanted::default(), |mut all, part| {
                all.in_processes.extend(&part.in_processes);
                all.in_threads.extend(&part.in_threads);
                all
            });
            assert_eq!(all, wanted);
            parts.iter().map(Wanted::len).collect::<Vec<_>>()
        };
        assert_eq!(of(0, 0), [0; 0]);
        assert_eq!(of(3, 4), [7]);
        assert_eq!(of(MAX_CONNECTIONS, 1), [MAX_CONNECTIONS, 1]);
        assert_eq!(of(5, MAX_CONNECTIONS + 1), [MAX_CONNECTIONS, 6]);
    }
}
