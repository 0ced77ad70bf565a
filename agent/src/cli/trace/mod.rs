//! `sockline trace`: how the choice is made for one Service on this node, and one real connect.
//!
//! The agent explains its plan, the pinned maps say what the kernel has. Without an agent there are the maps alone.
//! `report` and `port` make one document of both, `connect` connects, `text` prints.

mod connect;
mod document;
mod hindrance;
mod port;
mod report;
mod text;

use std::{sync::Arc, time::Duration};

use clap::Args;

pub(super) use self::document::TraceReport;
use self::{hindrance::Hindrance, report::Source};
use super::{
    node::NodeArgs,
    output::{Output, print},
    target::{self, Target},
};
use crate::{
    admin::{self, Subject},
    api::Document,
    dataplane::{AgentRecord, Snapshot},
    duration,
    model::{
        explain::Explanation,
        object::{Family, ObjectName},
        plan::Frontend,
    },
};

/// Explain which endpoints of a Service this node uses, and connect once.
///
/// Shows each address of the Service with its action and the reason, and each endpoint of its EndpointSlices with the
/// reason why it is chosen or not, as the running agent knows them, beside what is in the kernel's maps. Then connects
/// once to the Service's ClusterIP, from the network namespace and the cgroup of this command, and shows which endpoint
/// the programs chose. Without an agent it shows what is in the maps.
///
/// The connect is a real connection to an endpoint, which counts in the metrics like any other. Nothing is sent, and
/// some servers count a client that sends nothing as an error. With `sessionAffinity: ClientIP` it creates or renews the
/// affinity of this network namespace, so later connects from there go to the same endpoint. `--no-connect` omits it.
#[derive(Debug, Args)]
#[command(after_help = "Exit status:\n  \
    0  the explanation was printed, also if the connect failed or the maps differ: read `connect` and `inMaps` of -o json\n  \
    1  cannot explain: no such Service or port, not root, or no agent has run here\n  \
    2  wrong arguments")]
pub struct TraceArgs {
    /// The Service, and the number or the name of one of its ports [default: all ports]
    #[arg(value_name = "NAMESPACE/NAME[:PORT]")]
    target: Target,
    /// Do not connect, only explain
    #[arg(long)]
    no_connect: bool,
    /// How long a connect may take
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = timeout)]
    timeout: Duration,
    #[command(flatten)]
    node: NodeArgs,
}

fn timeout(text: &str) -> Result<Duration, String> {
    let timeout = duration::parse(text)?;
    if timeout.is_zero() { Err("it must be longer than 0".to_owned()) } else { Ok(timeout) }
}

/// # Errors
/// When nothing is pinned, the maps cannot be read, or there is no such service or port.
pub fn run(args: &TraceArgs) -> anyhow::Result<()> {
    let snapshot = args.node.snapshot()?;
    let record = snapshot.agent()?;
    let service = &args.target.service;
    let subject = Subject { service: service.clone(), port: args.target.port.clone() };
    let source = source(args, &snapshot, &subject)?;
    let frontends = snapshot.frontends_of(service)?;
    let input_errors = match &source {
        Source::Agent(explanation) => &explanation.input_errors[..],
        Source::Maps { .. } => &[],
    };
    if frontends.is_empty() && !source.knows_the_service() {
        anyhow::bail!("{}", unknown(&snapshot, service, input_errors)?);
    }
    let mut report = TraceReport::new(record.node.clone(), subject, source, &frontends)?;
    if !args.no_connect {
        connect(&mut report, args, &snapshot, &record, &frontends)?;
    }
    print(&match args.node.output {
        Output::Json => Document::new(&report).to_text()?,
        Output::Table => text::render(&report),
    })
}

/// The agent's explanation, or why there is none.
fn source(args: &TraceArgs, snapshot: &Snapshot, subject: &Subject) -> anyhow::Result<Source> {
    const CONSEQUENCE: &str = "this is what the maps have, without the reasons";
    if !snapshot.agent_runs()? {
        return Ok(Source::Maps { message: format!("no agent runs on this node: {CONSEQUENCE}") });
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let explained = runtime.block_on(admin::explain(&args.node.admin_socket, subject));
    Ok(match explained {
        Ok(explanation) => Source::Agent(Box::<Explanation>::new(explanation)),
        Err(error) => Source::Maps {
            message: format!("the agent does not explain its choice: {error:#}; {CONSEQUENCE}"),
        },
    })
}

fn unknown(
    snapshot: &Snapshot,
    service: &ObjectName,
    input_errors: &[String],
) -> anyhow::Result<String> {
    let mut message = format!("this node serves no Service {service}");
    if !input_errors.is_empty() {
        message += &format!(": {}", input_errors.join("; "));
    }
    let similar = target::similar(service, &snapshot.services()?);
    if !similar.is_empty() {
        message += &format!("; similar names: {}", similar.join(", "));
    } else if input_errors.is_empty() {
        message += " (`sockline services` lists those that it serves; headless and ExternalName Services, and those \
                    of other proxies, are not among them)";
    }
    Ok(message)
}

fn connect(
    report: &mut TraceReport,
    args: &TraceArgs,
    snapshot: &Snapshot,
    record: &AgentRecord,
    in_maps: &[Arc<Frontend>],
) -> anyhow::Result<()> {
    match report.address_to_connect_to() {
        Ok((address, protocol)) => {
            let made = connect::make(snapshot, address, protocol, args.timeout)?;
            let family = Family::of(address.ip());
            let hindrance = Hindrance::find(snapshot, record, family, protocol)?;
            report.set_connect(&made, hindrance.as_ref(), in_maps);
        }
        Err(reason) => report.messages.push(format!("no connect was tried: {reason}")),
    }
    Ok(())
}
