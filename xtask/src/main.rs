//! The developer tasks of Sockline: `cargo xtask TASK`.

mod apt;
mod audit;
mod bench;
mod build;
mod cargo;
mod chaos;
mod ci;
mod compare_counts;
mod dashboards;
mod demo;
mod docs;
mod fuzz;
mod image;
mod lint;
mod parallel;
mod process;
mod repo;
mod setup;
mod term;
mod test;
mod variants;
mod vm_test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "xtask", bin_name = "cargo xtask", about = "The developer tasks of Sockline")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find or install what building and testing need
    Setup(setup::Args),
    /// Build the agent with its kernel programs
    Build(build::Args),
    /// Run all tests on the real kernel (needs root)
    Test(test::Args),
    /// Run the data path's tests on other kernels, in virtual machines (needs no KVM)
    VmTest(vm_test::Args),
    /// Measure the cost of a translated call, or how soon changes are in the kernel (needs root)
    Bench(bench::Args),
    /// Inject faults while clients open connections, and check every answer (needs root)
    Chaos(chaos::Args),
    #[command(hide = true)]
    HoldSockets(chaos::hold_sockets::Args),
    /// Hold what Sockline counts against what nginx, redis, PostgreSQL and dnsmasq count (needs root)
    CompareCounts(compare_counts::Args),
    /// Run what continuous integration runs
    Ci,
    /// Check rules of this repository that compiler and clippy do not know
    Lint(lint::Args),
    /// Check the dependencies' advisories, yanked versions and licences
    Audit(audit::Args),
    /// Show Sockline at work on a shop of services and pods on this machine (needs root)
    Demo(demo::Args),
    /// Write the pages of deploy/docs that are generated: command line, metrics, annotations, JSON, alerts, dashboards
    Docs(docs::Args),
    /// Draw the Grafana dashboards as pictures, from a real Prometheus and a node at work (needs root)
    Dashboards(dashboards::Args),
    /// Run the fuzz targets under libFuzzer
    Fuzz(fuzz::Args),
    /// Build the container image, as an OCI archive
    Image(image::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Setup(args) => setup::run(&args),
        Task::Build(args) => build::run(&args),
        Task::Test(args) => test::run(&args),
        Task::VmTest(args) => vm_test::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Chaos(args) => chaos::run(&args),
        Task::HoldSockets(args) => chaos::hold_sockets::run(&args),
        Task::CompareCounts(args) => compare_counts::run(&args),
        Task::Ci => ci::run(),
        Task::Lint(args) => lint::run(&args),
        Task::Audit(args) => audit::run(&args),
        Task::Demo(args) => demo::run(&args),
        Task::Docs(args) => docs::run(&args),
        Task::Dashboards(args) => dashboards::run(&args),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Image(args) => image::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{} {error:#}", term::paint(term::RED, "error:"));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `cargo xtask` and what follows, in the documents: in code spans, and at the beginning of lines.
    fn commands_of_documents() -> Vec<String> {
        let lines = lint::documents_as_text().expect("the documents can be read");
        let mut commands = Vec::new();
        for line in lines {
            let spans = line.split('`').skip(1).step_by(2).map(str::trim);
            let whole = std::iter::once(line.trim().trim_start_matches("$ "));
            let found = spans.chain(whole).filter(|text| text.starts_with("cargo xtask "));
            commands.extend(found.map(|text| {
                text.split_once(" #").map_or(text, |(command, _)| command).trim().to_owned()
            }));
        }
        commands
    }

    #[test]
    fn every_command_in_a_document_is_one_that_there_is() {
        let commands = commands_of_documents();
        assert!(commands.len() > 20, "{commands:?}");
        for command in commands {
            let words: Vec<&str> = command.split_whitespace().skip(1).collect();
            let stands_for_others = |word: &&str| word.contains('…') || *word == "TASK";
            if words.iter().any(stands_for_others) {
                continue;
            }
            if let Err(error) = Cli::try_parse_from(&words) {
                let is_help = error.kind() == clap::error::ErrorKind::DisplayHelp;
                assert!(is_help, "`{command}`: {error}");
            }
        }
    }
}
