//! A profile, checked.

use kata_protocol::agent::linux_syscall::ErrnoRet;
use kata_protocol::agent::{LinuxSeccomp, LinuxSeccompArg, LinuxSyscall};
use kata_protocol::ttrpc::{Code, Status};

use super::{ARCHITECTURES, Architecture};
use crate::process::refuse;

/// What a filter returns: an action in the upper half, its datum in the lower.
pub(super) type Verdict = u32;

pub(super) const KILL_PROCESS: Verdict = 0x8000_0000;
pub(super) const ERRNO: Verdict = 0x0005_0000;
const KILL_THREAD: Verdict = 0;
const TRAP: Verdict = 0x0003_0000;
const TRACE: Verdict = 0x7ff0_0000;
const LOG: Verdict = 0x7ffc_0000;
pub(super) const ALLOW: Verdict = 0x7fff_0000;

/// A whole profile.
#[derive(Debug)]
pub(super) struct Profile {
    pub(super) default: Verdict,
    pub(super) architectures: Vec<Architecture>,
    pub(super) flags: u32,
    pub(super) rules: Vec<Rule>,
}

/// What becomes of some system calls.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) names: Vec<String>,
    pub(super) verdict: Verdict,
    /// Each must hold; none means always.
    pub(super) conditions: Vec<Condition>,
}

/// A condition on an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) argument: u8,
    pub(super) test: Test,
}

/// How an argument is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Test {
    NotEqual(u64),
    Less(u64),
    LessOrEqual(u64),
    Equal(u64),
    GreaterOrEqual(u64),
    Greater(u64),
    Masked { mask: u64, value: u64 },
}

impl Profile {
    pub(super) fn new(profile: &LinuxSeccomp) -> Result<Self, Status> {
        if !profile.listener_path.is_empty() {
            let message = "listenerPath names a socket of the host, which a guest cannot reach";
            return Err(Status::new(Code::Unimplemented, message));
        }
        let mut flags = 0;
        for flag in &profile.flags {
            flags |= match flag.as_str() {
                "SECCOMP_FILTER_FLAG_TSYNC" => 0, // the process has one thread
                "SECCOMP_FILTER_FLAG_LOG" => 2,
                "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => 4,
                other => return Err(refuse(format!("unsupported flag {other:?}"))),
            };
        }
        let mut rules = Vec::new();
        for syscall in &profile.syscalls {
            append(&mut rules, syscall)?;
        }
        Ok(Self {
            default: verdict(&profile.default_action, profile.default_errno_ret)?,
            architectures: architectures(&profile.architectures),
            flags,
            rules,
        })
    }
}

/// The machine's own architecture always, others if listed.
fn architectures(names: &[String]) -> Vec<Architecture> {
    let listed = |a: &&Architecture| names.iter().any(|name| name == a.name);
    let (own, others) = ARCHITECTURES.split_at(1);
    own.iter()
        .chain(others.iter().filter(listed))
        .copied()
        .collect()
}

fn append(rules: &mut Vec<Rule>, syscall: &LinuxSyscall) -> Result<(), Status> {
    let errno = syscall
        .errno_ret
        .as_ref()
        .map(|ErrnoRet::Errnoret(number)| *number);
    let verdict = verdict(&syscall.action, errno)?;
    let conditions: Vec<Condition> = syscall
        .args
        .iter()
        .map(condition)
        .collect::<Result<_, _>>()?;
    let rule = |conditions| Rule {
        names: syscall.names.clone(),
        verdict,
        conditions,
    };
    let repeated = |c: &Condition| {
        conditions
            .iter()
            .filter(|d| d.argument == c.argument)
            .count()
            > 1
    };
    if conditions.iter().any(repeated) {
        rules.extend(conditions.iter().map(|condition| rule(vec![*condition])));
    } else {
        rules.push(rule(conditions));
    }
    Ok(())
}

fn verdict(action: &str, errno: Option<u32>) -> Result<Verdict, Status> {
    const EPERM: u32 = libc::EPERM.cast_unsigned();
    let datum = errno.unwrap_or(EPERM);
    if datum > 0xffff {
        return Err(refuse(format!("{datum} is no error number")));
    }
    Ok(match action {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => KILL_PROCESS,
        "SCMP_ACT_TRAP" => TRAP,
        // The kernel answers at most 4095.
        "SCMP_ACT_ERRNO" => ERRNO | datum.min(4095),
        "SCMP_ACT_TRACE" => TRACE | datum,
        "SCMP_ACT_LOG" => LOG,
        "SCMP_ACT_ALLOW" => ALLOW,
        "SCMP_ACT_NOTIFY" => {
            let message = "SCMP_ACT_NOTIFY needs a listener, which a guest cannot reach";
            return Err(Status::new(Code::Unimplemented, message));
        }
        other => return Err(refuse(format!("unknown action {other:?}"))),
    })
}

fn condition(argument: &LinuxSeccompArg) -> Result<Condition, Status> {
    let index = u8::try_from(argument.index).ok().filter(|index| *index < 6);
    let index = index.ok_or_else(|| refuse(format!("no argument {}", argument.index)))?;
    let (value, second) = (argument.value, argument.value_two);
    let test = match argument.op.as_str() {
        "SCMP_CMP_NE" => Test::NotEqual(value),
        "SCMP_CMP_LT" => Test::Less(value),
        "SCMP_CMP_LE" => Test::LessOrEqual(value),
        "SCMP_CMP_EQ" => Test::Equal(value),
        "SCMP_CMP_GE" => Test::GreaterOrEqual(value),
        "SCMP_CMP_GT" => Test::Greater(value),
        "SCMP_CMP_MASKED_EQ" => Test::Masked {
            mask: value,
            value: second,
        },
        other => return Err(refuse(format!("unknown operator {other:?}"))),
    };
    Ok(Condition {
        argument: index,
        test,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn syscall(action: &str, args: Vec<LinuxSeccompArg>) -> LinuxSyscall {
        LinuxSyscall {
            names: vec!["x".into()],
            action: action.into(),
            errno_ret: None,
            args,
        }
    }

    #[test]
    fn an_argument_given_twice_means_either() {
        let argument = |value| LinuxSeccompArg {
            index: 0,
            value,
            value_two: 0,
            op: "SCMP_CMP_EQ".into(),
        };
        let mut rules = Vec::new();
        append(
            &mut rules,
            &syscall("SCMP_ACT_ALLOW", vec![argument(1), argument(2)]),
        )
        .unwrap();
        assert_eq!(rules.len(), 2);
    }

    #[test]
    fn a_listener_is_refused_clearly() {
        let error = append(&mut Vec::new(), &syscall("SCMP_ACT_NOTIFY", vec![])).unwrap_err();
        assert_eq!(error.code(), Code::Unimplemented);
    }

    #[test]
    fn a_listener_s_socket_is_refused_by_its_field() {
        let profile = LinuxSeccomp {
            default_action: "SCMP_ACT_ALLOW".into(),
            listener_path: "/run/agent.sock".into(),
            ..LinuxSeccomp::default()
        };
        let error = Profile::new(&profile).unwrap_err();
        assert_eq!(error.code(), Code::Unimplemented);
        assert!(error.message.contains("listenerPath"), "{error}");
    }

    #[test]
    fn what_is_in_no_rule_answers_the_profile_s_own_error() {
        let profile = LinuxSeccomp {
            default_action: "SCMP_ACT_ERRNO".into(),
            default_errno_ret: Some(38),
            ..LinuxSeccomp::default()
        };
        assert_eq!(Profile::new(&profile).unwrap().default, ERRNO | 38);
    }

    #[test]
    fn the_default_error_is_eperm() {
        assert_eq!(verdict("SCMP_ACT_ERRNO", None).unwrap(), ERRNO | 1);
        assert_eq!(verdict("SCMP_ACT_ERRNO", Some(38)).unwrap(), ERRNO | 38);
        assert!(verdict("SCMP_ACT_ERRNO", Some(70_000)).is_err());
    }
}
