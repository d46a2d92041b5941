//! Seccomp filters: the OCI specification's rules, compiled to BPF.
//!
//! Of several rules for one system call, those with conditions on arguments are
//! tried first, in the order they are listed; then the first one without. A
//! rule that names an argument twice means either value, as with runc. Names
//! that no architecture here has are skipped, so profiles may name newer calls.
//!
//! A call from an architecture that the profile does not list ends the process;
//! x32 calls, which no supported kernel has, answer ENOSYS.

mod assemble;
mod install;
mod rules;

#[cfg(any(target_arch = "aarch64", test))]
mod aarch64;
#[cfg(any(target_arch = "x86_64", test))]
mod i386;
#[cfg(any(target_arch = "x86_64", test))]
mod x86_64;

use kata_protocol::agent::LinuxSeccomp;
use kata_protocol::ttrpc::Status;

pub(crate) use install::Filter;

/// Compiles a profile; `None` when there is none.
///
/// # Errors
/// When it names actions or operators that do not exist, or needs a listener.
pub(crate) fn compile(profile: Option<&LinuxSeccomp>) -> Result<Option<Filter>, Status> {
    let Some(profile) = profile else {
        return Ok(None);
    };
    let profile = rules::Profile::new(profile)?;
    let program = assemble::program(&profile)?;
    Ok(Some(Filter::new(program, profile.flags)))
}

/// An architecture whose calls a filter may see.
#[derive(Clone, Copy, Debug)]
struct Architecture {
    /// Its name in a profile.
    name: &'static str,
    /// Its `AUDIT_ARCH_…` value.
    audit: u32,
    /// Its system calls, sorted by name.
    calls: &'static [(&'static str, u16)],
}

#[cfg(any(target_arch = "x86_64", test))]
const X86_64: Architecture = Architecture {
    name: "SCMP_ARCH_X86_64",
    audit: 0xc000_003e,
    calls: x86_64::SYSCALLS,
};
#[cfg(any(target_arch = "x86_64", test))]
const I386: Architecture = Architecture {
    name: "SCMP_ARCH_X86",
    audit: 0x4000_0003,
    calls: i386::SYSCALLS,
};
#[cfg(any(target_arch = "aarch64", test))]
const AARCH64: Architecture = Architecture {
    name: "SCMP_ARCH_AARCH64",
    audit: 0xc000_00b7,
    calls: aarch64::SYSCALLS,
};

/// What this machine's kernel can run, its own first.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: &[Architecture] = &[X86_64, I386];
/// What this machine's kernel can run, its own first.
#[cfg(target_arch = "aarch64")]
const ARCHITECTURES: &[Architecture] = &[AARCH64];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_sorted_and_hold_well_known_numbers() {
        for (table, name, number) in [
            (X86_64.calls, "execve", 59),
            (X86_64.calls, "openat2", 437),
            (I386.calls, "execve", 11),
            (I386.calls, "socketcall", 102),
            (AARCH64.calls, "execve", 221),
            (AARCH64.calls, "mseal", 462),
        ] {
            assert!(table.is_sorted_by_key(|(name, _)| *name));
            let found = table.binary_search_by_key(&name, |(name, _)| name).unwrap();
            assert_eq!(table[found].1, number);
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_compiled_stays_within_its_program(
            numbers in proptest::collection::vec((0_usize..300, 0_u64..7, 0_u64..6), 0..60)
        ) {
            use kata_protocol::agent::{LinuxSeccompArg, LinuxSyscall};
            let operators = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"];
            let rule = |(call, operator, index): &(usize, u64, u64)| LinuxSyscall {
                names: vec![X86_64.calls[*call].0.to_owned()],
                action: "SCMP_ACT_ERRNO".into(),
                errno_ret: None,
                args: vec![LinuxSeccompArg {
                    index: *index,
                    value: u64::MAX / 3,
                    value_two: 7,
                    op: format!("SCMP_CMP_{}", operators[usize::try_from(*operator).unwrap()]),
                }],
            };
            let profile = LinuxSeccomp {
                default_action: "SCMP_ACT_ALLOW".into(),
                syscalls: numbers.iter().map(rule).collect(),
                ..LinuxSeccomp::default()
            };
            let program = assemble::program(&rules::Profile::new(&profile).unwrap()).unwrap();
            for (at, instruction) in program.iter().enumerate() {
                let over = match instruction.code {
                    0x05 => instruction.k as usize + 1,
                    code if code & 0x07 == 0x05 => {
                        usize::from(instruction.jt.max(instruction.jf)) + 1
                    }
                    _ => 0,
                };
                proptest::prop_assert!(at + over < program.len());
            }
        }
    }
}
