//! How a process ended.

use std::fmt;

use rustix::process::WaitIdStatus;

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It exited with this status.
    Exited(i32),
    /// This signal killed it.
    Signalled(i32),
    /// Its keeper killed it, because what it leans on has failed.
    LetDown(String),
    /// Somebody else reaped it, or nobody could see it end.
    Unknown,
}

impl From<WaitIdStatus> for End {
    fn from(status: WaitIdStatus) -> Self {
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Self::Exited(code),
            (None, Some(signal)) => Self::Signalled(signal),
            (None, None) => Self::Unknown,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exited with status {code}"),
            Self::Signalled(signal) => write!(f, "was killed by signal {signal}"),
            Self::LetDown(reason) => write!(f, "was killed because {reason}"),
            Self::Unknown => f.write_str("ended, and another part of the program took its status"),
        }
    }
}
