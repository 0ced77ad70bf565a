//! dnsmasq: the statistics that SIGUSR1 makes it print, and the queries in its log.

use std::fs;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use sockline_testbed::{Protocol, Service};

use super::{
    Bed, Client,
    comparison::{
        Count::{Exactly, Unknown},
        Row, settled,
    },
    processes::Server,
};

const PORT: u16 = 53;
const QUERIES: u64 = 500;
/// In front of each message over TCP is its length.
const LENGTH: u64 = 2;

/// The number behind a text in each line that has it.
fn numbers(text: &str, after: &str) -> Vec<u64> {
    let rest = text.lines().filter_map(|line| Some(line.split_once(after)?.1));
    let number =
        |rest: &str| rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok();
    rest.filter_map(number).collect()
}

/// What dig printed of the messages, for all queries.
struct Dig {
    answers: u64,
    /// Without the lengths in front of them.
    sent: u64,
    received: u64,
}

fn dig(bed: &Bed, to: &str, more: &[&str]) -> Result<Dig> {
    let batch = bed.cluster.node().temp().join("queries");
    let names = (0..QUERIES).map(|n| format!("pod-{n}.shop.test A\n")).collect::<String>();
    fs::write(&batch, names).context("writing the queries")?;
    let mut command = bed.programs.command("dig")?;
    command.arg(format!("@{to}")).args(["+tries=1", "+qr"]).args(more).arg("-f").arg(&batch);
    let text = bed.run(Client(command))?.checked()?;
    let (sent, received) = (numbers(&text, ";; QUERY SIZE: "), numbers(&text, "MSG SIZE  rcvd: "));
    ensure!(sent.len() as u64 == QUERIES, "dig does not say what it sent: {text}");
    Ok(Dig {
        answers: received.len() as u64,
        sent: sent.iter().sum(),
        received: received.iter().sum(),
    })
}

fn port(service: Service) -> Service {
    service.udp(PORT).tcp(PORT)
}

pub(super) fn queries(bed: &mut Bed) -> Result<Vec<Row>> {
    let name = "dnsmasq";
    let pod = bed.cluster.pod(name)?;
    let mut command = bed.programs.command("dnsmasq")?;
    command.args(["--keep-in-foreground", "--user=root", "--log-facility=-", "--pid-file="]);
    command.args(["--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--log-queries=extra"]);
    command.arg("--address=/shop.test/192.0.2.1").arg(format!("--port={PORT}"));
    let log = bed.cluster.node().temp().join("dnsmasq.log");
    let server = Server::start(&pod, &mut command, log.clone(), Signal::SIGTERM, || {
        // It prints this once its sockets are bound.
        let printed = fs::read_to_string(&log).unwrap_or_default();
        ensure!(printed.contains("started"), "it is not ready");
        Ok(())
    })?;
    let [v4, v6] = bed.serve(name, port, PORT, &[&pod])?;
    let udp = dig(bed, &v4.ip().to_string(), &[])?;
    let tcp = dig(bed, &v6.ip().to_string(), &["+tcp"])?;
    settled(|| {
        server.signal(Signal::SIGUSR1)?;
        // The children that serve TCP do not add to these statistics.
        let log = server.log();
        let answered = numbers(&log, "queries answered locally ").last().copied();
        let answered = answered.context("no statistics yet")?;
        let logged = log.matches(" query[A] ").count() as u64;
        let (flows, connections) =
            (bed.counted(name, Protocol::Udp)?, bed.counted(name, Protocol::Tcp)?);
        let (bytes_sent, bytes_received) =
            (tcp.sent + LENGTH * QUERIES, tcp.received + LENGTH * tcp.answers);
        Ok(vec![
            Row::new("UDP flows", flows.opened, Exactly(answered), Exactly(udp.answers))
                .from("SIGUSR1; dig: answers, each to a socket of its own"),
            Row::none("UDP flows refused", flows.refused),
            Row::new(
                "TCP connections",
                connections.opened,
                Exactly(logged.saturating_sub(answered)),
                Exactly(tcp.answers),
            )
            .from("queries in the log that are not over UDP; dig: answers"),
            Row::new(
                "closed by the client",
                connections.closed_by_client,
                Unknown,
                Exactly(tcp.answers),
            )
            .from("dig closes each"),
            Row::none(
                "reset or failed",
                connections.cut + connections.failed + connections.refused,
            ),
            Row::none("still open", flows.active + connections.active),
            Row::new("bytes sent over TCP", connections.sent, Unknown, Exactly(bytes_sent))
                .from("dig: messages and their lengths; dnsmasq counts none"),
            Row::new(
                "bytes received over TCP",
                connections.received,
                Unknown,
                Exactly(bytes_received),
            )
            .from("the same"),
        ])
    })
}
