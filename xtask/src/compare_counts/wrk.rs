//! wrk, which makes a fixed number of requests and then stays idle: it cuts no request off at its end, so all counts are exact.

use std::{fs, net::SocketAddr};

use anyhow::{Context, Result, bail, ensure};

use super::{Bed, Client};

const THREADS: u64 = 2;
pub(super) const CONNECTIONS: u64 = 20;
/// Before its run, wrk connects to see whether the address is served.
pub(super) const PROBES: u64 = 1;

/// The counter is one of each thread. `done` runs when all have ended.
const SCRIPT: &str = r#"
local left = REQUESTS
local threads = {}
function setup(thread) table.insert(threads, thread) end
function init()
  length = #wrk.format()
end
function delay()
  left = left - 1
  if left >= 0 then return 0 end
  return 3600000
end
function done(summary)
  local errors = summary.errors
  print(string.format("counted %d %d %d %d %d", summary.requests, summary.bytes,
    threads[1]:get("length") * summary.requests, errors.connect + errors.read + errors.write, errors.status))
end
"#;

/// Whether the connection is used again for the next request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reuse {
    KeepAlive,
    Close,
}

pub(super) struct Counts {
    pub(super) requests: u64,
    pub(super) received: u64,
    pub(super) sent: u64,
    /// Connections that failed. It notices when it writes or reads, or does not start because of one.
    pub(super) failed: u64,
}

/// Runs it until it has made this many requests.
pub(super) fn run(bed: &Bed, to: SocketAddr, reuse: Reuse, requests: u64) -> Result<Counts> {
    let script = bed.cluster.node().temp().join("wrk.lua");
    let each = (requests / THREADS).to_string();
    fs::write(&script, SCRIPT.replace("REQUESTS", &each)).context("writing wrk's script")?;
    let mut refused = 0;
    // It ends when its first connection is refused.
    let text = loop {
        let mut wrk = bed.programs.command("wrk")?;
        wrk.args(["--threads", &THREADS.to_string(), "--connections", &CONNECTIONS.to_string()]);
        wrk.args(["--duration", &format!("{}s", bed.seconds), "--script"]).arg(&script);
        if reuse == Reuse::Close {
            wrk.args(["--header", "Connection: close"]);
        }
        wrk.arg(format!("http://{to}/"));
        let said = bed.run(Client(wrk))?;
        if !said.text.contains("unable to connect") {
            break said.checked()?;
        }
        refused += 1;
        ensure!(refused < 30, "wrk cannot connect: {}", said.text);
    };
    let line = text.lines().find_map(|line| line.strip_prefix("counted "));
    let numbers = line.unwrap_or_default().split(' ').map(str::parse::<u64>);
    let numbers = numbers.collect::<Result<Vec<_>, _>>();
    let Ok([made, received, sent, failed, status]) = numbers.as_deref() else {
        bail!("wrk printed no counts: {text}");
    };
    ensure!(*status == 0, "{status} answers were no success: {text}");
    ensure!(
        *made == requests,
        "wrk made {made} of {requests} requests in {} seconds: give it more with --seconds",
        bed.seconds
    );
    Ok(Counts { requests, received: *received, sent: *sent, failed: refused + failed })
}
