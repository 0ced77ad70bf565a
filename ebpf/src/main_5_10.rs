//! Sockline's kernel programs, for Linux 5.10 and 5.11: records of sockets are in socket storage and the overflow hash only.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(
    internal_features,
    reason = "bpfel-unknown-none has no stable compare-and-swap, though the BPF machine does"
)]

mod kernel;
mod programs;

/// Whether compare-and-swap may be used (Linux 5.12). The verifier of an older kernel refuses the
/// instruction even where it is never reached, so this is fixed when the object is built.
const HAS_COMPARE_AND_SWAP: bool = false;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel refuses programs that call GPL-only helpers without it.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
