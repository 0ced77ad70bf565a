//! `cargo xtask ci`: setup, format, lints, the tests by the command in README.md, and short runs of the tasks
//! that take longer than a test may.

use std::{
    env, fs,
    panic::resume_unwind,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    audit, cargo, chaos, fuzz, image, lint, process, repo, setup, term, variants, vm_test,
};

/// How much of a step ran.
enum Extent {
    Whole,
    /// Which part ran, and which command runs the rest.
    Part(&'static str),
    /// The reason.
    Skipped(String),
}

struct Step {
    name: &'static str,
    /// Gets the start of the whole run.
    run: fn(Instant) -> Result<Extent>,
    /// Work for later steps while this one leaves processors idle. A later step does it again, and reports its
    /// error.
    meanwhile: Option<fn() -> Result<()>>,
}

const fn step(name: &'static str, run: fn(Instant) -> Result<Extent>) -> Step {
    Step { name, run, meanwhile: None }
}

const fn step_with(
    name: &'static str,
    run: fn(Instant) -> Result<Extent>,
    meanwhile: fn() -> Result<()>,
) -> Step {
    Step { name, run, meanwhile: Some(meanwhile) }
}

const STEPS: [Step; 13] = [
    step("setup", |_| whole(setup::run(&setup::Args::default()))),
    step("format", |_| whole(process::run(&mut cargo::command(&["fmt", "--all", "--check"])?))),
    step("lints: repository", |_| whole(lint::run(&lint::Args::default()))),
    // The agent is one large crate, which one processor compiles.
    step_with("lints", |_| whole(lint_host_side()), install_tools),
    step("lints: layouts", |_| {
        let mut clippy = cargo::command(&["clippy", "--package", "sockline-ebpf", "--lib"])?;
        whole(process::run(clippy.args(["--", "-D", "warnings"])))
    }),
    step("lints: kernel", |_| whole(lint_kernel_side())),
    step("audit", |_| whole(audit::run(&audit::Args::default()))),
    step("tests", |_| whole(run_readme_test())),
    step("builds", |_| whole(variants::build())),
    // The clients mostly wait.
    step_with("chaos", run_chaos, fuzz::build_in_background),
    step("fuzz", |_| {
        fuzz::run(&fuzz::Args::for_20_seconds())?;
        Ok(Extent::Part("20 seconds; `cargo xtask fuzz --seconds N` runs longer"))
    }),
    step("image", |_| whole(image::run(&image::Args::with_smoke_test()))),
    step("kernels", try_kernels),
];

fn whole(done: Result<()>) -> Result<Extent> {
    done.map(|()| Extent::Whole)
}

/// The result of a step.
struct Outcome {
    name: &'static str,
    took: Duration,
    /// `None` if it failed.
    extent: Option<Extent>,
}

pub(crate) fn run() -> Result<()> {
    let began = Instant::now();
    let mut outcomes = Vec::new();
    for (number, step) in (1..).zip(STEPS) {
        let heading = format!("── {number}/{} {}", STEPS.len(), step.name);
        println!("\n{}", term::paint(term::BOLD, &heading));
        let start = Instant::now();
        let (extent, error) = match step.run(began) {
            Ok(extent) => (Some(extent), None),
            Err(error) => (None, Some(error)),
        };
        outcomes.push(Outcome { name: step.name, took: start.elapsed(), extent });
        if let Some(error) = error {
            print!("\n{}", summary(&outcomes));
            return Err(error.context(format!("step `{}`", step.name)));
        }
    }
    print!("\n{}", summary(&outcomes));
    Ok(())
}

impl Step {
    fn run(&self, began: Instant) -> Result<Extent> {
        let Some(meanwhile) = self.meanwhile else { return (self.run)(began) };
        thread::scope(|scope| {
            let other = scope.spawn(meanwhile);
            let extent = (self.run)(began);
            match other.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => println!("beside step `{}`: {error:#}", self.name),
                Err(panic) => resume_unwind(panic),
            }
            extent
        })
    }
}

/// A line for each step, at the end of a long log.
fn summary(outcomes: &[Outcome]) -> String {
    let line = |outcome: &Outcome| {
        let (color, mark, remark) = match &outcome.extent {
            Some(Extent::Whole) => (term::GREEN, "✓", String::new()),
            Some(Extent::Part(what)) => (term::YELLOW, "◐", format!("  in part: {what}")),
            Some(Extent::Skipped(why)) => (term::YELLOW, "-", format!("  SKIPPED: {why}")),
            None => (term::RED, "✗", String::new()),
        };
        let (mark, took) = (term::paint(color, mark), term::seconds(outcome.took));
        format!("  {mark} {:<17} {took:>9}{remark}\n", outcome.name)
    };
    outcomes.iter().map(line).collect()
}

fn lint_host_side() -> Result<()> {
    let mut clippy = cargo::command(&["clippy", "--all-targets"])?;
    process::run(clippy.args(["--", "-D", "warnings"]))
}

/// Installs what later steps need and this machine may lack.
fn install_tools() -> Result<()> {
    audit::install()?;
    fuzz::install_compiler()?;
    image::install_podman()?;
    vm_test::install_qemu()
}

/// One minute of chaos; the agents are built.
fn run_chaos(_: Instant) -> Result<Extent> {
    chaos::run(&chaos::Args::for_a_minute())?;
    Ok(Extent::Part("one minute, some of the faults; `cargo xtask chaos` injects all"))
}

/// Lints the kernel programs for their own target, with the flags of aya-build, and in the folder where the
/// agent's build script has aya-build work: procedural macros and build scripts are the same.
fn lint_kernel_side() -> Result<()> {
    let target =
        if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };
    let flags = [
        &format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH),
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
    ];
    let mut clippy = cargo::command(&["clippy", "--package", "sockline-ebpf", "--bins"])?;
    clippy
        .args(["--target", target, "-Z", "build-std=core", "--release", "--target-dir"])
        .arg(repo::target_dir().join("kernel/sockline-ebpf"))
        .args(["--", "-D", "warnings"])
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    process::run(&mut clippy)
}

/// Runs the command that README.md gives, so that it stays true.
fn run_readme_test() -> Result<()> {
    let path = repo::root().join("README.md");
    let readme =
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let Some(line) = test_command(&readme) else {
        bail!("{}: no `sh` block has the line `cargo xtask test`", path.display());
    };
    println!("$ {line}");
    let mut shell: Command = repo::command("bash")?;
    process::run(shell.args(["-euo", "pipefail", "-c", line]))
        .with_context(|| format!("the test command of {}", display_name(&path)))
}

/// Tries the oldest and the newest kernel, unless the machine is so slow that CI would take more than 25 minutes.
fn try_kernels(began: Instant) -> Result<Extent> {
    const LATEST: Duration = Duration::from_secs(20 * 60);
    if began.elapsed() > LATEST {
        let gone = term::seconds(began.elapsed());
        let why = format!("{gone} have passed already: run `cargo xtask vm-test`");
        term::doing("kernels", &format!("skipped, {why}"));
        return Ok(Extent::Skipped(why));
    }
    vm_test::run(&vm_test::Args::for_minutes())?;
    Ok(Extent::Part(
        "some tests on the oldest and the newest kernel; `cargo xtask vm-test` runs all",
    ))
}

fn display_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// The first line with `cargo xtask test` in a fenced `sh` block.
fn test_command(readme: &str) -> Option<&str> {
    let mut in_shell = false;
    readme.lines().map(str::trim).find(|line| {
        if let Some(info) = line.strip_prefix("```") {
            in_shell = !in_shell && ["sh", "bash", "shell", "console"].contains(&info.trim());
            return false;
        }
        in_shell && line.contains("cargo xtask test")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_and_partial_steps_look_different_from_passed_ones() {
        let outcome = |extent| Outcome { name: "step", took: Duration::from_secs(1), extent };
        let shown = summary(&[
            outcome(Some(Extent::Whole)),
            outcome(Some(Extent::Part("some of it"))),
            outcome(Some(Extent::Skipped("no time".to_owned()))),
            outcome(None),
        ]);
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines[0].contains('✓') && lines[0].ends_with('s'), "{shown}");
        assert!(lines[1].contains('◐') && lines[1].ends_with("in part: some of it"), "{shown}");
        assert!(lines[2].ends_with("SKIPPED: no time"), "{shown}");
        assert!(lines[3].contains('✗'), "{shown}");
        assert_eq!(shown.matches('✓').count(), 1, "{shown}");
    }

    #[test]
    fn work_beside_a_step_does_not_decide_about_it() {
        let step = step_with("step", |_| Ok(Extent::Whole), || bail!("no network"));
        assert!(matches!(step.run(Instant::now()), Ok(Extent::Whole)));
        let step = step_with("step", |_| bail!("failed"), || Ok(()));
        assert!(step.run(Instant::now()).is_err());
    }

    #[test]
    fn the_readme_command_is_the_one_in_a_shell_block() {
        let readme = "Run `cargo xtask test`.\n\
                      ```text\ncargo xtask test in text\n```\n\
                      ```sh\ncargo xtask setup\ncargo xtask test   # as root\n```\n";
        assert_eq!(test_command(readme), Some("cargo xtask test   # as root"));
    }

    #[test]
    fn a_readme_without_the_command_is_an_error() {
        assert_eq!(test_command("```sh\ncargo build\n```\ncargo xtask test\n"), None);
    }
}
