//! A node with its agent, and the objects of the cluster that it is in.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    Agent, AgentOptions, DEADLINE, Metrics, Node, Pod, Protocol, Service,
    objects::{self, file},
    wait_ok,
};

const SYNCS: &str = "sockline_sync_duration_seconds_count";

/// A node, an agent that reads its objects from here, and pods with addresses of both families.
///
/// Fields are dropped in this order: the agent before its node.
pub struct Cluster {
    agent: Option<Agent>,
    services: BTreeMap<String, Service>,
    objects: Vec<Value>,
    /// Grows with each write after the agent's start.
    writes: u32,
    next_pod: u16,
    options: AgentOptions,
    node: Node,
}

impl Cluster {
    /// A node without an agent yet; the first [`Cluster::apply`] starts it.
    ///
    /// # Errors
    /// Those of [`Node::new`].
    pub fn new() -> Result<Self> {
        Ok(Self::on(Node::new()?, &AgentOptions::default().node_name))
    }

    /// As [`Cluster::new`], on this node and under this name: a cluster of several nodes has one of these for
    /// each node.
    pub fn on(node: Node, name: &str) -> Self {
        Self {
            agent: None,
            services: BTreeMap::new(),
            objects: Vec::new(),
            writes: 0,
            next_pod: 1,
            options: AgentOptions { node_name: name.to_owned(), ..AgentOptions::default() },
            node,
        }
    }

    /// As [`Cluster::new`], with more arguments for the agent.
    ///
    /// # Errors
    /// Those of [`Node::new`].
    pub fn with_agent_args(args: &[&str]) -> Result<Self> {
        let args = args.iter().map(ToString::to_string).collect();
        Ok(Self { options: AgentOptions { args, ..AgentOptions::default() }, ..Self::new()? })
    }

    /// The same, with more arguments for the agent.
    #[must_use]
    pub fn with_args(mut self, args: &[&str]) -> Self {
        self.options.args.extend(args.iter().map(ToString::to_string));
        self
    }

    /// The node.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The agent.
    ///
    /// # Panics
    /// Before the first [`Cluster::apply`].
    pub fn agent(&self) -> &Agent {
        self.agent
            .as_ref()
            .expect("objects are applied, which starts the agent, before it is asked")
    }

    /// A pod with the next address of each family.
    ///
    /// # Errors
    /// Those of [`Node::pod`].
    pub fn pod(&mut self, name: &str) -> Result<Pod> {
        let n = self.next_pod;
        self.next_pod += 1;
        let [high, low] = n.to_be_bytes();
        let v6 = format!("fd00:244:1::{n:x}").parse::<IpAddr>()?;
        self.node.pod(name, &[IpAddr::from([10, 244, high, low]), v6])
    }

    /// `count` pods, named `<name>-0` and so on.
    ///
    /// # Errors
    /// Those of [`Node::pod`].
    pub fn pods(&mut self, name: &str, count: usize) -> Result<Vec<Pod>> {
        (0..count).map(|n| self.pod(&format!("{name}-{n}"))).collect()
    }

    /// Stops the agent, and starts another one with changed options on what it left in the kernel.
    ///
    /// # Errors
    /// Those of [`Agent::stop`] and [`Node::agent`].
    pub fn restart(&mut self, change: impl FnOnce(&mut AgentOptions)) -> Result<()> {
        if let Some(agent) = &mut self.agent {
            agent.stop()?;
        }
        change(&mut self.options);
        // The new agent has read no write yet, and the next write must not look like this one.
        self.writes = 0;
        self.write()?;
        self.agent = Some(self.node.agent(&self.options)?);
        Ok(())
    }

    /// Sets services, in place of those with the same names, and waits until they are in the kernel.
    ///
    /// # Errors When writing the manifests fails, or the agent does not apply them in time.
    pub fn apply(&mut self, services: impl IntoIterator<Item = Service>) -> Result<()> {
        self.set(services);
        self.sync()
    }

    /// Sets objects of any kind, in place of those from the last call, and waits until they are in the
    /// kernel: for what a [`Service`] cannot express.
    ///
    /// # Errors
    /// Those of [`Cluster::apply`].
    pub fn apply_objects(&mut self, objects: Vec<Value>) -> Result<()> {
        self.objects = objects;
        self.sync()
    }

    /// As [`Cluster::apply_objects`], but the next call writes them.
    pub fn set_objects(&mut self, objects: Vec<Value>) {
        self.objects = objects;
    }

    /// Removes a service and its slices, and waits until that is in the kernel.
    ///
    /// # Errors
    /// Those of [`Cluster::apply`].
    pub fn remove(&mut self, service: &str) -> Result<()> {
        self.forget(service);
        self.sync()
    }

    /// Removes a service and its slices from what is written next.
    pub fn forget(&mut self, service: &str) {
        self.services.remove(service);
    }

    /// Sets services and waits until the agent has read them, but not until they are in the kernel:
    /// for many changes in a row.
    ///
    /// # Errors
    /// Those of [`Cluster::apply`].
    pub fn change(&mut self, services: impl IntoIterator<Item = Service>) -> Result<()> {
        self.set(services);
        self.tell()
    }

    /// One scrape of the agent's metrics.
    ///
    /// # Errors
    /// Those of [`Agent::metrics`].
    pub fn metrics(&self) -> Result<Metrics> {
        Ok(Metrics::parse(&self.agent().metrics()?))
    }

    /// The kernel's counters of a service.
    ///
    /// # Errors
    /// Those of [`Agent::metrics`].
    pub fn counts(&self, service: &str, protocol: Protocol) -> Result<Counts> {
        let metrics = self.metrics()?;
        let protocol = protocol.to_string();
        let of = |what: &str, reason: Option<&str>| {
            let mut labels = vec![("service", service), ("protocol", protocol.as_str())];
            labels.extend(reason.map(|reason| ("reason", reason)));
            metrics.sum(&format!("sockline_connections_{what}_total"), &labels) as u64
        };
        Ok(Counts {
            translated: of("translated", None),
            no_endpoints: of("refused", Some("no-endpoints")),
            no_local_endpoints: of("refused", Some("no-local-endpoints")),
            bypassed: of("bypassed", Some("planned")),
            failed_open: of("failed_open", None),
        })
    }

    /// The output of `sockline status`.
    ///
    /// # Errors
    /// Those of [`Agent::cli`].
    pub fn status(&self) -> Result<Value> {
        let text = self.agent().cli(&["status", "-o", "json"])?;
        serde_json::from_str(&text).context("reading the output of `sockline status`")
    }

    /// How many records of sockets the kernel has in its table.
    ///
    /// # Errors
    /// Those of [`Agent::cli`].
    pub fn sockets(&self) -> Result<u64> {
        self.status()?["sockets"].as_u64().context("`sockline status` has no `sockets`")
    }

    /// Waits until the kernel has exactly this many records of sockets. A socket that was closed here may
    /// exist a moment longer in a child process that another test is starting. Without a table (before Linux
    /// 5.12), there must be no count either.
    ///
    /// # Errors When that does not happen in time.
    pub fn wait_for_sockets(&self, wanted: u64) -> Result<()> {
        if !self.features()?.compare_and_swap {
            let sockets = &self.status()?["sockets"];
            ensure!(sockets.is_null(), "sockets in storage cannot be counted: {sockets}");
            return Ok(());
        }
        let what = format!("the table to have {wanted} sockets");
        wait_ok(DEADLINE, &what, || match self.sockets()? {
            count if count == wanted => Ok(()),
            count => Err(anyhow::anyhow!("{count} sockets")),
        })
    }

    fn set(&mut self, services: impl IntoIterator<Item = Service>) {
        for service in services {
            self.services.insert(service.name().to_owned(), service);
        }
    }

    /// The agent plans again after each batch of changes that it reads, and one write may be several batches.
    /// Every sync that *ends* from now on includes what the agent has read; one more write causes such a
    /// sync.
    fn sync(&mut self) -> Result<()> {
        if self.agent.is_none() {
            self.write()?;
            self.agent = Some(self.node.agent(&self.options)?);
            return Ok(());
        }
        self.tell()?;
        let before = self.metrics()?.sum(SYNCS, &[]);
        self.tell()?;
        wait_ok(DEADLINE, "the agent to sync", || {
            let now = self.metrics()?.sum(SYNCS, &[]);
            if now > before { Ok(()) } else { Err(anyhow::anyhow!("{now} syncs, as before")) }
        })
    }

    /// Writes the objects and waits until the agent has read all of them.
    ///
    /// Each write omits the Node that the write before had for this purpose, and nothing else removes a Node.
    /// The agent reports the removal last, whether the other objects have changed or not.
    fn tell(&mut self) -> Result<()> {
        self.writes += 1;
        self.write()?;
        let nodes_gone = [("kind", "Node"), ("event", "delete")];
        wait_ok(DEADLINE, "the agent to hear of the new manifests", || {
            let heard = self.metrics()?.sum("sockline_source_events_total", &nodes_gone) as u32;
            let written = self.writes;
            if heard == written {
                Ok(())
            } else {
                Err(anyhow::anyhow!("write {heard} of {written}"))
            }
        })
    }

    /// Writes all objects to one file.
    fn write(&self) -> Result<()> {
        let of_services = self.services.values().flat_map(Service::objects);
        let mark = objects::node_in_zone(&format!("testbed-write-{}", self.writes), "nowhere");
        let objects: Vec<Value> =
            of_services.chain(self.objects.iter().cloned()).chain([mark]).collect();
        let text = file::list(&objects);
        file::put(&self.node.manifests(), "objects.json", &text).context("writing the manifests")
    }
}

/// The kernel's counters of one service and protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub translated: u64,
    pub no_endpoints: u64,
    pub no_local_endpoints: u64,
    pub bypassed: u64,
    pub failed_open: u64,
}
