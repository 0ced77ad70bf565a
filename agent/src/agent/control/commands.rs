//! Handles the commands of the admin socket.

#[cfg(test)]
mod tests;

use super::{ApiServer, Control};
use crate::{
    admin::{Command, PodLookup, ProgramLogRequest, Subject},
    dataplane::Drift,
    error_chain::chain,
    model::{
        explain::Explanation,
        index::Index,
        object::ObjectName,
        probe_service::{Listeners, ProbeService},
    },
    workloads::{NamedPod, PodQuery},
};

impl Control {
    pub(super) fn handle_command(&mut self, command: Command) {
        handle(self, command);
    }
}

/// What commands use of the control loop.
trait Node {
    fn index(&self) -> &Index;
    /// The first full sync is in the kernel.
    fn is_synced(&self) -> bool;
    fn add_probe_service(&mut self, listeners: Listeners) -> Result<ProbeService, String>;
    fn remove_probe_service(&mut self, service: &ProbeService);
    /// Compares the plan with the maps.
    fn compare(&mut self) -> Result<Drift, String>;
    /// Has the programs log what they decide; `None` ends it.
    fn log_programs(&mut self, request: Option<ProgramLogRequest>) -> Result<(), String>;
    /// What is wrong with a service that no object of it has.
    fn further_input_error(&self, service: &ObjectName) -> Option<String>;
}

impl Node for Control {
    fn index(&self) -> &Index {
        &self.index
    }

    fn is_synced(&self) -> bool {
        self.shared.is_ready()
    }

    fn add_probe_service(&mut self, listeners: Listeners) -> Result<ProbeService, String> {
        self.probe_services.add(&mut self.dataplane, listeners)
    }

    fn remove_probe_service(&mut self, service: &ProbeService) {
        self.probe_services.remove(&mut self.dataplane, service);
    }

    fn compare(&mut self) -> Result<Drift, String> {
        let mut plan = self.index.planned();
        self.complete(&mut plan);
        self.dataplane.compare(&plan).map_err(|error| chain(&error))
    }

    fn log_programs(&mut self, request: Option<ProgramLogRequest>) -> Result<(), String> {
        self.program_log.change(request, &self.dataplane)
    }

    fn further_input_error(&self, service: &ObjectName) -> Option<String> {
        let kept = self.api_server.as_ref().filter(|of| of.is(service));
        kept.and_then(ApiServer::input_error).map(|input_error| input_error.to_string())
    }
}

fn handle(node: &mut impl Node, command: Command) {
    match command {
        Command::AddProbeService { listeners, reply } => {
            let added = require_first_sync(node).and_then(|()| node.add_probe_service(listeners));
            // The client may have disconnected meanwhile.
            if let Err(Ok(service)) = reply.send(added) {
                node.remove_probe_service(&service);
            }
        }
        Command::RemoveProbeService(service) => node.remove_probe_service(&service),
        Command::FindPods(PodQuery { uids, reply }) => {
            let pods = uids.into_iter().filter_map(|uid| {
                let pod = node.index().pod_of(&uid)?;
                let (name, workload) = (pod.name.clone(), pod.workload.clone());
                Some((uid, NamedPod { name, workload }))
            });
            let _ = reply.send(pods.collect());
        }
        Command::LookUpPod { pod, reply } => {
            let answer = || PodLookup { on_this_node: node.index().is_on_this_node(&pod) };
            let _ = reply.send(require_first_sync(node).map(|()| answer()));
        }
        // The client has disconnected. An answer would delay changes.
        Command::FindDrift { reply } if reply.is_closed() => {}
        Command::Explain { reply, .. } if reply.is_closed() => {}
        // Nobody would know that it is on.
        Command::LogPrograms { request: Some(_), reply } if reply.is_closed() => {}
        Command::FindDrift { reply } => {
            let _ = reply.send(require_first_sync(node).and_then(|()| node.compare()));
        }
        // It ends at any time.
        Command::LogPrograms { request: None, reply } => {
            let _ = reply.send(node.log_programs(None));
        }
        Command::LogPrograms { request, reply } => {
            let _ = reply.send(require_first_sync(node).and_then(|()| node.log_programs(request)));
        }
        Command::Explain { subject, reply } => {
            let _ = reply.send(require_first_sync(node).map(|()| explain(node, &subject)));
        }
    }
}

fn explain(node: &impl Node, Subject { service, port }: &Subject) -> Explanation {
    let mut explanation = node.index().explain(service, port.as_deref());
    explanation.input_errors.extend(node.further_input_error(service));
    explanation
}

fn require_first_sync(node: &impl Node) -> Result<(), String> {
    if node.is_synced() { Ok(()) } else { Err("the agent waits for its first full sync".into()) }
}
