//! Which devices a container may use, as an eBPF program.
//!
//! Rules count from last to first. A rule that allows matches when it covers
//! all of the access asked for, one that denies when it covers any of it. What
//! no rule matches is denied. The devices that the OCI specification gives to
//! every container come after all rules.

use kata_protocol::agent::LinuxDeviceCgroup;
use kata_protocol::ttrpc::Status;

use crate::process::refuse;

/// One eBPF instruction: `opcode: 8, dst: 4, src: 4, offset: 16, imm: 32`.
pub(super) type Instruction = u64;

/// Kind, major, minor and access; -1 stands for any.
const ALWAYS: &[(&str, i64, i64, &str)] = &[
    // Making nodes gives no access to what they stand for.
    ("c", -1, -1, "m"),
    ("b", -1, -1, "m"),
    ("c", 1, 3, "rwm"),    // null
    ("c", 1, 5, "rwm"),    // zero
    ("c", 1, 7, "rwm"),    // full
    ("c", 1, 8, "rwm"),    // random
    ("c", 1, 9, "rwm"),    // urandom
    ("c", 5, 0, "rwm"),    // tty
    ("c", 5, 2, "rwm"),    // ptmx
    ("c", 136, -1, "rwm"), // pts
];

const BLOCK: u32 = 1;
const CHARACTER: u32 = 2;
const ALL_ACCESS: u32 = 7;

#[derive(Clone, Copy, Debug)]
struct Rule {
    allow: bool,
    kind: Option<u32>,
    major: Option<u32>,
    minor: Option<u32>,
    access: u32,
}

// Registers: the context comes in r1, the verdict goes out in r0.
const VERDICT: u64 = 0;
const CONTEXT: u64 = 1;
const SCRATCH: u64 = 1;
const KIND: u64 = 2;
const ACCESS: u64 = 3;
const MAJOR: u64 = 4;
const MINOR: u64 = 5;

/// Compiles the rules.
pub(super) fn program(rules: &[LinuxDeviceCgroup]) -> Result<Vec<Instruction>, Status> {
    let always = ALWAYS
        .iter()
        .map(|(kind, major, minor, access)| LinuxDeviceCgroup {
            allow: true,
            r#type: (*kind).into(),
            major: *major,
            minor: *minor,
            access: (*access).into(),
        });
    let mut program = vec![
        load(KIND, 0),
        copy(ACCESS, KIND),
        and(KIND, 0xffff),
        shift_right(ACCESS, 16),
        load(MAJOR, 4),
        load(MINOR, 8),
    ];
    for rule in rules
        .iter()
        .cloned()
        .chain(always)
        .collect::<Vec<_>>()
        .iter()
        .rev()
    {
        let rule = parse(rule)?;
        program.extend(code(rule));
        if rule.kind.is_none() && rule.major.is_none() && rule.access == ALL_ACCESS {
            // It decides about everything before it; what came after its exit
            // could not be reached, which the kernel refuses.
            return Ok(program);
        }
    }
    program.extend([set(VERDICT, 0), EXIT]);
    Ok(program)
}

fn parse(rule: &LinuxDeviceCgroup) -> Result<Rule, Status> {
    let kind = match rule.r#type.as_str() {
        "a" | "" => None,
        "b" => Some(BLOCK),
        "c" | "u" => Some(CHARACTER),
        other => return Err(refuse(format!("unknown kind of device {other:?}"))),
    };
    let mut access = 0;
    for letter in rule.access.chars() {
        access |= match letter {
            'm' => 1,
            'r' => 2,
            'w' => 4,
            other => return Err(refuse(format!("unknown access to a device {other:?}"))),
        };
    }
    let number = |number: i64| match number {
        ..0 => Ok(None),
        number => u32::try_from(number)
            .map(Some)
            .map_err(|_| refuse(format!("{number} is no device number"))),
    };
    // Peers that cannot leave a number out send zeroes; no device has those.
    let any = kind.is_none() || (rule.major, rule.minor) == (0, 0);
    Ok(Rule {
        allow: rule.allow,
        kind,
        major: if any { None } else { number(rule.major)? },
        minor: if any { None } else { number(rule.minor)? },
        access: if rule.access.is_empty() {
            ALL_ACCESS
        } else {
            access
        },
    })
}

fn code(rule: Rule) -> Vec<Instruction> {
    let mut tests: Vec<Vec<Instruction>> = Vec::new();
    if let Some(kind) = rule.kind {
        tests.push(vec![unless_equal(KIND, kind)]);
    }
    if rule.access != ALL_ACCESS {
        tests.push(if rule.allow {
            let others = ALL_ACCESS & !rule.access;
            vec![
                copy(SCRATCH, ACCESS),
                and(SCRATCH, others),
                unless_equal(SCRATCH, 0),
            ]
        } else {
            vec![
                copy(SCRATCH, ACCESS),
                and(SCRATCH, rule.access),
                if_equal(SCRATCH, 0),
            ]
        });
    }
    if let Some(major) = rule.major {
        tests.push(vec![unless_equal(MAJOR, major)]);
    }
    if let Some(minor) = rule.minor {
        tests.push(vec![unless_equal(MINOR, minor)]);
    }
    let verdict = [set(VERDICT, u32::from(rule.allow)), EXIT];
    let mut left = tests.iter().map(Vec::len).sum::<usize>() + verdict.len();
    let mut code = Vec::with_capacity(left);
    for test in tests {
        for instruction in test {
            left -= 1;
            let jumps = instruction & 0x7 == JUMP32;
            // To the next rule. A rule has at most eight instructions.
            code.push(if jumps {
                instruction | (left as u64) << 16
            } else {
                instruction
            });
        }
    }
    code.extend(verdict);
    code
}

const EXIT: Instruction = 0x95;

fn instruction(opcode: u64, to: u64, from: u64, offset: u64, value: u32) -> Instruction {
    opcode | to << 8 | from << 12 | offset << 16 | u64::from(value) << 32
}

fn load(to: u64, offset: u64) -> Instruction {
    instruction(0x61, to, CONTEXT, offset, 0)
}

fn copy(to: u64, from: u64) -> Instruction {
    instruction(0xbf, to, from, 0, 0)
}

fn and(to: u64, value: u32) -> Instruction {
    instruction(0x57, to, 0, 0, value)
}

fn shift_right(to: u64, bits: u32) -> Instruction {
    instruction(0x77, to, 0, 0, bits)
}

fn set(to: u64, value: u32) -> Instruction {
    instruction(0xb7, to, 0, 0, value)
}

/// Jumps unless the lower half of a register is `value`.
fn unless_equal(register: u64, value: u32) -> Instruction {
    instruction(0x56, register, 0, 0, value)
}

fn if_equal(register: u64, value: u32) -> Instruction {
    instruction(0x16, register, 0, 0, value)
}

/// The class of jumps that compare 32 bits: no other instruction here has it.
const JUMP32: u64 = 0x6;

#[cfg(test)]
#[path = "devices_tests.rs"]
mod tests;
