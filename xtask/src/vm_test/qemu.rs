//! Boots a kernel in QEMU with a job, and reads the job's output.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::kernels::Kernel;
use crate::repo;

pub(super) const PROGRAM: &str = "qemu-system-x86_64";

/// How QEMU runs the guest's processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accelerator {
    Kvm,
    /// Software emulation: works everywhere, about ten times slower.
    Emulation,
}

/// The kernel logs to the first serial port, and a bug in it ends the machine. Hardening is off: emulated, it
/// costs a third of the time.
const COMMAND_LINE: &str = "console=ttyS0 panic=-1 oops=panic nokaslr mitigations=off \
                            init_on_alloc=0 lsm= audit=0";

impl Accelerator {
    /// KVM if a short boot works. In some virtual machines, and with some processor features masked, KVM hangs
    /// instead of failing.
    pub(super) fn find(kernel: &Kernel, machine: &Machine) -> Self {
        const BOOTED_WITHIN: Duration = Duration::from_secs(10);
        let kvm = Machine { accelerator: Self::Kvm, silence: BOOTED_WITHIN, ..machine.clone() };
        let usable = File::options().read(true).write(true).open("/dev/kvm").is_ok()
            && kvm.run(kernel, "", &mut |_| ()).is_ok_and(|end| matches!(end, End::Done { .. }));
        if usable { Self::Kvm } else { Self::Emulation }
    }

    /// Emulation executes string instructions byte by byte, so the kernel must not prefer them (`erms`, `fsrm`).
    /// Memory protection (`smap`, `smep`) and a fifth level of page tables (`la57`) cost time.
    fn processor(self) -> &'static str {
        match self {
            Self::Kvm => "max",
            Self::Emulation => "max,-erms,-fsrm,-smap,-smep,-la57",
        }
    }

    fn option(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Emulation => "tcg",
        }
    }
}

/// What every kernel is booted with.
#[derive(Clone)]
pub(super) struct Machine {
    pub(super) accelerator: Accelerator,
    /// MiB
    pub(super) memory: u32,
    /// The initramfs without the kernel's modules and the job.
    pub(super) base: std::sync::Arc<Vec<u8>>,
    /// For the initramfs and the logs.
    pub(super) folder: PathBuf,
    /// The longest time without output, after which the machine counts as stopped.
    pub(super) silence: Duration,
}

/// How a run ended.
pub(super) enum End {
    /// The job ended, with or without failed tests.
    Done {
        /// From the start of QEMU until the first process ran.
        boot: Duration,
    },
    /// The machine broke down: the reason, with the last lines of the kernel's log.
    Broken(String),
}

impl Machine {
    /// Boots a kernel and runs a job in it. `on_line` gets each line of the job's output.
    pub(super) fn run(
        &self,
        kernel: &Kernel,
        job: &str,
        on_line: &mut dyn FnMut(&str),
    ) -> Result<End> {
        let at = |kind: &str| self.folder.join(format!("{}.{kind}", kernel.name));
        let (initramfs, console) = (at("initramfs"), at("console"));
        let own = super::initramfs::for_kernel(kernel, job)?;
        File::create(&initramfs)
            .and_then(|mut file| file.write_all(&self.base).and_then(|()| file.write_all(&own)))
            .with_context(|| format!("writing {}", initramfs.display()))?;
        let start = Instant::now();
        let mut qemu = Running(self.start(kernel, &initramfs, &console)?);
        let lines = lines_of(&mut qemu.0)?;
        let mut boot = None;
        let broken = |why: &str| Ok(End::Broken(format!("{why}\n{}", tail(&console))));
        loop {
            match lines.recv_timeout(self.silence) {
                Ok(line) if line.starts_with("@@ up ") => boot = Some(start.elapsed()),
                Ok(line) if line == "@@ done" => {
                    let Some(boot) = boot else {
                        bail!("the job ended before the machine reported that it was up")
                    };
                    return Ok(End::Done { boot });
                }
                Ok(line) if line.starts_with("@@ broken: ") => return broken(&line),
                Ok(line) => on_line(&line),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    return broken(&format!("no output for {} s", self.silence.as_secs()));
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return broken("it ended before the job did");
                }
            }
        }
    }

    fn start(&self, kernel: &Kernel, initramfs: &Path, console: &Path) -> Result<Child> {
        let errors = File::create(initramfs.with_extension("qemu"))
            .context("creating the log of QEMU's own errors")?;
        // The machine ends with this process, even if that is killed.
        let mut qemu = repo::command("setpriv")?;
        qemu.args(["--pdeathsig", "KILL", PROGRAM]);
        // The machine type `microvm` is not faster, and sometimes hangs.
        qemu.args(["-machine", "pc", "-accel", self.accelerator.option()])
            .args(["-cpu", self.accelerator.processor()])
            .args(["-smp", &kernel.shape.processors().to_string()])
            .args(["-m", &self.memory.to_string(), "-nodefaults", "-no-user-config"])
            .args(["-display", "none", "-no-reboot"])
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .args(["-serial", "stdio", "-kernel"])
            .arg(&kernel.image)
            .arg("-initrd")
            .arg(initramfs)
            .args(["-append", &format!("{COMMAND_LINE}{}", kernel.shape.command_line())])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors);
        qemu.spawn().with_context(|| format!("starting {PROGRAM}"))
    }
}

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn lines_of(qemu: &mut Child) -> Result<mpsc::Receiver<String>> {
    let output = qemu.stdout.take().context("QEMU's output is not a pipe")?;
    let (send, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            if send.send(line.trim_end_matches('\r').to_owned()).is_err() {
                break;
            }
        }
    });
    Ok(lines)
}

/// The end of the kernel's log.
fn tail(console: &Path) -> String {
    const LINES: usize = 25;
    let text = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

/// The oldest major version that emulates a 16-byte compare-and-swap correctly.
const OLDEST: u32 = 8;

/// The major version of the QEMU that is installed, if it is new enough.
pub(super) fn installed() -> Result<Option<u32>> {
    let mut qemu = repo::command(PROGRAM)?;
    let Ok(output) = qemu.arg("--version").output() else { return Ok(None) };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let major = major_of(&text).with_context(|| format!("no version of QEMU in {text:?}"))?;
    Ok((major >= OLDEST).then_some(major))
}

/// Whether a package of this version, such as `1:7.2+dfsg-7`, is new enough.
pub(super) fn is_new_enough(package: &str) -> bool {
    let upstream = package.split_once(':').map_or(package, |(_, upstream)| upstream);
    upstream
        .split('.')
        .next()
        .and_then(|major| major.parse().ok())
        .is_some_and(|major: u32| major >= OLDEST)
}

/// `QEMU emulator version 10.0.2 (Debian …)`
fn major_of(text: &str) -> Option<u32> {
    text.split_once("version ")?.1.split('.').next()?.parse().ok()
}

/// Fails on a machine that cannot run the kernels, which are for one architecture.
pub(super) fn check_architecture() -> Result<()> {
    ensure!(
        cfg!(target_arch = "x86_64"),
        "the kernels are Debian's for amd64, and the tests are built for {}: this needs an x86-64 \
         machine",
        std::env::consts::ARCH
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_qemu_and_from_packages() {
        let text = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright (c)";
        assert_eq!(major_of(text), Some(10));
        assert!(is_new_enough("1:10.0.13+ds-0+deb13u1"));
        assert!(!is_new_enough("1:7.2+dfsg-7+deb12u18"));
    }
}
