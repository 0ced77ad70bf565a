//! The report as tables for people.

use jiff::Unit;

use super::report::{Condition, ConditionStatus, ConditionType, FailOpen, Reason, StatusReport};
use crate::{
    cli::output::table::{self, Table},
    dataplane::{ClientCounting, Telemetry},
    duration::{format_age, format_seconds},
    escape::Escaped,
    sock_destroy::Method,
    source::WatchState,
    status::{
        BytesCounted, ExclusionState, HelperState, KernelFeatures, Reclaim, Status, Termination,
    },
};

pub(super) fn render(report: &StatusReport) -> String {
    let mut summary = Summary(table::new(&["NODE", &report.node_name]));
    summary.agent(report);
    summary.hooks(report);
    if let Some(agent) = &report.agent {
        summary.details(agent);
    }
    summary.kernel_state(report);
    let mut text = table::render(&summary.0);
    if let Some(agent) = &report.agent {
        text += &maps(agent);
        text += &excluded_pods(agent);
        text += &list("SOURCE ERRORS", &agent.source_errors);
        text += &list("INVALID OBJECTS", &agent.invalid_objects);
        text += &list("OUT OF SYNC", &agent.out_of_sync);
        text += &list("FULL MAPS", agent.full_maps.iter().map(|full| &full.message));
        let unreadable = agent.unreadable_maps.iter();
        text += &list(
            "UNREADABLE MAPS",
            unreadable.map(|map| format!("{}: {}", map.name, map.message)),
        );
        text += &list("NOT RECONCILED", &agent.reconcile_errors);
    }
    text
}

/// Names and values, one for each line.
struct Summary(Table);

impl Summary {
    fn line(&mut self, name: &str, value: impl AsRef<str>) {
        self.0.add_row([name, value.as_ref()]);
    }

    fn line_if_any(&mut self, name: &str, value: Option<String>) {
        if let Some(value) = value {
            self.line(name, value);
        }
    }

    fn agent(&mut self, report: &StatusReport) {
        let running = report.condition(ConditionType::AgentRunning).map(running);
        self.line_if_any("Agent", running);
        self.line_if_any("Fail open", fail_open(&report.fail_open));
        if let Some(agent) = &report.agent {
            self.line("Source", agent.source.to_string());
            if !agent.watches.is_empty() {
                self.line("API server", watches(&agent.watches));
            }
            self.line(
                "Objects",
                format!(
                    "{} services, {} endpoint slices, {} endpoints",
                    agent.objects.services, agent.objects.endpoint_slices, agent.objects.endpoints
                ),
            );
            self.line_if_any("Ready", report.condition(ConditionType::Ready).map(ready));
            self.line_if_any("Unconfirmed", agent.unconfirmed_service_ports.in_words());
            if agent.telemetry == Some(Telemetry::Off) {
                self.line(
                    "Telemetry",
                    "off: connections are only counted when they are opened and closed",
                );
            }
            if agent.bytes_counted == Some(BytesCounted::AtEnd)
                && agent.telemetry == Some(Telemetry::On)
            {
                self.line("Bytes", "counted when connections end, not while they are open");
            }
            if agent.client_counts == Some(ClientCounting::Off) {
                self.line("Clients", "connections are not counted by client");
            }
            self.line("Log level", &agent.log_level);
            self.line_if_any("Programs log", agent.program_log.as_ref().map(ToString::to_string));
        }
        let took = report.agent.as_ref().and_then(|agent| agent.last_sync_duration);
        self.line(
            "Last sync",
            match (report.last_sync_time, took) {
                (None, _) => "never".into(),
                (Some(time), None) => format!("{} ago", format_age(time)),
                (Some(time), Some(took)) => {
                    format!("{} ago, took {:.1} ms", format_age(time), took.as_secs_f64() * 1e3)
                }
            },
        );
        if let Some(agent) = report.agent.as_ref().filter(|agent| !agent.drift_repairs.is_empty()) {
            let kinds = agent.drift_repairs.iter().map(|(kind, count)| format!("{count} {kind}"));
            let kinds = kinds.collect::<Vec<_>>().join(", ");
            self.line("Repairs", format!("{kinds} since its start"));
        }
    }

    fn hooks(&mut self, report: &StatusReport) {
        if let Some(attached) = report.condition(ConditionType::HooksAttached) {
            let message = &attached.message;
            self.line(
                "Hooks",
                match attached.status {
                    ConditionStatus::True => format!("{message} to {}", report.cgroup),
                    ConditionStatus::False | ConditionStatus::Unknown => message.clone(),
                },
            );
        }
    }

    fn details(&mut self, agent: &Status) {
        self.line("Kernel", kernel(agent.kernel_features));
        if !agent.excluded_pods.is_empty() {
            let is = |state| agent.excluded_pods.iter().filter(move |pod| pod.state == state);
            let excluded = is(ExclusionState::Excluded).count();
            self.line(
                "Excluded",
                match is(ExclusionState::CgroupNotFound).count() {
                    0 => format!("{excluded} pods"),
                    missing => format!("{excluded} pods, and {missing} whose cgroup was NOT found"),
                },
            );
        }
        self.line("Termination", termination(&agent.termination));
        if !agent.nested_namespaces.is_empty() {
            let pods = agent.nested_namespaces.iter().map(|nested| {
                let what = if nested.excluded { "not translated" } else { "translated" };
                format!("{} ({} namespaces, {what})", nested.pod, nested.namespaces)
            });
            let pods = pods.collect::<Vec<_>>().join(", ");
            self.line("Nested", format!("inside of pods: {pods}"));
        }
        if let Some(error) = &agent.node_addresses_error {
            self.line("Node addresses", Escaped(error).to_string());
        }
        self.line_if_any("Reclaim", reclaim(&agent.reclaim));
    }

    fn kernel_state(&mut self, report: &StatusReport) {
        self.line("Frontends", report.frontends.to_string());
        self.line(
            "Sockets",
            report.sockets.map_or_else(
                || "not counted: before Linux 5.12 they are in the overflow".into(),
                |sockets| format!("{sockets} translated"),
            ),
        );
        let faults: Vec<String> = report
            .faults
            .iter()
            .filter(|fault| fault.count > 0)
            .map(|fault| format!("{} {}", fault.count, fault.fault))
            .collect();
        self.line("Faults", if faults.is_empty() { "none".into() } else { faults.join(", ") });
    }
}

fn running(condition: &Condition) -> String {
    match (condition.status, condition.reason) {
        (ConditionStatus::True, Reason::Running) => format!("running, {}", condition.message),
        (ConditionStatus::True, _) => format!("running, but {}", condition.message),
        _ => format!("not running; {}", condition.message),
    }
}

fn ready(condition: &Condition) -> String {
    match condition.status {
        ConditionStatus::True if condition.message.is_empty() => "yes".into(),
        ConditionStatus::True => format!("yes, but {}", condition.message),
        ConditionStatus::False | ConditionStatus::Unknown => format!("no: {}", condition.message),
    }
}

fn kernel(features: KernelFeatures) -> String {
    format!(
        "refusals are {}, sockets in {}, loopback NodePorts for {}, MPTCP peer names {}, \
         connections counted {}",
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
        if features.socket_fields { "with how they went" } else { "when opened and closed only" },
    )
}

fn maps(agent: &Status) -> String {
    let mut maps = table::new(&["MAP", "ENTRIES", "ALLOCATED", "MAX"]);
    for map in &agent.maps {
        let counts = [map.entries, map.allocated_entries, map.max_entries];
        let [entries, allocated, max] = counts.map(|count| count.to_string());
        maps.add_row([map.name.clone(), entries, allocated, max]);
    }
    format!("\n{}", table::render(&maps))
}

fn excluded_pods(agent: &Status) -> String {
    if agent.excluded_pods.is_empty() {
        return String::new();
    }
    let mut pods = table::new(&["EXCLUDED POD", "BECAUSE OF", "CGROUP"]);
    for pod in &agent.excluded_pods {
        pods.add_row([
            &*pod.pod.to_string(),
            pod.reason.as_str(),
            match pod.state {
                ExclusionState::Excluded => "found",
                ExclusionState::Starting => "not yet: it is starting",
                ExclusionState::CgroupNotFound => "NOT found: its connections are translated",
                ExclusionState::NoRoom => "NO ROOM for it: its connections are translated",
            },
        ]);
    }
    format!("\n{}", table::render(&pods))
}

/// Empty without entries.
fn list<T: std::fmt::Display>(title: &str, entries: impl IntoIterator<Item = T>) -> String {
    let entries = entries.into_iter().map(|entry| format!("  {}\n", Escaped(entry)));
    let entries: String = entries.collect();
    if entries.is_empty() { entries } else { format!("\n{title}\n{entries}") }
}

/// `None` where it works.
fn reclaim(reclaim: &Reclaim) -> Option<String> {
    match reclaim {
        Reclaim::Works | Reclaim::NotTried => None,
        Reclaim::Fails { message: why } => Some(format!(
            "NOT possible: the maps fill up, since the agent cannot wait for running programs: {why}"
        )),
        Reclaim::CannotTell { message: why } => Some(format!("did NOT work the last time: {why}")),
    }
}

/// `None` where it is off and never happened.
fn fail_open(fail_open: &FailOpen) -> Option<String> {
    let mut text = match fail_open {
        FailOpen { bypassed_since: Some(since), .. } => format!(
            "calls are BYPASSED since {} ({} ago), until an agent has synced",
            since.round(Unit::Second).unwrap_or(*since),
            format_age(*since)
        ),
        FailOpen { after: Some(after), remaining: Some(remaining), .. } => format!(
            "in {} if the agent does not renew its deadline (timeout {})",
            format_seconds(*remaining),
            format_seconds(*after)
        ),
        FailOpen { bypassed_calls: 0, .. } => return None,
        FailOpen { .. } => "off".into(),
    };
    if fail_open.bypassed_calls > 0 {
        text += &format!("; {} calls were bypassed", fail_open.bypassed_calls);
    }
    Some(text)
}

/// Whether and how sockets are closed whose backend was removed.
fn termination(termination: &Termination) -> String {
    let method = match (termination.method, &termination.helper) {
        (None, _) => {
            return "NOT possible with this kernel: sockets stay with a removed backend".into();
        }
        (_, None) => return "NOT possible: the helper process could not be started".into(),
        (_, Some(HelperState::Exited { message })) => {
            return format!("NOT now: the helper process has exited ({message}); it is restarted");
        }
        (_, Some(HelperState::Lost { message })) => {
            return format!(
                "NOT any more: the helper process's supervisor has exited ({message}); restart the \
                 agent"
            );
        }
        (Some(Method::SockDestroy), _) => "SOCK_DESTROY",
        (Some(Method::Iterator), _) => "BPF iterators",
    };
    let Termination { udp_sockets_closed: udp, tcp_sockets_closed: tcp, errors, .. } = termination;
    let mut text =
        format!("by {method}; closed {udp} UDP and {tcp} TCP sockets of removed backends");
    if termination.helper_restarts > 0 {
        text += &format!(", restarted the helper process {} times", termination.helper_restarts);
    }
    if *errors > 0 {
        text += &format!(", {errors} NOT closed");
    }
    if let Some(unsearched) = &termination.unsearched {
        text += &format!("; NOT everywhere: {unsearched}");
    }
    text
}

/// `connected, last event 12s ago`, or the kinds that are not connected and how old their objects are.
fn watches(watches: &[WatchState]) -> String {
    let age = |watch: &WatchState| {
        watch.age().map_or_else(
            || "no event yet".into(),
            |age| format!("last event {} ago", format_seconds(age)),
        )
    };
    let disconnected: Vec<String> = watches
        .iter()
        .filter(|watch| !watch.connected)
        .map(|watch| format!("{} ({})", watch.kind, age(watch)))
        .collect();
    if !disconnected.is_empty() {
        return format!("NOT connected for {}", disconnected.join(", "));
    }
    let oldest = watches.iter().filter_map(WatchState::age).max().unwrap_or_default();
    format!("connected, last event {} ago", format_seconds(oldest))
}
