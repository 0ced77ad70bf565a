//! nginx: its `stub_status`, and the bytes in its access log.

use std::{cell::Cell, fs, net::SocketAddr};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use sockline_testbed::{Pod, Protocol, Service, http_get};

use super::{
    Bed,
    comparison::{
        Count::{AtLeast, Exactly, Unknown},
        Row, settled,
    },
    processes::Server,
    wrk::{self, CONNECTIONS, PROBES, Reuse},
};

const PORT: u16 = 8080;
const STATUS: &str = "127.0.0.1:8081";
const REQUESTS: u64 = 10_000;
/// The length of the page. Two segments and more.
const PAGE: usize = 5_000;

const CONFIGURATION: &str = r#"
daemon off;
user root;
worker_processes 2;
pid pid;
error_log stderr;
events { worker_connections 1024; }
http {
  log_format counts '$request_length $bytes_sent';
  access_log access.log counts;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  keepalive_requests 1000000;
  server { listen [::]:PORT ipv6only=off; root pages; }
  server { listen STATUS; access_log off; location / { stub_status; } }
}
"#;

struct Nginx {
    _server: Server,
    pod: Pod,
    access_log: std::path::PathBuf,
    /// The connections to read its status.
    own: Cell<u64>,
}

/// What it counts.
#[derive(Default)]
struct Counts {
    accepted: u64,
    received: u64,
    sent: u64,
}

impl Nginx {
    fn start(bed: &mut Bed, name: &str) -> Result<Self> {
        let pod = bed.cluster.pod(name)?;
        let folder = bed.cluster.node().temp().join(name);
        fs::create_dir_all(folder.join("pages")).context("making nginx's folder")?;
        fs::write(folder.join("pages/index.html"), "x".repeat(PAGE)).context("writing the page")?;
        let configuration = CONFIGURATION.replace("PORT", &PORT.to_string());
        fs::write(folder.join("nginx.conf"), configuration.replace("STATUS", STATUS))
            .context("writing nginx's configuration")?;
        let mut command = bed.programs.command("nginx")?;
        command.arg("-p").arg(&folder).args(["-c", "nginx.conf", "-e", "stderr"]);
        let (access_log, own) = (folder.join("access.log"), Cell::new(0));
        let server =
            Server::start(&pod, &mut command, folder.join("log"), Signal::SIGQUIT, || {
                status(&pod, &own).map(drop)
            })?;
        Ok(Self { _server: server, pod, access_log, own })
    }

    fn counts(&self) -> Result<Counts> {
        let accepted = status(&self.pod, &self.own)? - self.own.get();
        let mut counts = Counts { accepted, ..Counts::default() };
        let log = fs::read_to_string(&self.access_log).context("reading nginx's access log")?;
        for line in log.lines() {
            let mut words = line.split(' ');
            let mut number = || {
                let word = words.next().unwrap_or_default();
                word.parse::<u64>().with_context(|| format!("a line of nginx's access log: {line}"))
            };
            counts.received += number()?;
            counts.sent += number()?;
        }
        Ok(counts)
    }
}

/// The connections that it has accepted, this one included, and counts that as one of ours.
fn status(pod: &Pod, own: &Cell<u64>) -> Result<u64> {
    let address: SocketAddr = STATUS.parse().context("the address above")?;
    let reply = pod.run(|| http_get(address, "/")).context("reading nginx's status")?;
    own.set(own.get() + 1);
    // "Active connections: 1 \nserver accepts handled requests\n 24 24 4017 \n…"
    let numbers = reply.body.lines().nth(2).unwrap_or_default();
    let accepted = numbers.split_whitespace().next().and_then(|number| number.parse().ok());
    accepted.with_context(|| format!("nginx's status has no counts: {}", reply.body))
}

fn port(service: Service) -> Service {
    service.tcp(80).to(PORT)
}

/// All but the refused connections of one run.
fn bytes(sockline: &super::Counted, nginx: &Counts, wrk: &wrk::Counts) -> [Row; 2] {
    [
        Row::new("bytes sent", sockline.sent, Exactly(nginx.received), Exactly(wrk.sent))
            .from("$request_length; wrk: requests × length"),
        Row::new("bytes received", sockline.received, Exactly(nginx.sent), Exactly(wrk.received))
            .from("$bytes_sent; wrk: its summary, headers included"),
    ]
}

pub(super) fn kept_alive(bed: &mut Bed) -> Result<Vec<Row>> {
    let name = "nginx-kept-alive";
    let nginx = Nginx::start(bed, name)?;
    let [v4, _] = bed.serve(name, port, 80, &[&nginx.pod])?;
    let wrk = wrk::run(bed, v4, Reuse::KeepAlive, REQUESTS)?;
    let opened = Exactly(CONNECTIONS + PROBES);
    settled(|| {
        let (sockline, counts) = (bed.counted(name, Protocol::Tcp)?, nginx.counts()?);
        let mut rows = vec![
            Row::new("connections", sockline.opened, Exactly(counts.accepted), opened)
                .from("stub_status; wrk: its option, and one to test the address"),
            Row::new("closed by the client", sockline.closed_by_client, Unknown, opened)
                .from("wrk closes all at its end"),
            Row::none("reset", sockline.cut),
            Row::new("failed", sockline.failed + sockline.refused, Exactly(0), Exactly(wrk.failed))
                .from("wrk: its socket errors"),
            Row::none("still open", sockline.active),
        ];
        rows.extend(bytes(&sockline, &counts, &wrk));
        Ok(rows)
    })
}

pub(super) fn closed(bed: &mut Bed) -> Result<Vec<Row>> {
    let name = "nginx-closed";
    let nginx = Nginx::start(bed, name)?;
    let [_, v6] = bed.serve(name, port, 80, &[&nginx.pod])?;
    let wrk = wrk::run(bed, v6, Reuse::Close, REQUESTS)?;
    let idle = CONNECTIONS + PROBES;
    let opened = Exactly(wrk.requests + idle);
    settled(|| {
        let (sockline, counts) = (bed.counted(name, Protocol::Tcp)?, nginx.counts()?);
        let ended = sockline.closed_by_server + sockline.closed_by_client;
        let mut rows = vec![
            Row::new("connections", sockline.opened, Exactly(counts.accepted), opened)
                .from("stub_status; wrk: its requests, and those without one"),
            // wrk closes once it has the answer: often, but not always, after nginx.
            Row::new("closed by one side", ended, Exactly(counts.accepted), opened)
                .from("which one is first differs from run to run"),
            Row::none("reset", sockline.cut),
            Row::new("failed", sockline.failed + sockline.refused, Exactly(0), Exactly(wrk.failed))
                .from("wrk: its socket errors"),
            Row::none("still open", sockline.active),
        ];
        rows.extend(bytes(&sockline, &counts, &wrk));
        Ok(rows)
    })
}

/// A second endpoint on which nothing listens.
pub(super) fn refusing(bed: &mut Bed) -> Result<Vec<Row>> {
    let name = "nginx-refusing";
    let nginx = Nginx::start(bed, name)?;
    let dead = bed.cluster.pod("dead")?;
    let [v4, _] = bed.serve(name, port, 80, &[&nginx.pod, &dead])?;
    let wrk = wrk::run(bed, v4, Reuse::Close, REQUESTS / 5)?;
    settled(|| {
        let (sockline, counts) = (bed.counted(name, Protocol::Tcp)?, nginx.counts()?);
        let resets = resets(&dead)?;
        let accepted_or_refused = Exactly(counts.accepted + resets);
        let made = AtLeast(wrk.requests + wrk.failed);
        let mut rows = vec![
            Row::new("connections", sockline.opened, accepted_or_refused, made)
                .from("stub_status, and the other pod's resets; wrk: does not count idle ones"),
            Row::new("refused", sockline.refused, Exactly(resets), Exactly(wrk.failed))
                .from("the other pod's TCP resets (OutRsts); wrk: its socket errors"),
            Row::none("reset, or failed otherwise", sockline.cut + sockline.failed),
            Row::none("still open", sockline.active),
        ];
        rows.extend(bytes(&sockline, &counts, &wrk));
        Ok(rows)
    })
}

/// The resets that a pod's kernel has sent: one for each SYN to a port at which nothing listens.
fn resets(pod: &Pod) -> Result<u64> {
    let text = pod
        .run(|| fs::read_to_string("/proc/thread-self/net/snmp"))
        .context("reading SNMP counters")?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = lines.next().zip(lines.next()).context("no TCP counters")?;
    let mut pairs = names.split(' ').zip(values.split(' '));
    let value = pairs.find(|(name, _)| *name == "OutRsts").map(|(_, value)| value.parse());
    value.context("no OutRsts")?.context("OutRsts is a number")
}
