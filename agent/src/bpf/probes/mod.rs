//! Probes of the running kernel.
//!
//! A probe has three answers: has, lacks, cannot tell. A failed probe does not mean that the kernel lacks the
//! feature, and programs loaded for a wrong answer look for socket records in the wrong place. aya's
//! `is_helper_supported` has two answers: it takes every error of the verifier for a yes, and 4 of 2,000 probes with
//! signals pending were wrong.

pub mod kernel_types;

use std::{fs, io};

use nix::sys::signal::{SigSet, SigmaskHow};

use self::kernel_types::KernelTypes;
use crate::bpf::syscall;

/// The probe did not answer.
#[derive(Debug, thiserror::Error)]
#[error("cannot find out whether the kernel has {what}")]
pub struct CannotTell {
    what: &'static str,
    source: io::Error,
}

/// The kernel's own, and not user space's EOPNOTSUPP: its JIT lacks an instruction, and there is no
/// interpreter (`bpf_prog_select_runtime`, CONFIG_BPF_JIT_ALWAYS_ON). So it is for compare-and-swap on
/// arm64 before Linux 5.18.
const ENOTSUPP: i32 = 524;

/// Attempts of a probe that the kernel has no memory for now.
const TRIES: u32 = 100;

/// Whether the kernel has a feature. Only an error that means "not supported" is a no.
fn has(what: &'static str, ask: impl FnMut() -> io::Result<()>) -> Result<bool, CannotTell> {
    // The verifier ends with EAGAIN when a signal is pending (`do_check`), and signals may come faster than it ends.
    let before = SigSet::all()
        .thread_swap_mask(SigmaskHow::SIG_BLOCK)
        .map_err(|error| CannotTell { what, source: error.into() })?;
    let answer = ask_until_it_answers(what, ask);
    before.thread_set_mask().map_err(|error| CannotTell { what, source: error.into() })?;
    answer
}

fn ask_until_it_answers(
    what: &'static str,
    mut ask: impl FnMut() -> io::Result<()>,
) -> Result<bool, CannotTell> {
    let mut tries = 0;
    loop {
        let Err(source) = ask() else { return Ok(true) };
        tries += 1;
        match syscall::os_error(&source) {
            // The verifier refuses a program by one of the first three.
            Some(
                libc::EINVAL
                | libc::EACCES
                | libc::E2BIG
                | libc::ENOPROTOOPT
                | libc::EOPNOTSUPP
                | ENOTSUPP,
            ) => {
                tracing::debug!(error = %source, "the kernel has no {what}");
                return Ok(false);
            }
            Some(libc::EAGAIN | libc::EINTR | libc::ENOMEM) if tries < TRIES => {
                std::thread::yield_now();
            }
            _ => return Err(CannotTell { what, source }),
        }
    }
}

fn has_instructions(what: &'static str, instructions: &[u64]) -> Result<bool, CannotTell> {
    has(what, || syscall::verify_connect4(instructions))
}

/// Whether programs on `connect4` may call `bpf_set_retval` here (Linux 5.18).
pub fn set_retval() -> Result<bool, CannotTell> {
    // r1 = -ECONNREFUSED; call; return 0
    let call = [instruction(0xb7, 1, 0, 0, -111), call(187)];
    has_instructions("bpf_set_retval", &[&call[..], &return_value(0)].concat())
}

/// Whether programs on `connect4` may call `bpf_skc_to_mptcp_sock` here (Linux 6.0 with BTF).
pub fn mptcp_sock() -> Result<bool, CannotTell> {
    let program = [&with_socket(2)[..], &[call(196)], &return_value(1)].concat();
    has_instructions("bpf_skc_to_mptcp_sock", &program)
}

/// Whether programs may compare and swap here (Linux 5.12).
pub fn compare_and_swap() -> Result<bool, CannotTell> {
    // *(u64 *)(r10 - 8) = 0; r0 = 0; r1 = 1; cmpxchg(r10 - 8, r0, r1)
    let program = [
        instruction(0x7a, 10, 0, -8, 0),
        instruction(0xb7, 0, 0, 0, 0),
        instruction(0xb7, 1, 0, 0, 1),
        instruction(0xdb, 10, 1, -8, 0xf1),
    ];
    has_instructions("compare-and-swap", &[&program[..], &return_value(1)].concat())
}

/// The cookie of the agent's network namespace (Linux 5.14).
pub fn netns_cookie() -> Result<Option<u64>, CannotTell> {
    let mut cookie = 0;
    let found = has("SO_NETNS_COOKIE", || syscall::netns_cookie().map(|found| cookie = found))?;
    Ok(found.then_some(cookie))
}

/// Where the programs find what tells the kernel's own sockets from others, if they may read it
/// (`bpf_skc_to_tcp_sock`, Linux 5.9; `bpf_get_current_task_btf`, Linux 5.11; both with BTF and
/// CAP_PERFMON).
pub fn kernel_sockets() -> Result<Option<KernelTypes>, CannotTell> {
    let Some(btf) = kernel_btf()? else { return Ok(None) };
    let Some(types) = KernelTypes::find(&btf) else {
        tracing::debug!("the kernel's types are not described as expected");
        return Ok(None);
    };
    drop(btf);
    let offset = |offset: u32| i16::try_from(offset).unwrap_or(i16::MAX);
    // r0 = tcp_sock; if r0 == 0 return; load three fields; r0 = task; load its flags
    let program = [
        &with_socket(8)[..],
        &[
            call(137),
            instruction(0x15, 0, 0, 5, 0),
            instruction(0x71, 1, 0, offset(types.kernel_socket.0), 0),
            instruction(0x79, 1, 0, offset(types.cookie), 0),
            instruction(0x71, 1, 0, offset(types.state), 0),
            call(158),
            instruction(0x61, 1, 0, offset(types.task_flags), 0),
        ],
        &return_value(1),
    ]
    .concat();
    let found = has_instructions("fields of its own sockets that programs may read", &program)?;
    Ok(found.then_some(types))
}

/// Whether programs may read the kernel's memory here (`bpf_probe_read_kernel`, CAP_PERFMON; a kernel in lockdown
/// mode "confidentiality" refuses it).
pub fn probe_read() -> Result<bool, CannotTell> {
    // *(u64 *)(r10 - 8) = 0; r1 = r10 - 8; r2 = 8; r3 = 0; call
    let program = [
        instruction(0x7a, 10, 0, -8, 0),
        instruction(0xbf, 1, 10, 0, 0),
        instruction(0x07, 1, 0, 0, -8),
        instruction(0xb7, 2, 0, 0, 8),
        instruction(0xb7, 3, 0, 0, 0),
        call(113),
    ];
    has_instructions("bpf_probe_read_kernel", &[&program[..], &return_value(1)].concat())
}

/// The kernel's description of its types; `None` if there is none.
pub fn kernel_btf() -> Result<Option<Vec<u8>>, CannotTell> {
    match fs::read(kernel_types::PATH) {
        Ok(btf) => Ok(Some(btf)),
        Err(source) => match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => Ok(None),
            _ => Err(CannotTell { what: "a description of its types", source }),
        },
    }
}

/// r1 = ctx->sk; if it is null, jumps over this many instructions.
const fn with_socket(skipped: i16) -> [u64; 2] {
    /// Offset of `sk` in `struct bpf_sock_addr` (`include/uapi/linux/bpf.h`).
    const SOCKET: i16 = 64;
    [instruction(0x79, 1, 1, SOCKET, 0), instruction(0x15, 1, 0, skipped - 1, 0)]
}

const fn return_value(value: i32) -> [u64; 2] {
    [instruction(0xb7, 0, 0, 0, value), instruction(0x95, 0, 0, 0, 0)]
}

const fn call(helper: i32) -> u64 {
    instruction(0x85, 0, 0, 0, helper)
}

/// `struct bpf_insn` on a little-endian machine.
pub const fn instruction(code: u8, to: u8, from: u8, offset: i16, constant: i32) -> u64 {
    let [low, high] = offset.to_le_bytes();
    let [a, b, c, d] = constant.to_le_bytes();
    u64::from_le_bytes([code, from << 4 | to, low, high, a, b, c, d])
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

    use super::*;

    fn error(number: i32) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(number))
    }

    #[test]
    fn what_was_interrupted_is_asked_again() {
        let mut answers = [error(libc::EAGAIN), error(libc::EINTR), Ok(())].into_iter();
        assert!(has("it", || answers.next().unwrap()).unwrap());
    }

    #[test]
    fn a_failure_is_not_taken_for_a_lack() {
        for number in [libc::EPERM, libc::EMFILE, libc::EAGAIN, libc::ENOMEM, libc::EIO] {
            let answer = has("it", || error(number));
            assert!(answer.is_err(), "{number}: {answer:?}");
        }
        assert!(!has("it", || error(libc::EINVAL)).unwrap());
    }

    extern "C" fn nothing(_: i32) {}

    /// On the real kernel: a pending signal ends the verifier with EAGAIN.
    #[test]
    fn signals_change_no_answer() {
        let action =
            SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing.
        #[expect(unsafe_code, reason = "signal handlers are")]
        unsafe { sigaction(Signal::SIGUSR2, &action) }.unwrap();
        // SAFETY: takes nothing and has no preconditions.
        #[expect(unsafe_code, reason = "nix has it behind a feature")]
        let target = unsafe { libc::pthread_self() };
        let done = AtomicBool::new(false);
        let calm = compare_and_swap().unwrap();
        let answers = thread::scope(|threads| {
            threads.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    // SAFETY: the thread is there until this scope ends.
                    #[expect(unsafe_code, reason = "nix has it behind a feature")]
                    unsafe {
                        libc::pthread_kill(target, libc::SIGUSR2)
                    };
                }
            });
            let answers = (0..500).map(|_| compare_and_swap()).collect::<Vec<_>>();
            done.store(true, Ordering::Relaxed);
            answers
        });
        let wrong =
            answers.iter().filter(|answer| !matches!(answer, Ok(found) if *found == calm)).count();
        assert_eq!(wrong, 0, "of {} answers", answers.len());
    }
}
