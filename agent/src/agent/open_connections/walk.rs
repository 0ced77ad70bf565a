//! A walk over the open connections.

use std::time::Duration;

use sockline_ebpf::partly_counted::Part;

use super::missed::Missed;
use crate::{
    dataplane::{DataplaneError, OpenConnection, OpenConnections, Rcu, Unmarked},
    helper::{Handshake, Helper},
};

/// What walks need.
pub struct Walk {
    connections: OpenConnections,
    rcu: Rcu,
    helper: Helper,
    /// Of the last scan.
    unmarked: Unmarked,
    missed: Missed,
}

/// What a walk found.
#[derive(Debug, Default)]
pub struct Walked {
    pub connections: Vec<(OpenConnection, Part)>,
    /// Those of them whose SYN is not answered.
    pub hanging: Vec<OpenConnection>,
    /// Processor time of the helper.
    pub spent: Duration,
}

impl Walk {
    pub fn new(connections: OpenConnections, rcu: Rcu, helper: Helper) -> Self {
        Self { connections, rcu, helper, unmarked: Unmarked::new(), missed: Missed::default() }
    }

    /// Notes which connections are open: the next walk reads those of them that are open still.
    pub fn look(&mut self) {
        self.unmarked = self.connections.unmarked();
    }

    /// Marks the connections that were open at the last look or walk, and reads all that are marked.
    pub fn run(&mut self) -> anyhow::Result<Walked> {
        self.unmarked = self.connections.mark(&self.unmarked);
        // Nodes without a long connection should not pay for those that have one.
        let marked = self.connections.marked();
        if self.missed.wanted(marked.iter().map(OpenConnection::key)).is_empty() {
            return Ok(Walked::default());
        }
        self.rcu.synchronize_rcu().map_err(DataplaneError::from)?;
        let marked = self.connections.marked();
        let keys = || marked.iter().map(OpenConnection::key);
        let (read, coverage) = self.helper.read_connections(self.missed.wanted(keys()))?;
        self.missed.record(keys(), |cookie| read.contains_key(&cookie), &coverage);
        let mut walked = Walked { spent: coverage.spent, ..Walked::default() };
        for connection in marked {
            let Some(now) = read.get(&connection.cookie) else { continue };
            walked.connections.push((connection, Part::from(now)));
            if now.handshake == Handshake::Hanging {
                walked.hanging.push(connection);
            }
        }
        Ok(walked)
    }
}
