//! The log of the agent on standard error: the level that it starts with, and its format.

use std::{
    fmt,
    io::{self, IsTerminal as _},
};

use clap::ValueEnum;
use tracing::field::Field;
use tracing_subscriber::{
    Layer as _,
    field::MakeExt as _,
    fmt::format::{Writer, debug_fn},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::{escape::Escaped, log_level::LogLevel};

pub(super) const DEFAULT_LEVEL: &str = "info";

/// How each event is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Starts to log to standard error.
pub(super) fn init(filter: &str, format: LogFormat) -> anyhow::Result<LogLevel> {
    // An empty variable counts as not set.
    let filter = if filter.is_empty() { DEFAULT_LEVEL } else { filter };
    let (level, filter) =
        LogLevel::new(filter).map_err(|error| anyhow::anyhow!("--log-level: {error}"))?;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    let lines = match format {
        LogFormat::Json => lines.json().with_filter(filter).boxed(),
        LogFormat::Text => {
            lines.fmt_fields(debug_fn(field).delimited(" ")).with_filter(filter).boxed()
        }
    };
    tracing_subscriber::registry().with(lines).init();
    Ok(level)
}

/// Formats each event as one line, also if it contains text from outside.
fn field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    let value = Escaped(format_args!("{value:?}"));
    match field.name() {
        "message" => write!(writer, "{value}"),
        // Metadata of records of the `log` crate.
        name if name.starts_with("log.") => Ok(()),
        name => write!(writer, "{name}={value}"),
    }
}
