//! `cargo xtask vm-test`: the tests of the data path on many kernels, each in a virtual machine.
//!
//! Needs neither KVM nor the right to install kernels: they are unpacked from Debian's packages and
//! booted in QEMU with an archive in memory, which has the same test binaries that `cargo xtask
//! test` runs.

mod init;
mod initramfs;
mod kernels;
mod outcome;
mod qemu;
mod report;
mod suite;
mod tools;

use std::{
    fs,
    num::NonZero,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use self::{
    kernels::Kernel,
    outcome::{Ran, Reader},
    qemu::{Accelerator, End, Machine},
};
use crate::{image, parallel, repo, term};

/// MiB: twice the archive, and what the largest test takes.
const MEMORY: u32 = 2048;

/// A test binary that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(1200);

/// How much slower than this machine an emulated one may be, in deadlines of the tests.
const PATIENCE: u32 = 10;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Versions as Debian has them (5.10 and 6.1 from its older releases), or `newest`; with `+nohz-full`,
    /// in a machine that was booted so
    #[arg(long, value_name = "VERSION", value_delimiter = ',', default_values = ["5.10", "6.1", "6.12", kernels::NEWEST, "6.12+nohz-full"])]
    kernel: Vec<String>,
    /// Only these files of tests/tests [default: all of the data path]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    tests: Vec<String>,
    /// Only the tests by which kernels differ most
    #[arg(long, conflicts_with = "tests")]
    short: bool,
    /// How many kernels run side by side; each takes a core and 2 GiB [default: as many as cores]
    #[arg(long, value_name = "N")]
    parallel: Option<NonZero<usize>>,
    /// Take an agent that is not optimised, which is soon built
    #[arg(long)]
    fast: bool,
    /// Arguments for the test binaries, such as a part of a test's name
    #[arg(last = true)]
    args: Vec<String>,
}

impl Args {
    /// What continuous integration runs: the oldest and the newest kernel, and what shows in two minutes
    /// that the agent starts there, finds what the kernel has, serves, and refuses.
    pub(crate) fn for_minutes() -> Self {
        Self {
            kernel: vec!["5.10".into(), kernels::NEWEST.into()],
            tests: ["startup", "refusal", "older_kernels"].map(Into::into).to_vec(),
            short: false,
            parallel: None,
            fast: true,
            args: Vec::new(),
        }
    }
}

/// One kernel and all that ran in it.
struct Booted {
    kernel: String,
    version: String,
    boot: Option<Duration>,
    took: Duration,
    ran: Vec<Ran>,
    /// The machine broke down this often; the tests that had not ended by then ran in the next one.
    breakdowns: Vec<String>,
    /// Tests that had no machine to run in.
    left_out: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    qemu::check_architecture()?;
    let tests = suite::select(&args.tests, args.short)?;
    let folder = repo::target_dir().join("vm-test");
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let start = Instant::now();
    tools::qemu()?;
    let busybox = tools::busybox(&folder)?;
    let kernels = kernels::get(&args.kernel, &folder.join("kernels"), &busybox)?;
    let agent = image::build_static(args.fast)?;
    let binaries = suite::build_tests(&tests)?;
    let base = initramfs::base(&busybox, &agent, &binaries)?;
    term::ok("ready", &format!("in {}", term::seconds(start.elapsed())));
    let mut machine = Machine {
        accelerator: Accelerator::Emulation,
        memory: MEMORY,
        base: Arc::new(base),
        folder,
        silence: LIMIT + Duration::from_secs(60),
    };
    if let Some(kernel) = kernels.first() {
        machine.accelerator = Accelerator::find(kernel, &machine);
    }
    let how = match machine.accelerator {
        Accelerator::Kvm => "KVM",
        Accelerator::Emulation => "software emulation, since KVM does not work here",
    };
    term::ok("machine", how);
    let booted = boot_all(&kernels, &machine, &tests, args)?;
    report::print(&booted);
    let bad = booted.iter().filter(|booted| !booted.is_good()).count();
    if bad > 0 {
        bail!("{bad} of {} kernels failed", booted.len());
    }
    Ok(())
}

/// Boots the kernels in their order, some side by side.
fn boot_all(
    kernels: &[Kernel],
    machine: &Machine,
    tests: &[String],
    args: &Args,
) -> Result<Vec<Booted>> {
    let workers = args.parallel.map_or_else(parallel::cores, NonZero::get);
    parallel::each(kernels, workers, |kernel| {
        // What was asked for by name runs everywhere.
        let tests = if args.tests.is_empty() {
            suite::of_shape(kernel.shape, tests)
        } else {
            tests.to_vec()
        };
        boot(kernel, machine, &tests, &args.args)
    })
}

/// Runs the tests in a kernel. Where the machine breaks down, the rest gets a second one.
fn boot(kernel: &Kernel, machine: &Machine, tests: &[String], args: &[String]) -> Result<Booted> {
    let start = Instant::now();
    let mut reader = Reader::new();
    let mut booted = Booted {
        kernel: kernel.name.clone(),
        version: kernel.version.clone(),
        boot: None,
        took: Duration::ZERO,
        ran: Vec::new(),
        breakdowns: Vec::new(),
        left_out: tests.to_vec(),
    };
    let log = machine.folder.join(format!("{}.log", kernel.name));
    let mut log = report::Log::create(&log)?;
    for _ in 0..2 {
        let job = init::job(&booted.left_out, args, LIMIT, patience(machine));
        let end = machine.run(kernel, &job, &mut |line| {
            log.write(line);
            if let Some(ran) = reader.hear(line) {
                report::progress(&kernel.name, ran);
            }
        })?;
        let has_run = |test: &String| reader.ran.iter().any(|ran| ran.test == *test);
        booted.left_out.retain(|test| !has_run(test));
        match end {
            End::Done { boot } => {
                booted.boot = Some(boot);
                break;
            }
            End::Broken(why) => {
                report::breakdown(&kernel.name, &why);
                booted.breakdowns.push(why);
            }
        }
    }
    booted.took = start.elapsed();
    booted.ran = reader.ran;
    Ok(booted)
}

fn patience(machine: &Machine) -> u32 {
    match machine.accelerator {
        Accelerator::Kvm => 1,
        Accelerator::Emulation => PATIENCE,
    }
}

impl Booted {
    fn is_good(&self) -> bool {
        self.left_out.is_empty() && self.ran.iter().all(|ran| ran.failures.is_empty())
    }
}
