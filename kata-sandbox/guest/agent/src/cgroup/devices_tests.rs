//! The compiled program, run by an interpreter, decides as the rules say.

use super::*;

/// Runs a program on an access; true means allowed.
fn run(program: &[Instruction], kind: u32, access: u32, major: u32, minor: u32) -> bool {
    let context = [access << 16 | kind, major, minor];
    let mut registers = [0_u64; 11];
    let mut at = 0;
    loop {
        let instruction = program[at];
        let to = (instruction >> 8 & 0xf) as usize;
        let from = (instruction >> 12 & 0xf) as usize;
        let offset = (instruction >> 16 & 0xffff) as usize;
        let value = instruction >> 32;
        let low = registers[to] & 0xffff_ffff;
        at += 1;
        match instruction & 0xff {
            0x61 => registers[to] = u64::from(context[offset / 4]),
            0xbf => registers[to] = registers[from],
            0x57 => registers[to] &= value,
            0x77 => registers[to] >>= value,
            0xb7 => registers[to] = value,
            0x56 if low != value => at += offset,
            0x16 if low == value => at += offset,
            0x56 | 0x16 => {}
            EXIT => return registers[0] == 1,
            opcode => panic!("unknown instruction {opcode:#x}"),
        }
    }
}

fn rule(allow: bool, kind: &str, major: i64, minor: i64, access: &str) -> LinuxDeviceCgroup {
    LinuxDeviceCgroup {
        allow,
        r#type: kind.into(),
        major,
        minor,
        access: access.into(),
    }
}

const MAKE: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;

#[test]
fn without_rules_only_the_usual_devices_may_be_used() {
    let program = program(&[]).unwrap();
    assert!(run(&program, CHARACTER, READ | WRITE, 1, 3));
    assert!(run(&program, CHARACTER, READ, 136, 7));
    assert!(run(&program, BLOCK, MAKE, 8, 0));
    assert!(!run(&program, BLOCK, READ, 8, 0));
    assert!(!run(&program, CHARACTER, READ, 10, 200));
    assert!(!run(&program, BLOCK, READ, 1, 3));
}

#[test]
fn the_last_rule_that_matches_counts() {
    let rules = [
        rule(true, "a", -1, -1, "rwm"),
        rule(false, "b", 8, -1, "rwm"),
        rule(true, "b", 8, 1, "r"),
    ];
    let program = program(&rules).unwrap();
    assert!(run(&program, BLOCK, READ, 8, 1));
    assert!(!run(&program, BLOCK, READ | WRITE, 8, 1));
    assert!(!run(&program, BLOCK, READ, 8, 2));
    assert!(run(&program, BLOCK, READ | WRITE, 9, 0));
}

#[test]
fn a_denial_of_some_access_denies_what_includes_it() {
    let rules = [
        rule(true, "c", 10, 200, "rw"),
        rule(false, "c", 10, 200, "w"),
    ];
    let program = program(&rules).unwrap();
    assert!(run(&program, CHARACTER, READ, 10, 200));
    assert!(!run(&program, CHARACTER, READ | WRITE, 10, 200));
}

#[test]
fn all_devices_may_be_meant_by_zeroes() {
    let program = program(&[rule(true, "a", 0, 0, "rwm")]).unwrap();
    assert!(run(&program, BLOCK, READ | WRITE, 259, 3));
}

#[test]
fn the_kernel_takes_the_program() {
    let rules = [
        rule(false, "a", -1, -1, "rwm"),
        rule(true, "c", 10, 229, "rw"),
    ];
    match super::super::bpf::load(&program(&rules).unwrap()) {
        Err(error) if error.message.contains("not permitted") => {
            eprintln!("skipped: no right to load eBPF programs here");
        }
        result => drop(result.unwrap()),
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    assert!(program(&[rule(true, "x", 1, 1, "r")]).is_err());
    assert!(program(&[rule(true, "c", 1, 1, "rx")]).is_err());
    assert!(program(&[rule(true, "c", 1 << 40, 1, "r")]).is_err());
}
