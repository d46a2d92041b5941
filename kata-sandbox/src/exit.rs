//! How processes and sandboxes end, and what makes them.

use serde::{Deserialize, Serialize};
use std::fmt;

/// How a process ended. Never an error: a workload may fail as it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Exit {
    /// It exited by itself, with this status.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
    /// The kernel killed it because its container ran out of memory.
    Oom,
    /// Nobody knows: the sandbox ended first.
    Lost,
}

impl Exit {
    /// Whether it exited with status 0.
    #[must_use]
    pub fn success(&self) -> bool {
        matches!(self, Self::Code(0))
    }

    /// The status as a shell reports it: 128 and the signal's number for a
    /// process that was killed, 255 for one that was lost.
    #[must_use]
    pub fn shell_code(&self) -> i32 {
        match self {
            Self::Code(code) => *code,
            Self::Signal(signal) => 128 + signal,
            Self::Oom => 128 + Signal::KILL.0,
            Self::Lost => 255,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Oom => f.write_str("out of memory"),
            Self::Lost => f.write_str("lost with its sandbox"),
        }
    }
}

/// A signal, by its number in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Signal(pub i32);

impl Signal {
    /// Hang-up.
    pub const HUP: Self = Self(1);
    /// Interrupt, as from Ctrl-C.
    pub const INT: Self = Self(2);
    /// Quit.
    pub const QUIT: Self = Self(3);
    /// Kill: cannot be caught.
    pub const KILL: Self = Self(9);
    /// The first signal of one's own.
    pub const USR1: Self = Self(10);
    /// The second.
    pub const USR2: Self = Self(12);
    /// Please end.
    pub const TERM: Self = Self(15);

    /// The highest number there is.
    const LAST: i32 = 64;

    /// The number, if it is one of Linux's.
    pub(crate) fn number(self) -> Option<u32> {
        (1..=Self::LAST)
            .contains(&self.0)
            .then(|| self.0.unsigned_abs())
    }
}

/// How a sandbox ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum SandboxExit {
    /// It was stopped, or its last handle was dropped.
    Stopped,
    /// The guest powered itself off or rebooted, unasked.
    PowerOff,
    /// The guest's kernel panicked.
    GuestPanic {
        /// The last bytes of its console.
        console_tail: Vec<u8>,
    },
    /// The virtual machine monitor died.
    MonitorCrashed {
        /// Its status and its last words.
        reason: String,
    },
    /// The agent in the guest went away; the machine was killed.
    AgentLost {
        /// What ended the connection.
        reason: String,
        /// The last bytes of the guest's console.
        console_tail: Vec<u8>,
    },
    /// Its supervisor died, and the machine with it.
    SupervisorLost {
        /// What ended the connection.
        reason: String,
    },
}

impl fmt::Display for SandboxExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("stopped"),
            Self::PowerOff => f.write_str("the guest powered itself off"),
            Self::GuestPanic { .. } => f.write_str("the guest's kernel panicked"),
            Self::MonitorCrashed { reason } => {
                write!(f, "the virtual machine monitor died: {reason}")
            }
            Self::SupervisorLost { reason } => write!(f, "its supervisor is gone: {reason}"),
            Self::AgentLost { reason, .. } => write!(f, "the agent is gone: {reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_would_report_the_same() {
        assert_eq!(Exit::Code(3).shell_code(), 3);
        assert_eq!(Exit::Signal(15).shell_code(), 143);
        assert_eq!(Exit::Oom.shell_code(), 137);
        assert_eq!(Exit::Lost.shell_code(), 255);
        assert!(Exit::Code(0).success() && !Exit::Code(1).success() && !Exit::Oom.success());
    }

    #[test]
    fn a_signal_is_one_of_linuxs() {
        assert_eq!(Signal::TERM.number(), Some(15));
        assert_eq!(Signal(64).number(), Some(64));
        for number in [0, -1, 65, i32::MIN] {
            assert_eq!(Signal(number).number(), None);
        }
    }

    #[test]
    fn ends_are_said_in_words() {
        assert_eq!(Exit::Signal(9).to_string(), "signal 9");
        let crashed = SandboxExit::MonitorCrashed {
            reason: "signal 9".into(),
        };
        assert_eq!(
            crashed.to_string(),
            "the virtual machine monitor died: signal 9"
        );
        let lost = SandboxExit::AgentLost {
            reason: "eof".into(),
            console_tail: vec![],
        };
        assert_eq!(lost.to_string(), "the agent is gone: eof");
    }
}
