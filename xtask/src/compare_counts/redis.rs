//! redis: what its command INFO says.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use sockline_testbed::{Pod, Protocol, Service};

use super::{
    Bed, Client,
    comparison::{
        Count::{AtLeast, Exactly, Unknown},
        Row, settled,
    },
    processes::Server,
};

const PORT: u16 = 6379;
const REQUESTS: u64 = 10_000;
const CLIENTS: u64 = 20;
/// It asks for the server's configuration first.
const CONFIG: u64 = 1;

struct Redis {
    info: Mutex<Info>,
    _server: Server,
    pod: Pod,
}

/// A connection of ours to read the counts, with what it adds to them.
struct Info {
    stream: BufReader<TcpStream>,
    sent: u64,
    received: u64,
}

/// What others did.
struct Counts {
    connections: u64,
    received: u64,
    sent: u64,
}

impl Redis {
    fn start(bed: &mut Bed, name: &str) -> Result<Self> {
        let pod = bed.cluster.pod(name)?;
        let mut command = bed.programs.command("redis-server")?;
        command.args(["--port", &PORT.to_string(), "--save", "", "--protected-mode", "no"]);
        command.args(["--bind", "*", "-::*"]).current_dir(bed.cluster.node().temp());
        let log = bed.cluster.node().temp().join(format!("{name}.log"));
        let ready = Mutex::new(None);
        let server = Server::start(&pod, &mut command, log, Signal::SIGTERM, || {
            let address = SocketAddr::from(([127, 0, 0, 1], PORT));
            let stream = pod.run(|| TcpStream::connect(address))?;
            *ready.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
            Ok(())
        })?;
        let stream = ready.into_inner().unwrap_or_else(PoisonError::into_inner);
        let stream = BufReader::new(stream.context("connected above")?);
        let info = Mutex::new(Info { stream, sent: 0, received: 0 });
        Ok(Self { info, _server: server, pod })
    }

    fn counts(&self) -> Result<Counts> {
        self.info.lock().unwrap_or_else(PoisonError::into_inner).counts()
    }
}

impl Info {
    fn counts(&mut self) -> Result<Counts> {
        const REQUEST: &[u8] = b"INFO stats\r\n";
        self.stream.get_mut().write_all(REQUEST).context("asking redis")?;
        self.sent += REQUEST.len() as u64;
        let mut head = String::new();
        self.stream.read_line(&mut head).context("reading redis' answer")?;
        let length: Option<usize> = head.trim().strip_prefix('$').and_then(|n| n.parse().ok());
        let length = length.with_context(|| format!("redis' answer: {head:?}"))?;
        // The text, and CR LF.
        let mut text = vec![0; length + 2];
        self.stream.read_exact(&mut text).context("reading redis' answer")?;
        let text = String::from_utf8_lossy(&text);
        let number = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let value: Option<u64> = line.and_then(|value| value.trim().parse().ok());
            value.with_context(|| format!("redis does not say {name}: {text}"))
        };
        ensure!(number("rejected_connections")? == 0, "redis rejected connections");
        // It has counted this question, but not its answer.
        let counts = Counts {
            connections: number("total_connections_received")? - 1,
            received: number("total_net_input_bytes")? - self.sent,
            sent: number("total_net_output_bytes")? - self.received,
        };
        self.received += (head.len() + length + 2) as u64;
        Ok(counts)
    }
}

/// Runs redis-benchmark, and returns how many requests it says that it made.
fn benchmark(bed: &Bed, to: SocketAddr, more: &[&str]) -> Result<u64> {
    let mut command = bed.programs.command("redis-benchmark")?;
    command.args(["-h", &to.ip().to_string(), "-p", &to.port().to_string()]);
    command.args(["-n", &REQUESTS.to_string(), "-c", &CLIENTS.to_string(), "-d", "3000"]);
    let text = bed.run(Client(command_with(command, more)))?.checked()?;
    // "  10000 requests completed in 0.25 seconds", for each of the tests.
    let made = text.lines().filter_map(|line| line.trim().split_once(" requests completed"));
    let made: Vec<u64> = made.filter_map(|(number, _)| number.parse().ok()).collect();
    ensure!(!made.is_empty(), "redis-benchmark does not say what it did: {text}");
    Ok(made.iter().sum())
}

fn command_with(mut command: std::process::Command, more: &[&str]) -> std::process::Command {
    command.args(more);
    command
}

fn port(service: Service) -> Service {
    service.tcp(PORT)
}

/// SET and GET, each with clients of their own.
pub(super) fn kept_alive(bed: &mut Bed) -> Result<Vec<Row>> {
    let name = "redis-kept-alive";
    let redis = Redis::start(bed, name)?;
    let [v4, _] = bed.serve(name, port, PORT, &[&redis.pod])?;
    let requests = benchmark(bed, v4, &["-t", "set,get"])?;
    ensure!(requests == 2 * REQUESTS, "redis-benchmark made {requests} requests");
    let opened = Exactly(2 * CLIENTS + CONFIG);
    compared(bed, name, &redis, |sockline, counts| {
        Row::new("connections", sockline, counts, opened)
            .from("INFO; redis-benchmark: its option, twice, and one for CONFIG")
    })
}

pub(super) fn reconnecting(bed: &mut Bed) -> Result<Vec<Row>> {
    let name = "redis-reconnecting";
    let redis = Redis::start(bed, name)?;
    let [_, v6] = bed.serve(name, port, PORT, &[&redis.pod])?;
    let requests = benchmark(bed, v6, &["-t", "set", "-k", "0"])?;
    compared(bed, name, &redis, |sockline, counts| {
        Row::new("connections", sockline, counts, AtLeast(requests + CONFIG))
            .from("INFO; redis-benchmark: opens some at its end that it does not use")
    })
}

fn compared(
    bed: &Bed,
    name: &str,
    redis: &Redis,
    connections: impl Fn(u64, super::comparison::Count) -> Row,
) -> Result<Vec<Row>> {
    settled(|| {
        let (sockline, counts) = (bed.counted(name, Protocol::Tcp)?, redis.counts()?);
        let ended = Exactly(counts.connections);
        Ok(vec![
            connections(sockline.opened, Exactly(counts.connections)),
            Row::new("closed by the client", sockline.closed_by_client, ended, Unknown)
                .from("INFO: redis closes none"),
            Row::none("reset or failed", sockline.cut + sockline.failed + sockline.refused),
            Row::none("still open", sockline.active),
            Row::new("bytes sent", sockline.sent, Exactly(counts.received), Unknown)
                .from("INFO; redis-benchmark does not count bytes"),
            Row::new("bytes received", sockline.received, Exactly(counts.sent), Unknown)
                .from("INFO; redis-benchmark does not count bytes"),
        ])
    })
}
