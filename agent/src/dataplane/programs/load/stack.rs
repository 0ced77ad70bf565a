//! The stack of the kernel programs, as verifiers before Linux 6.12 add it up: they refuse a program with more than 512
//! bytes along a chain of calls, and the machine that builds it may have a newer one, which counts less.

use std::collections::{BTreeSet, HashSet};

use aya_obj::{Object, generated::bpf_insn};

use super::{OBJECT, OBJECT_5_10};

/// `MAX_BPF_STACK`.
const LIMIT: usize = 512;
/// What each function takes at least, and in steps of it (`check_max_stack_depth`).
const STEP: usize = 32;

/// `BPF_JMP | BPF_CALL`, and in `src_reg` `BPF_PSEUDO_CALL`.
const CALL: u8 = 0x85;
const PSEUDO_CALL: u8 = 1;
/// `BPF_ALU64 | BPF_ADD | BPF_K` and `BPF_ALU64 | BPF_MOV | BPF_X`.
const ADD: u8 = 0x07;
const MOVE: u8 = 0xbf;
const FRAME: u8 = 10;

/// Class `BPF_LDX`: the source is an address; `BPF_ST`, `BPF_STX`: the destination.
fn address_of(instruction: &bpf_insn) -> Option<u8> {
    match instruction.code & 7 {
        1 => Some(instruction.src_reg()),
        2 | 3 => Some(instruction.dst_reg()),
        _ => None,
    }
}

/// The bytes below the frame pointer that a function addresses.
fn depth(function: &[bpf_insn]) -> usize {
    let mut lowest = 0;
    let mut last: Option<bpf_insn> = None;
    for instruction in function {
        if address_of(instruction) == Some(FRAME) {
            lowest = lowest.min(i32::from(instruction.off));
        }
        if let Some(moved) = last
            && moved.code == MOVE
            && moved.src_reg() == FRAME
            && instruction.code == ADD
            && instruction.dst_reg() == moved.dst_reg()
        {
            lowest = lowest.min(instruction.imm);
        }
        last = Some(*instruction);
    }
    usize::try_from(-lowest).unwrap()
}

fn callee(index: usize, instruction: &bpf_insn) -> Option<usize> {
    (instruction.code == CALL && instruction.src_reg() == PSEUDO_CALL)
        .then(|| index.checked_add_signed(instruction.imm as isize + 1).unwrap())
}

/// The deepest chain of calls from the function that starts at `start`.
fn deepest(program: &[bpf_insn], starts: &BTreeSet<usize>, start: usize) -> usize {
    let end = starts.range(start + 1..).next().copied().unwrap_or(program.len());
    let own = depth(&program[start..end]).max(1).next_multiple_of(STEP);
    let calls = (start..end).filter_map(|index| callee(index, &program[index]));
    own + calls.map(|callee| deepest(program, starts, callee)).max().unwrap_or(0)
}

#[test]
fn every_chain_of_calls_has_room_on_the_stack_of_kernels_before_6_12() {
    for (object, bytes) in [("from 5.12", OBJECT), ("before 5.12", OBJECT_5_10)] {
        let mut object_file = Object::parse(bytes).unwrap();
        let text: HashSet<usize> =
            object_file.functions.keys().map(|(section, _)| *section).collect();
        object_file.relocate_calls(&text).unwrap();
        assert_eq!(object_file.programs.len(), super::HOOKS.len());
        for (name, program) in &object_file.programs {
            let program = &object_file.functions[&program.function_key()].instructions;
            let calls = program.iter().enumerate().filter_map(|(index, call)| callee(index, call));
            let starts: BTreeSet<usize> = calls.chain([0]).collect();
            let found = deepest(program, &starts, 0);
            println!("{object}: {name}: {found} bytes in {} functions", starts.len());
            assert!(found <= LIMIT, "{object}: {name} needs {found} bytes of stack");
        }
    }
}
