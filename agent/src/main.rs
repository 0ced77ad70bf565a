//! The `sockline` command: parses the command line and calls the library.

use std::{ffi::OsString, process::ExitCode};

use clap::{CommandFactory as _, FromArgMatches as _};
use sockline::{
    cli::{
        Cli, Command, agent, backends, check, cleanup, environment, helper, log_level, map,
        output::print_error, plan, renamed, services, status, top, trace, watch,
    },
    escape::Escaped,
};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if let Some(error) = renamed::find(arguments.iter().map(OsString::as_os_str), is_set) {
        print_error(format_args!("error: {error}"));
        return ExitCode::from(2);
    }
    let matches = environment::without_empty(Cli::command()).get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let result = match cli.command {
        Command::Agent(args) => agent::run(*args),
        Command::Plan(args) => plan::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Check(args) => return check::run(&args),
        Command::CheckProbe(args) => check::probe(&args),
        Command::Services(args) => services::run(&args),
        Command::Backends(args) => backends::run(&args),
        Command::Top(args) => top::run(&args),
        Command::Map(args) => map::run(&args),
        Command::Trace(args) => trace::run(&args),
        Command::Watch(args) => watch::run(args),
        Command::LogLevel(args) => log_level::run(&args),
        Command::Cleanup(args) => cleanup::run(&args),
        Command::Helper(args) => helper::supervise(args),
        Command::HelperWorker(args) => helper::work(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line with all causes; a backtrace does not help users.
            print_error(format_args!("error: {}", Escaped(format!("{error:#}"))));
            ExitCode::FAILURE
        }
    }
}
