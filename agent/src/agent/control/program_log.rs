//! What the kernel programs log because an operator asked for it, until its time is over.
//!
//! The control loop itself keeps the switch on, so programs log no longer than a few seconds after an agent that was
//! killed.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;

use crate::{
    admin::ProgramLogRequest,
    dataplane::{Dataplane, DebugLog, LoggedHooks, LoggedServices},
    model::{object::ObjectName, probe_service::is_probe},
    status::{self, Shared},
};

/// The longest time that can be asked for: nobody is to forget it.
const LONGEST: Duration = Duration::from_hours(24);
/// Names in an error.
const NAMES: usize = 10;

pub struct ProgramLog {
    switch: DebugLog,
    active: Option<Active>,
    shared: Arc<Shared>,
}

/// A request whose fields fit together.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    hooks: LoggedHooks,
    /// And the name or number of its only port.
    service: Option<(ObjectName, Option<String>)>,
    time: Duration,
}

impl TryFrom<ProgramLogRequest> for Wanted {
    /// Names the field.
    type Error = String;

    fn try_from(request: ProgramLogRequest) -> Result<Self, String> {
        let ProgramLogRequest { hooks, service, port, seconds } = request;
        let hooks = LoggedHooks::parse(hooks.iter().map(String::as_str))
            .map_err(|error| format!("hooks: {error}"))?;
        if !(1..=LONGEST.as_secs()).contains(&seconds) {
            return Err(format!("seconds: {seconds} is not between 1 and {}", LONGEST.as_secs()));
        }
        let service = match (service, port) {
            // All services would be logged, which nobody has asked for.
            (None, Some(port)) => {
                return Err(format!("port: {port:?} is of no service: `service` is missing"));
            }
            (service, port) => service.map(|service| (service, port)),
        };
        Ok(Self { hooks, service, time: Duration::from_secs(seconds) })
    }
}

struct Active {
    hooks: LoggedHooks,
    /// And the name or number of its only port.
    service: Option<(ObjectName, Option<String>)>,
    /// As they were selected last: a service that is created again has other ids.
    services: LoggedServices,
    ends: Instant,
    /// Lines that had been skipped when it began.
    skipped: u64,
}

impl ProgramLog {
    pub const fn new(switch: DebugLog, shared: Arc<Shared>) -> Self {
        Self { switch, active: None, shared }
    }

    /// Begins, in place of what was asked for before; `None` ends it.
    pub fn change(
        &mut self,
        request: Option<ProgramLogRequest>,
        dataplane: &Dataplane,
    ) -> Result<(), String> {
        let Some(request) = request else {
            self.end("ended by a command");
            return Ok(());
        };
        let Wanted { hooks, service, time } = request.try_into()?;
        let services = services(service.as_ref(), dataplane);
        if let Some((service, port)) = &service {
            check(service, port.as_deref(), &services, dataplane)?;
        }
        self.switch.select(hooks, &services);
        self.switch.renew(time);
        let until = Timestamp::now() + time;
        let (name, port) = service.clone().unzip();
        let log = status::ProgramLog {
            hooks: hooks.names().into_iter().map(ToOwned::to_owned).collect(),
            service: name,
            port: port.flatten(),
            until,
            lines_skipped: 0,
        };
        tracing::info!("the programs log what they decide: {log}");
        self.shared.update(|status| status.program_log = Some(log));
        let (ends, skipped) = (Instant::now() + time, self.switch.skipped());
        self.active = Some(Active { hooks, service, services, ends, skipped });
        Ok(())
    }

    /// Keeps it on while it is to last.
    pub fn renew(&mut self, dataplane: &Dataplane) {
        let Some(active) = &mut self.active else { return };
        let left = active.ends.saturating_duration_since(Instant::now());
        if left.is_zero() {
            self.end("its time is over");
            return;
        }
        let services = services(active.service.as_ref(), dataplane);
        if services != active.services {
            self.switch.select(active.hooks, &services);
            active.services = services;
        }
        self.switch.renew(left);
        let skipped = self.switch.skipped().saturating_sub(active.skipped);
        self.shared.update(|status| {
            if let Some(log) = &mut status.program_log {
                log.lines_skipped = skipped;
            }
        });
    }

    fn end(&mut self, why: &str) {
        let Some(active) = self.active.take() else { return };
        self.switch.switch_off();
        self.shared.update(|status| status.program_log = None);
        let lines_skipped = self.switch.skipped().saturating_sub(active.skipped);
        tracing::info!(lines_skipped, "the programs no longer log what they decide: {why}");
    }
}

fn services(
    service: Option<&(ObjectName, Option<String>)>,
    dataplane: &Dataplane,
) -> LoggedServices {
    service.map_or(LoggedServices::All, |(service, port)| {
        LoggedServices::Only(dataplane.service_ids(service, port.as_deref()))
    })
}

/// Whether the service is in the maps, and its ports are not too many.
fn check(
    service: &ObjectName,
    port: Option<&str>,
    selected: &LoggedServices,
    dataplane: &Dataplane,
) -> Result<(), String> {
    let LoggedServices::Only(ids) = selected else { return Ok(()) };
    if ids.len() > LoggedServices::MOST {
        return Err(format!(
            "{service} has {} ports, and at most {} can be logged: name one of them",
            ids.len(),
            LoggedServices::MOST
        ));
    }
    if !ids.is_empty() {
        return Ok(());
    }
    let keys = || dataplane.service_keys().filter(|key| !is_probe(&key.service));
    let ports: BTreeSet<String> =
        keys().filter(|key| key.service == *service).map(|key| key.port_name.to_string()).collect();
    if let (Some(port), false) = (port, ports.is_empty()) {
        return Err(format!("{service} has no port {port}: there are {}", list(&ports)));
    }
    let namespace = &service.namespace;
    let names: BTreeSet<String> = keys()
        .filter(|key| key.service.namespace == *namespace)
        .map(|key| key.service.name.to_string())
        .collect();
    Err(if names.is_empty() {
        format!("no service {service} is in the maps, and none of the namespace {namespace}")
    } else {
        format!("no service {service} is in the maps: of {namespace} there are {}", list(&names))
    })
}

fn list(names: &BTreeSet<String>) -> String {
    let shown: Vec<&str> = names
        .iter()
        .take(NAMES)
        .map(|name| if name.is_empty() { "one without a name" } else { name })
        .collect();
    let shown = shown.join(", ");
    match names.len().saturating_sub(NAMES) {
        0 => shown,
        more => format!("{shown}, and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> ProgramLogRequest {
        ProgramLogRequest {
            hooks: vec!["connect4".to_owned()],
            service: Some(ObjectName::new("shop", "cart")),
            port: Some("web".to_owned()),
            seconds: 60,
        }
    }

    #[test]
    fn a_request_whose_fields_do_not_fit_together_is_refused_with_the_name_of_the_field() {
        let refused = |request| Wanted::try_from(request).unwrap_err();
        let no_service = ProgramLogRequest { service: None, ..request() };
        assert_eq!(refused(no_service), "port: \"web\" is of no service: `service` is missing");
        for seconds in [0, 86_401, u64::MAX] {
            let error = refused(ProgramLogRequest { seconds, ..request() });
            assert_eq!(error, format!("seconds: {seconds} is not between 1 and 86400"));
        }
        for hooks in [vec![], vec!["connect4".to_owned(), "off".to_owned()]] {
            let error = refused(ProgramLogRequest { hooks, ..request() });
            assert!(error.starts_with("hooks: "), "{error}");
        }
    }

    #[test]
    fn one_port_one_service_and_all_services_can_be_asked_for() {
        let service = |request| Wanted::try_from(request).unwrap().service;
        let cart = ObjectName::new("shop", "cart");
        assert_eq!(service(request()), Some((cart.clone(), Some("web".to_owned()))));
        let all_ports = ProgramLogRequest { port: None, ..request() };
        assert_eq!(service(all_ports.clone()), Some((cart, None)));
        assert_eq!(service(ProgramLogRequest { service: None, ..all_ports }), None);
    }
}
