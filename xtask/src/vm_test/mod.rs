//! `cargo xtask vm-test`: the data path's tests on other kernels, each in a virtual machine.
//!
//! Needs neither KVM nor the right to install kernels: it unpacks them from Debian's packages, and boots them in
//! QEMU with an initramfs that has the test binaries of `cargo xtask test`.

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
    suite::Group,
};
use crate::{image, parallel, repo, term};

/// In MiB: twice the archive, and the largest test.
const MEMORY: u32 = 2048;

/// The longest time for a group of tests: longer than the deadline of a test that waits in an emulated machine, so that
/// the test itself says what it waited for.
const LIMIT: Duration = Duration::from_secs(1800);

/// The factor for the tests' deadlines in an emulated machine.
const PATIENCE: u32 = 10;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Kernels to boot: versions that Debian has (5.10 and 6.1 are in its older releases), or `newest`; with
    /// `+nohz-full` on a machine of two processors, the second without ticks
    #[arg(long, value_name = "VERSION", value_delimiter = ',', default_values = ["5.10", "6.1", "6.12", kernels::NEWEST, "6.12+nohz-full"])]
    kernel: Vec<String>,
    /// Run only these folders or modules of tests/tests, such as `translation::tcp` [default: all of the data path]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    tests: Vec<String>,
    /// Run only the tests in which kernels differ most
    #[arg(long, conflicts_with = "tests")]
    short: bool,
    /// How many kernels run in parallel; each takes a core and 2 GiB [default: the number of cores]
    #[arg(long, value_name = "N")]
    parallel: Option<NonZero<usize>>,
    /// Use an agent that is not optimised: faster to build
    #[arg(long)]
    fast: bool,
    /// Parts of tests' names, and flags for the test binaries, such as --nocapture
    #[arg(last = true)]
    args: Vec<String>,
}

impl Args {
    /// As continuous integration runs it: two minutes on the oldest and the newest kernel, to see that the agent
    /// starts there, finds the kernel's features, serves and refuses.
    pub(crate) fn for_minutes() -> Self {
        Self {
            kernel: vec!["5.10".into(), kernels::NEWEST.into()],
            tests: ["lifecycle::startup", "translation::refusal", "older_kernels"]
                .map(Into::into)
                .to_vec(),
            short: false,
            parallel: None,
            fast: true,
            args: Vec::new(),
        }
    }
}

/// One kernel, and the results of its tests.
struct Booted {
    kernel: String,
    version: String,
    boot: Option<Duration>,
    took: Duration,
    ran: Vec<Ran>,
    /// Why machines broke down. The groups that had not ended by then ran in a second one.
    breakdowns: Vec<String>,
    /// Groups of tests that did not run.
    not_run: Vec<String>,
}

/// Installs QEMU if it is missing or too old.
pub(crate) fn install_qemu() -> Result<()> {
    tools::qemu()
}

pub(crate) fn run(args: &Args) -> Result<()> {
    qemu::check_architecture()?;
    let tests = if args.short { suite::short() } else { suite::select(&args.tests)? };
    let folder = repo::target_dir().join("vm-test");
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let start = Instant::now();
    tools::qemu()?;
    let busybox = tools::busybox(&folder)?;
    let kernels = kernels::get(&args.kernel, &folder.join("kernels"), &busybox)?;
    let agent = if args.fast { image::build_static_fast()? } else { image::build_static()? };
    let binaries = suite::build_tests(&tests)?;
    let groups = suite::groups(&tests, &binaries, &args.args)?;
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
        Accelerator::Emulation => "software emulation, because KVM does not work here",
    };
    term::ok("machine", how);
    let booted = boot_all(&kernels, &machine, &groups, args)?;
    report::print(&booted);
    let bad = booted.iter().filter(|booted| !booted.is_good()).count();
    if bad > 0 {
        bail!("{bad} of {} kernels failed", booted.len());
    }
    Ok(())
}

/// Boots the kernels in their order, some in parallel.
fn boot_all(
    kernels: &[Kernel],
    machine: &Machine,
    groups: &[Group],
    args: &Args,
) -> Result<Vec<Booted>> {
    let workers = args.parallel.map_or_else(parallel::cores, NonZero::get);
    parallel::each(kernels, workers, |kernel| {
        // Tests that were named run in every kind of machine.
        let groups = if args.tests.is_empty() {
            suite::for_shape(kernel.shape, groups)
        } else {
            groups.iter().collect()
        };
        boot(kernel, machine, &groups, &args.args)
    })
}

/// Runs the tests in a kernel. If the machine breaks down, the rest runs in a second one.
fn boot(kernel: &Kernel, machine: &Machine, groups: &[&Group], args: &[String]) -> Result<Booted> {
    let start = Instant::now();
    let mut reader = Reader::new();
    let mut booted = Booted {
        kernel: kernel.name.clone(),
        version: kernel.version.clone(),
        boot: None,
        took: Duration::ZERO,
        ran: Vec::new(),
        breakdowns: Vec::new(),
        not_run: groups.iter().map(|group| group.name.clone()).collect(),
    };
    let log = machine.folder.join(format!("{}.log", kernel.name));
    let mut log = report::Log::create(&log)?;
    for _ in 0..2 {
        let rest = groups.iter().filter(|group| booted.not_run.contains(&group.name));
        let rest: Vec<&Group> = rest.copied().collect();
        let job = init::job(&rest, args, LIMIT, patience(machine));
        let end = machine.run(kernel, &job, &mut |line| {
            log.write(line);
            if let Some(ran) = reader.read_line(line) {
                report::progress(&kernel.name, ran);
            }
        })?;
        let has_run = |group: &String| reader.ran.iter().any(|ran| ran.group == *group);
        booted.not_run.retain(|test| !has_run(test));
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
        self.not_run.is_empty() && self.ran.iter().all(|ran| ran.failures.is_empty())
    }
}
