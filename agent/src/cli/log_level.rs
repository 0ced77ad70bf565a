//! `sockline log-level`: what the running agent logs, and what the kernel programs log.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{
    output::{Output, print},
    target::Target,
};
use crate::{
    admin::{self, LogFilter, ProgramLogRequest},
    api::Document,
    duration,
};

/// Ends what `--programs` began.
const OFF: &str = "off";

/// Show or change what the running agent logs.
///
/// The change lasts until the agent ends; `sockline status` shows the level. `--programs` has the kernel programs log
/// what they decide for each call, into the agent's log, whatever its level is: for a limited time, and 240 lines a
/// second at most.
#[derive(Debug, Args)]
pub struct LogLevelArgs {
    /// The new level: off, error, warn, info, debug or trace, also by module
    /// (info,sockline::source=debug)
    #[arg(value_name = "LEVEL|FILTER", conflicts_with = "programs")]
    filter: Option<String>,
    /// Have these kernel programs log what they decide: names of hooks (connect4), of both families (connect), or all;
    /// off ends it
    #[arg(long, value_name = "HOOK,...|all|off", value_delimiter = ',')]
    programs: Vec<String>,
    /// Only calls of this Service, or of one of its ports
    #[arg(long, value_name = "NAMESPACE/NAME[:PORT]", requires = "programs")]
    service: Option<Target>,
    /// How long the programs log, at most 24h
    #[arg(long = "for", value_name = "DURATION", requires = "programs", default_value = "10m", value_parser = duration::parse)]
    time: Duration,
    /// The agent's admin socket
    #[arg(long, value_name = "PATH", env = "SOCKLINE_ADMIN_SOCKET", default_value = admin::DEFAULT_SOCKET)]
    admin_socket: PathBuf,
    /// Output format
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t)]
    output: Output,
}

/// # Errors
/// When no agent answers on the socket, or it refuses the filter, a hook or the service.
pub fn run(args: &LogLevelArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let level = runtime.block_on(async {
        let socket = &args.admin_socket;
        match &args.filter {
            Some(filter) => admin::set_log_level(socket, filter).await,
            None if args.programs.is_empty() => admin::log_level(socket).await,
            None => admin::log_programs(socket, args.wanted()).await,
        }
    })?;
    print(&match args.output {
        Output::Json => Document::new(level).to_text()?,
        Output::Table => text(&level),
    })
}

impl LogLevelArgs {
    fn wanted(&self) -> Option<ProgramLogRequest> {
        if self.programs == [OFF] {
            return None;
        }
        let target = self.service.clone();
        let (service, port) = target.map(|Target { service, port }| (service, port)).unzip();
        Some(ProgramLogRequest {
            hooks: self.programs.clone(),
            service,
            port: port.flatten(),
            seconds: self.time.as_secs(),
        })
    }
}

fn text(level: &LogFilter) -> String {
    match &level.programs {
        None => format!("{}\n", level.filter),
        Some(log) => format!("{}\nprograms: {log}\n", level.filter),
    }
}
