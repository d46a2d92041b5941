//! The compiled program, run by an interpreter, decides as the rules say.

use kata_protocol::agent::{LinuxSeccomp, LinuxSeccompArg, LinuxSyscall};
use proptest::prelude::*;

use super::super::rules::ALLOW;
use super::super::{AARCH64, I386, X86_64};
use super::*;

/// Runs a filter on a call.
fn run(program: &[Instruction], audit: u32, number: u32, arguments: [u64; 6]) -> Verdict {
    let load = |offset: u32| match offset {
        NUMBER => number,
        ARCHITECTURE => audit,
        offset => {
            let at = offset - ARGUMENTS;
            let [high, low] = halves(arguments[at as usize / 8]);
            if at.is_multiple_of(8) { low } else { high }
        }
    };
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        let mut branch = |holds: bool| at += 1 + usize::from(if holds { jt } else { jf });
        match code {
            LOAD => {
                accumulator = load(k);
                at += 1;
            }
            AND => {
                accumulator &= k;
                at += 1;
            }
            JUMP => at += 1 + k as usize,
            JUMP_EQUAL => branch(accumulator == k),
            JUMP_GREATER => branch(accumulator > k),
            JUMP_GREATER_EQUAL => branch(accumulator >= k),
            RETURN => return k,
            code => panic!("unknown instruction {code:#x}"),
        }
    }
}

fn argument(index: u64, op: &str, value: u64, value_two: u64) -> LinuxSeccompArg {
    LinuxSeccompArg {
        index,
        value,
        value_two,
        op: op.into(),
    }
}

fn rule(name: &str, action: &str, args: Vec<LinuxSeccompArg>) -> LinuxSyscall {
    LinuxSyscall {
        names: vec![name.into()],
        action: action.into(),
        errno_ret: None,
        args,
    }
}

fn compiled(syscalls: Vec<LinuxSyscall>, architectures: Vec<Architecture>) -> Vec<Instruction> {
    let profile = LinuxSeccomp {
        default_action: "SCMP_ACT_ERRNO".into(),
        syscalls,
        ..LinuxSeccomp::default()
    };
    let mut profile = Profile::new(&profile).unwrap();
    profile.architectures = architectures;
    program(&profile).unwrap()
}

const NONE: [u64; 6] = [0; 6];

#[test]
fn listed_calls_are_allowed_and_others_are_not() {
    let listed = ["read", "write", "exit_group"].map(|n| rule(n, "SCMP_ACT_ALLOW", vec![]));
    let program = compiled(listed.to_vec(), vec![X86_64, I386]);
    for number in 0..500 {
        let verdict = run(&program, X86_64.audit, number, NONE);
        assert_eq!(allows(verdict), [0, 1, 231].contains(&number), "{number}");
        let verdict = run(&program, I386.audit, number, NONE);
        assert_eq!(allows(verdict), [3, 4, 252].contains(&number), "{number}");
    }
    assert_eq!(run(&program, AARCH64.audit, 0, NONE), KILL_PROCESS);
    assert_eq!(run(&program, X86_64.audit, X32 | 1, NONE), ERRNO | 38);
}

#[test]
fn conditions_come_before_the_rule_without() {
    let rules = vec![
        rule("ioctl", "SCMP_ACT_ALLOW", vec![]),
        rule(
            "ioctl",
            "SCMP_ACT_KILL_PROCESS",
            vec![argument(1, "SCMP_CMP_EQ", 0x5412, 0)],
        ),
    ];
    let program = compiled(rules, vec![X86_64]);
    assert_eq!(
        run(&program, X86_64.audit, 16, [0, 0x5412, 0, 0, 0, 0]),
        KILL_PROCESS
    );
    assert_eq!(
        run(&program, X86_64.audit, 16, [0, 0x5413, 0, 0, 0, 0]),
        ALLOW
    );
}

#[test]
fn all_conditions_of_a_rule_must_hold() {
    let both = vec![
        argument(0, "SCMP_CMP_GT", 5, 0),
        argument(2, "SCMP_CMP_MASKED_EQ", 0xf0, 0x10),
    ];
    let program = compiled(vec![rule("clone", "SCMP_ACT_ALLOW", both)], vec![X86_64]);
    let verdict = |first, third| run(&program, X86_64.audit, 56, [first, 0, third, 0, 0, 0]);
    assert_eq!(verdict(6, 0x1f), ALLOW);
    assert_eq!(verdict(5, 0x1f), ERRNO | 1);
    assert_eq!(verdict(6, 0x2f), ERRNO | 1);
}

#[test]
fn a_program_over_the_kernels_limit_is_refused() {
    let many = (0..900).map(|n| {
        rule(
            "ioctl",
            "SCMP_ACT_ALLOW",
            vec![argument(0, "SCMP_CMP_EQ", n, 0)],
        )
    });
    let profile = LinuxSeccomp {
        default_action: "SCMP_ACT_ERRNO".into(),
        syscalls: many.collect(),
        ..LinuxSeccomp::default()
    };
    assert!(super::super::compile(Some(&profile)).is_err());
}

fn edge() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0..4_u64,
        Just(u64::from(u32::MAX)),
        Just(1 << 32),
        Just(u64::MAX)
    ]
}

proptest! {
    #[test]
    fn every_operator_compares_all_64_bits(value in edge(), mask in edge(), actual in edge()) {
        for (op, expected) in [
            ("SCMP_CMP_NE", actual != value),
            ("SCMP_CMP_LT", actual < value),
            ("SCMP_CMP_LE", actual <= value),
            ("SCMP_CMP_EQ", actual == value),
            ("SCMP_CMP_GE", actual >= value),
            ("SCMP_CMP_GT", actual > value),
        ] {
            let rules = vec![rule("read", "SCMP_ACT_ALLOW", vec![argument(3, op, value, 0)])];
            let program = compiled(rules, vec![X86_64]);
            let verdict = run(&program, X86_64.audit, 0, [0, 0, 0, actual, 0, 0]);
            prop_assert_eq!(allows(verdict), expected, "{} {} {}", actual, op, value);
        }
        let masked = argument(3, "SCMP_CMP_MASKED_EQ", mask, value);
        let program = compiled(vec![rule("read", "SCMP_ACT_ALLOW", vec![masked])], vec![X86_64]);
        let verdict = run(&program, X86_64.audit, 0, [0, 0, 0, actual, 0, 0]);
        prop_assert_eq!(allows(verdict), actual & mask == value);
    }
}

fn allows(verdict: Verdict) -> bool {
    verdict == ALLOW
}
