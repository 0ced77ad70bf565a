//! Agents under `strace`, which kills them at a system call that a test chooses, or delays one of their
//! threads. The agent needs no code for it.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{Agent, Build, DEADLINE, wait_ok};

/// A system call, by its name and the number of calls of this name that its thread has made.
#[derive(Clone, Copy, Debug)]
pub struct KillAt {
    pub call: &'static str,
    /// From 1.
    pub number: usize,
}

/// Writes a program into a folder that runs a build's agent until a system call. The agent is killed before
/// the kernel executes that call.
///
/// # Errors
/// Those of writing.
pub fn killed_at(folder: &Path, build: Build, kill: KillAt) -> Result<PathBuf> {
    let KillAt { call, number } = kill;
    let inject =
        format!("--output=/dev/null --trace={call} --inject={call}:signal=KILL:when={number}");
    program(folder, build, "killed", &inject)
}

/// Writes a program that runs a build's agent and records its calls of this name in a file.
///
/// # Errors
/// Those of writing.
pub fn counted(folder: &Path, build: Build, call: &str, log: &Path) -> Result<PathBuf> {
    program(folder, build, "counted", &format!("--output='{}' --trace={call}", log.display()))
}

/// A thread that is delayed at each call of a name, until this is dropped.
pub struct HeldUp {
    strace: Child,
}

impl HeldUp {
    /// Delays the agent's thread of this name by this time at each of its `bpf` calls. Returns once it is
    /// delayed.
    ///
    /// # Errors
    /// When there is no such thread, no `strace`, or the thread makes no call.
    pub fn start(agent: &Agent, thread: &str, time: Duration) -> Result<Self> {
        let tasks = PathBuf::from(format!("/proc/{}/task", agent.pid()));
        let named = |task: &PathBuf| {
            fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim_end() == thread)
        };
        let task = fs::read_dir(&tasks)
            .with_context(|| format!("reading {}", tasks.display()))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(named)
            .with_context(|| format!("the agent has no thread {thread}"))?;
        let id = task.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let held_up = Self::attach(&id, "bpf", time)?;
        // The tracer may be late with a call that is not delayed: only those of `bpf` count.
        let mut stopped = 0;
        let delayed = format!("{} ", libc::SYS_bpf);
        wait_ok(DEADLINE, &format!("the thread {thread} to be held up"), || {
            let stat = fs::read_to_string(task.join("stat")).context("reading its state")?;
            let state = stat.rsplit(") ").next().unwrap_or_default().chars().next();
            let call = fs::read_to_string(task.join("syscall")).context("reading its call")?;
            let is_delayed = state == Some('t') && call.starts_with(&delayed);
            stopped = if is_delayed { stopped + 1 } else { 0 };
            anyhow::ensure!(stopped > 20, "it is in the state {state:?}, in the call {call}");
            Ok(())
        })?;
        Ok(held_up)
    }

    /// Delays the main thread of a process by this time at each of these calls, named as for `strace
    /// --trace`. Returns once it is traced.
    ///
    /// # Errors
    /// When there is no such process, or no `strace`.
    pub fn process(pid: u32, call: &str, time: Duration) -> Result<Self> {
        let held_up = Self::attach(&pid.to_string(), call, time)?;
        let file = format!("/proc/{pid}/status");
        wait_ok(DEADLINE, &format!("process {pid} to be traced"), || {
            let status = fs::read_to_string(&file).with_context(|| format!("reading {file}"))?;
            let tracer = status.lines().find(|line| line.starts_with("TracerPid:"));
            anyhow::ensure!(tracer != Some("TracerPid:\t0"), "{tracer:?}");
            Ok(())
        })?;
        Ok(held_up)
    }

    fn attach(id: &str, call: &str, time: Duration) -> Result<Self> {
        let trace = format!("--trace={call}");
        let inject = format!("--inject={call}:delay_enter={}", time.as_micros());
        let strace = Command::new("strace")
            .args(["--output=/dev/null", "--quiet=all", &trace, &inject, "--attach", id])
            .stdin(Stdio::null())
            .spawn()
            .context("starting `strace` (package strace)")?;
        Ok(Self { strace })
    }
}

impl Drop for HeldUp {
    fn drop(&mut self) {
        // The thread continues when its tracer is gone.
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

/// Commands of `bpf` that only read: the state between two of them is the same.
const READING: [&str; 4] = ["_LOOKUP_ELEM", "_LOOKUP_BATCH", "_GET_NEXT_KEY", "_GET_INFO_BY_FD"];

/// The numbers of the calls that [`counted`] wrote, as [`KillAt`] has them, but for those of `bpf` that
/// read.
///
/// # Errors
/// Those of reading.
pub fn calls_in(log: &Path) -> Result<BTreeSet<usize>> {
    let text = fs::read_to_string(log).with_context(|| format!("reading {}", log.display()))?;
    let mut by_thread: HashMap<&str, usize> = HashMap::new();
    let mut numbers = BTreeSet::new();
    // A call that another thread interrupts has two lines.
    for line in text.lines().filter(|line| line.contains('(') && !line.contains(" resumed>")) {
        let number = by_thread.entry(line.split(' ').next().unwrap_or_default()).or_default();
        *number += 1;
        let command = line.split(',').next().unwrap_or_default();
        if !READING.iter().any(|reading| command.ends_with(reading)) {
            numbers.insert(*number);
        }
    }
    Ok(numbers)
}

fn program(folder: &Path, build: Build, name: &str, options: &str) -> Result<PathBuf> {
    let binary = build.binary()?;
    // As a grandchild, so that the started process is the agent itself.
    let text = format!(
        "#!/bin/sh\nexec strace --daemonize --follow-forks --quiet=all {options} -- '{}' \"$@\"\n",
        binary.display()
    );
    let path = folder.join(format!("{name}.sh"));
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_numbered_by_thread_and_those_that_read_are_skipped() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let text = "7 bpf(BPF_MAP_CREATE, {…}, 80) = 3\n\
                    8 bpf(BPF_MAP_LOOKUP_ELEM, {…} <unfinished ...>\n\
                    7 bpf(BPF_MAP_GET_NEXT_KEY, {…}, 32) = 0\n\
                    8 <... bpf resumed>) = 0\n\
                    8 bpf(BPF_LINK_CREATE, {…}, 64) = ?\n\
                    7 bpf(BPF_OBJ_PIN, {…}, 16) = 0\n";
        fs::write(log.path(), text).unwrap();
        assert_eq!(calls_in(log.path()).unwrap(), BTreeSet::from([1, 2, 3]));
    }
}
