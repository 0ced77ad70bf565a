//! Handles the commands of the admin socket.

use super::Control;
use crate::{
    admin::Command,
    dataplane::Drift,
    error_chain::chain,
    model::probe_service::{Listeners, ProbeService},
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
            // The client has disconnected. A comparison would delay changes.
            Command::FindDrift { reply } if reply.is_closed() => {}
            Command::FindDrift { reply } => {
                let _ = reply.send(self.find_drift());
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

    fn require_first_sync(&self) -> Result<(), String> {
        if self.shared.is_ready() {
            Ok(())
        } else {
            Err("the agent waits for its first full sync".into())
        }
    }
}
