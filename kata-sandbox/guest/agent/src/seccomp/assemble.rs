//! From rules to a BPF program.
//!
//! Calls with the same verdict and neighbouring numbers form ranges, among
//! which the program searches by halves: a filter of some four hundred calls
//! costs about ten instructions per call, where a list would cost hundreds.

use std::collections::BTreeMap;

use kata_protocol::ttrpc::Status;

use super::Architecture;
use super::rules::{Condition, ERRNO, KILL_PROCESS, Profile, Rule, Test, Verdict};
use crate::process::refuse;

/// The most instructions a kernel takes.
const LENGTH_LIMIT: usize = 4096;

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const JUMP_GREATER_EQUAL: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// The bit that marks x32 calls among x86-64's.
const X32: u32 = 0x4000_0000;

pub(super) type Instruction = libc::sock_filter;

/// What becomes of one system call.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fate {
    /// Tried in order.
    conditional: Vec<(Vec<Condition>, Verdict)>,
    otherwise: Verdict,
}

/// Compiles a profile.
pub(super) fn program(profile: &Profile) -> Result<Vec<Instruction>, Status> {
    let mut program = vec![statement(LOAD, ARCHITECTURE)];
    for architecture in &profile.architectures {
        let body = calls(profile, *architecture);
        // Over the body, if it is another architecture's call.
        program.push(jump(JUMP_EQUAL, architecture.audit, 1, 0));
        program.push(statement(JUMP, length(&body)?));
        program.extend(body);
    }
    program.push(statement(RETURN, KILL_PROCESS));
    if program.len() > LENGTH_LIMIT {
        return Err(refuse(format!(
            "the profile makes {} instructions, a kernel takes {LENGTH_LIMIT}",
            program.len()
        )));
    }
    Ok(program)
}

fn calls(profile: &Profile, architecture: Architecture) -> Vec<Instruction> {
    let mut program = vec![statement(LOAD, NUMBER)];
    if architecture.name == "SCMP_ARCH_X86_64" {
        program.push(jump(JUMP_GREATER_EQUAL, X32, 0, 1));
        program.push(statement(RETURN, ERRNO | libc::ENOSYS.cast_unsigned()));
    }
    program.extend(search(&ranges(profile, architecture)));
    program
}

/// First number and fate of each range, which ends where the next begins.
fn ranges(profile: &Profile, architecture: Architecture) -> Vec<(u32, Fate)> {
    let unlisted = Fate {
        conditional: Vec::new(),
        otherwise: profile.default,
    };
    let mut fates: BTreeMap<u32, (Fate, bool)> = BTreeMap::new();
    for (rule, name) in profile
        .rules
        .iter()
        .flat_map(|r| r.names.iter().map(move |n| (r, n)))
    {
        let Ok(at) = architecture
            .calls
            .binary_search_by_key(&name.as_str(), |(name, _)| name)
        else {
            continue;
        };
        let number = u32::from(architecture.calls[at].1);
        let (fate, decided) = fates
            .entry(number)
            .or_insert_with(|| (unlisted.clone(), false));
        apply(rule, fate, decided);
    }
    let mut ranges = vec![(0, unlisted.clone())];
    let mut extend = |first, fate: Fate| match ranges.last_mut() {
        Some((_, last)) if *last == fate => {}
        Some((start, last)) if *start == first => *last = fate,
        _ => ranges.push((first, fate)),
    };
    for (number, (fate, _)) in &fates {
        extend(*number, fate.clone());
        if !fates.contains_key(&(number + 1)) {
            extend(number + 1, unlisted.clone());
        }
    }
    ranges
}

fn apply(rule: &Rule, fate: &mut Fate, decided: &mut bool) {
    if !rule.conditions.is_empty() {
        fate.conditional
            .push((rule.conditions.clone(), rule.verdict));
    } else if !*decided {
        fate.otherwise = rule.verdict;
        *decided = true;
    }
}

/// Code that finds the range of the number in the accumulator.
fn search(ranges: &[(u32, Fate)]) -> Vec<Instruction> {
    let [(_, fate)] = ranges else {
        let (low, high) = ranges.split_at(ranges.len() / 2);
        let low = search(low);
        // The offset of JUMP has 32 bits, that of a conditional jump only 8.
        let over = u32::try_from(low.len()).unwrap_or(u32::MAX);
        let mut program = vec![
            jump(JUMP_GREATER_EQUAL, high[0].0, 0, 1),
            statement(JUMP, over),
        ];
        program.extend(low);
        program.extend(search(high));
        return program;
    };
    let mut program = Vec::new();
    for (conditions, verdict) in &fate.conditional {
        let checks: Vec<_> = conditions
            .iter()
            .map(|condition| check(*condition))
            .collect();
        let length: usize = checks.iter().map(Vec::len).sum();
        let mut done = 0;
        for mut check in checks {
            done += check.len();
            // Past the other checks and the return, when it does not hold. At
            // most six checks of seven instructions: eight bits are plenty.
            let past = u8::try_from(length - done + 1).unwrap_or(u8::MAX);
            let end = check.len();
            for (at, instruction) in check.iter_mut().enumerate() {
                let from_end = u8::try_from(end - at - 1).unwrap_or(u8::MAX);
                resolve(&mut instruction.jt, from_end, past);
                resolve(&mut instruction.jf, from_end, past);
            }
            program.extend(check);
        }
        program.push(statement(RETURN, *verdict));
    }
    program.push(statement(RETURN, fate.otherwise));
    program
}

/// Placeholder targets within a check.
const HOLDS: u8 = 254;
const FAILS: u8 = 255;

fn resolve(target: &mut u8, to_end: u8, past: u8) {
    match *target {
        HOLDS => *target = to_end,
        FAILS => *target = to_end + past,
        _ => {}
    }
}

/// Code that compares a 64-bit argument, upper half first.
fn check(condition: Condition) -> Vec<Instruction> {
    let low = ARGUMENTS + u32::from(condition.argument) * 8;
    let (low, high) = if cfg!(target_endian = "big") {
        (low + 4, low)
    } else {
        (low, low + 4)
    };
    let equal = |mask: u64, value: u64, holds, fails| {
        let ([mask_high, mask_low], [value_high, value_low]) = (halves(mask), halves(value));
        vec![
            statement(LOAD, high),
            statement(AND, mask_high),
            jump(JUMP_EQUAL, value_high, 0, fails),
            statement(LOAD, low),
            statement(AND, mask_low),
            jump(JUMP_EQUAL, value_low, holds, fails),
        ]
    };
    let order = |operation, value: u64, holds, fails| {
        let [value_high, value_low] = halves(value);
        vec![
            statement(LOAD, high),
            jump(JUMP_GREATER, value_high, holds, 0),
            jump(JUMP_EQUAL, value_high, 0, fails),
            statement(LOAD, low),
            jump(operation, value_low, holds, fails),
        ]
    };
    match condition.test {
        Test::Equal(value) => equal(u64::MAX, value, HOLDS, FAILS),
        Test::NotEqual(value) => equal(u64::MAX, value, FAILS, HOLDS),
        Test::Masked { mask, value } => equal(mask, value, HOLDS, FAILS),
        Test::Greater(value) => order(JUMP_GREATER, value, HOLDS, FAILS),
        Test::GreaterOrEqual(value) => order(JUMP_GREATER_EQUAL, value, HOLDS, FAILS),
        Test::LessOrEqual(value) => order(JUMP_GREATER, value, FAILS, HOLDS),
        Test::Less(value) => order(JUMP_GREATER_EQUAL, value, FAILS, HOLDS),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "halving is the point")]
fn halves(value: u64) -> [u32; 2] {
    [(value >> 32) as u32, value as u32]
}

fn length(program: &[Instruction]) -> Result<u32, Status> {
    u32::try_from(program.len()).map_err(|_| refuse("the profile is too long"))
}

fn statement(code: u16, k: u32) -> Instruction {
    Instruction {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

#[cfg(test)]
#[path = "assemble_tests.rs"]
mod tests;
