//! Handles the commands of the admin socket.

use super::{ApiServer, Control};
use crate::{
    admin::{Command, Subject},
    dataplane::Drift,
    error_chain::chain,
    model::{
        explain::Explanation,
        probe_service::{Listeners, ProbeService},
    },
    watch::PodQuery,
};

impl Control {
    pub(super) fn handle_command(&mut self, command: Command) {
        match command {
            Command::AddProbeService { listeners, reply } => {
                // The client may have disconnected meanwhile.
                if let Err(Ok(service)) = reply.send(self.add_probe_service(listeners)) {
                    self.probe_services.remove(&mut self.dataplane, &service);
                }
            }
            Command::RemoveProbeService(service) => {
                self.probe_services.remove(&mut self.dataplane, &service);
            }
            Command::FindPods(PodQuery { uids, reply }) => {
                let names = uids.into_iter().filter_map(|uid| {
                    let name = self.index.pod_of(&uid)?.clone();
                    Some((uid, name))
                });
                let _ = reply.send(names.collect());
            }
            // The client has disconnected. An answer would delay changes.
            Command::FindDrift { reply } if reply.is_closed() => {}
            Command::Explain { reply, .. } if reply.is_closed() => {}
            Command::FindDrift { reply } => {
                let _ = reply.send(self.find_drift());
            }
            Command::Explain { subject, reply } => {
                let _ = reply.send(self.explain(&subject));
            }
        }
    }

    fn add_probe_service(&mut self, listeners: Listeners) -> Result<ProbeService, String> {
        self.require_first_sync()?;
        self.probe_services.add(&mut self.dataplane, listeners)
    }

    fn find_drift(&mut self) -> Result<Drift, String> {
        self.require_first_sync()?;
        let mut plan = self.index.planned();
        self.complete(&mut plan);
        self.dataplane.compare(&plan).map_err(|error| chain(&error))
    }

    fn explain(&self, Subject { service, port }: &Subject) -> Result<Explanation, String> {
        self.require_first_sync()?;
        let mut explanation = self.index.explain(service, port.as_deref());
        let kept =
            self.api_server.as_ref().filter(|of| of.is(service)).and_then(ApiServer::input_error);
        explanation.input_errors.extend(kept.map(|input_error| input_error.to_string()));
        Ok(explanation)
    }

    fn require_first_sync(&self) -> Result<(), String> {
        if self.shared.is_ready() {
            Ok(())
        } else {
            Err("the agent waits for its first full sync".into())
        }
    }
}
