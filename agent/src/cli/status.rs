//! `sockline status`: is this node served, and how full is it.

use clap::Args;
use jiff::{SignedDuration, Span, SpanRound, Timestamp, Unit};
use serde::Serialize;

use super::{
    node::NodeArgs,
    output::{Output, print},
    table,
};
use crate::{
    admin,
    dataplane::{Attachment, Snapshot},
    escape::Escaped,
    sock_destroy::Method,
    source::WatchState,
    status::{Closing, HelperState, Reclaim, Status},
};

/// Show whether this node is served: the agent, the hooks, the maps, and what is wrong.
///
/// Hooks and maps are read from the kernel, the rest comes from the agent if it runs.
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Debug, Serialize)]
struct Report {
    node: String,
    /// An agent holds the pins.
    agent_running: bool,
    /// Why there is no word from an agent that runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_error: Option<String>,
    /// Every hook is attached to the agent's cgroup.
    attached: bool,
    hooks: Vec<HookStatus>,
    cgroup: String,
    frontends: usize,
    last_sync: Option<Timestamp>,
    /// Translated sockets; absent where they are in socket storage, which cannot be counted.
    sockets: Option<usize>,
    faults: Vec<FaultCount>,
    fail_open: FailOpen,
    /// What the agent says; absent while it is down.
    agent: Option<Status>,
}

#[derive(Debug, Serialize)]
struct HookStatus {
    hook: &'static str,
    state: &'static str,
}

/// Whether all calls are bypassed because there is no agent.
#[derive(Debug, Serialize)]
struct FailOpen {
    /// How long after the agent's last sign of life; absent if never.
    after_seconds: Option<f64>,
    /// Calls are bypassed since then; absent if they are not.
    bypassed_since: Option<Timestamp>,
    /// How long until they are, unless an agent says that it lives.
    seconds_left: Option<f64>,
    /// Calls that were bypassed, since the maps were made.
    calls: u64,
}

#[derive(Debug, Serialize)]
struct FaultCount {
    fault: String,
    count: u64,
}

/// # Errors
/// When there is nothing pinned, or it cannot be read.
pub fn run(args: &StatusArgs) -> anyhow::Result<()> {
    let view = args.node.view()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let agent = runtime.block_on(admin::status(&args.node.admin_socket));
    let report = gather(&view, agent)?;
    print(&match args.node.output {
        Output::Json => serde_json::to_string_pretty(&report)? + "\n",
        Output::Table => render(&report),
    })
}

fn gather(view: &Snapshot, agent: anyhow::Result<Status>) -> anyhow::Result<Report> {
    let record = view.agent()?;
    let agent_running = view.agent_runs()?;
    let attachments = view.attachments()?;
    Ok(Report {
        node: record.node,
        agent_running,
        agent_error: agent
            .as_ref()
            .err()
            .filter(|_| agent_running)
            .map(|error| Escaped(format!("{error:#}")).to_string()),
        attached: attachments.iter().all(|(_, state)| *state == Attachment::Attached),
        hooks: attachments
            .into_iter()
            .map(|(hook, state)| HookStatus {
                hook,
                state: match state {
                    Attachment::Attached => "attached",
                    Attachment::Missing => "missing",
                    Attachment::Elsewhere => "on another cgroup",
                },
            })
            .collect(),
        cgroup: record.cgroup.display().to_string(),
        frontends: view.count_frontends()?,
        last_sync: record.last_sync.and_then(|time| Timestamp::try_from(time).ok()),
        sockets: view.sockets()?,
        faults: view
            .counters()?
            .faults()?
            .into_iter()
            .map(|(fault, count)| FaultCount { fault: format!("{fault:?}"), count })
            .collect(),
        fail_open: fail_open(view)?,
        agent: agent.ok(),
    })
}

fn fail_open(view: &Snapshot) -> anyhow::Result<FailOpen> {
    let deadline = view.deadline()?;
    let since = |past| SignedDuration::try_from(past).map(|past| Timestamp::now() - past);
    Ok(FailOpen {
        after_seconds: deadline.after.map(|after| after.as_secs_f64()),
        bypassed_since: deadline.bypassed_for().map(since).transpose()?,
        seconds_left: deadline.left().map(|left| left.as_secs_f64()),
        calls: view.counters()?.bypassed_stale()?,
    })
}

fn render(report: &Report) -> String {
    let mut lines = table::new(&["NODE", &report.node]);
    let mut line = |name: &str, value: String| {
        lines.add_row([name.to_owned(), value]);
    };
    line(
        "Agent",
        match (&report.agent, report.agent_running) {
            (Some(agent), _) => format!(
                "running, version {}, process {}, for {}",
                agent.version,
                agent.pid,
                ago(agent.started)
            ),
            (None, true) => format!(
                "running, but {}",
                report.agent_error.as_deref().unwrap_or("it does not answer on the admin socket")
            ),
            (None, false) if report.fail_open.bypassed_since.is_some() => {
                "not running; all calls are bypassed".into()
            }
            (None, false) => "not running; the kernel keeps serving what it has".into(),
        },
    );
    if let Some(text) = fail_open_in_words(&report.fail_open) {
        line("Fail open", text);
    }
    if let Some(agent) = &report.agent {
        line("Source", agent.source.clone());
        if !agent.watches.is_empty() {
            line("API server", watches(&agent.watches));
        }
        line(
            "Objects",
            format!(
                "{} services, {} endpoint slices, {} endpoints",
                agent.objects.services, agent.objects.endpoint_slices, agent.objects.endpoints
            ),
        );
        line(
            "Ready",
            match (agent.ready, agent.out_of_touch()) {
                (false, _) => format!("no: {}", agent.waiting()),
                _ if report.fail_open.bypassed_since.is_some() => {
                    "no: all calls are bypassed".into()
                }
                (true, None) => "yes".into(),
                (true, Some(time)) => format!(
                    "yes, but with the state of {} ago: not connected to the source since then",
                    seconds(time.as_secs_f64())
                ),
            },
        );
    }
    if let Some(text) = report.agent.as_ref().and_then(|agent| agent.unconfirmed.in_words()) {
        line("Unconfirmed", text);
    }
    line(
        "Last sync",
        report.last_sync.map_or("never".into(), |time| match &report.agent {
            Some(agent) => {
                format!("{} ago, took {:.1} ms", ago(time), agent.last_sync_seconds * 1e3)
            }
            None => format!("{} ago", ago(time)),
        }),
    );
    if let Some(agent) = report.agent.as_ref().filter(|agent| agent.repairs > 0) {
        let kinds = agent.repairs_by_kind.iter().map(|(kind, count)| format!("{count} {kind}"));
        line("Repairs", format!("{} since its start", kinds.collect::<Vec<_>>().join(", ")));
    }
    let bad: Vec<String> = report
        .hooks
        .iter()
        .filter(|hook| hook.state != "attached")
        .map(|hook| format!("{} {}", hook.hook, hook.state))
        .collect();
    line(
        "Hooks",
        if bad.is_empty() {
            format!("all {} attached to {}", report.hooks.len(), report.cgroup)
        } else {
            format!("{} of {} NOT attached: {}", bad.len(), report.hooks.len(), bad.join(", "))
        },
    );
    if let Some(agent) = &report.agent {
        let features = agent.features;
        line(
            "Kernel",
            format!(
                "refusals are {}, sockets in {}, loopback NodePorts for {}, MPTCP peer names {}",
                if features.set_retval { "ECONNREFUSED" } else { "EPERM" },
                match (features.compare_and_swap, features.kernel_sockets) {
                    (true, true) => "a table",
                    (false, true) => "a hash",
                    (true, false) => "a table (UDP) and socket storage (TCP)",
                    (false, false) => "a hash (UDP) and socket storage (TCP)",
                },
                if features.netns_cookie {
                    "this network namespace"
                } else {
                    "the initial network namespace"
                },
                if features.mptcp_sock { "translated" } else { "not translated" },
            ),
        );
    }
    if let Some(agent) = report.agent.as_ref().filter(|agent| !agent.left_alone.is_empty()) {
        let missing = agent.left_alone.iter().filter(|pod| pod.running && !pod.cgroup_found);
        let found = agent.left_alone.iter().filter(|pod| pod.cgroup_found).count();
        line(
            "Left alone",
            match missing.count() {
                0 => format!("{found} pods"),
                missing => format!("{found} pods, and {missing} whose cgroup was NOT found"),
            },
        );
    }
    if let Some(agent) = &report.agent {
        line("Closing", closing(&agent.closing));
    }
    if let Some(agent) = report.agent.as_ref().filter(|agent| !agent.nested_namespaces.is_empty()) {
        let pods = agent.nested_namespaces.iter().map(|nested| {
            let what = if nested.excluded { "not redirected" } else { "redirected" };
            format!("{} ({} namespaces, {what})", nested.pod, nested.namespaces)
        });
        line("Nested", format!("inside of pods: {}", pods.collect::<Vec<_>>().join(", ")));
    }
    if let Some(error) = report.agent.as_ref().and_then(|agent| agent.node_addresses_error.clone())
    {
        line("Node addresses", Escaped(error).to_string());
    }
    if let Some(text) = report.agent.as_ref().and_then(|agent| reclaim(&agent.reclaim)) {
        line("Reclaim", text);
    }
    line("Frontends", report.frontends.to_string());
    line(
        "Sockets",
        report.sockets.map_or_else(
            || "not counted: before Linux 5.12 they are in socket storage".into(),
            |sockets| format!("{sockets} translated"),
        ),
    );
    let faults: Vec<String> = report
        .faults
        .iter()
        .filter(|fault| fault.count > 0)
        .map(|fault| format!("{} {}", fault.count, fault.fault))
        .collect();
    line("Faults", if faults.is_empty() { "none".into() } else { faults.join(", ") });
    let mut text = table::render(&lines);
    if let Some(agent) = &report.agent {
        let mut maps = table::new(&["MAP", "ENTRIES", "MEMORY FOR", "LIMIT"]);
        for map in &agent.maps {
            maps.add_row([
                map.map.clone(),
                map.entries.to_string(),
                map.capacity.to_string(),
                map.limit.to_string(),
            ]);
        }
        text.push('\n');
        text.push_str(&table::render(&maps));
        if !agent.left_alone.is_empty() {
            let mut pods = table::new(&["POD LEFT ALONE", "BECAUSE OF", "CGROUP"]);
            for pod in &agent.left_alone {
                pods.add_row([
                    &*pod.pod,
                    pod.because.as_str(),
                    match (pod.cgroup_found, pod.running) {
                        _ if pod.no_room => "NO ROOM for it: it is redirected",
                        (true, _) => "found",
                        (false, true) => "NOT found: it is redirected",
                        (false, false) => "not yet: it is starting",
                    },
                ]);
            }
            text.push('\n');
            text.push_str(&table::render(&pods));
        }
        for (title, list) in [
            ("PROBLEMS", &agent.problems),
            ("NOT IN THE KERNEL", &agent.failures),
            ("FULL", &agent.full),
            ("NOT RECONCILED", &agent.reconcile_errors),
        ] {
            if !list.is_empty() {
                text.push_str(&format!("\n{title}\n"));
                for entry in list {
                    text.push_str(&format!("  {}\n", Escaped(entry)));
                }
            }
        }
    }
    text
}

/// `None` where it works.
fn reclaim(reclaim: &Reclaim) -> Option<String> {
    match reclaim {
        Reclaim::Works | Reclaim::Unsaid => None,
        Reclaim::Fails(why) => Some(format!(
            "NOT possible: the maps fill up, since programs cannot be waited for: {why}"
        )),
        Reclaim::CannotTell(why) => Some(format!("did NOT work the last time: {why}")),
    }
}

/// `None` where it is off and never happened.
fn fail_open_in_words(fail_open: &FailOpen) -> Option<String> {
    let mut text = match fail_open {
        FailOpen { bypassed_since: Some(since), .. } => format!(
            "calls are BYPASSED since {} ({} ago), until an agent has synced and lives",
            since.round(Unit::Second).unwrap_or(*since),
            ago(*since)
        ),
        FailOpen { after_seconds: Some(after), seconds_left: Some(left), .. } => {
            format!("in {} unless the agent lives ({} without it)", seconds(*left), seconds(*after))
        }
        FailOpen { calls: 0, .. } => return None,
        FailOpen { .. } => "off".into(),
    };
    if fail_open.calls > 0 {
        text += &format!("; {} calls were bypassed", fail_open.calls);
    }
    Some(text)
}

/// What becomes of sockets whose backend is gone.
fn closing(closing: &Closing) -> String {
    let method = match (closing.method, &closing.helper) {
        (None, _) => {
            return "NOT possible with this kernel: sockets stay with a backend that is gone"
                .into();
        }
        (_, None) => return "NOT possible: the helper process could not be started".into(),
        (_, Some(HelperState::Ended(how))) => {
            return format!("NOT now: the helper process has ended ({how}); it is started again");
        }
        (_, Some(HelperState::Lost(how))) => {
            return format!(
                "NOT any more: the helper process's supervisor has ended ({how}); restart the agent"
            );
        }
        (Some(Method::SockDestroy), _) => "SOCK_DESTROY",
        (Some(Method::Iterator), _) => "BPF iterators",
    };
    let Closing { udp, tcp, failed, .. } = closing;
    let mut text = format!("by {method}; {udp} UDP and {tcp} TCP sockets of dead backends closed");
    if closing.restarts > 0 {
        text += &format!(", helper process started again {} times", closing.restarts);
    }
    if *failed > 0 {
        text += &format!(", {failed} NOT closed");
    }
    if let Some(unseen) = &closing.unseen {
        text += &format!("; NOT everywhere: {unseen}");
    }
    text
}

/// `connected, last word 12s ago`, or the kinds that are cut off and how old their objects are.
fn watches(watches: &[WatchState]) -> String {
    let age = |watch: &WatchState| {
        watch
            .age_seconds
            .map_or_else(|| "never heard".into(), |age| format!("last word {} ago", seconds(age)))
    };
    let cut_off: Vec<String> = watches
        .iter()
        .filter(|watch| !watch.connected)
        .map(|watch| format!("{} ({})", watch.kind, age(watch)))
        .collect();
    if !cut_off.is_empty() {
        return format!("NOT connected for {}", cut_off.join(", "));
    }
    let oldest = watches.iter().filter_map(|watch| watch.age_seconds).fold(0.0, f64::max);
    format!("connected, last word {} ago", seconds(oldest))
}

/// How long ago, in the largest sensible units.
fn ago(then: Timestamp) -> String {
    seconds((Timestamp::now().duration_since(then)).as_secs_f64())
}

fn seconds(seconds: f64) -> String {
    let span = SignedDuration::try_from_secs_f64(seconds)
        .ok()
        .and_then(|time| Span::try_from(time).ok())
        .and_then(|span| {
            span.round(SpanRound::new().largest(Unit::Hour).smallest(Unit::Second)).ok()
        })
        .unwrap_or_default();
    format!("{span:#}")
}
