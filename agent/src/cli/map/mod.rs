//! `sockline map`: who connects to which Service, and which endpoints take it.
//!
//! `reader` reads the counters twice and asks the agent for names. `graph` makes a `document` of that, `view` has what
//! is shown of it; `text`, `dot` and `svg` (with `layout`) write it. All but `reader` are pure.

pub mod document;
mod dot;
mod graph;
mod layout;
mod reader;
pub mod svg;
#[cfg(test)]
mod tests;
mod text;
pub mod view;

use std::{thread, time::Duration};

use clap::{Args, ValueEnum};

pub(super) use self::document::TrafficMap;
use self::{graph::Names, reader::Reader, view::View};
use super::{
    node::{StateArgs, object_name},
    output::{print, print_error},
};
use crate::{api::Document, dataplane::ServiceKey, duration, model::object::ObjectName};

/// Show who connects to which service of this node, and which endpoints take it, with rates and failures.
///
/// The counters are read twice, and rates are what was counted in between. Clients are workloads: what controls a pod,
/// such as its Deployment, or a service of systemd. Text and pictures show up to eight clients and endpoints of a
/// service port, JSON shows all.
///
/// Reads the pinned maps. Without a running agent, clients have no names.
#[derive(Debug, Args)]
pub struct MapArgs {
    /// Only this service
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = object_name)]
    service: Option<ObjectName>,
    /// Only services of this namespace
    #[arg(long, value_name = "NAMESPACE", conflicts_with = "service")]
    namespace: Option<String>,
    /// The time between the two readings
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = interval)]
    interval: Duration,
    /// Output format; `dot` is for Graphviz
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t)]
    output: MapOutput,
    #[command(flatten)]
    node: StateArgs,
}

/// How to print the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum MapOutput {
    #[default]
    Text,
    Json,
    Dot,
    Svg,
}

const MIN_INTERVAL: Duration = Duration::from_millis(100);
const MAX_INTERVAL: Duration = Duration::from_secs(3600);

fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration::parse(text)?;
    if !(MIN_INTERVAL..=MAX_INTERVAL).contains(&interval) {
        let [least, most] = [MIN_INTERVAL, MAX_INTERVAL].map(duration::format);
        return Err(format!("it must be between {least} and {most}"));
    }
    Ok(interval)
}

/// # Errors
/// When nothing is pinned, the maps cannot be read, or the named service does not exist.
pub fn run(args: &MapArgs) -> anyhow::Result<()> {
    let reader = Reader::new(&args.node);
    let (_, before) = reader.read()?;
    thread::sleep(args.interval);
    let (node_name, now) = reader.read()?;
    if let Some(name) = &args.service
        && !now.services.keys().any(|key| key.service == *name)
    {
        anyhow::bail!("the kernel serves no service {name} (`sockline services` lists them)");
    }
    let names = reader.names(&now).unwrap_or_else(|error| {
        print_error(format!("clients have no names: {error:#}"));
        Names::default()
    });
    let is_wanted = |key: &ServiceKey| {
        args.service.as_ref().is_none_or(|name| key.service == *name)
            && args.namespace.as_ref().is_none_or(|name| *key.service.namespace == **name)
    };
    let map = graph::between(node_name, [&before, &now], &names, is_wanted);
    print(&match args.output {
        MapOutput::Json => Document::new(&map).to_text()?,
        MapOutput::Text => text::render(&View::of(&map)),
        MapOutput::Dot => dot::render(&View::of(&map)),
        MapOutput::Svg => svg::render(&View::of(&map)),
    })
}
