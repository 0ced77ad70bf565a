//! `sockline watch`: what happens to connections, live.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    path::PathBuf,
    pin::{Pin, pin},
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use jiff::tz::TimeZone;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep_until},
};

use super::{
    node::object_name,
    output::{Output, print_error, units},
};
use crate::{
    admin::{self, Subject, Watched},
    escape::{self, Escaped},
    model::object::{ObjectName, Protocol},
    watch::{Client, ConnectionEvent, EndReason, EventFilter, EventLosses, READ_TIMEOUT},
};

/// Show connections to services of this node as they are opened, refused and closed.
///
/// Needs a running agent, whose programs write events while a client watches. Ends with Ctrl-C (SIGINT), SIGTERM or
/// SIGHUP. How many events were lost is said on standard error, when that grows and at the end.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Only connections to this service
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = object_name)]
    service: Option<ObjectName>,
    /// Only connections of this pod
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = object_name)]
    pod: Option<ObjectName>,
    /// Only connections that were not established, and refused calls
    #[arg(long)]
    failed: bool,
    /// The agent's admin socket
    #[arg(long, value_name = "PATH", env = "SOCKLINE_ADMIN_SOCKET", default_value = admin::DEFAULT_SOCKET)]
    admin_socket: PathBuf,
    /// Output format; JSON is a document for each line
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t)]
    output: Output,
}

/// How often losses are said at most.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// # Errors
/// When no agent answers on the socket, one that has no events, or it ends meanwhile.
pub fn run(args: WatchArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let WatchArgs { service, pod, failed, admin_socket, output } = args;
    let filter = EventFilter { service, pod, failed };
    let mut losses = EventLosses::default();
    let watched = runtime.block_on(watch(&admin_socket, &filter, output, &mut losses));
    lines_of(&losses).into_iter().for_each(print_error);
    // A write that blocks may be left, because nobody reads.
    runtime.shutdown_background();
    watched
}

/// Waits for a signal that ends the command. From now on it no longer ends the process by itself.
fn end_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let handle = |kind, name| signal(kind).with_context(|| format!("handling {name}"));
    let mut interrupt = handle(SignalKind::interrupt(), "SIGINT")?;
    let mut terminate = handle(SignalKind::terminate(), "SIGTERM")?;
    let mut hangup =
        if ignores_hangup() { None } else { Some(handle(SignalKind::hangup(), "SIGHUP")?) };
    Ok(async move {
        let hangup = async {
            match &mut hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup => {}
        }
    })
}

/// Whether the process ignores SIGHUP, as `nohup` has it.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // Signal 1 is the lowest bit.
    mask.is_some_and(|mask| mask & 1 == 1)
}

async fn watch(
    socket: &std::path::Path,
    filter: &EventFilter,
    output: Output,
    losses: &mut EventLosses,
) -> anyhow::Result<()> {
    let mut ended: Pin<&mut dyn Future<Output = ()>> = pin!(end_signal()?);
    let mut stream = admin::watch(socket, filter).await?;
    if let Some(service) = filter.service.clone() {
        // At the same time, so that no event waits for it.
        tokio::spawn(warn_if_unknown(socket.to_owned(), service));
    }
    if let Some(pod) = filter.pod.clone() {
        tokio::spawn(warn_if_elsewhere(socket.to_owned(), pod));
    }
    let mut begun = false;
    // Losses that were said, and when that may be done again.
    let mut said = Vec::new();
    let mut report_at = Instant::now();
    loop {
        let is_news = begun && lines_of(losses) != said;
        let documents = tokio::select! {
            () = &mut ended => return Ok(()),
            () = sleep_until(report_at), if is_news => {
                said = lines_of(losses);
                said.iter().cloned().for_each(print_error);
                report_at = Instant::now() + REPORT_INTERVAL;
                continue;
            }
            documents = stream.next() => documents?,
        };
        let Some(documents) = documents else { anyhow::bail!("the agent has ended") };
        let (mut text, mut end) = (String::new(), None);
        for document in documents {
            match document {
                Watched::Losses(latest) => {
                    *losses = latest;
                    if !std::mem::replace(&mut begun, true) {
                        begin(&mut text, latest, output);
                        said = lines_of(losses);
                    }
                }
                Watched::End(reason) => end = Some(reason),
                Watched::Event { text: line, .. } if output == Output::Json => {
                    text.push_str(&escape::json(&String::from_utf8_lossy(&line)));
                    text.push('\n');
                }
                Watched::Event { event, .. } => text.push_str(&line_of(&event)),
            }
        }
        // It can block, and a signal still ends the command.
        let write = move || io::stdout().lock().write_all(text.as_bytes());
        let written = tokio::select! {
            () = &mut ended => return Ok(()),
            written = tokio::task::spawn_blocking(write) => written?,
        };
        match written {
            // The reader has seen enough (`| head`).
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            result => result?,
        }
        if let Some(reason) = end {
            return Err(error_of(reason));
        }
    }
}

fn error_of(end: EndReason) -> anyhow::Error {
    match end {
        EndReason::NotRead => anyhow::anyhow!(
            "the agent has ended this watch, because nothing was read for {READ_TIMEOUT:?}"
        ),
        EndReason::AgentStopping => anyhow::anyhow!("the agent has ended"),
        EndReason::Other => anyhow::anyhow!("the agent has ended this watch"),
    }
}

/// A name with a typing error has no events. An agent that cannot tell is no reason to say anything.
async fn warn_if_unknown(socket: PathBuf, service: ObjectName) {
    // No port has this name, so that the answer lists none.
    let subject = Subject { service, port: Some("-".to_owned()) };
    let explained = admin::explain(&socket, &subject).await;
    // A Service that cannot be read has an error.
    if explained.is_ok_and(|found| found.service.is_none() && found.input_errors.is_empty()) {
        print_error(format!(
            "Service {}: not known to this node's agent; events will be shown once it exists",
            subject.service
        ));
    }
}

/// The same for a pod: connections of one on another node are watched there.
async fn warn_if_elsewhere(socket: PathBuf, pod: ObjectName) {
    let found = admin::look_up_pod(&socket, pod.clone()).await;
    if found.is_ok_and(|found| !found.on_this_node) {
        print_error(format!(
            "Pod {pod}: not known to this node's agent, which sees connections of this node's pods; events will be \
             shown once it runs here"
        ));
    }
}

fn begin(text: &mut String, first: EventLosses, output: Output) {
    if !first.reads_sockets {
        print_error(
            "the programs do not read sockets (--telemetry=off, or this kernel does not let them): how connections \
             end is not known",
        );
    }
    if output != Output::Json {
        text.push_str(&columns(&[
            "TIME", "EVENT", "REASON", "PROTOCOL", "CLIENT", "WORKLOAD", "SERVICE", "ENDPOINT",
            "DURATION", "SENT", "RECEIVED", "RTT",
        ]));
    }
}

/// In the order of the columns. The last one has no width.
const WIDTHS: [usize; 12] = [13, 9, 12, 8, 32, 24, 28, 22, 9, 8, 8, 0];

/// A line of the table. A cell that is too long moves the others, and nothing is cut off.
fn columns<T: AsRef<str>>(cells: &[T; WIDTHS.len()]) -> String {
    let mut line = String::new();
    for (cell, width) in cells.iter().zip(WIDTHS) {
        let cell = Escaped(cell.as_ref()).to_string();
        let _ = write!(line, "{cell:width$} ");
    }
    line.truncate(line.trim_end().len());
    line.push('\n');
    line
}

fn line_of(event: &ConnectionEvent) -> String {
    let dash = || "-".to_owned();
    let time = event.time.to_zoned(TimeZone::UTC).strftime("%H:%M:%S%.3fZ").to_string();
    let service = match (&event.service, event.port_name.as_str()) {
        (None, _) => dash(),
        (Some(service), "") => service.to_string(),
        (Some(service), port) => format!("{service}:{port}"),
    };
    let endpoint =
        event.endpoint.map(|to| std::net::SocketAddr::new(to.address, to.port).to_string());
    let end = event.end.as_ref();
    let of_tcp = end.filter(|_| event.protocol == Protocol::Tcp);
    columns(&[
        time,
        event.event.as_str().to_owned(),
        event.reason.map_or_else(dash, |reason| reason.as_str().to_owned()),
        event.protocol.to_string(),
        client(&event.client),
        event.client.workload.as_ref().map_or_else(dash, ToString::to_string),
        service,
        endpoint.unwrap_or_else(dash),
        end.map_or_else(dash, |end| duration(end.duration_seconds)),
        of_tcp.map_or_else(dash, |end| units::bytes(end.sent_bytes)),
        of_tcp.map_or_else(dash, |end| units::bytes(end.received_bytes)),
        end.and_then(|end| end.round_trip_seconds).map_or_else(dash, duration),
    ])
}

/// The pod, or else the process.
fn client(client: &Client) -> String {
    match &client.pod {
        Some(pod) => pod.to_string(),
        None => format!("{}[{}]", client.process.name, client.process.pid),
    }
}

/// With three digits at most.
fn duration(seconds: f64) -> String {
    match seconds {
        _ if seconds <= 0.0 => "0".to_owned(),
        _ if seconds < 0.001 => format!("{:.0}µs", seconds * 1e6),
        _ if seconds < 0.01 => format!("{:.1}ms", seconds * 1e3),
        _ if seconds < 1.0 => format!("{:.0}ms", seconds * 1e3),
        _ if seconds < 100.0 => format!("{seconds:.1}s"),
        _ if seconds < 6000.0 => format!("{:.0}m", seconds / 60.0),
        _ => format!("{:.0}h", seconds / 3600.0),
    }
}

fn lines_of(losses: &EventLosses) -> Vec<String> {
    let EventLosses { ring_full, sampled, slow_reader, .. } = *losses;
    let reasons = [
        (ring_full, "events of all services were lost: the agent did not read them in time"),
        (sampled, "events of all services were not written: there were too many at once"),
        (slow_reader, "events were lost: they were not read in time"),
    ];
    let lost = reasons.into_iter().filter(|(count, _)| *count > 0);
    lost.map(|(count, what)| format!("{count} {what}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        let shown = [0.0, 0.000_042, 0.004, 0.25, 12.34, 300.0, 7200.0].map(duration);
        assert_eq!(shown, ["0", "42µs", "4.0ms", "250ms", "12.3s", "5m", "2h"]);
    }

    #[test]
    fn no_cell_looks_like_another_line() {
        let mut cells = [""; WIDTHS.len()];
        cells[4] = "x\nforged";
        assert_eq!(columns(&cells).lines().count(), 1);
    }

    #[test]
    fn only_what_was_lost_is_reported() {
        assert!(
            lines_of(&EventLosses { reads_sockets: true, ..EventLosses::default() }).is_empty()
        );
        let losses = EventLosses { slow_reader: 3, ..EventLosses::default() };
        assert_eq!(lines_of(&losses), ["3 events were lost: they were not read in time"]);
    }
}
